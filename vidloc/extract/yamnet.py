"""YAMNet: 1024 numbers and 521 kinds of sound for 0.975 s (Plakal and Ellis 2020, trained on AudioSet).

A MobileNet v1 (Howard et al. 2017) on VGGish's log-mel patch, but with the logarithm of (mel + 0.001); batch norms come
folded into the convolutions. The embedding is the mean of the last map over time and band. Padding is TensorFlow's
"SAME": where a stride of 2 meets an even size, nothing in front and one row and column behind.

Two layouts of weights are read: plain ones (`conv0`, `block1.dw` ... `block13.pw`, `fc`, each with `.weight` and
`.bias`), and those of the 8-bit TensorFlow Lite release, where `.weight_int8` times `.weight_scale`, one number per
output channel, stands for `.weight`; the network computes in float either way. Constants of a front end that come along
(`frontend.*`) must be ours.

On the shared grid a row is made from the 15,600 samples around its centre, zeros outside the track. The original cuts a
track into patches 0.48 s apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from torch.nn import functional

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import MediaError, WeightsError
from vidloc.extract import weights
from vidloc.extract.base import (
    AudioInput,
    Encoder,
    EncoderOptions,
    Sample,
    Spectrogram,
    StreamTemplate,
    arithmetic,
    placed,
)
from vidloc.extract.class_names import check_number, read_class_names, score_names
from vidloc.extract.logmel import EXAMPLE_SAMPLES, hann_window, log_mel, mel_matrix, spectrogram
from vidloc.extract.waveform import SAMPLE_RATE_HZ

NUM_FEATURES = 1024
LOG_OFFSET = 0.001
_STEM_CHANNELS = 32
_BLOCK_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, NUM_FEATURES)
_STRIDED_BLOCKS = (2, 4, 6, 12)
_CLASSIFIER = "fc.weight"
_FRONT_END = "frontend."
_FRONT_END_TOLERANCE = 1e-6  # its constants are stored as float32

State = Mapping[str, torch.Tensor]


class YAMNetOptions(EncoderOptions):
    """Options of YAMNet."""

    weights: str = Field(
        "",
        description="Checkpoint: the path of yamnet_audioset_int8.safetensors or of plain weights of the same layers, "
        "or 'random:SEED' for untrained ones.",
    )
    scores: bool = Field(
        default=False,
        description="Also store the probabilities of all classes (each after its own sigmoid), as the field 'scores'.",
    )
    # Not among the recorded options: the names themselves are recorded, as the stream's vocabulary.
    classes: str = Field(
        "",
        exclude=True,
        description="File with one class name per line, for scores of your own weights; empty for AudioSet's 521.",
    )


class Convolution(nn.Conv2d):
    """A convolution by a kernel of 1 or 3 with TensorFlow's SAME padding (of even sizes where strided), and ReLU6."""

    def __init__(self, before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, padding=(kernel - 1) // 2 if stride == 1 else 0, groups=groups)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps `(batch, before, time, band)` to `(batch, after, time / stride, band / stride)`."""
        if self.stride[0] == 2:
            maps = functional.pad(maps, (0, 1, 0, 1))
        return functional.relu6(super().forward(maps))


class Block(nn.Module):
    """A 3 x 3 convolution of each channel, then a 1 x 1 convolution across them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.dw = Convolution(before, before, 3, stride=stride, groups=before)
        self.pw = Convolution(before, after, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps `(batch, before, time, band)` to `(batch, after, time / stride, band / stride)`."""
        after: torch.Tensor = self.pw(self.dw(maps))
        return after


class MobileNetV1(nn.Module):
    """The network on patches `(batch, 1, 96, 64)`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv0 = Convolution(1, _STEM_CHANNELS, 3, stride=2)
        channels = _STEM_CHANNELS
        for number, after in enumerate(_BLOCK_CHANNELS, start=1):
            self.add_module(f"block{number}", Block(channels, after, 2 if number in _STRIDED_BLOCKS else 1))
            channels = after
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Embeddings `(batch, 1024)`."""
        maps = self.conv0(patches)
        for number in range(1, len(_BLOCK_CHANNELS) + 1):
            maps = self.get_submodule(f"block{number}")(maps)
        embeddings: torch.Tensor = maps.float().mean(dim=(2, 3))
        return embeddings


class YAMNet(Encoder):
    """YAMNet embeddings, 1024 numbers per row, and one probability per class where they are wanted."""

    Options: ClassVar[type[EncoderOptions]] = YAMNetOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, YAMNetOptions):
            raise TypeError(f"{name} takes YAMNetOptions, got {type(options).__name__}.")
        self.options: YAMNetOptions = options
        _require_weights(options, name)
        checkpoint = weights.resolve(options.weights, name)
        state = None
        if checkpoint.path is not None:
            state = plain_state(weights.read_state(checkpoint.path), where=str(checkpoint.path))
        last = (state or {}).get(_CLASSIFIER)
        # A checkpoint without it is refused by name when it is loaded.
        self.num_classes = len(audioset_names()) if last is None else len(last)
        self._vocabulary = _class_names(options, self.num_classes)
        check_number(self._vocabulary, self.num_classes, encoder=name, classes=options.classes)
        with weights.seeded(checkpoint.seed or 0):
            network = MobileNetV1(self.num_classes)
            if state is None:
                _spread(network)
        if state is not None:
            weights.load_into(network, state, where=str(checkpoint.path))
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self.network = placed(network, device, torch.channels_last)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        _require_weights(options, name)
        weights.check_available(name, options.weights)
        if isinstance(options, YAMNetOptions):
            _class_names(options, len(audioset_names()))

    @property
    def input(self) -> AudioInput:
        """One patch's samples."""
        return AudioInput(EXAMPLE_SAMPLES, SAMPLE_RATE_HZ)

    def stream(self) -> StreamTemplate:
        """One vector per row, and the probabilities of the classes where they are wanted."""
        widths = {"features": NUM_FEATURES} | ({"scores": self.num_classes} if self.options.scores else {})
        return StreamTemplate(
            kind="audio",
            fields={name: FieldSpec(row_shape=(n,), dtype=self.options.dtype) for name, n in widths.items()},
            source=Source(
                paper="Plakal and Ellis. YAMNet. 2020; Gemmeke et al. Audio Set. ICASSP 2017; "
                "Howard et al. MobileNets. arXiv 1704.04861.",
                code="https://github.com/tensorflow/models/tree/master/research/audioset/yamnet",
                licence="Apache-2.0",
                differs="rows are centred on the grid instead of 0.48 s apart; the 8-bit weights are computed with in "
                "float; channels are averaged and resampled by soxr",
            ),
            preprocessing={
                "front_end": "log-mel, 96 frames of 64 bands, 125-7500 Hz, magnitude, natural log of (mel + "
                f"{LOG_OFFSET}), float64",
                "samples": f"{EXAMPLE_SAMPLES} mono samples at {SAMPLE_RATE_HZ} Hz",
                "tap": "last map, mean over times and bands",
            }
            | ({"scores": "after the sigmoid"} if self.options.scores else {}),
            vocabulary=self._vocabulary,
        )

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of 15,600 samples each, float32."""
        waveforms = np.stack([np.asarray(sample.data) for sample in samples])
        if waveforms.shape[1:] != (EXAMPLE_SAMPLES,):
            raise MediaError(f"YAMNet takes {EXAMPLE_SAMPLES} samples per row, got {waveforms.shape[1:]}.")
        if not np.isfinite(waveforms).all():
            raise MediaError("the sound holds samples that are not finite (NaN or infinity).")
        return Rows.dense(**self.rows_of(log_mel(waveforms, offset=LOG_OFFSET).astype(np.float32)))

    def rows_of(self, patches: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The fields of log-mel patches `(batch, 96, 64)`."""
        with arithmetic(self.device, self.options.precision):
            embeddings = self.network(torch.from_numpy(patches).to(self.device)[:, None])
            rows = {"features": embeddings}
            if self.options.scores:
                rows["scores"] = torch.sigmoid(self.network.fc(embeddings).float())
        return {name: row.cpu().numpy() for name, row in rows.items()}

    def as_seen(self, sample: Sample) -> Spectrogram:
        """The log-mel patch."""
        return spectrogram(sample, offset=LOG_OFFSET)

    def preferred_batch(self) -> int:
        """Patches per call; they are small, so that batches pay off on CPUs too."""
        return 128 if self.device.type == "cuda" else 8


