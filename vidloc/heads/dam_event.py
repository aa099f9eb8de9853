"""DAM for event localization: whether each second belongs to the event, and which event the clip holds.

Wu, Zhu, Yan, Yang, "Dual Attention Matching for Audio-Visual Event Localization", ICCV 2019; the module is that of
`dam`, with the pictures attended by their sound (Tian et al., ECCV 2018) and E all rows of the clip.

    class       softmax of a linear layer on [phi^V; phi^A], cross-entropy L^c with the class of the clip
    relevance   p_t, loss L^r as in `dam`;   loss = lambda L^c + (1 - lambda) L^r
    answer      the clip's best class where p_t >= 0.5, else background

A clip without any second of its event keeps its class. Clips of background alone have none: they teach relevance only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from vidloc.core.lanes import Lane
from vidloc.core.records import Prediction
from vidloc.heads.audio_visual import (
    AUDIO,
    LEAST_RELEVANCE,
    VISUAL,
    ClipHead,
    GuidedAttention,
    GuidedBy,
    best_or_background,
    clip_targets,
    event_classes,
    named_rows,
    paired_rows,
    relevance_lanes,
    row_loss,
)
from vidloc.heads.avel import EventOptions
from vidloc.heads.base import UNLABELLED, Batch, Kept
from vidloc.heads.dam import WU, DualMatching, relevance, relevance_loss


class DamEventOptions(EventOptions):
    """Options of DAM for event localization."""

    epochs: int = Field(100, ge=1, description="Passes over the training samples.")
    clip_norm: float = Field(0.5, ge=0, description="Longest gradient; longer ones are scaled down. 0 = off.")
    width: int = Field(256, ge=1, description="Width of the space in which both are matched.")
    heads: int = Field(1, ge=1, description="Heads of the self-attention; they divide the width.")
    attention: GuidedBy = Field("released", description="How the sound guides attention: as in the released code of "
        "Tian et al., or by their paper.")  # fmt: skip
    class_weight: float = Field(0.5, ge=0, le=1, description="Lambda: weight of the class beside relevance.")


class DamEvent(ClipHead):
    """Relevance of every row, and one class of the clip."""

    task = "event"
    Options = DamEventOptions
    source = WU

    options: DamEventOptions

    def __init__(self, options: DamEventOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.label_task, self.events = event_classes("dam_event", labels)
        self.attention = GuidedAttention(
            dims[AUDIO], dims[VISUAL], positions=options.positions, guided_by=options.attention
        )
        self.matching = DualMatching(dims[AUDIO], dims[VISUAL], width=options.width, heads=options.heads)
        self.classifier = nn.Linear(2 * options.width, len(self.events))

    def outputs(self, audio: Tensor, visual: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, time)` p and `(batch, classes)` scores, from rows of sound and maps of pictures."""
        seen = self.attention(audio, visual)
        sounds, pictures, sound, picture = self.matching.events(audio, seen, mask)
        scores = self.classifier(torch.cat([picture, sound], dim=-1))
        return (relevance(picture, sounds) + relevance(sound, pictures)) / 2, scores

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted sum of the losses of class and relevance."""
        pair = paired_rows(batch, positions=self.options.positions)
        probabilities, scores = self.outputs(pair.audio, pair.visual, pair.mask)
        targets = clip_targets(batch, pair, self.label_task, len(self.events))
        named = row_loss(scores, targets.classes, targets.classes != UNLABELLED)
        known = bool(targets.mask.any())
        relevant = relevance_loss(probabilities, targets.event, targets.mask) if known else 0 * probabilities.sum()
        weight = self.options.class_weight
        return {"total": weight * named + (1 - weight) * relevant, "class": named, "relevance": relevant}

    def predict(self, batch: Batch) -> list[Prediction]:
        """The clip's class or background for every row; the score is how sure the relevance is of that."""
        pair = paired_rows(batch, positions=self.options.positions)
        probabilities, scores = self.outputs(pair.audio, pair.visual, pair.mask)
        classes = event_or_background(probabilities, scores)
        surest = torch.where(classes < len(self.events), probabilities, 1 - probabilities)
        return named_rows(batch, pair, classes, surest, self.events)

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """Relevance of every row with the threshold of an event, and how it is divided among the clip's classes."""
        pair = paired_rows(batch, positions=self.options.positions)
        probabilities, scores = self.outputs(pair.audio, pair.visual, pair.mask)
        return relevance_lanes(pair, probabilities, scores, self.events)


HEAD = DamEvent


def event_or_background(probabilities: Tensor, scores: Tensor) -> Tensor:
    """`(batch, time)` the best class where p is at least a half, else the id after the classes'."""
    return best_or_background(probabilities >= LEAST_RELEVANCE, scores, scores.shape[-1])
