"""Contract checks of heads: what `heads.base` promises the pipelines, on made-up rows.

`HeadCase` holds one head built on rows that fit its roles; each check is a function of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidloc.core.lanes import Bars, Lane, Marks
from vidloc.core.records import Prediction, Source
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.base import BaseHeadOptions, Batch, Head, RegionBatch, RowBatch, StreamNeed
from vidloc.heads.training import Checkpoint, FitData, predict_all, seeded
from vidloc.testing.checking import CheckFailed, options_described, require
from vidloc.testing.synthetic_rows import MadeUpRows

_TASKS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"verb": ("take", "put", "open"), "noun": ("knife", "pan", "lid", "cup")},
    {"label": ("wave", "jump", "run")},
)
_SMALL = {"epochs": 2, "steps": 3, "batch": 3, "seed": 5, "device": "cpu"}
_CPU = torch.device("cpu")
_TOLERANCE = 1e-4
_EXTRA_ROWS = 3


@dataclass
class MemoryRecorder:
    """Keeps a training's progress in memory."""

    values: list[Mapping[str, float]] = field(default_factory=list)
    states: list[Checkpoint] = field(default_factory=list)
    kept: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    reason: str = ""

    def resume(self) -> Checkpoint | None:
        """Nothing was interrupted."""
        return None

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Keep the numbers of an epoch."""
        del epoch
        self.values.append(values)

    def checkpoint(self, state: Checkpoint) -> None:
        """Keep the state."""
        self.states.append(state)

    def best(self) -> Mapping[str, Tensor]:
        """Weights of the best epoch."""
        return next(state.weights for state in reversed(self.states) if state.epoch == state.best_epoch)

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors."""
        self.kept[name] = tensors

    def chose(self, epoch: int, reason: str) -> None:
        """Keep the reason."""
        del epoch
        self.reason = reason


class HeadCase:
    """A head's class with made-up rows for its roles.

    Args:
        head: the class.
        options: options that differ from the defaults.
    """

    def __init__(self, head: type[Head], options: Mapping[str, Any] | None = None) -> None:
        self.head = head
        small = {name: value for name, value in _SMALL.items() if name in head.Options.model_fields}
        self.options: BaseHeadOptions = head.Options.parse(small | dict(options or {}), where="the head")

    @cached_property
    def needs(self) -> Mapping[str, StreamNeed]:
        """Roles in use."""
        return self.head.needs_for(self.options)

    @cached_property
    def dims(self) -> dict[str, int]:
        """Unlike widths, so that a head that mixes up its roles is found out."""
        return {role: 12 + 4 * place for place, role in enumerate(self.needs)}

    @cached_property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """The first made-up tasks that the head accepts."""
        tasks = _TASKS if self.head.unit == "segment" else _TASKS[::-1]
        refusals = []
        for labels in tasks:
            try:
                self._made(labels)
            except OptionError as error:
                refusals.append(str(error))
            else:
                return labels
        raise CheckFailed(f"the head refuses all made-up tasks: {' '.join(refusals)}")

    @cached_property
    def rows(self) -> MadeUpRows:
        """What it is fed."""
        return MadeUpRows(self.needs, self.dims)

    @cached_property
    def bank(self) -> Bank:
        """Samples with their rows."""
        tasks = tuple(self.labels) if self.head.unit == "segment" else ()
        samples = self.rows.samples(self.head.unit, self.labels)
        return Bank(samples, self.head.sampling(self.options), self.rows, tasks=tasks)

    @cached_property
    def batch(self) -> Batch:
        """All samples together."""
        return next(self.bank.batches(len(self.bank)))

    @cached_property
    def recorder(self) -> MemoryRecorder:
        """What the training of `trained` told."""
        return MemoryRecorder()

    @cached_property
    def trained(self) -> Head:
        """A head after its own `fit`."""
        return self.train(self.recorder)

    @cached_property
    def predictions(self) -> list[Prediction]:
        """What the trained head says of all samples at once."""
        return predict_all(self.trained, self.bank, batch=len(self.bank))

    def build(self) -> Head:
        """A fresh head; its initial weights follow from the seed."""
        return self._made(self.labels)

    def train(self, recorder: MemoryRecorder | None = None) -> Head:
        """A fresh head, trained."""
        head = self.build()
        head.fit(FitData(self.bank), recorder or MemoryRecorder())
        return head.eval()

    def _made(self, labels: Mapping[str, Sequence[str]]) -> Head:
        with seeded(self.options.seed, device=_CPU):
            return self.head(self.options, self.dims, labels)


