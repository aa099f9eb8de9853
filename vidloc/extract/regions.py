"""Regions of pictures: how they are stored, and which boxes of a detector are kept.

The steps of keeping are torchvision's in order, with the rules of bottom-up attention as options.

Every proposal has one candidate box and score per class. Candidates are clipped to the picture, those below the score
or hardly a pixel are dropped, non-maximum suppression runs within each class or over all of them, and the best remain.
`min_boxes` lowers the score limit, never the suppression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms, nms
from torchvision.ops import boxes as box_ops

from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import Sample

_SMALLEST_SIDE_PX = 1e-2  # torchvision's: drops boxes that clipping has emptied
_FIRST_CANDIDATES = 2000

NmsScope = Literal["agnostic", "class"]


@dataclass(frozen=True)
class SelectionRule:
    """How many boxes a frame keeps.

    Attributes:
        score_min: a box must score above it.
        nms: a box that overlaps a better one by more (intersection over union) is dropped.
        scope: whether better boxes of other classes count too (`agnostic`).
        min_boxes: boxes to keep whatever their score, as far as suppression leaves so many.
        max_boxes: the best so many are kept.
    """

    score_min: float
    nms: float
    scope: NmsScope
    min_boxes: int
    max_boxes: int


@dataclass(frozen=True, eq=False)
class Regions:
    """Kept boxes of one picture, by falling score, ties in the order of the candidates.

    Attributes:
        boxes: `(n, 4)` x1 y1 x2 y2, pixels of the picture the network saw.
        scores: `(n,)` class probabilities.
        labels: `(n,)` class numbers of the detector.
        proposals: `(n,)` the proposal that each box comes from.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    proposals: torch.Tensor


def region_fields(num_features: int, dtype: str) -> dict[str, FieldSpec]:
    """Fields of a stream of regions: four ragged ones along one axis, `regions`, and two plain ones."""
    return {
        "boxes": FieldSpec(row_shape=("regions", 4), dtype="float32"),
        "scores": FieldSpec(row_shape=("regions",), dtype="float32"),
        "labels": FieldSpec(row_shape=("regions",), dtype="int32"),
        "features": FieldSpec(row_shape=("regions", num_features), dtype=dtype),
        "pts_s": FieldSpec(row_shape=(), dtype="float64"),
        "image_size": FieldSpec(row_shape=(2,), dtype="int32"),
    }


def region_rows(found: Sequence[Mapping[str, NDArray[Any]]], samples: Sequence[Sample]) -> Rows:
    """Rows of the ragged fields of each sample, with the time of its middle frame and the size of its pictures."""
    return Rows.joined(
        Rows.ragged("regions", **{name: [regions[name] for regions in found] for name in found[0]}),
        Rows.dense(
            pts_s=np.array([sample.pts_s[len(sample.pts_s) // 2] for sample in samples], dtype=np.float64),
            image_size=np.array([displayed_size_of(sample) for sample in samples], dtype=np.int32),
        ),
    )


def displayed_size_of(sample: Sample) -> tuple[int, int]:
    """Width and height of a sample's picture before it was resized, as far as they are known."""
    height, width = np.shape(sample.data)[-3:-1]
    return sample.image_size or (width, height)


def select(boxes: torch.Tensor, scores: torch.Tensor, image_size: tuple[int, int], rule: SelectionRule) -> Regions:
    """Choose among all candidates of one picture.

    Args:
        boxes: `(num_proposals, num_classes - 1, 4)` pixels, without the background.
        scores: `(num_proposals, num_classes - 1)` probabilities, without the background.
        image_size: height and width of the picture.
    """
    num_classes = scores.shape[1]
    candidates = box_ops.clip_boxes_to_image(boxes.reshape(-1, 4), list(image_size))
    flat_scores = scores.reshape(-1)
    sound = box_ops.remove_small_boxes(candidates, min_size=_SMALLEST_SIDE_PX)
    above = sound[flat_scores[sound] > rule.score_min]
    labels = torch.arange(len(flat_scores), device=scores.device) % num_classes
    kept = _suppressed(candidates, flat_scores, labels, above, rule)
    if len(kept) < rule.min_boxes and len(above) < len(sound):
        kept = _best(candidates, flat_scores, labels, sound, rule)
    kept = kept[: rule.max_boxes]
    return Regions(candidates[kept], flat_scores[kept], labels[kept] + 1, kept // num_classes)


def _best(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, eligible: torch.Tensor, rule: SelectionRule
) -> torch.Tensor:
    # The `min_boxes` best survivors. Suppression goes down the scores, so that the survivors among the best candidates
    # do not depend on the rest: start with a few of the tens of thousands, and take more only while survivors lack.
    ranked = eligible[torch.argsort(scores[eligible], descending=True, stable=True)]
    count = _FIRST_CANDIDATES
    while True:
        kept = _suppressed(boxes, scores, labels, ranked[:count], rule)
        if len(kept) >= rule.min_boxes or count >= len(ranked):
            return kept[: rule.min_boxes]
        count *= 4


def _suppressed(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, eligible: torch.Tensor, rule: SelectionRule
) -> torch.Tensor:
    # Indices of survivors by falling score; sorting them by index first makes the order of ties the candidates' own.
    if rule.scope == "agnostic":
        survivors = nms(boxes[eligible], scores[eligible], rule.nms)
    else:
        survivors = batched_nms(boxes[eligible], scores[eligible], labels[eligible], rule.nms)
    kept = eligible[survivors].sort().values
    return kept[torch.argsort(scores[kept], descending=True, stable=True)]
