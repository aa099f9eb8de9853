"""What a head is: a trainable model on rows, which never opens a store, a video or a dataset.

A head states by role which kind of stream it reads (`needs`) and which rows of it (`sampling`); a pipeline matches
roles with streams, reads the rows once and hands them over as batches. A file of one head ends with `HEAD = MyHead`.

Two units of work exist. With `unit = "segment"` a sample is one annotated segment: the batch holds the rows that belong
to it, and its labels. With `unit = "item"` a sample is a whole item: the batch holds all its rows, and its segments and
points (single frames, where the corpus has them) lie in `Batch.samples`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from vidloc.core.lanes import Lane
from vidloc.core.options import Options
from vidloc.core.records import HeadTask, Kind, Point, Prediction, Segment, Source
from vidloc.core.timeline import Span
from vidloc.heads.sampling import AllRows, RowRule, Sampling, SegmentRows

if TYPE_CHECKING:
    from vidloc.heads.bank import Bank
    from vidloc.heads.training import FitData, Recorder

Kept = Mapping[str, Mapping[str, Tensor]]  # what `fit` gave to `Recorder.keep`, by its name and by item

UNLABELLED = -1  # label of a sample whose class is withheld; losses leave it out


def numbers(value: Any) -> Any:
    """`0.6,0.85` as a command line gives it, into its parts."""
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Share = Annotated[float, Field(gt=0, lt=1)]


class BaseHeadOptions(Options):
    """Options that every head has, however it is trained."""

    batch: int = Field(64, ge=1, description="Samples per step.")
    seed: int = Field(0, ge=0, description="Seed of initial weights, order and dropout.")
    device: str = Field("auto", description="Where to train: auto, cpu, cuda or cuda:N.")
    memory_gb: float = Field(
        0.0, ge=0, description="Most memory for rows, in GB; rows beyond it are streamed item by item. 0 = measure."
    )


class HeadOptions(BaseHeadOptions):
    """Options of heads trained by gradients with the common loop (`training.fit`)."""

    lr: float = Field(0.01, gt=0, description="Learning rate at the start.")
    epochs: int = Field(30, ge=1, description="Passes over the training samples.")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="Optimiser.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd; first beta of adam.")
    nesterov: bool = Field(default=True, description="Nesterov's form of momentum (sgd).")
    weight_decay: float = Field(1e-5, ge=0, description="L2 penalty on the weights.")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (0.6, 0.85), description="Shares of all epochs after which the learning rate drops, such as 0.6,0.85."
    )
    lr_factor: float = Field(0.1, gt=0, le=1, description="What a drop multiplies the learning rate by.")
    clip_norm: float = Field(0.0, ge=0, description="Longest gradient; longer ones are scaled down. 0 = off.")
    select: Literal["last", "best"] = Field(
        "last", description="Which epoch's weights are kept: the last, or the best on --select-split."
    )
    select_split: str = Field("", description="Split that --select best looks at; it is then no longer held out.")


class SegmentOptions(HeadOptions):
    """Options of heads whose samples are annotated segments."""

    rows: RowRule = Field(
        "center",
        description="Rows of a segment: centred in it (at least the nearest one), overlapping it, or the nearest one.",
    )


@dataclass(frozen=True)
class StreamNeed:
    """What fills a role of a head.

    Attributes:
        kinds: kinds of stream that fit, any of them.
        rank: axes of one feature: 1 is a vector, 3 a map `(height, width, channels)`. For streams of kind `objects`
            it is the rank of one region's feature.
        fields: what streams of kind `objects` need beside features.
    """

    kinds: tuple[Kind, ...]
    rank: int = 1
    fields: tuple[str, ...] = ("boxes", "scores")


@dataclass(frozen=True)
class Sample:
    """One unit of work: an annotated segment, or a whole item with all its segments and single frames."""

    item_id: str
    span: Span
    segments: tuple[Segment, ...] = ()
    points: tuple[Point, ...] = ()

    @property
    def id(self) -> str:
        """Id of the annotation, where the sample is one segment; else empty."""
        return self.segments[0].id if len(self.segments) == 1 else ""


class RowBatch:
    """Rows of one role in two forms: `features` padded to the longest sample, `packed` one after another.

    A batch is made from either form; the other is made when it is first asked for. Segments differ so much in length
    (0.5 to 200 s in EPIC) that most of a padded batch is zeros: a head that only scores or averages single rows reads
    `packed` and never moves them.

    Attributes:
        mask: `(batch, time)` bool, true for real rows.
        spans: `(batch, time, 2)` float64, window of each row in seconds; zero where padded.

    Args:
        features, packed: the rows in either form, as the properties of these names say; one of the two.

    Raises:
        ValueError: neither form is given.
    """

    def __init__(self, features: Tensor | None, mask: Tensor, spans: Tensor, *, packed: Tensor | None = None) -> None:
        if features is None and packed is None:
            raise ValueError("a batch of rows needs its features, padded or packed")
        self.mask, self.spans = mask, spans
        self._features, self._packed = features, packed

    @property
    def features(self) -> Tensor:
        """`(batch, time, *row)` float32; zero where padded."""
        if self._features is None:
            self._features = _padded(self.packed, self.mask)
        return self._features

    @property
    def packed(self) -> Tensor:
        """`(rows, *row)` float32, the real rows of all samples, one sample's after the other's."""
        if self._packed is None:
            self._packed = self.features[self.mask]
        return self._packed

    @property
    def counts(self) -> Tensor:
        """`(batch,)` int64, real rows of each sample: how `packed` is divided."""
        return self.mask.sum(dim=1)

    def to(self, device: torch.device) -> RowBatch:
        """The same on another device."""
        mask, spans = self.mask.to(device, non_blocking=True), self.spans.to(device, non_blocking=True)
        if self._packed is None:
            return RowBatch(self.features.to(device, non_blocking=True), mask, spans)
        return RowBatch(None, mask, spans, packed=self._packed.to(device, non_blocking=True))


@dataclass(frozen=True, eq=False)
class RegionBatch:
    """Detected regions of one role, in slots: `top` of them for each sampled frame.

    Attributes:
        features: `(batch, slots, width)` float32; zero where masked.
        mask: `(batch, slots)` bool, true for real detections.
        boxes: `(batch, slots, 4)` float32, as stored.
        scores: `(batch, slots)` float32.
        slot: `(batch, slots)` int64, number of the sampled frame.
    """

    features: Tensor
    mask: Tensor
    boxes: Tensor
    scores: Tensor
    slot: Tensor

    def to(self, device: torch.device) -> RegionBatch:
        """The same on another device."""
        parts = (self.features, self.mask, self.boxes, self.scores, self.slot)
        return RegionBatch(*(t.to(device, non_blocking=True) for t in parts))


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples that are worked on together.

    Attributes:
        samples: what each entry of the batch is, in order.
        rows: rows by role, for roles sampled with `SegmentRows`, `AllRows` or `RowsAround`.
        regions: regions by role, for roles sampled with `FramesAround`.
        labels: `(batch,)` int64 class by task, `UNLABELLED` where withheld; empty for `unit = "item"`.
    """

    samples: tuple[Sample, ...]
    rows: Mapping[str, RowBatch] = field(default_factory=dict)
    regions: Mapping[str, RegionBatch] = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return replace(
            self,
            rows={role: rows.to(device) for role, rows in self.rows.items()},
            regions={role: regions.to(device) for role, regions in self.regions.items()},
            labels={task: labels.to(device, non_blocking=True) for task, labels in self.labels.items()},
        )