def declarations_complete(case: HeadCase) -> str:
    """Class attributes are there and of the right type."""
    head = case.head
    for name in ("task", "needs", "source", "Options"):
        require(hasattr(head, name), f"the class lacks the attribute {name!r}.")
    require(head.unit in ("segment", "item"), f"unit is {head.unit!r}, expected 'segment' or 'item'.")
    require(case.needs, "needs is empty: no role, so no rows.")
    require(issubclass(head.Options, BaseHeadOptions), "Options is no subclass of BaseHeadOptions.")
    return f"task {head.task}, unit {head.unit}, roles {', '.join(case.needs)}"


def options_have_help(case: HeadCase) -> str:
    """Every option has help."""
    return options_described(case.head.Options)


def source_filled_in(case: HeadCase) -> str:
    """The head says where its idea comes from."""
    source = case.head.source
    require(isinstance(source, Source) and source.paper.strip(), "source.paper is empty: name the paper it follows.")
    return f"source: {source.paper}"


def loss_finite(case: HeadCase) -> str:
    """`loss` gives a finite scalar `total`."""
    head = _untrained(case)
    losses = head.loss(case.batch)
    require("total" in losses, f"loss() returns {sorted(losses)}, without 'total'.")
    for name, value in ((name, value.detach()) for name, value in losses.items()):
        require(value.ndim == 0, f"loss {name!r} has shape {tuple(value.shape)}, expected a scalar.")
        require(bool(torch.isfinite(value)), f"loss {name!r} is {float(value)}.")
    return f"loss is finite: {', '.join(f'{name} {float(value.detach()):.3f}' for name, value in losses.items())}"


def every_parameter_gets_a_gradient(case: HeadCase) -> str:
    """The loss reaches every trainable parameter."""
    head = _untrained(case)
    trainable = {name: p for name, p in head.named_parameters() if p.requires_grad}
    if not trainable:
        return "no trainable parameters; its own fit sets its numbers"
    head.loss(case.batch)["total"].backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in trainable.items() if p.grad is None]
    require(not without, f"parameters that the loss does not reach: {', '.join(without)}.")
    broken = [name for name, p in trainable.items() if p.grad is not None and not p.grad.isfinite().all()]
    require(not broken, f"parameters whose gradient is not finite: {', '.join(broken)}.")
    return f"all {len(trainable)} trainable parameters get a finite gradient"


def padding_changes_nothing(case: HeadCase) -> str:
    """More padded rows at the end leave loss and predictions as they were."""
    longer = replace(
        case.batch,
        rows={role: _padded_rows(rows) for role, rows in case.batch.rows.items()},
        regions={role: _refilled(regions) for role, regions in case.batch.regions.items()},
    )
    head = case.trained
    with torch.inference_mode():
        _same_predictions(head.predict(case.batch), head.predict(longer), "padded rows change the predictions")
        before, after = (float(head.loss(batch)["total"]) for batch in (case.batch, longer))
    close = abs(before - after) <= _TOLERANCE * max(abs(before), 1.0)
    require(close, f"padded rows change the loss: {before:.6f} without, {after:.6f} with {_EXTRA_ROWS} more.")
    return f"{_EXTRA_ROWS} more padded rows change neither loss nor predictions"