@cache
def audioset_names() -> tuple[str, ...]:
    """Names of the 521 classes of AudioSet that YAMNet tells apart, in its order."""
    return read_class_names(Path(__file__).with_name("audioset_521.txt"))


def plain_state(state: State, *, where: str) -> dict[str, torch.Tensor]:
    """The network's own names and float numbers, from either layout; constants of the front end are compared and left.

    Args:
        where: the file, for the message.

    Raises:
        WeightsError: 8-bit weights without their scale, or with another number of channels; another front end.
    """
    _check_front_end(state, where=where)
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_FRONT_END) or name.endswith(".weight_scale"):
            continue
        if not name.endswith(".weight_int8"):
            plain[name] = tensor
            continue
        layer = name.removesuffix(".weight_int8")
        scale = state.get(f"{layer}.weight_scale")
        if scale is None or tensor.ndim < 2 or scale.shape != tensor.shape[:1]:
            found = "nothing" if scale is None else f"shape {tuple(scale.shape)}"
            raise WeightsError(
                f"{where}: {name} has shape {tuple(tensor.shape)} and needs {layer}.weight_scale with one number per "
                f"output channel, found {found}."
            )
        plain[f"{layer}.weight"] = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
    return plain


def _class_names(options: YAMNetOptions, num_classes: int) -> tuple[str, ...]:
    # As many classes as AudioSet has here are AudioSet's; untrained weights know none.
    learned = num_classes == len(audioset_names()) and not options.weights.startswith(weights.RANDOM_PREFIX)
    return score_names(options.classes, scores=options.scores, published=audioset_names() if learned else ())