class Head(nn.Module, ABC):
    """Base of all heads.

    Class attributes:
        task: what is predicted; it decides which metrics apply.
        unit: what one sample is.
        needs: what fills each role.
        Options: the head's options; `HeadOptions` for heads trained by the common loop.
        source: paper and reference code, and where ours differs.

    Attributes:
        label_task: task whose labels a detection head predicts; empty for heads that answer every task.

    Args:
        options: an instance of `Options`.
        dims: width of a feature vector (last axis) by role, for the roles of `needs_for(options)`.
        labels: class names by task, in the order of their ids.

    Raises:
        OptionError: options, widths or tasks that do not go together.
    """

    task: ClassVar[HeadTask]
    unit: ClassVar[Literal["segment", "item"]] = "segment"
    needs: ClassVar[Mapping[str, StreamNeed]]
    Options: ClassVar[type[BaseHeadOptions]] = HeadOptions
    source: ClassVar[Source]

    options: BaseHeadOptions
    label_task: str = ""

    @abstractmethod
    def __init__(self, options: Any, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.options = options
        self.dims = dict(dims)
        self.labels = {task: tuple(names) for task, names in labels.items()}

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name; `total` is minimised, the others are logged."""

    @abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """What the head says of the samples; called in evaluation mode without gradients."""

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """What only the head knows of each sample over time, for `vidloc report`; called as `predict` is.

        True segments, single frames and predictions are drawn anyway, so by default there is nothing to add.

        Args:
            kept: what `fit` kept for this by `Recorder.keep`.
        """
        del kept
        return [()] * len(batch)

    @classmethod
    def needs_for(cls, options: Any) -> Mapping[str, StreamNeed]:
        """Roles used with these options; fewer than `needs` where an ablation leaves an input out."""
        del options
        return cls.needs

    @classmethod
    def sampling(cls, options: Any) -> Mapping[str, Sampling]:
        """Which rows of each role belong to a sample: by default the segment's, or the whole item's."""
        rule: Sampling
        if cls.unit == "item":
            rule = AllRows()
        else:
            rule = SegmentRows(options.rows) if isinstance(options, SegmentOptions) else SegmentRows()
        return dict.fromkeys(cls.needs_for(options), rule)

    @property
    def num_parameters(self) -> int:
        """Numbers that training sets; heads that are not trained by gradients override this."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters as the optimiser takes them; `lr`, `weight_decay` and `lr_drops` of a group override the options.

        With `lr_until`, a group is no longer trained after that share of all epochs.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def prepare(self, data: FitData) -> None:
        """Take what must be known of the training rows before the first step, such as their mean."""

    def epoch_batches(self, bank: Bank, epoch: int) -> Iterator[Batch]:
        """What an epoch, counted from 0, is trained on: all samples once, in an order that seed and epoch fix."""
        return bank.batches(self.options.batch, seed=(self.options.seed, epoch))

    def fit(self, data: FitData, run: Recorder) -> None:
        """Train. Heads not trained by gradients, or with a loop of their own, override this."""
        from vidloc.heads.training import fit

        fit(self, data, run)

    @property
    def device(self) -> torch.device:
        """Where the head's numbers lie."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")


def _padded(packed: Tensor, mask: Tensor) -> Tensor:
    """`(batch, time, *row)` with the packed rows where the mask is true, zero elsewhere."""
    shape = (*mask.shape, *packed.shape[1:])
    if packed.device.type == "cpu" and packed.dtype == torch.float32:
        # The system hands out zeroed pages, which torch would write again; most of a padded batch stays untouched.
        features = torch.from_numpy(np.zeros(shape, dtype=np.float32))
    else:
        features = packed.new_zeros(shape)
    places = mask.flatten().nonzero().squeeze(1)
    features.flatten(0, 1).index_copy_(0, places, packed)
    return features