def one_equals_many(case: HeadCase) -> str:
    """Predictions do not depend on what shares a batch."""
    single = predict_all(case.trained, case.bank, batch=1)
    _same_predictions(case.predictions, single, "a sample alone is predicted otherwise than in a batch")
    return f"{len(case.bank)} samples are predicted alone as in one batch"


def predictions_sensible(case: HeadCase) -> str:
    """Spans lie in the video, scores are finite, every answer names a sample and known classes."""
    durations = case.rows.durations_s
    asked = {sample.id for sample in case.bank.samples}
    classes = {name for names in case.labels.values() for name in names}
    for found in case.predictions:
        require(found.item_id in durations, f"a prediction is of item {found.item_id!r}, which was not asked about.")
        start, end, last = *found.span, durations[found.item_id]
        inside = -_TOLERANCE <= start < end <= last + _TOLERANCE
        require(inside, f"span {start:.3f}-{end:.3f} s does not lie in the video, which is {last} s long.")
        known = found.label is None or found.label in classes
        require(known, f"label {found.label!r} is no class; known: {', '.join(sorted(classes))}.")
        for task, scores in (found.scores or {}).items():
            wanted = len(case.labels.get(task, ()))
            require(len(scores) == wanted, f"{len(scores)} scores for task {task!r} of {wanted} classes.")
    if case.head.unit == "segment":
        answered = [found.query_id for found in case.predictions]
        require(set(answered) == asked, f"segments without an answer: {sorted(asked - set(answered))}.")
    return f"{len(case.predictions)} predictions with spans inside the video, known classes and finite scores"


def lanes_sensible(case: HeadCase) -> str:
    """What a head shows over time lies in the video, is finite, and does not depend on what shares a batch."""
    head, durations = case.trained, case.rows.durations_s
    with torch.inference_mode():
        together = head.lanes(case.batch, case.recorder.kept)
        alone = [lanes for part in case.bank.batches(1) for lanes in head.lanes(part, case.recorder.kept)]
    wanted = len(case.bank)
    require(len(together) == wanted, f"lanes() answers for {len(together)} of {wanted} samples; give each a tuple.")
    for sample, lanes, single in zip(case.bank.samples, together, alone, strict=True):
        names = [lane.name for lane in lanes]
        require(all(names) and len({*names}) == len(names), f"the lanes need names, each its own, and are {names}.")
        for lane in lanes:
            times, values = _lane_arrays(lane)
            require(bool(np.isfinite(values).all()), f"lane {lane.name!r} has numbers that are not finite.")
            first, last = times.min(initial=0.0), times.max(initial=0.0)
            inside = first >= -_TOLERANCE and last <= durations[sample.item_id] + _TOLERANCE
            require(inside, f"lane {lane.name!r} reaches from {first:.3f} to {last:.3f} s, beyond the video.")
        same = names == [lane.name for lane in single] and all(map(_same_lane, lanes, single))
        require(same, f"a sample alone has other lanes than in a batch: {', '.join(names)}.")
    shown = dict.fromkeys(lane.name for lanes in together for lane in lanes)
    return f"shown over time: {', '.join(shown)}" if shown else "shown over time: truth and predictions alone"


def same_seed_same_result(case: HeadCase) -> str:
    """Training twice with one seed gives the same weights, and leaves torch's own generator alone."""
    before = torch.get_rng_state()
    again = case.train()
    require(
        torch.equal(before, torch.get_rng_state()),
        "training draws from torch's global generator, so it depends on what ran before; fork it.",
    )
    differing = _differing(case.trained.state_dict(), again.state_dict())
    require(not differing, f"two trainings with seed {case.options.seed} differ in: {', '.join(differing)}.")
    return f"two trainings with seed {case.options.seed} give the same numbers"


