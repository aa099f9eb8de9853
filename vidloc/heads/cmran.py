"""CMRAN: relations of sound and picture within and across the modalities say which rows belong to the clip's event.

Xu, Zeng, Wu, Tan, Gan, "Cross-Modal Relation-Aware Networks for Audio-Visual Event Localization", ACM MM 2020; compared
with the authors' code (FloretCat/CMRAN, commit 3369be5d). Its blocks are those of `heads.cross_modal`:

    pictures    a linear layer, ReLU and dropout 0.2 at every position, then gate and attention by the sound
    relations   rows of each modality among each other (E_v, E_a), then v of [E_a; v] and a of [E_v; a]
    fusion      g = v a, attended over [a; v]
    relevance   r_t, a linear layer of every row;   class c, a linear layer of the maximum over time
    loss        binary cross-entropy of r_t with whether the row lies in the event + cross-entropy of c
    answer      the best class where sigmoid(r_t) > 0.5, else background

With `supervision=weak`, for `--dataset ave --protocol weak`, background is a class like the others, fusion has two
heads in place of four, and the scores max_t sigmoid(r_t) c are compared with the class of the clip.

Where it differs: weak training takes cross-entropy of these scores; the release puts their softmax through a second,
sigmoid-based loss, which is `loss=released`. The schedule is that of the release's defaults; its launch script trains
with `--lr 5e-4 --clip-norm 0.1 --epochs 200` (`--lr-drops 0.05,0.1,0.15`). The authors choose the epoch by the test
split; here it is the last unless `--select best` names a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from vidloc.core.lanes import Lane
from vidloc.core.records import Prediction, Source
from vidloc.heads.audio_visual import (
    AUDIO,
    VISUAL,
    ClipHead,
    PairedRows,
    clip_targets,
    event_classes,
    paired_rows,
    relevance_lanes,
    row_loss,
)
from vidloc.heads.avel import ClassLoss, Supervision, named_loss
from vidloc.heads.base import UNLABELLED, Batch, Kept, Share, numbers
from vidloc.heads.cross_modal import (
    ChannelSpatialAttention,
    CrossModalOptions,
    CrossModalRelation,
    EncodedRows,
    FusedRows,
    relevance_loss,
    relevant_rows,
)
from vidloc.heads.layers import masked_max


class CmranOptions(CrossModalOptions):
    """Options of CMRAN."""

    batch: int = Field(32, ge=1, description="Samples per step.")
    epochs: int = Field(50, ge=1, description="Passes over the training samples.")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (0.2, 0.4, 0.6), description="Shares of all epochs after which the learning rate drops, such as 0.6,0.85."
    )
    feedforward: int = Field(2048, ge=1, description="Width within the transformer layers.")
    supervision: Supervision = Field(
        "full", description="Learn from the class of every second, or from that of the clip alone."
    )
    loss: ClassLoss = Field("cross_entropy", description="Loss of the clip's class (weak); see the head's text.")


class Cmran(ClipHead):
    """Attention, relations within and across the modalities, and their fusion."""

    task = "event"
    Options = CmranOptions
    source = Source(
        paper="Xu et al., Cross-Modal Relation-Aware Networks for Audio-Visual Event Localization, ACM MM 2020",
        code="https://github.com/FloretCat/CMRAN",
        commit="3369be5d",
        differs="Weak training by cross-entropy unless loss=released; the epoch is not chosen by the test split. "
        "Layers of the release that nothing uses are left out.",
    )

    options: CmranOptions

    def __init__(self, options: CmranOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.label_task, self.events = event_classes("cmran", labels)
        self.weak = options.supervision == "weak"
        sizes = options.sizes()
        self.adapt = nn.Sequential(nn.Linear(dims[VISUAL], dims[VISUAL]), nn.ReLU(), nn.Dropout(0.2))
        self.attention = ChannelSpatialAttention(dims[AUDIO], dims[VISUAL])
        self.encoded_visual = EncodedRows(dims[VISUAL], **sizes)
        self.encoded_audio = EncodedRows(dims[AUDIO], **sizes)
        self.related_visual = CrossModalRelation(dims[VISUAL], **sizes)
        self.related_audio = CrossModalRelation(dims[AUDIO], **sizes)
        self.fused = FusedRows(options.width, heads=2 if self.weak else options.heads)
        self.relevance = nn.Linear(options.width, 1)
        self.classifier = nn.Linear(options.width, len(self.events) + self.weak)

    def outputs(self, pair: PairedRows) -> tuple[Tensor, Tensor]:
        """`(batch, time)` relevance and `(batch, classes)` scores, both before any squashing; weak, with background."""
        audio, mask = pair.audio, pair.mask
        seen = self.attention(audio, self.adapt(pair.visual))
        sounds = self.related_audio(audio, self.encoded_visual(seen, mask), mask)
        pictures = self.related_visual(seen, self.encoded_audio(audio, mask), mask)
        fused = self.fused(pictures, sounds, mask)
        return self.relevance(fused).squeeze(-1), self.classifier(masked_max(fused, mask))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of relevance and class, or of the clip's class."""
        pair = paired_rows(batch, positions=self.options.positions)
        relevance, scores = self.outputs(pair)
        if self.weak:
            labels = batch.labels[self.label_task]
            clips = weighed_scores(relevance, scores, pair.mask)
            return {"total": named_loss(clips, labels, labels != UNLABELLED, self.options.loss)}
        targets = clip_targets(batch, pair, self.label_task, len(self.events))
        named = row_loss(scores, targets.classes, targets.classes != UNLABELLED)
        relevant = relevance_loss(relevance, targets)
        return {"total": named + relevant, "class": named, "relevance": relevant}

    def predict(self, batch: Batch) -> list[Prediction]:
        """The clip's class or background for every row; the score is how sure the relevance is of that."""
        pair = paired_rows(batch, positions=self.options.positions)
        return relevant_rows(batch, pair, *self.outputs(pair), self.events)

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """Relevance of every row with the threshold of an event, and how it is divided among the clip's classes."""
        pair = paired_rows(batch, positions=self.options.positions)
        relevance, scores = self.outputs(pair)
        return relevance_lanes(pair, torch.sigmoid(relevance), scores, self.events)


HEAD = Cmran


def weighed_scores(relevance: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """`(batch, classes)` the largest of the scores times the relevance of the real rows.

    Args:
        relevance: `(batch, time)` before the sigmoid.
        scores: `(batch, classes)`.
    """
    return masked_max(torch.sigmoid(relevance).unsqueeze(-1) * scores.unsqueeze(1), mask)