def _check_front_end(state: State, *, where: str) -> None:
    ours = {
        "hann_window": hann_window(),
        "mel_weights": mel_matrix().T,
        "log_offset": np.array(LOG_OFFSET),
    }
    given = {name.removeprefix(_FRONT_END): t for name, t in state.items() if name.startswith(_FRONT_END)}
    for name, tensor in given.items():
        theirs = tensor.double().numpy()
        expected = ours.get(name)
        fits = expected is not None and (expected.ndim == 0 or expected.shape == theirs.shape)
        if expected is None or not fits or np.abs(theirs - expected).max() > _FRONT_END_TOLERANCE:
            raise WeightsError(
                f"{where} comes with another front end ({_FRONT_END}{name} of shape {theirs.shape}) than YAMNet's, "
                "so its weights would be fed what they did not learn from."
            )


def _require_weights(options: EncoderOptions, name: str) -> None:
    if not options.weights:
        raise WeightsError(
            f"{name} needs the file yamnet_audioset_int8.safetensors, for which nobody publishes an address: give its "
            f"path, --encoder {name}:weights=PATH. It holds the layers of yamnet_audio_classifier_with_metadata.tflite "
            "(github.com/tensorflow/tflite-support, Apache-2.0) under the names that vidloc/extract/yamnet.py lists.\n"
            f"  to try with untrained weights: --encoder {name}:weights=random:0"
        )


def _spread(network: nn.Module) -> None:
    # PyTorch's default start shrinks the signal in each of 27 layers; He's keeps its size.
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


ENCODER = YAMNet
