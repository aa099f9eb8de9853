"""Linear: logistic regression on each row with its surroundings, rows merged into segments; the floor of detection.

A row is described by its own features and by the mean of the rows centred within `context_s` of it, every dimension
standardised by the training rows, and classified as one class or as background (scikit-learn's multinomial
`LogisticRegression`). A training row has the class of the segment that holds its centre (of the shortest one, where
several do), else background.

The classes of an item's rows are those that are best together (Viterbi, IEEE Trans. Inf. Theory 1967):

    argmax over c_1..c_n of  sum_t  s_t log p_t(c_t)  -  change_cost * (number of t with c_t != c_t-1)

where `s_t` are the seconds that row t answers for, so that the cost means the same at every stride. A run of rows of
one class becomes one segment, which begins and ends where the log-probabilities of the two classes at hand, drawn as
straight lines between the centres of the rows, cross. Its score is the mean probability of its class; segments shorter
than `min_duration_s` are dropped. Where other classes have a mean probability of at least `also_above` on a segment, it
is reported once more for each, with that score.

It is fitted by lbfgs in one go, not by gradient steps of ours: there are no epochs, and its numbers are buffers. It
takes part in detection only; recognition of given segments has `two_branch`, which is linear as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidloc.core.lanes import Bar, Bars, Lane, class_curves
from vidloc.core.records import Prediction, Segment, Source
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.heads.base import BaseHeadOptions, Batch, Head, Kept, RowBatch, StreamNeed
from vidloc.heads.layers import Standardize, only_task
from vidloc.heads.training import FitData, Recorder

_LEAST_PROBABILITY = 1e-6


class LinearOptions(BaseHeadOptions):
    """Options of the linear head."""

    batch: int = Field(8, ge=1, description="Items per step, when rows are gathered and predicted.")
    context_s: float = Field(
        0.5,
        ge=0,
        description="Time on either side whose rows, averaged, describe a row beside its own features; 0 = none.",
    )
    penalty: float = Field(1.0, gt=0, description="Strength of the L2 penalty (scikit-learn's 1/C).")
    max_iter: int = Field(1000, ge=1, description="Most iterations of the solver.")
    max_rows: int = Field(
        500_000, ge=1, description="Most training rows; more are thinned out at random, which is said."
    )
    label: str = Field("", description="Task whose classes are learnt; may be left out where there is only one.")
    change_cost: float = Field(
        2.0,
        ge=0,
        description="Log-probability, summed over seconds, that a change of class must gain; 0 takes each row's best.",
    )
    also_above: float = Field(
        0.1, gt=0, le=1, description="Mean probability from which further classes of a segment are reported too."
    )
    min_duration_s: float = Field(0.0, ge=0, description="Shortest segment that is reported, in seconds.")


class Linear(Head):
    """Logistic regression per row; see the module's text."""

    task = "detection"
    unit = "item"
    needs: ClassVar[Mapping[str, StreamNeed]] = {"visual": StreamNeed(("clip", "audio"))}
    Options = LinearOptions
    source = Source(paper="Logistic regression, scikit-learn (Pedregosa et al., JMLR 2011)")

    options: LinearOptions
    weight: Tensor
    bias: Tensor
    seen: Tensor

    def __init__(self, options: LinearOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.label_task = only_task("linear", options.label, labels)
        self.classes = self.labels[self.label_task]
        self.standard = Standardize(dims["visual"])
        num_outputs = len(self.classes) + 1  # the last is background
        self.register_buffer("weight", torch.zeros(num_outputs, dims["visual"] * (2 if options.context_s > 0 else 1)))
        self.register_buffer("bias", torch.zeros(num_outputs))
        self.register_buffer("seen", torch.ones(num_outputs, dtype=torch.bool))

    @property
    def num_parameters(self) -> int:
        """Weights and biases; they are solved for, so torch does not count them as parameters."""
        return self.weight.numel() + self.bias.numel()

    def fit(self, data: FitData, run: Recorder) -> None:
        """Solve for weights on all training rows.

        Raises:
            OptionError: the training rows are all of one class.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        self.standard.take(*data.train.moments("visual"))
        rows, targets, thinned = self._training_rows(data)
        if len(np.unique(targets)) < 2:
            names = (*self.classes, "background")
            raise OptionError(f"all training rows are {names[int(targets[0])]!r}; a classifier needs two classes.")
        model = LogisticRegression(C=1 / self.options.penalty, max_iter=self.options.max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said through `reason` instead
            model.fit(rows, targets)
        self._take(model.coef_, model.intercept_, model.classes_)
        iterations = int(np.max(model.n_iter_))
        run.log(1, {"row_accuracy": float(model.score(rows, targets)), "iterations": iterations})
        stopped = iterations >= self.options.max_iter
        reason = f"solved in {iterations} iterations" if not stopped else f"stopped unfinished after {iterations}"
        run.chose(1, f"logistic regression has no epochs; {reason} on {len(rows)} rows{thinned}")
        self.eval()

    def logits(self, rows: RowBatch) -> Tensor:
        """`(rows, classes + 1)` scores of the packed rows; classes not seen in training have -inf."""
        scores = F.linear(self._described(rows), self.weight, self.bias)
        return scores.masked_fill(~self.seen, -torch.inf)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy of the rows, for comparison only: `fit` does not use it."""
        rows = batch.rows["visual"]
        targets = torch.from_numpy(np.concatenate(self._targets(batch))).to(rows.mask.device)
        return {"total": F.cross_entropy(self.logits(rows), targets)}

    def predict(self, batch: Batch) -> list[Prediction]:
        """Segments of each item, in order of time."""
        found = []
        for sample, (scores, windows) in zip(batch.samples, self._probabilities(batch), strict=True):
            found.extend(self._segments(sample.item_id, scores, windows))
        return found

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """The best class of each row by itself, before they are joined, and the probability of each class."""
        names = (*self.classes, "background")
        found: list[tuple[Lane, ...]] = []
        for scores, windows in self._probabilities(batch):
            curves = class_curves("class probability", windows.mean(axis=1), scores, names)
            found.append((Bars("rows, each by itself", self._row_bars(scores, windows)), curves))
        return found

    def _row_bars(self, scores: NDArray[np.float64], windows: NDArray[np.float64]) -> tuple[Bar, ...]:
        best = scores.argmax(axis=1)
        cells = row_cells(windows, np.log(np.maximum(scores, _LEAST_PROBABILITY)), best)
        return tuple(
            Bar(Span(max(float(cells[start, 0]), 0.0), float(cells[stop - 1, 1])), self.classes[best[start]])
            for start, stop in _runs(best)
            if best[start] < len(self.classes)
        )

    def _probabilities(self, batch: Batch) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """`(rows, classes + 1)` probabilities and `(rows, 2)` windows of each item, in order of time."""
        rows = batch.rows["visual"]
        probabilities = torch.softmax(self.logits(rows).double(), dim=-1).cpu()
        spans, counts = rows.spans[rows.mask].cpu(), rows.counts.tolist()
        found = []
        for scores, windows in zip(torch.split(probabilities, counts), torch.split(spans, counts), strict=True):
            order = np.argsort(windows.numpy().mean(axis=1), kind="stable")
            found.append((scores.numpy()[order], windows.numpy()[order]))
        return found

    def _segments(self, item_id: str, scores: NDArray[np.float64], windows: NDArray[np.float64]) -> list[Prediction]:
        # The floor bounds what one row that is very sure of itself can do to its neighbours.
        logs = np.log(np.maximum(scores, _LEAST_PROBABILITY))
        best = best_path(logs * _row_seconds(windows)[:, None], self.options.change_cost)
        cells = row_cells(windows, logs, best)
        found: list[Prediction] = []
        for start, stop in _runs(best):
            label = int(best[start])
            span = Span(max(float(cells[start, 0]), 0.0), float(cells[stop - 1, 1]))
            if label == len(self.classes) or span.duration_s < self.options.min_duration_s:
                continue
            means = scores[start:stop].mean(axis=0)[:-1]
            labels = {label, *np.flatnonzero(means >= self.options.also_above).tolist()}
            found.extend(
                Prediction(item_id=item_id, span=span, score=float(means[k]), label=self.classes[k])
                for k in sorted(labels, key=lambda k: -means[k])
            )
        return found

    def _training_rows(self, data: FitData) -> tuple[NDArray[np.float32], NDArray[np.int64], str]:
        described, targets = [], []
        for batch in data.train.batches(self.options.batch):
            rows = batch.rows["visual"]
            described.append(self._described(rows).cpu().numpy())
            targets.extend(self._targets(batch))
        everything, classes = np.concatenate(described), np.concatenate(targets)
        if len(everything) <= self.options.max_rows:
            return everything, classes, ""
        random = np.random.default_rng(self.options.seed)
        kept = np.sort(random.choice(len(everything), self.options.max_rows, replace=False))
        return everything[kept], classes[kept], f", drawn at random from {len(everything)} (--max-rows)"

    def _described(self, rows: RowBatch) -> Tensor:
        """`(rows, width)` standardised packed rows, beside the means around them where there is context."""
        features: Tensor = self.standard(rows.packed)
        if self.options.context_s == 0:
            return features
        counts, centers = rows.counts.tolist(), rows.spans[rows.mask].mean(dim=1)
        parts = zip(torch.split(features, counts), torch.split(centers, counts), strict=True)
        return torch.cat([features, torch.cat([means_around(*part, self.options.context_s) for part in parts])], dim=1)

    def _targets(self, batch: Batch) -> list[NDArray[np.int64]]:
        rows = batch.rows["visual"]
        masks, spans = rows.mask.cpu().numpy(), rows.spans.cpu().numpy()
        return [
            row_classes(windows[mask].mean(axis=1), sample.segments, self.label_task, len(self.classes))
            for sample, mask, windows in zip(batch.samples, masks, spans, strict=True)
        ]

    def _take(self, weight: NDArray[np.float64], bias: NDArray[np.float64], classes: NDArray[np.int64]) -> None:
        if len(classes) == 2:  # scikit-learn keeps one row for two classes: the second against the first
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        self.weight.zero_()
        self.bias.zero_()
        self.weight[classes] = torch.as_tensor(weight, dtype=torch.float32, device=self.weight.device)
        self.bias[classes] = torch.as_tensor(bias, dtype=torch.float32, device=self.bias.device)
        self.seen.fill_(value=False)
        self.seen[classes] = True


HEAD = Linear


def row_classes(
    centers: NDArray[np.float64], segments: Sequence[Segment], task: str, background: int
) -> NDArray[np.int64]:
    """`(rows,)` class of the shortest segment that holds each centre, `background` where none does."""
    classes = np.full(len(centers), background, dtype=np.int64)
    for segment in sorted(segments, key=lambda s: -s.span.duration_s):
        if task in segment.labels:
            inside = (centers >= segment.span.start_s) & (centers < segment.span.end_s)
            classes[inside] = segment.labels[task]
    return classes


def means_around(features: Tensor, centers: Tensor, reach_s: float) -> Tensor:
    """`(rows, width)` mean of the rows centred within `reach_s` of each row's centre, itself among them.

    Args:
        features: `(rows, width)` of one item.
        centers: `(rows,)` float64 seconds, in any order.
    """
    order = torch.argsort(centers, stable=True)
    ascending = centers[order]
    slack_s = 1e-6  # centres are rounded to float64; a row just at the edge counts
    first = torch.searchsorted(ascending, centers - reach_s - slack_s)
    stop = torch.searchsorted(ascending, centers + reach_s + slack_s)
    sums = F.pad(features[order].double().cumsum(dim=0), (0, 0, 1, 0))
    return ((sums[stop] - sums[first]) / (stop - first).unsqueeze(1)).to(features.dtype)


def best_path(gains: NDArray[np.float64], change_cost: float) -> NDArray[np.int64]:
    """`(rows,)` classes whose gains sum to the most, less `change_cost` for every change from one row to the next.

    Args:
        gains: `(rows, classes)`. Where paths are equally good, the one with the later change is taken.
    """
    classes = np.arange(gains.shape[1])
    path = np.zeros(len(gains), dtype=np.int64)
    if not len(gains):
        return path
    totals, before = gains[0], np.zeros(gains.shape, dtype=np.int64)
    for row in range(1, len(gains)):
        best = int(totals.argmax())
        changed = totals[best] - change_cost > totals
        before[row] = np.where(changed, best, classes)
        totals = np.where(changed, totals[best] - change_cost, totals) + gains[row]
    path[-1] = totals.argmax()
    for row in range(len(gains) - 1, 0, -1):
        path[row - 1] = before[row, path[row]]
    return path


def row_cells(
    windows: NDArray[np.float64], scores: NDArray[np.float64], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`(rows, 2)` seconds that rows in ascending order answer for.

    Between two rows of different class the border lies where their scores, drawn as straight lines between both
    centres, cross, and at the nearer centre where they cross beyond it; between rows of one class halfway. The first
    and last cell are symmetric; a single row answers for its window.
    """
    if len(windows) < 2:
        return windows
    centers, rows = windows.mean(axis=1), np.arange(len(windows) - 1)
    lead = scores[rows, classes[:-1]] - scores[rows, classes[1:]]
    lost = scores[rows + 1, classes[1:]] - scores[rows + 1, classes[:-1]]
    both = lead + lost
    share = np.clip(np.where(both > 0, lead / np.where(both > 0, both, 1.0), 0.5), 0, 1)
    borders = centers[:-1] + share * np.diff(centers)
    half = np.diff(centers)[[0, -1]] / 2
    starts = np.concatenate([centers[:1] - half[0], borders])
    return np.stack([starts, np.concatenate([borders, centers[-1:] + half[1]])], axis=1)


def _runs(classes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every longest run of rows of one class."""
    if not len(classes):
        return []
    borders = [0, *(np.flatnonzero(classes[1:] != classes[:-1]) + 1).tolist(), len(classes)]
    return list(pairwise(borders))


def _row_seconds(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(rows,)` seconds from halfway to the row before to halfway to the row after; a single row has its window's."""
    if len(windows) < 2:
        return windows[:, 1] - windows[:, 0]
    seconds: NDArray[np.float64] = np.gradient(windows.mean(axis=1))
    return seconds
