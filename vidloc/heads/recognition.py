"""What heads that name a segment's classes share: their labels, and the predictions made from logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vidloc.core.records import Prediction
from vidloc.errors import OptionError
from vidloc.heads.base import Batch


def check_verb_noun(head: str, labels: Mapping[str, Sequence[str]]) -> None:
    """Refuse annotations that do not label both a verb and a noun.

    Raises:
        OptionError: a task is missing; what there is, is listed.
    """
    missing = [task for task in ("verb", "noun") if not labels.get(task)]
    if missing:
        raise OptionError(
            f"{head} needs classes for verb and noun, but the annotations have none for {' and '.join(missing)} "
            f"(tasks there: {', '.join(labels) or 'none'}). Use a dataset with both, such as --dataset epic."
        )


def recognised(batch: Batch, logits: Mapping[str, Tensor]) -> list[Prediction]:
    """One prediction per segment with the logits of every task; its score is the product of the best probabilities."""
    best = [torch.softmax(scores.double(), dim=-1).amax(dim=-1) for scores in logits.values()]
    surest = torch.stack(best).prod(dim=0).tolist()
    values = {task: scores.double().tolist() for task, scores in logits.items()}
    return [
        Prediction(
            item_id=sample.item_id,
            span=sample.span,
            score=surest[k],
            query_id=sample.id,
            scores={task: tuple(rows[k]) for task, rows in values.items()},
        )
        for k, sample in enumerate(batch.samples)
    ]
