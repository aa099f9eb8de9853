"""The clip network of long-term feature banks: ResNet-50 I3D with non-local blocks (Wu et al., CVPR 2019).

32 frames over 64/30 s, halved in time once, after the first stage. Non-local blocks (Wang et al., CVPR 2018) follow
every second block of the second stage, within groups of four times, and of the third, over all. The row is the last map
averaged over times and positions, 2048 numbers: the short clip's feature, or an entry of a verb bank.

With `boxes=PATH` (see `given_boxes.py`) the rows are those of regions, such as the persons of AVA: the last map
averaged over time, each box aligned to 7 x 7 places of it, and the largest number of those. Frames are not cropped
then, so that no box is cut.

Checkpoints are Caffe2 pickles; `vidloc weights convert` makes safetensors of them, whose blob names load here. Their
batch norms are frozen into a scale and a shift per channel, which are folded into the convolutions on the way, as are
norms that still have a mean and a variance. Feature bank operators are left aside: they are the head's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, JsonValue, model_validator
from torch import nn
from torch.nn import functional
from torchvision.ops import roi_align

from vidloc.core.records import Source
from vidloc.core.rows import Rows
from vidloc.errors import WeightsError
from vidloc.extract.base import EncoderOptions, FrameSize, Sample, StreamTemplate, arithmetic
from vidloc.extract.clip_classifier import ClassifierOptions, ClipClassifier, State
from vidloc.extract.given_boxes import GivenBoxes, GivenBoxesOptions
from vidloc.extract.preparation import CroppedOptions, Preparation
from vidloc.extract.regions import displayed_size_of, region_fields, region_rows

NUM_FEATURES = 2048
_STRIDE_PX = 16  # of the last map
_ROI_PLACES = 7
_GROUP = 4  # times of the second stage's non-local blocks that see each other
_EPSILON = 1.0000001e-5  # of norms that are not yet frozen
_MEAN, _STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

_BLOB = re.compile(r"(?P<layer>\w+?)_(?P<entry>bn_s|bn_b|bn_rm|bn_riv|w|b)")
# Blobs of the feature bank operator, which takes this network's rows, and the classifier behind it.
_OPERATOR = re.compile(r"lfb_|\w+_fbonl_reduc_")


class _Stage(NamedTuple):
    name: str
    blocks: int
    width: int  # of its output; inside, a quarter
    stride: int
    over_time: tuple[int, ...]  # blocks whose first kernel spans three times
    non_local: tuple[int, ...] = ()  # blocks that a non-local one follows


_STAGES = (
    _Stage("res2", 3, 256, 1, (0, 1, 2)),
    _Stage("res3", 4, 512, 2, (0, 2), (1, 3)),
    _Stage("res4", 6, 1024, 2, (0, 2, 4), (1, 3, 5)),
    _Stage("res5", 3, 2048, 1, (1,)),
)


class LFBOptions(ClassifierOptions, CroppedOptions, GivenBoxesOptions):
    """Options of the LFB network."""

    num_frames: int = Field(32, ge=8, multiple_of=8, description="Frames of a clip; the published weights take 32.")
    window_s: Fraction = Field(Fraction(64, 30), gt=0, description="Seconds that the frames of a clip are spread over.")
    dilation: int = Field(
        1, ge=1, le=2, description="Of the last stage: 1 in weights for EPIC-KITCHENS, 2 for AVA and Charades."
    )
    short_side_px: int = Field(256, ge=64, description="Length that the shorter side of a frame is resized to.")
    crop_px: int = Field(
        256,
        ge=64,
        multiple_of=32,
        description="Side of the square cut from the centre; nothing is cut with boxes=PATH.",
    )

    @model_validator(mode="after")
    def _scores_are_of_clips(self) -> Self:
        if self.boxes and self.scores:
            raise ValueError("scores=true gives the classes of whole clips, boxes=PATH rows of regions; leave one out")
        return self


class NonLocal(nn.Module):
    """Adds to each place what all places say of it (Wang et al., CVPR 2018, eq. 1 with an embedded Gaussian).

    `y_i = sum_j softmax_j(theta_i . phi_j / sqrt(d)) g_j` with phi and g of the map pooled by 2 x 2; `x + out(y)`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = width // 2
        self.theta, self.phi, self.g = (nn.Conv3d(width, self.inner, 1) for _ in range(3))
        self.out = nn.Conv3d(self.inner, width, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps of the same shape `(batch, width, times, height, width)`."""
        pooled = functional.max_pool3d(maps, (1, 2, 2))
        theta, phi, g = (
            layer(x).flatten(2).transpose(1, 2)
            for layer, x in ((self.theta, maps), (self.phi, pooled), (self.g, pooled))
        )
        # The library's scale is inner ** -0.5 too.
        seen = functional.scaled_dot_product_attention(theta, phi, g).transpose(1, 2)
        added: torch.Tensor = self.out(seen.reshape(maps.shape[0], self.inner, *maps.shape[2:]))
        return maps + added


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut; the first may span times, the second carries stride and dilation."""

    def __init__(self, width: int, made: int, *, over_time: bool, stride: int, dilation: int) -> None:
        super().__init__()
        inner, times = made // 4, 3 if over_time else 1
        self.branch2a = nn.Conv3d(width, inner, (times, 1, 1), padding=(times // 2, 0, 0))
        self.branch2b = nn.Conv3d(
            inner,
            inner,
            (1, 3, 3),
            (1, stride, stride),
            padding=(0, dilation, dilation),
            dilation=(1, dilation, dilation),
        )
        self.branch2c = nn.Conv3d(inner, made, 1)
        self.branch1 = nn.Conv3d(width, made, 1, (1, stride, stride)) if width != made else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps of the block."""
        inner = functional.relu(self.branch2a(maps), inplace=True)
        inner = functional.relu(self.branch2b(inner), inplace=True)
        shortcut = maps if self.branch1 is None else self.branch1(maps)
        return functional.relu(self.branch2c(inner) + shortcut, inplace=True)


class LFBNetwork(nn.Module):
    """The network; children are called as its blobs are.

    Args:
        num_classes: of the classifier; `None` leaves it out.
        dilation: of the last stage.
    """

    def __init__(self, num_classes: int | None, *, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, (5, 7, 7), (1, 2, 2), padding=(2, 3, 3))
        width = 64
        for stage in _STAGES:
            for k in range(stage.blocks):
                block = Bottleneck(
                    width,
                    stage.width,
                    over_time=k in stage.over_time,
                    stride=stage.stride if k == 0 else 1,
                    dilation=dilation if stage.name == "res5" else 1,
                )
                self.add_module(f"{stage.name}_{k}", block)
                width = stage.width
                if k in stage.non_local:
                    self.add_module(_non_local(stage, k), NonLocal(width))
        self.pred = None if num_classes is None else nn.Linear(NUM_FEATURES, num_classes)

    def maps(self, clips: torch.Tensor) -> torch.Tensor:
        """Last maps `(batch, 2048, times / 2, height / 16, width / 16)` of clips `(batch, 3, times, height, width)`."""
        maps = functional.relu(self.conv1(clips), inplace=True)
        maps = functional.max_pool3d(maps, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1))
        for stage in _STAGES:
            for k in range(stage.blocks):
                maps = self.get_submodule(f"{stage.name}_{k}")(maps)
                if k in stage.non_local:
                    block = self.get_submodule(_non_local(stage, k))
                    maps = _by_groups(block, maps) if stage.name == "res3" else block(maps)
            if stage.name == "res2":
                maps = functional.max_pool3d(maps, (2, 1, 1))
        return maps


class LFBClipNetwork(ClipClassifier):
    """Features of clips, 2048 numbers each."""

    Options = LFBOptions
    options: LFBOptions
    network: LFBNetwork
    num_features = NUM_FEATURES
    classifier = "pred.weight"
    published_classes = ()
    tap = "last map, mean over times and positions"
    source = Source(
        paper="Wu et al. Long-Term Feature Banks for Detailed Video Understanding. CVPR 2019.",
        code="https://github.com/facebookresearch/video-long-term-feature-banks",
        commit="941b71303ca6a60ea6561eb883a77fa1733bb615",
        licence="Apache-2.0",
        differs="frozen norms are folded into convolutions",
    )

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        self._given = self.options.given_boxes()

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        super().check_weights(options, name=name)
        if isinstance(options, LFBOptions):
            options.check_boxes()

    def stream(self) -> StreamTemplate:
        """One vector per row, or one per given box."""
        template = super().stream()
        if self._given is None:
            return template
        described: dict[str, JsonValue] = {
            **template.preprocessing,
            "crop": "none",
            "tap": "last map, mean over time, boxes aligned to 7 x 7 places, maximum of these",
            "boxes": "normalised xyxy, half-open, continuous pixel coordinates; the whole frame is 0 0 1 1",
            "given_boxes_sha256": self._given.sha256(),
        }
        fields = region_fields(NUM_FEATURES, self.options.dtype)
        return replace(template, kind="objects", fields=fields, preprocessing=described)

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of clips or of their regions, float32."""
        if self._given is None:
            return super().encode(samples)
        # Uncropped frames of several videos may differ in size.
        runs = [list(run) for _, run in groupby(samples, key=lambda sample: np.shape(sample.data))]
        with arithmetic(self.device, self.options.precision):
            found = [regions for run in runs for regions in self._regions(run, self._given)]
        return region_rows(found, samples)

    def _regions(self, samples: Sequence[Sample], given: GivenBoxes) -> list[dict[str, NDArray[Any]]]:
        known = [given.at(s.item_id, float(sum(s.span) / 2), displayed_size_of(s)) for s in samples]
        boxes = [torch.from_numpy(found.boxes).to(self.device) for found in known]
        clips = self.preparation.clips(samples, self.device)
        vectors = torch.split(
            region_features(self.network.maps(clips), boxes, clips.shape[-2:]), [len(b) for b in boxes]
        )
        return [
            {"boxes": k.boxes, "scores": k.scores, "labels": k.labels, "features": v.cpu().numpy()}
            for k, v in zip(known, vectors, strict=True)
        ]

    def build(self, num_classes: int) -> LFBNetwork:
        """See the base class."""
        return LFBNetwork(num_classes if self.options.scores else None, dilation=self.options.dilation)

    def renamed(self, state: State) -> State:
        """Blobs under the network's names, scale and shift folded in; without classifier unless scores are wanted."""
        blobs = {name: tensor for name, tensor in state.items() if self.options.scores or not _is_head(name)}
        return folded(blobs)

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """See the base class: the last map."""
        return self.network.maps(clips)

    def classified(self, pooled: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        scores: torch.Tensor = self.network.pred(pooled.movedim(1, -1))  # type: ignore[misc]  # there, where it is wanted
        return scores.movedim(-1, 1)

    @property
    def preparation(self) -> Preparation:
        """The frames spread over the window, resized without antialiasing."""
        crop_px = None if self.options.boxes else self.options.crop_px
        size = FrameSize(self.options.short_side_px, crop_px, antialias=False)
        return Preparation(self.options.num_frames, self.options.num_frames / self.options.window_s, size, _MEAN, _STD)


def region_features(maps: torch.Tensor, boxes: Sequence[torch.Tensor], size_px: Sequence[int]) -> torch.Tensor:
    """Vectors `(num_boxes, 2048)` of boxes of clips, those of the first clip first.

    Args:
        maps: last maps `(batch, 2048, times, rows, columns)`.
        boxes: per clip `(n, 4)`, x1 y1 x2 y2 over width and height; n may be 0.
        size_px: height and width of the frames that the network saw.
    """
    height, width = size_px
    pixels = [b * b.new_tensor([width, height, width, height]) for b in boxes]
    # As Caffe2 aligns: places are not shifted by half a pixel, and as many samples are taken as a place is large.
    aligned: torch.Tensor = roi_align(
        maps.float().mean(2), pixels, _ROI_PLACES, 1 / _STRIDE_PX, sampling_ratio=0, aligned=False
    )
    return aligned.amax((2, 3))


def folded(blobs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights and biases under the network's names from Caffe2's blobs; names that are none of theirs stay.

    A layer's scale and shift are folded into it; where mean and variance are there as well, so are they.
    """
    layers: dict[str, dict[str, torch.Tensor]] = {}
    folded: dict[str, torch.Tensor] = {}
    for name, tensor in blobs.items():
        if found := _BLOB.fullmatch(name):
            layers.setdefault(_owner(found["layer"]), {})[found["entry"]] = tensor.float()
        else:
            folded[name] = tensor
    for layer, entries in layers.items():
        folded |= {f"{_module(layer)}.{kind}": tensor for kind, tensor in _layer(layer, entries).items()}
    return folded


def _layer(layer: str, entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weight, bias = entries.get("w"), entries.get("b")
    scale, shift = entries.get("bn_s"), entries.get("bn_b")
    if scale is None and shift is None:
        return {kind: tensor for kind, tensor in {"weight": weight, "bias": bias}.items() if tensor is not None}
    if weight is None or scale is None or shift is None or not len(weight) == len(scale) == len(shift):
        raise WeightsError(
            f"the layer {layer!r} has the blobs {', '.join(f'{layer}_{entry}' for entry in entries)}; expected are "
            f"{layer}_w, {layer}_bn_s and {layer}_bn_b of one length. Is it another network's checkpoint?"
        )
    if "bn_rm" in entries and "bn_riv" in entries:
        # Caffe2 calls it an inverse, but it is the variance itself.
        scale = scale / torch.sqrt(entries["bn_riv"] + _EPSILON)
        shift = shift - scale * entries["bn_rm"]
    before = torch.zeros_like(shift) if bias is None else bias
    return {"weight": weight * scale.view(-1, *[1] * (weight.ndim - 1)), "bias": before * scale + shift}


def _owner(place: str) -> str:
    # Two kinds of norms are not called after their convolution: that of the first layer, and a non-local block's.
    if place == "res_conv1":
        return "conv1"
    return f"{place}_out" if re.fullmatch(r"nonlocal_conv\d_\d+", place) else place


def _module(layer: str) -> str:
    # `res3_1_branch2a` is a child of `res3_1`, `nonlocal_conv3_1_theta` one of `nonlocal_conv3_1`.
    place = re.fullmatch(r"(res\d_\d+|nonlocal_conv\d_\d+)_(\w+)", layer)
    return f"{place[1]}.{place[2]}" if place else layer


def _is_head(blob: str) -> bool:
    return blob.startswith("pred_") or _OPERATOR.match(blob) is not None


def _non_local(stage: _Stage, block: int) -> str:
    return f"nonlocal_{stage.name.replace('res', 'conv')}_{block}"


def _by_groups(block: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    # Times in groups of four, each group a batch entry of its own.
    groups = torch.cat(torch.split(maps, _GROUP, dim=2))
    seen: torch.Tensor = block(groups)
    return torch.cat(torch.split(seen, len(maps)), dim=2)


ENCODER = LFBClipNetwork
