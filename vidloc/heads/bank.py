"""Rows in memory: read once through a reader, turned into batches by index arithmetic and one gather per role.

A benchmark's features fit in memory and mostly on one GPU, so training reads no file per sample. Only rows that some
sample uses are kept, in the dtype they are stored in. Where they do not fit, the bank holds as many items as do at a
time and goes through the store once per epoch; it says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidloc.core.rows import Rows
from vidloc.core.timeline import Timeline
from vidloc.heads.base import UNLABELLED, Batch, RegionBatch, RowBatch, Sample
from vidloc.heads.sampling import AllRows, FramesAround, RowsAround, Sampling, SegmentRows, rows_of

Notice = Callable[[str], None]


class RowReader(Protocol):
    """Where a bank takes rows from; pipelines wrap stores in it."""

    def timeline(self, role: str, item_id: str) -> tuple[Timeline, int]:
        """Times of an item's rows, and how many there are."""

    def keys(self, role: str, item_id: str) -> Mapping[str, int] | None:
        """Row by the annotation that it answers; `None` where rows are windows and answer none."""

    def expect(self, role: str, items: Sequence[str]) -> None:
        """Items whose rows will be asked for next, in this order, so that they may be brought many at a time."""

    def rows(self, role: str, item_id: str) -> Rows:
        """All rows of an item: `features`, and for regions also `boxes` and `scores`."""


@dataclass(frozen=True, eq=False)
class _PackedRows:
    """Rows of one role for some samples; the last row is zero and stands for padding."""

    features: Tensor
    spans: Tensor
    index: Tensor
    first: Tensor
    count: Tensor

    def batch(self, chosen: Tensor) -> RowBatch:
        count = self.count[chosen]
        step = torch.arange(int(count.max()), device=count.device)
        mask = step < count.unsqueeze(1)
        place = (self.first[chosen].unsqueeze(1) + step).clamp(max=len(self.index) - 1)
        rows = torch.where(mask, self.index[place], len(self.features) - 1)
        packed = self.features.index_select(0, rows[mask]).float()
        return RowBatch(None, mask, self.spans[rows], packed=packed)


@dataclass(frozen=True, eq=False)
class _PackedRegions:
    """Regions of one role for some samples; the last entry is zero and stands for an empty slot."""

    features: Tensor
    boxes: Tensor
    scores: Tensor
    slots: Tensor
    top: int

    def batch(self, chosen: Tensor) -> RegionBatch:
        slots = self.slots[chosen]
        entries = slots.flatten()
        frame = torch.arange(slots.shape[1], device=slots.device) // self.top
        return RegionBatch(
            features=self.features.index_select(0, entries).float().view(*slots.shape, -1),
            mask=slots != len(self.features) - 1,
            boxes=self.boxes[slots],
            scores=self.scores[slots],
            slot=frame.expand_as(slots),
        )


@dataclass(frozen=True, eq=False)
class _Piece:
    """Samples whose rows are in memory together; `samples` are their places in the bank."""

    samples: NDArray[np.int64]
    roles: Mapping[str, _PackedRows | _PackedRegions]

    @property
    def num_bytes(self) -> int:
        return sum(t.nbytes for packed in self.roles.values() for t in vars(packed).values() if isinstance(t, Tensor))

    def to(self, device: torch.device) -> _Piece:
        def moved(packed: Any) -> Any:
            return type(packed)(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(packed).items()})

        return _Piece(self.samples, {role: moved(packed) for role, packed in self.roles.items()})


