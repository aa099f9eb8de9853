"""CLIP's pictures (Radford et al., ICML 2021): frames in the space that they share with sentences, by transformers.

The row is the frame's projected vector (ViT-B/32: 512 numbers), not normalised; its cosine with a sentence's by the
encoder `clip_text` says how well they go together, so that `vidloc search --text` searches the pictures themselves.

Any CLIP model in transformers' layout will do: `weights=FOLDER`, or a name in the local Hugging Face cache, such as
`weights=laion/CLIP-ViT-B-32-laion2B-s34B-b79K`. What the model's configuration says holds: the sizes, and which GELU
(OpenAI's weights learned with the quick one, LAION's with the exact one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from transformers import AutoImageProcessor, CLIPImageProcessor, CLIPVisionModelWithProjection

from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract import clip_model
from vidloc.extract.base import (
    Encoder,
    EncoderOptions,
    FrameInput,
    Sample,
    Seen,
    StreamTemplate,
    arithmetic,
    placed,
)
from vidloc.extract.processors import load_processor, picture_settings, prepared_frames, seen_frame


class ClipImageOptions(EncoderOptions):
    """Options of CLIP's pictures."""

    weights: str = Field("", description=clip_model.WEIGHTS_HELP)


class ClipImage(Encoder):
    """Projected vectors of frames."""

    Options: ClassVar[type[EncoderOptions]] = ClipImageOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        self.model = clip_model.resolve(options.weights, encoder=name)
        self.weights_name, self.weights_sha256 = self.model.name, self.model.sha256
        self.processor: Any
        if self.model.folder is None:
            network = clip_model.untrained_tower(CLIPVisionModelWithProjection, self.model.seed)
            self.processor = CLIPImageProcessor()
        else:
            network = clip_model.load_tower(CLIPVisionModelWithProjection, self.model.folder)
            self.processor = load_processor(AutoImageProcessor, self.model.folder)
        self.network: Any = placed(network, device, torch.contiguous_format)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        clip_model.check_available(options.weights, encoder=name)

    @property
    def input(self) -> FrameInput:
        """The whole frame; the model's own processor resizes and cuts it."""
        return FrameInput()

    def stream(self) -> StreamTemplate:
        """One vector per frame."""
        return StreamTemplate(
            kind="clip",
            fields={"features": FieldSpec(row_shape=(self.network.config.projection_dim,), dtype=self.options.dtype)},
            source=self.model.source(clip_model.SOURCE),
            preprocessing={
                **self.model.described(),
                **picture_settings(self.processor),
                "activation": self.network.config.hidden_act,
                "tap": "class token through the visual projection",
                "normalised": False,
                "text_encoder": "clip_text",
            },
        )

    def as_seen(self, sample: Sample) -> Seen:
        """The frame as the processor resizes and cuts it."""
        return seen_frame(self.processor, np.asarray(sample.data))

    def preferred_batch(self) -> int:
        """Frames per call."""
        return 64 if self.device.type == "cuda" else 4

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Vectors of frames, float32."""
        pictures = prepared_frames(self.processor, [np.asarray(sample.data) for sample in samples])
        with arithmetic(self.device, self.options.precision):
            vectors = self.network(pixel_values=pictures.to(self.device)).image_embeds.float()
        return Rows.dense(features=np.ascontiguousarray(vectors.cpu().numpy()))


ENCODER = ClipImage
