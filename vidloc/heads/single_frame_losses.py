"""The losses of SF-Net: labelled rows and mined background, actionness, and the video as a whole.

Clips of a batch are padded to `rows`; `targets` `(batch, rows, classes)` sum to 1 at labelled rows and are 0 at all
others. n_i is a clip's number of labelled rows, T_i that of its rows. The background quota of a clip is

    k_i = min(floor(ratio n_i), T_i - n_i)

and the Q = sum of k_i rows that are mined come from the unlabelled rows of all clips with a quota, whichever clip they
are of. Column 0 of the logits is background, where there is one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidloc.heads.layers import masked_top_mean

Negatives = Literal["hardest", "last"]
_POOLED = 8  # a class of a video scores the mean of an eighth of its rows
_LEAST_ROWS = 5  # shorter clips take no part in the loss of the video


def frame_loss(logits: Tensor, targets: Tensor, mask: Tensor, *, ratio: float, weight: float) -> Tensor:
    """Cross-entropy of labelled rows, and of the unlabelled rows that look most like background.

    Args:
        logits: `(batch, rows, classes)`, or one more with background in column 0; without it nothing is mined.
        mask: `(batch, rows)` true for rows.
        ratio: background rows for each labelled row.
        weight: of the background's part.
    """
    logs = F.log_softmax(logits, dim=-1)
    background = logits.shape[-1] - targets.shape[-1]
    labelled = targets.sum(dim=-1) > 0
    known = -(targets * logs[..., background:]).sum() / labelled.sum().clamp(min=1)
    if not background:
        return known
    mined = mined_rows(logits[..., 0], labelled, mask, ratio=ratio, negatives="hardest")
    return known - weight * logs[..., 0][mined].mean() if bool(mined.any()) else known


def actionness_loss(
    scores: Tensor, targets: Tensor, mask: Tensor, *, ratio: float, negatives: Negatives, bounded: bool
) -> Tensor:
    """Binary cross-entropy: labelled rows show some action, mined ones none.

    Args:
        scores: `(batch, rows)` logits of actionness.
        bounded: whether the mined rows' part is log(1.001 - sigmoid), which cannot become infinite, as released.
    """
    labelled = targets.sum(dim=-1) > 0
    positive = -F.logsigmoid(scores)[labelled].sum() / labelled.sum().clamp(min=1)
    mined = mined_rows(scores, labelled, mask, ratio=ratio, negatives=negatives)
    if not bool(mined.any()):
        return positive
    against = torch.log(1.001 - torch.sigmoid(scores)) if bounded else F.logsigmoid(-scores)
    return positive - against[mined].mean()


def video_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of a clip's pooled logits with the classes labelled in it; 0 where no clip has any.

    Clips of fewer than 5 rows take no part.
    """
    background = logits.shape[-1] - targets.shape[-1]
    classes = F.pad((targets.sum(dim=1) > 0).to(logits.dtype), (background, 0))
    used = (classes.sum(dim=1) > 0) & (mask.sum(dim=1) >= _LEAST_ROWS)
    if not bool(used.any()):
        return logits.sum() * 0
    logs = F.log_softmax(top_means(logits[used], mask[used]), dim=-1)
    wanted = classes[used] / classes[used].sum(dim=1, keepdim=True)
    return -(wanted * logs).sum(dim=1).mean()


def top_means(logits: Tensor, mask: Tensor) -> Tensor:
    """`(batch, outputs)` mean of the largest ceil(rows / 8) logits of each output over the rows of each clip."""
    return masked_top_mean(logits, mask, -(-mask.sum(dim=1, keepdim=True) // _POOLED))


def mined_rows(scores: Tensor, labelled: Tensor, mask: Tensor, *, ratio: float, negatives: Negatives) -> Tensor:
    """`(batch, rows)` bool, the unlabelled rows that count as background.

    Args:
        scores: `(batch, rows)`; the highest are mined.
        negatives: `last` takes the last candidates in order of the batch instead, as the release did by a sort along
            the wrong axis.
    """
    num_labelled, num_rows = (labelled & mask).sum(dim=1), mask.sum(dim=1)
    quotas = torch.minimum((ratio * num_labelled).floor().long(), num_rows - num_labelled).clamp(min=0)
    candidates = mask & ~labelled & (quotas > 0).unsqueeze(1)
    places = candidates.flatten().nonzero().squeeze(1)
    wanted = int(quotas.sum())
    if negatives == "last":
        chosen = places[len(places) - wanted :]
    else:
        chosen = places[scores.detach().flatten()[places].topk(wanted).indices]
    mined = torch.zeros_like(mask).flatten()
    mined[chosen] = True
    return mined.view_as(mask)