class Bank:
    """Samples with their rows.

    Args:
        samples: what to serve; each has at least one row in every role sampled with `SegmentRows` or `AllRows`.
        sampling: which rows of each role belong to a sample.
        reader: where rows come from.
        tasks: tasks whose labels batches carry; samples must then be single segments.
        device: where batches are wanted; rows are kept there too when they fit.
        memory_bytes: most bytes of rows to keep; 0 measures what is free and takes half of it.
        notice: told when rows do not fit.

    Raises:
        ValueError: no samples.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        sampling: Mapping[str, Sampling],
        reader: RowReader,
        *,
        tasks: Sequence[str] = (),
        device: torch.device | str = "cpu",
        memory_bytes: int = 0,
        notice: Notice = lambda _: None,
    ) -> None:
        if not samples:
            raise ValueError("a bank needs at least one sample")
        self.samples = tuple(samples)
        self.sampling = dict(sampling)
        self.device = torch.device(device)
        self._reader = reader
        self._limit = memory_bytes or _free_host_bytes() // 2
        self._labels = {task: _labels(self.samples, task) for task in tasks}
        self._by_item: dict[str, list[int]] = {}
        for place, sample in enumerate(self.samples):
            self._by_item.setdefault(sample.item_id, []).append(place)
        self._resident = self._load_all(notice, asked=memory_bytes > 0)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def resident(self) -> bool:
        """Whether all rows are in memory."""
        return self._resident is not None

    def batches(self, size: int, *, seed: Sequence[int] | None = None) -> Iterator[Batch]:
        """All samples once, `size` at a time, in an order fixed by `seed`, or as given.

        A bank that is not resident shuffles items, and samples among those in memory together.
        """
        random = None if seed is None else np.random.default_rng(list(seed))
        for piece in self._pieces(random):
            order = np.argsort(piece.samples) if random is None else random.permutation(len(piece.samples))
            for start in range(0, len(order), size):
                yield self._batch(piece, order[start : start + size])

    def moments(self, role: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a role's features over the rows (or regions) kept, by last axis."""
        count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for piece in self._pieces(None):
            features = piece.roles[role].features[:-1]
            for part in torch.split(features.flatten(0, -2), 65536):
                values = part.double().cpu()
                count += len(values)
                total = total + values.sum(0)
                squares = squares + values.square().sum(0)
        mean = total / max(count, 1)
        # A difference of large sums leaves rounding noise where a dimension is constant; that noise is no deviation.
        variance = (squares / max(count, 1) - mean.square()).clamp(min=0)
        variance = torch.where(variance > 1e-12 * mean.square(), variance, 0)
        return mean.float(), variance.sqrt().float()

    def _pieces(self, random: np.random.Generator | None) -> Iterator[_Piece]:
        if self._resident is not None:
            yield self._resident
            return
        items = list(self._by_item)
        if random is not None:
            random.shuffle(items)
        yield from self._load(items)

    def _batch(self, piece: _Piece, order: NDArray[np.int64]) -> Batch:
        packed_on = next(iter(piece.roles.values())).features.device
        chosen = torch.from_numpy(order).to(packed_on)
        places = piece.samples[order]
        parts = {role: packed.batch(chosen) for role, packed in piece.roles.items()}
        batch = Batch(
            samples=tuple(self.samples[place] for place in places),
            rows={role: part for role, part in parts.items() if isinstance(part, RowBatch)},
            regions={role: part for role, part in parts.items() if isinstance(part, RegionBatch)},
            labels={task: labels[places] for task, labels in self._labels.items()},
        )
        return batch.to(self.device)

    def _load_all(self, notice: Notice, *, asked: bool) -> _Piece | None:
        pieces = self._load(list(self._by_item))
        first = next(pieces)
        if len(first.samples) < len(self.samples):
            notice(
                f"the rows of {len(self.samples)} samples do not fit in {self._limit / 1e9:.2f} GB of memory "
                f"({'as asked' if asked else 'half of what is free'}): they are streamed item by item in every epoch."
            )
            return None
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
            if first.num_bytes <= 0.6 * free:
                return first.to(self.device)
            notice(f"the rows ({first.num_bytes / 1e9:.2f} GB) do not fit on the GPU and stay in main memory.")
        return first

    def _load(self, items: Sequence[str]) -> Iterator[_Piece]:
        builder = _Builder(self.sampling)
        for role in self.sampling:
            self._reader.expect(role, items)
        for item in items:
            places = self._by_item[item]
            builder.add(item, places, [self.samples[place] for place in places], self._reader)
            if builder.num_bytes > self._limit and item != items[-1]:
                yield builder.piece()
                builder = _Builder(self.sampling)
        if builder.places:
            yield builder.piece()


class _Builder:
    """Gathers items until they are packed."""

    def __init__(self, sampling: Mapping[str, Sampling]) -> None:
        self._sampling = sampling
        self._arrays: dict[str, dict[str, list[NDArray[Any]]]] = {role: {} for role in sampling}
        self._totals = dict.fromkeys(sampling, 0)
        self.places: list[int] = []
        self.num_bytes = 0

    def add(self, item_id: str, places: Sequence[int], samples: Sequence[Sample], reader: RowReader) -> None:
        """Take the rows that an item's samples use."""
        self.places.extend(places)
        for role, rule in self._sampling.items():
            timeline, num_rows = reader.timeline(role, item_id)
            keys = reader.keys(role, item_id)
            picks = [rows_of(rule, timeline, num_rows, keys, annotation_id=s.id, span=s.span) for s in samples]
            rows = reader.rows(role, item_id)
            if isinstance(rule, FramesAround):
                parts = _region_parts(rows, picks, rule, self._totals[role])
            elif isinstance(rule, RowsAround) and "features" in rows.axes:
                parts = _single_region_parts(rows, timeline, picks, rule.top, self._totals[role])
            else:
                parts = _row_parts(rows, timeline, picks, rule, self._totals[role])
            self._totals[role] += len(parts["features"])
            for name, array in parts.items():
                self._arrays[role].setdefault(name, []).append(array)
                self.num_bytes += array.nbytes

    def piece(self) -> _Piece:
        """What was gathered, as tensors."""
        roles = {
            role: _packed({name: np.concatenate(arrays) for name, arrays in parts.items()}, self._sampling[role])
            for role, parts in self._arrays.items()
        }
        return _Piece(np.array(self.places, dtype=np.int64), roles)


