"""Any image, video or sound model of transformers, prepared by its own processor: `hf:FOLDER` or `hf:ORG/MODEL`.

    vidloc extract ... --encoder vmae=hf:MCG-NJU/videomae-base-finetuned-kinetics:scores=true

A name is looked up in the local Hugging Face cache, which `hf download ORG/MODEL` fills; nothing is downloaded on the
way, and no code that comes with a model is run. `revision=...` takes another commit, tag or branch than the main one;
whichever it was, the store keeps the commit, and rows of two commits are never mixed. The model's configuration decides
what a row is made from: a frame (ViT, DINOv2, CLIP, SigLIP, ResNet, ...), a clip (VideoMAE, TimeSformer, ViViT) or
sound (AST, CLAP, Wav2Vec2, ...).

The row is what the model defines as its pooled output, the projected one of CLIP and CLAP, else the mean of its last
layer's tokens; a pooler that the checkpoint does not hold counts as absent. `scores=true` adds a classifier's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, JsonValue
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoVideoProcessor

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError, WeightsError
from vidloc.extract import model_folder, weights
from vidloc.extract.base import (
    AudioInput,
    ClipInput,
    Encoder,
    EncoderInput,
    EncoderOptions,
    FrameInput,
    FrameSize,
    Sample,
    Seen,
    StreamTemplate,
    arithmetic,
    placed,
)
from vidloc.extract.hf_model import Network, Pool, class_names, modality_of, row_of
from vidloc.extract.model_folder import ModelFolder
from vidloc.extract.processors import (
    clip_size,
    load_processor,
    picture_settings,
    prepared_clips,
    prepared_frames,
    prepared_sound,
    seen_clip,
    seen_frame,
)

NAMES = ("hf:",)

_PROCESSORS = {"image": AutoImageProcessor, "video": AutoVideoProcessor, "audio": AutoFeatureExtractor}
_DEFAULT_SOUND_S = Fraction(1)
_FRAMES_PER_S = 100  # of the spectrograms whose length an extractor states
_MADE_UP_PX = 64  # side of the frame that an untried model is tried on


class HuggingFaceOptions(EncoderOptions):
    """Options of models of transformers."""

    weights: str = Field(
        "", description="Empty for the weights in the model's folder, or 'random:SEED' for untrained ones."
    )
    revision: str = Field(
        "",
        description="Commit, tag or branch of a model named ORG/MODEL, as it was fetched (hf download ORG/MODEL "
        "--revision REVISION); empty for the main branch. The commit that it stands for is recorded.",
    )
    pool: Pool = Field(
        "auto",
        description="The row: auto (the model's pooled output, else the mean), pooler, mean (of the last layer's "
        "tokens or positions) or first (token).",
    )
    scores: bool = Field(
        default=False,
        description="Also store the scores of a classifier's classes (before the softmax), as the field 'scores'.",
    )
    fps: Fraction = Field(
        Fraction(15, 2),
        gt=0,
        description="Frames per second of a clip, for video models; every fourth of 30 is what VideoMAE learned with.",
    )
    window_s: Fraction | None = Field(
        None,
        gt=0,
        description="Seconds of sound, for audio models; none: the longest that the model states, else 1.",
    )


class HuggingFace(Encoder):
    """Rows of a model of transformers."""

    Options: ClassVar[type[EncoderOptions]] = HuggingFaceOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, HuggingFaceOptions):
            raise TypeError(f"{name} takes HuggingFaceOptions, got {type(options).__name__}.")
        self.check_weights(options, name=name)
        self._folder = _found(name, options)
        # A branch moves on; what a store keeps must lead to the same model again.
        self.options: HuggingFaceOptions = options.model_copy(update={"revision": self._folder.commit})
        path = self._folder.path
        self._config = model_folder.read_config(path)
        self.modality = modality_of(self._config, path)
        self.processor = load_processor(_PROCESSORS[self.modality], self._folder)
        self._sized = clip_size(self.processor) if self.modality == "video" else None
        seed: int | None = None
        if options.weights:
            untrained = weights.resolve(options.weights, name)
            self.weights_name, self.weights_sha256, seed = untrained.name, untrained.sha256, untrained.seed
        else:
            self.weights_name, self.weights_sha256 = self._folder.weights_name, self._folder.weights_sha256
        self.network = Network(path, self._config, self.modality, scores=options.scores, seed=seed)
        self.network.network = placed(self.network.network, device, torch.contiguous_format)
        self._check_window()
        self._try()

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        if options.weights and not options.weights.startswith(weights.RANDOM_PREFIX):
            raise OptionError(
                f"encoder {name!r}: weights={options.weights!r} is not random:SEED; a model is hf:FOLDER."
            )
        folder = _found(name, options)
        if options.weights:
            weights.check_available(name, options.weights)
        else:
            model_folder.weights_of(folder.path)

    @property
    def input(self) -> EncoderInput:
        """A frame, a clip or sound, as the model's configuration has it."""
        match self.modality:
            case "image":
                return FrameInput()
            case "video":
                num_frames = int(self._config.num_frames)
                return ClipInput(num_frames, num_frames / self.options.fps, self._sized or FrameSize())
            case _:
                rate = int(self.processor.sampling_rate)
                return AudioInput(round(self._sound_s * rate), rate)

    def stream(self) -> StreamTemplate:
        """One vector per row, and one score per class where they are wanted."""
        widths = {"features": self._num_features}
        if self.options.scores:
            widths["scores"] = int(self._config.num_labels)
        return StreamTemplate(
            kind="audio" if self.modality == "audio" else "clip",
            fields={name: FieldSpec(row_shape=(n,), dtype=self.options.dtype) for name, n in widths.items()},
            source=Source(
                paper=f"{', '.join(self._config.architectures or [self._config.model_type])}: see the model's card",
                code="https://github.com/huggingface/transformers",
                licence=self._folder.licence,
            ),
            preprocessing=self._described(),
            vocabulary=class_names(self._config) if self.options.scores else (),
        )

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of the model, float32."""
        inputs = {name: value.to(self.device) for name, value in self.inputs(samples).items()}
        with arithmetic(self.device, self.options.precision):
            output, scores = self.network(inputs)
            rows = {"features": row_of(output, self._tap).float()}
        if scores is not None:
            rows["scores"] = scores.float()
        return Rows.dense(**{name: np.ascontiguousarray(row.cpu().numpy()) for name, row in rows.items()})

    def inputs(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """What the model is called with, prepared by its own processor."""
        data: list[NDArray[Any]] = [np.asarray(sample.data) for sample in samples]
        match self.modality:
            case "image":
                return {"pixel_values": prepared_frames(self.processor, data)}
            case "video":
                return {"pixel_values": prepared_clips(self.processor, data, sized=self._sized is not None)}
            case _:
                return prepared_sound(self.processor, data)

    def as_seen(self, sample: Sample) -> Seen:
        """Pictures as the processor resizes and cuts them; sound as it is decoded."""
        data: NDArray[Any] = np.asarray(sample.data)
        if self.modality == "audio":
            return data
        if self.modality == "image":
            return seen_frame(self.processor, data)
        return seen_clip(self.processor, data, sized=self._sized is not None)

    @property
    def _sound_s(self) -> Fraction:
        return self.options.window_s or _longest_s(self.processor) or _DEFAULT_SOUND_S

    def _check_window(self) -> None:
        if self.modality == "video" and not isinstance(getattr(self._config, "num_frames", None), int):
            raise WeightsError(f"{self._folder.path}: its configuration does not say how many frames a clip has.")
        longest = _longest_s(self.processor) if self.modality == "audio" else None
        if longest is not None and self._sound_s > longest:
            raise OptionError(f"window_s={self._sound_s} is more than the {float(longest):g} s that the model hears.")

    def _try(self) -> None:
        """One made-up sample tells which outputs this model has, and how many numbers a row."""
        span = (Fraction(0), Fraction(1))
        with arithmetic(self.device, "float32"), model_folder.loading(self._folder.path):
            inputs = self.inputs([Sample(span, _nothing(self.input), np.zeros(1))])
            output, _ = self.network({name: value.to(self.device) for name, value in inputs.items()})
        self._tap = self.network.tap(output, self.options.pool)
        self._num_features = row_of(output, self._tap).shape[1]

    def _described(self) -> dict[str, JsonValue]:
        facts: dict[str, JsonValue] = {
            "network": type(self.network.network).__name__,
            "settings_sha256": self._folder.settings_sha256,
            "tap": self._tap,
            "normalised": False,
        }
        if self.network.left_aside:
            facts["weights_left_aside"] = ", ".join(sorted({name.split(".")[0] for name in self.network.left_aside}))
        if self.options.scores:
            facts["scores"] = "before the softmax"
        if self.modality == "audio":
            return facts | {"processor": type(self.processor).__name__, "sound": "mono"}
        fps: dict[str, JsonValue] = {"fps": str(self.options.fps)} if self.modality == "video" else {}
        return facts | picture_settings(self.processor) | fps


def _found(name: str, options: EncoderOptions) -> ModelFolder:
    model = name.removeprefix("hf:")
    if not model:
        raise OptionError("hf: is followed by a model's folder, or its name on the hub: --encoder vmae=hf:FOLDER")
    revision = options.revision if isinstance(options, HuggingFaceOptions) else ""
    return model_folder.find(model, usage="--encoder STREAM=hf:FOLDER", revision=revision)


def _longest_s(extractor: Any) -> Fraction | None:
    """Seconds of sound beyond which an extractor cuts; `None` where it takes any."""
    if (samples := getattr(extractor, "nb_max_samples", None)) is not None:  # CLAP
        return Fraction(int(samples), int(extractor.sampling_rate))
    if getattr(extractor, "num_mel_bins", None) and isinstance(frames := getattr(extractor, "max_length", None), int):
        return Fraction(frames, _FRAMES_PER_S)  # AST
    return None


def _nothing(wanted: EncoderInput) -> NDArray[Any]:
    match wanted:
        case ClipInput():
            side = wanted.size.crop_px or _MADE_UP_PX
            return np.zeros((wanted.num_frames, side, side, 3), dtype=np.uint8)
        case AudioInput():
            return np.zeros(wanted.num_samples, dtype=np.float32)
        case _:
            return np.zeros((_MADE_UP_PX, _MADE_UP_PX, 3), dtype=np.uint8)


ENCODER = HuggingFace