def save_and_load(case: HeadCase) -> str:
    """A head's tensors, saved and loaded into a fresh head, predict the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in case.trained.state_dict().items()}, path)
        head = case.build()
        head.load_state_dict(load_file(path))
    again = predict_all(head, case.bank, batch=len(case.bank))
    _same_predictions(case.predictions, again, "a head loaded from its file predicts otherwise", tolerance=0.0)
    return "saved and loaded, it predicts the same"


HEAD_CHECKS = (
    declarations_complete,
    options_have_help,
    source_filled_in,
    loss_finite,
    every_parameter_gets_a_gradient,
    padding_changes_nothing,
    one_equals_many,
    predictions_sensible,
    lanes_sensible,
    same_seed_same_result,
    save_and_load,
)


def _untrained(case: HeadCase) -> Head:
    head = case.build()
    head.prepare(FitData(case.bank))
    with seeded(case.options.seed, 1, device=_CPU):
        return head.train()


def _padded_rows(rows: RowBatch) -> RowBatch:
    def longer(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor.new_zeros((len(tensor), _EXTRA_ROWS, *tensor.shape[2:]))], dim=1)

    return RowBatch(longer(rows.features), longer(rows.mask), longer(rows.spans))


def _refilled(regions: RegionBatch) -> RegionBatch:
    """Empty slots with boxes and scores of a detection that is not there; features stay zero, as they are promised."""
    empty = ~regions.mask
    return replace(
        regions,
        boxes=torch.where(empty.unsqueeze(-1), torch.ones_like(regions.boxes), regions.boxes),
        scores=torch.where(empty, torch.ones_like(regions.scores), regions.scores),
    )


def _same_predictions(
    expected: Sequence[Prediction], found: Sequence[Prediction], problem: str, *, tolerance: float = _TOLERANCE
) -> None:
    require(len(expected) == len(found), f"{problem}: {len(expected)} predictions against {len(found)}.")
    key = [(p.item_id, p.query_id or "", p.direction or "", p.span.start_s, p.label or "") for p in (*expected, *found)]
    ours = sorted(range(len(expected)), key=lambda k: key[k])
    theirs = sorted(range(len(found)), key=lambda k: key[len(expected) + k])
    for a, b in ((expected[i], found[j]) for i, j in zip(ours, theirs, strict=True)):
        named = (a.item_id, a.query_id, a.direction, a.label) == (b.item_id, b.query_id, b.direction, b.label)
        require(named, f"{problem}: {a.item_id} {a.label} against {b.item_id} {b.label}.")
        for name, one, two in _numbers(a, b):
            close = abs(one - two) <= tolerance * max(abs(one), 1.0)
            require(close, f"{problem}: {name} of {a.query_id or a.item_id} is {one:.6g} against {two:.6g}.")


def _numbers(a: Prediction, b: Prediction) -> list[tuple[str, float, float]]:
    pairs = [("score", a.score, b.score), ("start", a.span[0], b.span[0]), ("end", a.span[1], b.span[1])]
    ours, theirs = a.scores or {}, b.scores or {}
    require(ours.keys() == theirs.keys(), f"scores of tasks {sorted(ours)} against {sorted(theirs)}.")
    for task in ours:
        pairs += [(f"{task} score", x, y) for x, y in zip(ours[task], theirs[task], strict=True)]
    return [(name, x, y) for name, x, y in pairs if x != y]  # equal infinities have no difference


def _lane_arrays(lane: Lane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All times of a lane, and all its numbers."""
    if isinstance(lane, Bars):
        scores = [bar.score for bar in lane.bars if bar.score is not None]
        return np.array([bar.span for bar in lane.bars], dtype=np.float64).reshape(-1), np.array(scores)
    if isinstance(lane, Marks):
        return np.array([mark.time_s for mark in lane.marks], dtype=np.float64), np.empty(0)
    return lane.times_s, np.concatenate([*lane.values.values(), [lane.level or 0.0]])


def _same_lane(one: Lane, other: Lane) -> bool:
    pairs = zip(_lane_arrays(one), _lane_arrays(other), strict=True)
    return all(a.shape == b.shape and np.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE) for a, b in pairs)


def _differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]