def _row_parts(
    rows: Rows,
    timeline: Timeline,
    picks: Sequence[NDArray[np.int64]],
    rule: SegmentRows | AllRows | RowsAround,
    offset: int,
) -> dict[str, NDArray[Any]]:
    features = rows.fields["features"]
    windows = timeline.spans(rows.num_rows)
    counts = np.array([len(pick) for pick in picks], dtype=np.int64)
    if isinstance(rule, SegmentRows) and rule.pool is not None:
        join = np.max if rule.pool == "max" else np.mean
        pooled = np.stack([join(features[pick].astype(np.float32), axis=0) for pick in picks])
        spans = np.array([(windows[pick, 0].min(), windows[pick, 1].max()) for pick in picks])
        index = np.arange(len(picks), dtype=np.int64)
        return {"features": pooled, "spans": spans, "index": index + offset, "count": np.ones_like(counts)}
    used, places = np.unique(np.concatenate(list(picks)), return_inverse=True)
    # A contiguous range is copied out of a mapped file in one go.
    whole = len(used) > 0 and used[-1] - used[0] + 1 == len(used)
    kept = np.array(features[used[0] : used[-1] + 1]) if whole else features[used]
    return {"features": kept, "spans": windows[used], "index": places.astype(np.int64) + offset, "count": counts}


def _region_parts(
    rows: Rows, picks: Sequence[NDArray[np.int64]], rule: FramesAround, offset: int
) -> dict[str, NDArray[Any]]:
    """Entries of the frames used, most confident first, and each sample's slots as places among them (-1 = none)."""
    used = np.unique(np.concatenate(list(picks)))
    used = used[used >= 0]
    table = np.full((rows.num_rows + 1, rule.top), -1, dtype=np.int64)  # the last row serves frames numbered -1
    kept = _best_entries(rows, used, rule.top)
    num_kept = 0
    for frame, best in zip(used, kept, strict=True):
        table[frame, : len(best)] = np.arange(num_kept, num_kept + len(best)) + offset
        num_kept += len(best)
    entries = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
    return {
        "features": rows.fields["features"][entries],
        "boxes": np.asarray(rows.fields["boxes"], dtype=np.float32)[entries],
        "scores": np.asarray(rows.fields["scores"], dtype=np.float32)[entries],
        "slots": np.stack([table[pick].reshape(-1) for pick in picks]),
    }


def _single_region_parts(
    rows: Rows, timeline: Timeline, picks: Sequence[NDArray[np.int64]], top: int, offset: int
) -> dict[str, NDArray[Any]]:
    """Regions of the frames used as rows of their own, with the times of their frames."""
    used = np.unique(np.concatenate(list(picks)))
    kept = _best_entries(rows, used, top)
    lengths = np.zeros(rows.num_rows, dtype=np.int64)
    lengths[used] = [len(best) for best in kept]
    stops = np.cumsum(lengths)
    entries = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
    places = [np.arange(stops[f] - lengths[f], stops[f]) for pick in picks for f in pick]
    return {
        "features": rows.fields["features"][entries],
        "spans": timeline.spans(rows.num_rows)[np.repeat(used, lengths[used])],
        "index": (np.concatenate(places) if places else np.empty(0, dtype=np.int64)) + offset,
        "count": np.array([lengths[pick].sum() for pick in picks], dtype=np.int64),
    }


def _best_entries(rows: Rows, frames: NDArray[np.int64], top: int) -> list[NDArray[np.int64]]:
    """Regions of each frame, most confident first; without scores in the order in which they are stored."""
    counts = rows.counts[rows.axes["features"]]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    found = []
    for frame in frames:
        own = np.arange(bounds[frame], bounds[frame + 1])
        if "scores" in rows.fields:
            own = own[np.argsort(-np.asarray(rows.fields["scores"][own], dtype=np.float32), kind="stable")]
        found.append(own[:top])
    return found


def _packed(arrays: Mapping[str, NDArray[Any]], rule: Sampling) -> _PackedRows | _PackedRegions:
    features = _with_zero(arrays["features"])
    if isinstance(rule, FramesAround):
        slots = np.where(arrays["slots"] < 0, len(features) - 1, arrays["slots"])
        return _PackedRegions(
            features, _with_zero(arrays["boxes"]), _with_zero(arrays["scores"]), torch.from_numpy(slots), rule.top
        )
    count = arrays["count"]
    first = np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64)
    index = torch.from_numpy(arrays["index"])
    return _PackedRows(features, _with_zero(arrays["spans"]), index, torch.from_numpy(first), torch.from_numpy(count))


def _with_zero(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate([array, np.zeros((1, *array.shape[1:]), dtype=array.dtype)]))


def _labels(samples: Sequence[Sample], task: str) -> Tensor:
    return torch.tensor([sample.segments[0].labels.get(task, UNLABELLED) for sample in samples], dtype=torch.int64)


def _free_host_bytes() -> int:
    """Memory that is free now; a quarter of all memory where the system does not tell."""
    page = os.sysconf("SC_PAGE_SIZE")
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * page
    return os.sysconf("SC_PHYS_PAGES") * page // 4
