"""Optical flow between a clip's neighbouring frames, each pair computed once: what encoders of motion are fed.

A clip of n + 1 frames has n flows: how far, in pixels, what is seen at a place of one frame has moved by the next,
horizontal (to the right) and vertical (downwards). An encoder asks for what `Motion.input` says, turns `Sample.data`
into flows with `Motion.of`, and brings these to its own numbers with `vidloc.extract.flow_scaling`. Who learned from
which algorithm matters: their flows are different features, so that the algorithm and all it was told are part of the
stream's provenance (`Motion.described`).

With `flow=released` nothing is computed: see `vidloc.extract.released_flow`.

Flow is computed on the resized frame and cropped afterwards, as video_features does: what moves into the crop is seen
before it arrives, and a crop's border is not a border of the picture.

Overlapping windows share pairs of frames. A pair is known again by what its two pictures show, whichever row they came
with, and its flow is kept until 256 MiB of more recent ones have taken its place.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, JsonValue, model_validator

from vidloc.extract.base import ClipInput, EncoderOptions, FrameSize
from vidloc.extract.flow_algorithm import Flow, FlowAlgorithm
from vidloc.extract.flow_scaling import grey_levels
from vidloc.extract.pictures import cropped
from vidloc.extract.raft import Raft
from vidloc.extract.released_flow import BOUND_PX, ReleasedFlow
from vidloc.extract.tvl1 import TVL1, opencv_contrib

FlowName = Literal["tvl1", "raft_large", "raft_small", "released"]

_CACHE_BYTES = 256 * 2**20


class FlowOptions(EncoderOptions):
    """Options of encoders that see optical flow."""

    flow: FlowName = Field(
        "tvl1",
        description="Algorithm: tvl1 (OpenCV, on the CPU; what the published flow networks learned from), RAFT "
        "(torchvision's, on the encoder's device), or released: the corpus's flow pictures, such as EPIC-KITCHENS's.",
    )
    # Not among the recorded options: the hash of the file is recorded instead.
    flow_weights: str = Field(
        "",
        exclude=True,
        description="RAFT's checkpoint: a path, 'random:SEED' for untrained weights, or empty for the published ones.",
    )
    flow_updates: int = Field(20, ge=1, description="How often RAFT refines its flow; 20 as in video_features.")
    flow_bound_px: float = Field(
        BOUND_PX,
        gt=0,
        le=1000,
        description="Motion that white stands for in released flow pictures, pixels; black is as much the other way.",
    )

    @model_validator(mode="after")
    def _weights_and_bound_are_used(self) -> Self:
        if self.flow_weights and self.flow in ("tvl1", "released"):
            raise ValueError(
                f"flow_weights is given but flow is {self.flow}, which learns nothing; add flow=raft_large"
            )
        if self.flow_bound_px != BOUND_PX and self.flow != "released":
            raise ValueError(f"flow_bound_px is for released pictures, but flow is {self.flow}; add flow=released")
        return self


class Motion(Protocol):
    """Where an encoder's flow comes from: `OpticalFlow` computes it, `ReleasedFlow` finds it done."""

    def input(self, num_flows: int, window_s: Fraction, size: FrameSize) -> ClipInput:
        """What the pipeline is asked for.

        Args:
            num_flows: flows inside the window.
            size: how pictures are resized.
        """

    def of(self, data: NDArray[np.uint8]) -> Flow:
        """Flows float32 `(num_flows, height, width, 2)` in pixels, cropped, of `Sample.data`."""

    def levels(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same as the grey levels of flow pictures."""

    def described(self) -> Mapping[str, JsonValue]:
        """The facts of it for a stream's provenance."""


def motion_for(
    options: FlowOptions, *, device: torch.device, crop_px: int | None = None, published: str | None = None
) -> Motion:
    """The flow that an encoder's options name; for arguments and errors see `OpticalFlow`."""
    if options.flow == "released":
        return ReleasedFlow(options.flow_bound_px, crop_px=crop_px)
    return OpticalFlow(options, device=device, crop_px=crop_px, published=published)


def check_motion(options: FlowOptions, *, published: str | None = None) -> None:
    """Make sure that flow can be had, by a look at the disk: for `Encoder.check_weights`.

    Raises:
        WeightsError, OptionError: as `OpticalFlow`.
    """
    if options.flow != "released":
        OpticalFlow.check(options, published=published)


class OpticalFlow:
    """Flow of clips by the algorithm that an encoder's options name.

    Args:
        options: which algorithm.
        device: where RAFT runs; TV-L1 runs on the CPU.
        crop_px: side of the square cut from the middle of each flow; `None` keeps the whole.
        published: name of the checkpoint that empty `flow_weights` stand for, where it is not that of the algorithm.

    Raises:
        WeightsError: RAFT's checkpoint is missing or does not fit.
        OptionError: the package that the algorithm comes from is not installed.

    Example:
        flow = OpticalFlow(FlowOptions(), device=torch.device("cpu"), crop_px=224)
        flow.of(sample.data)  # frames (6, 256, 340, 3) -> (5, 224, 224, 2)
    """

    def __init__(
        self, options: FlowOptions, *, device: torch.device, crop_px: int | None = None, published: str | None = None
    ) -> None:
        self._algorithm = _algorithm(options, published or options.flow, device)
        self._crop_px = crop_px
        self._known = _Recent(_CACHE_BYTES)

    @staticmethod
    def check(options: FlowOptions, *, published: str | None = None) -> None:
        """Make sure that the algorithm can run, by a look at the disk.

        Raises:
            WeightsError, OptionError: as the constructor.
        """
        if options.flow == "tvl1":
            opencv_contrib()
        else:
            Raft.check_weights(options.flow_weights, published or options.flow)

    def input(self, num_flows: int, window_s: Fraction, size: FrameSize) -> ClipInput:
        """See `Motion`: whole frames, and the one that the last of them moves to."""
        return ClipInput(num_flows, window_s, size, frames_after=1)

    def of(self, frames: NDArray[np.uint8]) -> Flow:
        """Flows float32 `(n, height, width, 2)` of frames uint8 `(n + 1, height, width, 3)`, cropped.

        Entry k is the flow from frame k to frame k + 1: horizontal, vertical.
        """
        digests = [hashlib.blake2b(frame.tobytes(), digest_size=16).digest() for frame in frames]
        keys = [(frames.shape[1:], first, second) for first, second in pairwise(digests)]
        # Held here too: the memory may be smaller than one clip.
        flows = {key: flow for key in keys if (flow := self._known.get(key)) is not None}
        missing = {key: k for k, key in enumerate(keys) if key not in flows}
        found = self._algorithm.between([(frames[k], frames[k + 1]) for k in missing.values()]) if missing else []
        for key, flow in zip(missing, found, strict=True):
            flows[key] = flow if self._crop_px is None else cropped(flow, self._crop_px)
            self._known.put(key, flows[key])
        return np.stack([flows[key] for key in keys])

    def levels(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Flows as the grey levels that TSN learned from."""
        return grey_levels(self.of(frames))

    def described(self) -> Mapping[str, JsonValue]:
        """The facts of it for a stream's provenance."""
        return self._algorithm.described()


_Key = tuple[tuple[int, ...], bytes, bytes]


class _Recent:
    """Flows by pair, those least recently asked for dropped first."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._bytes = 0
        self._flows: OrderedDict[_Key, Flow] = OrderedDict()

    def get(self, key: _Key) -> Flow | None:
        if key in self._flows:
            self._flows.move_to_end(key)
        return self._flows.get(key)

    def put(self, key: _Key, flow: Flow) -> None:
        self._flows[key] = flow
        self._bytes += flow.nbytes
        while self._bytes > self._capacity:
            self._bytes -= self._flows.popitem(last=False)[1].nbytes


def _algorithm(options: FlowOptions, published: str, device: torch.device) -> FlowAlgorithm:
    if options.flow == "tvl1":
        return TVL1()
    return Raft(
        options.flow,
        weights=options.flow_weights,
        published=published,
        num_updates=options.flow_updates,
        device=device,
    )
