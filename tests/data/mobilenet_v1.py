"""MobileNet v1 0.25 at 224 pixels (Howard et al. 2017), 256 numbers per frame: a one-file encoder with real weights.

The whole frame is resized to 224 x 224 (bilinear with antialiasing, as PIL does it) and scaled to -1..1. Batch norms
are folded into the convolutions. Padding is TensorFlow's "SAME": with stride 2 on an even size nothing in front and one
row and column behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import WeightsError
from vidloc.extract.base import Encoder, EncoderOptions, FrameInput, Sample, StreamTemplate
from vidloc.extract.weights import load_into, read_state, resolve

WIDTHS = (16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
STRIDED = (2, 4, 6, 12)
SIDE_PX = 224


class Block(nn.Module):
    """A 3x3 convolution per channel and a 1x1 convolution across them, each followed by ReLU6."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(before, before, 3, stride=stride, groups=before)
        self.pw = nn.Conv2d(before, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        maps = functional.relu6(self.dw(padded(maps, self.dw.stride[0])))
        return functional.relu6(self.pw(maps))


class MobileNet(nn.Module):
    """The network: `(batch, 3, 224, 224)` in -1..1 to `(batch, 256)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 8, 3, stride=2)
        before = 8
        for k, width in enumerate(WIDTHS, start=1):
            self.add_module(f"block{k}", Block(before, width, 2 if k in STRIDED else 1))
            before = width
        self.fc = nn.Linear(before, 1001)

    def forward(self, pictures: Tensor) -> Tensor:
        maps = functional.relu6(self.conv0(padded(pictures, 2)))
        for k in range(1, len(WIDTHS) + 1):
            maps = getattr(self, f"block{k}")(maps)
        return maps.mean(dim=(2, 3))


def padded(maps: Tensor, stride: int) -> Tensor:
    """TensorFlow's SAME padding for a 3x3 kernel."""
    before = 0 if stride == 2 and maps.shape[-1] % 2 == 0 else 1
    return functional.pad(maps, (before, 1, before, 1))


def prepared(frame: np.ndarray) -> Tensor:
    """A frame `(height, width, 3)` as `(1, 3, 224, 224)` in -1..1."""
    picture = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None]
    if picture.shape[-2:] != (SIDE_PX, SIDE_PX):
        picture = functional.interpolate(picture, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)
    return picture.float() / 127.5 - 1


class MobileNetEncoder(Encoder):
    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        self.options = options
        self.device = device
        checkpoint = resolve(options.weights, name)
        if checkpoint.path is None:
            raise WeightsError(
                "mobilenet_v1 needs the file mobilenet_v1_0.25_224_imagenet.safetensors as weights=PATH."
            )
        self.network = MobileNet()
        load_into(self.network, read_state(checkpoint.path), where=str(checkpoint.path))
        self.network.eval().to(device)
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256

    @property
    def input(self) -> FrameInput:
        return FrameInput()

    def stream(self) -> StreamTemplate:
        return StreamTemplate(
            kind="clip",
            fields={"features": FieldSpec(row_shape=(WIDTHS[-1],), dtype=self.options.dtype)},
            source=Source(paper="Howard et al., arXiv 1704.04861", licence="Apache-2.0"),
            preprocessing={"resize": "whole frame to 224x224, bilinear, antialiased", "scale": "x/127.5-1"},
        )

    @torch.inference_mode()
    def encode(self, samples: Sequence[Sample]) -> Rows:
        pictures = torch.cat([prepared(sample.data) for sample in samples]).to(self.device)
        return Rows.dense(features=self.network(pictures).cpu().numpy())

    def preferred_batch(self) -> int:
        return 16


ENCODER = MobileNetEncoder
