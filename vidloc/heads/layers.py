"""Blocks that more than one head uses: pooling and attention over masked rows, standardised inputs, loss of
labels, choice of the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vidloc.errors import OptionError
from vidloc.heads.base import UNLABELLED


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the rows that the mask keeps, `(batch, width)` from `(batch, rows, width)`; 0 where it keeps none."""
    kept = mask.unsqueeze(-1)
    return values.masked_fill(~kept, 0).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


def packed_mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over the rows of each sample, `(batch, width)` from packed `(rows, width)`; 0 where a sample has none.

    Args:
        counts: `(batch,)` int64 rows of each sample.
    """
    places = torch.arange(len(values), device=values.device)
    # torch's one pooling over ragged rows that is fast on the CPU and sums in a fixed order on a GPU, both ways.
    return F.embedding_bag(places, values, counts.cumsum(0) - counts, mode="mean")


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Maximum over the rows that the mask keeps, `(batch, width)`; each sample needs at least one."""
    return values.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1)


def masked_top_mean(values: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Mean of the largest values of each output over the rows that the mask keeps, `(batch, outputs)`.

    Args:
        values: `(batch, rows, outputs)`.
        counts: `(batch, 1)` int64, how many values are averaged; at most as many as there are rows, 0 gives 0.
    """
    ranked = values.masked_fill(~mask.unsqueeze(-1), -torch.inf).sort(dim=1, descending=True).values
    kept = torch.arange(mask.shape[1], device=mask.device) < counts
    return ranked.masked_fill(~kept.unsqueeze(-1), 0).sum(dim=1) / counts.clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis, exactly 0 where masked; each row needs at least one place that is not."""
    return torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)


def with_one_slot(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Zero the masked slots, and give samples without any detection one slot that holds a zero vector.

    Contents of masked slots are arbitrary; a NaN there would pass through a product with a zero weight.
    """
    features = features.masked_fill(~mask.unsqueeze(-1), 0)
    first = torch.zeros_like(mask)
    first[:, 0] = ~mask.any(dim=1)
    return features, mask | first


class Standardize(nn.Module):
    """Subtract a mean and divide by a deviation, both taken from the training rows and kept as buffers."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def take(self, mean: Tensor, deviation: Tensor) -> None:
        """Set both; a constant dimension keeps its scale, so that it becomes 0 and not NaN."""
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def forward(self, values: Tensor) -> Tensor:
        """`(..., width)` in, the same out."""
        return (values - self.mean) / self.deviation


def label_losses(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cross-entropy by task; samples without a label count nothing, a batch without any gives 0."""
    losses = {}
    for task, scores in logits.items():
        known = labels[task] != UNLABELLED
        summed = F.cross_entropy(scores, labels[task], ignore_index=UNLABELLED, reduction="sum")
        losses[task] = summed / known.sum().clamp(min=1)
    return losses


def only_task(head: str, wanted: str, labels: Mapping[str, Sequence[str]]) -> str:
    """The task whose classes a head of one task learns.

    Raises:
        OptionError: the task asked for does not exist, or none was asked for and there are several.
    """
    if wanted in labels:
        return wanted
    if wanted or len(labels) != 1:
        problem = f"there is no task {wanted!r}" if wanted else "there are several tasks"
        raise OptionError(
            f"{head} learns the classes of one task, and {problem}. Choose --label of: {', '.join(labels)}."
        )
    return next(iter(labels))
