"""AVEL: the class of every second of a clip from sound and picture, with guided attention and residual fusion.

Tian, Shi, Li, Duan, Xu, "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018; compared with the
authors' code (YapengTian/AVE-ECCV18, commit 93f843fe), whose names the layers have (those of the attention below
`attention.`), so that converted weights map one to one.

    picture of a row        attended positions, guided by its sound (`heads.audio_visual`), or their mean
    over time               a BiLSTM for each stream, 128 per direction: h_a, h_v
    `fusion=concat`         L2 ReLU(L1 ReLU([h_a; h_v]))
    `fusion=dmrn`           f = (U_a h_a + U_v h_v) / 2,  L2 (tanh(h_a + f) + tanh(h_v + f)) / 2

`fusion=audio` and `visual` are the paper's baselines of one stream. With `supervision=weak` the rows' scores are pooled
over the clip and compared with the class of the clip; it is for `--dataset ave --protocol weak`, whose training
segments say no more than that.

Where it differs: the loss is cross-entropy on scores. The release puts its softmax through a second, sigmoid-based
loss, whose value moves between 0.68 and 0.71 only; `loss=released` is that one. The release never shuffles, leaves out
the clips of the last incomplete batch and steps its schedule by iteration, and fine-tunes DMRN from a trained `concat`;
here clips are shuffled, all take part, and DMRN starts afresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vidloc.core.lanes import Lane
from vidloc.core.records import Prediction
from vidloc.heads.audio_visual import (
    AUDIO,
    TIAN,
    VISUAL,
    ClipHead,
    GuidedAttention,
    MaskedBiLSTM,
    PairedRows,
    class_lanes,
    event_classes,
    linear_layers,
    named_rows,
    paired_rows,
    row_loss,
    row_targets,
    xavier,
)
from vidloc.heads.base import UNLABELLED, Batch, HeadOptions, Kept, Share, StreamNeed, numbers
from vidloc.heads.layers import masked_max, masked_mean

_HIDDEN = 128

ClassLoss = Literal["cross_entropy", "released"]
Supervision = Literal["full", "weak"]


class EventOptions(HeadOptions):
    """Options of heads that name the seconds of clips; the schedule is that of the authors of AVE."""

    lr: float = Field(1e-3, gt=0, description="Learning rate at the start.")
    epochs: int = Field(300, ge=1, description="Passes over the training samples.")
    optimizer: Literal["sgd", "adam"] = Field("adam", description="Optimiser.")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty on the weights.")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (), description="Shares of all epochs after which the learning rate drops, such as 0.6,0.85."
    )
    positions: int = Field(49, ge=1, description="Positions of a picture's map: height times width.")


class AvelOptions(EventOptions):
    """Options of AVEL."""

    attention: Literal["released", "paper", "none"] = Field(
        "released", description="How the sound guides attention: as in the released code, by the paper, or not at all."
    )
    fusion: Literal["concat", "dmrn", "audio", "visual"] = Field(
        "concat", description="Join both streams by concatenation or by the residual network, or use one alone."
    )
    supervision: Supervision = Field(
        "full", description="Learn from the class of every second, or from that of the clip alone."
    )
    pool: Literal["max", "mean"] = Field("max", description="How the seconds' scores become the clip's (weak).")
    loss: ClassLoss = Field("cross_entropy", description="Loss; see the head's text.")


class Avel(ClipHead):
    """Guided attention, two BiLSTMs, and their fusion."""

    task = "event"
    Options = AvelOptions
    source = TIAN.model_copy(
        update={
            "differs": "Cross-entropy on scores unless loss=released; shuffled, with the last incomplete batch; DMRN "
            "is not fine-tuned from a trained concatenation."
        }
    )

    options: AvelOptions

    def __init__(self, options: AvelOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.label_task, self.events = event_classes("avel", labels)
        roles = self.needs_for(options)
        if VISUAL in roles and AUDIO in roles and options.attention != "none":
            self.attention = GuidedAttention(
                dims[AUDIO], dims[VISUAL], positions=options.positions, guided_by=options.attention
            )
        if options.fusion != "visual":
            self.lstm_audio = MaskedBiLSTM(dims[AUDIO], _HIDDEN)
        if options.fusion != "audio":
            self.lstm_video = MaskedBiLSTM(dims[VISUAL], _HIDDEN)
        width, outputs = 2 * _HIDDEN, len(self.events) + 1
        if options.fusion == "dmrn":
            self.U_a, self.U_v = (
                nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)) for _ in range(2)
            )
            self.L2 = nn.Linear(width, outputs)
            xavier(self.L2)
            return
        self.L1 = nn.Linear(2 * width if options.fusion == "concat" else width, 64)
        self.L2 = nn.Linear(64, outputs)
        xavier(self.L1, self.L2, *(linear_layers(self.attention) if hasattr(self, "attention") else ()))

    @classmethod
    def needs_for(cls, options: AvelOptions) -> Mapping[str, StreamNeed]:
        """One stream for `fusion=audio`, and for `fusion=visual` where no sound guides the attention."""
        alone = {"audio": {AUDIO}, "visual": {VISUAL} if options.attention == "none" else set(cls.needs)}
        roles = alone.get(options.fusion, set(cls.needs))
        return {role: need for role, need in cls.needs.items() if role in roles}

    def scores(self, pair: PairedRows) -> Tensor:
        """`(batch, time, classes + 1)` before softmax; the last is background."""
        states = []
        if hasattr(self, "lstm_audio"):
            states.append(self.lstm_audio.over(pair.audio, pair.mask))
        if hasattr(self, "lstm_video"):
            seen = self.attention(pair.audio, pair.visual) if hasattr(self, "attention") else pair.visual.mean(dim=2)
            states.append(self.lstm_video.over(seen, pair.mask))
        if self.options.fusion == "dmrn":
            return self.L2(self.fused(*states))  # type: ignore[no-any-return]
        return self.L2(torch.relu(self.L1(torch.relu(torch.cat(states, dim=-1)))))  # type: ignore[no-any-return]

    def fused(self, audio: Tensor, visual: Tensor) -> Tensor:
        """The residual block: `(..., width)` of both in, their mean after a common update out."""
        update = (self.U_a(audio) + self.U_v(visual)) / 2
        return (torch.tanh(audio + update) + torch.tanh(visual + update)) / 2

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of the rows' classes, or of the clip's."""
        pair = self._paired(batch)
        scores, labels = self.scores(pair), batch.labels[self.label_task]
        if self.options.supervision == "weak":
            targets, mask = labels, labels != UNLABELLED
            scores = clip_scores(scores, pair.mask, self.options.pool)
        else:
            targets, mask = row_targets(pair.inside(batch.samples), labels, len(self.events)), pair.mask
        return {"total": named_loss(scores, targets, mask, self.options.loss)}

    def predict(self, batch: Batch) -> list[Prediction]:
        """The best class of every row, with its probability."""
        pair = self._paired(batch)
        surest, classes = torch.softmax(self.scores(pair).double(), dim=-1).max(dim=-1)
        return named_rows(batch, pair, classes, surest, self.events)

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """The probability of each class and of background over the clip."""
        pair = self._paired(batch)
        return class_lanes(pair, self.scores(pair), self.events)

    def _paired(self, batch: Batch) -> PairedRows:
        if len(batch.rows) == 1:  # one stream stands beside itself
            [rows] = batch.rows.values()
            batch = Batch(batch.samples, dict.fromkeys((AUDIO, VISUAL), rows))
            return paired_rows(batch)
        return paired_rows(batch, positions=self.options.positions if hasattr(self, "attention") else 0)


HEAD = Avel


def clip_scores(scores: Tensor, mask: Tensor, pool: Literal["max", "mean"]) -> Tensor:
    """`(batch, classes)` scores of clips from `(batch, time, classes)` of their rows."""
    return masked_max(scores, mask) if pool == "max" else masked_mean(scores, mask)


def named_loss(scores: Tensor, targets: Tensor, mask: Tensor, loss: ClassLoss) -> Tensor:
    """Loss of the rows', or clips', classes; 0 where none is known. The arguments are those of `row_loss`."""
    if loss == "cross_entropy":
        return row_loss(scores, targets, mask)
    known = mask & (targets != UNLABELLED)
    if not bool(known.any()):
        return 0 * scores.sum()
    return released_loss(torch.softmax(scores[known], dim=-1), targets[known])


def released_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Multi-label soft-margin loss of what is a softmax already, as the release has it.

    Args:
        probabilities: `(rows, classes)`.
        targets: `(rows,)` int64.
    """
    wanted = F.one_hot(targets, probabilities.shape[-1]).to(probabilities.dtype)
    return F.multilabel_soft_margin_loss(probabilities, wanted)
