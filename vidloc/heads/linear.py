"""Linear: logistic regression on each row with its neighbours, rows merged into segments; the floor of detection.

A row is described by its own features and those of `context` rows on either side (the first and last row repeated at
the ends), every dimension standardised by the training rows, and classified as one class or as background
(scikit-learn's multinomial `LogisticRegression`). A training row has the class of the segment that holds its centre (of
the shortest one, where several do), else background.

A row's log-probabilities are averaged with those of the rows centred within `smooth_s / 2` of it, and the best class is
taken. Neighbouring rows of one class become one segment, which begins and ends where the averaged log-probabilities of
the two classes at hand, drawn as straight lines between the centres of the rows, cross. Its score is the mean
probability of its class; segments shorter than `min_duration_s` are dropped. Where other classes have a mean
probability of at least `also_above` on a segment, it is reported once more for each, with that score.

It is fitted by lbfgs in one go, not by gradient steps of ours: there are no epochs, and its numbers are buffers. It
takes part in detection only; recognition of given segments has `two_branch`, which is linear as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidloc.core.records import Prediction, Segment, Source
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.heads.base import BaseHeadOptions, Batch, Head, RowBatch, StreamNeed
from vidloc.heads.layers import Standardize
from vidloc.heads.training import FitData, Recorder

_LEAST_PROBABILITY = 1e-6


class LinearOptions(BaseHeadOptions):
    """Options of the linear head."""

    batch: int = Field(8, ge=1, description="Items per step, when rows are gathered and predicted.")
    context: int = Field(2, ge=0, description="Neighbouring rows on either side that describe a row.")
    penalty: float = Field(1.0, gt=0, description="Strength of the L2 penalty (scikit-learn's 1/C).")
    max_iter: int = Field(1000, ge=1, description="Most iterations of the solver.")
    max_rows: int = Field(
        500_000, ge=1, description="Most training rows; more are thinned out at random, which is said."
    )
    label: str = Field("", description="Task whose classes are learnt; may be left out where there is only one.")
    smooth_s: float = Field(
        1.5, ge=0, description="Time over which log-probabilities of rows are averaged before the best class is taken."
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
        self.label_task = _only_task(options.label, labels)
        self.classes = self.labels[self.label_task]
        self.standard = Standardize(dims["visual"])
        num_outputs = len(self.classes) + 1  # the last is background
        self.register_buffer("weight", torch.zeros(num_outputs, dims["visual"] * (2 * options.context + 1)))
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
        """`(batch, time, classes + 1)` scores; classes not seen in training have -inf."""
        scores = F.linear(self._described(rows), self.weight, self.bias)
        return scores.masked_fill(~self.seen, -torch.inf)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy of the rows, for comparison only: `fit` does not use it."""
        rows = batch.rows["visual"]
        targets = torch.from_numpy(np.concatenate(self._targets(batch))).to(rows.mask.device)
        return {"total": F.cross_entropy(self.logits(rows)[rows.mask], targets)}

    def predict(self, batch: Batch) -> list[Prediction]:
        """Segments of each item, in order of time."""
        rows = batch.rows["visual"]
        probabilities = torch.softmax(self.logits(rows).double(), dim=-1).cpu().numpy()
        masks, spans = rows.mask.cpu().numpy(), rows.spans.cpu().numpy()
        found = []
        for sample, scores, mask, windows in zip(batch.samples, probabilities, masks, spans, strict=True):
            found.extend(self._segments(sample.item_id, scores[mask], windows[mask]))
        return found

    def _segments(self, item_id: str, scores: NDArray[np.float64], windows: NDArray[np.float64]) -> list[Prediction]:
        order = np.argsort(windows.mean(axis=1), kind="stable")
        windows, scores = windows[order], scores[order]
        logs = smoothed(scores, windows.mean(axis=1), self.options.smooth_s)
        best, cells = logs.argmax(axis=1), row_cells(windows, logs)
        starts = np.flatnonzero(np.concatenate([[True], best[1:] != best[:-1]])) if len(best) else np.empty(0, int)
        found: list[Prediction] = []
        for start, stop in zip(starts, [*starts[1:], len(best)], strict=True):
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
            described.append(self._described(rows)[rows.mask].cpu().numpy())
            targets.extend(self._targets(batch))
        everything, classes = np.concatenate(described), np.concatenate(targets)
        if len(everything) <= self.options.max_rows:
            return everything, classes, ""
        random = np.random.default_rng(self.options.seed)
        kept = np.sort(random.choice(len(everything), self.options.max_rows, replace=False))
        return everything[kept], classes[kept], f", drawn at random from {len(everything)} (--max-rows)"

    def _described(self, rows: RowBatch) -> Tensor:
        """`(batch, time, width * (2 * context + 1))`: each row after its earlier and before its later neighbours."""
        context = self.options.context
        time = torch.arange(rows.features.shape[1], device=rows.mask.device)
        last = (rows.mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
        features = self.standard(rows.features)
        shifted = []
        for step in range(-context, context + 1):
            place = torch.minimum((time + step).clamp(min=0).unsqueeze(0), last)
            shifted.append(features.gather(1, place.unsqueeze(-1).expand_as(features)))
        return torch.cat(shifted, dim=-1)

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


def smoothed(probabilities: NDArray[np.float64], centers: NDArray[np.float64], smooth_s: float) -> NDArray[np.float64]:
    """Mean log-probabilities of the rows centred within `smooth_s / 2` of each of the ascending centres."""
    # The floor bounds what one row that is very sure of itself can do to its neighbours.
    logs = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    slack_s = 1e-6  # centres are rounded to float64; a row just at the edge counts
    first = np.searchsorted(centers, centers - smooth_s / 2 - slack_s)
    stop = np.searchsorted(centers, centers + smooth_s / 2 + slack_s)
    sums = np.concatenate([np.zeros((1, logs.shape[1])), np.cumsum(logs, axis=0)])
    means: NDArray[np.float64] = (sums[stop] - sums[first]) / (stop - first)[:, None]
    return means


def row_cells(windows: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(rows, 2)` seconds that rows in ascending order answer for.

    Between two rows of different class the border lies where their scores, drawn as straight lines between both
    centres, cross; between rows of one class halfway. The first and last cell are symmetric; a single row answers for
    its window.
    """
    if len(windows) < 2:
        return windows
    centers, rows = windows.mean(axis=1), np.arange(len(windows) - 1)
    best = scores.argmax(axis=1)
    lead = scores[rows, best[:-1]] - scores[rows, best[1:]]
    lost = scores[rows + 1, best[1:]] - scores[rows + 1, best[:-1]]
    both = lead + lost
    share = np.where(both > 0, lead / np.where(both > 0, both, 1.0), 0.5)
    borders = centers[:-1] + share * np.diff(centers)
    half = np.diff(centers)[[0, -1]] / 2
    starts = np.concatenate([centers[:1] - half[0], borders])
    return np.stack([starts, np.concatenate([borders, centers[-1:] + half[1]])], axis=1)


def _only_task(wanted: str, labels: Mapping[str, Sequence[str]]) -> str:
    if wanted in labels:
        return wanted
    if wanted or len(labels) != 1:
        problem = f"there is no task {wanted!r}" if wanted else "there are several tasks"
        raise OptionError(
            f"linear learns the classes of one task, and {problem}. Choose --label of: {', '.join(labels)}."
        )
    return next(iter(labels))
