"""CMBS: each modality's own judgement of what is background dampens the other's rows.

Xia, Zhao, "Cross-modal Background Suppression for Audio-Visual Event Localization", CVPR 2022; compared with the
authors' code (marmot-xy/CMBS, commit 48e1ffc2). Its body is that of `cmran`, with

    pictures    after the linear layer, self-attention among positions; u, attended by the mean of these maps; the
                sound's gate is computed of these maps, but applied to the linear layer's, attended: w;
                w (1 + beta sigmoid(u))
    over time   a BiLSTM for each modality before the relations
    gates       s_a, s_v in (0, 1), a linear layer of the encoded rows of each modality;
                v <- v (1 + alpha s_a),   a <- a (1 + alpha s_v)   after the relations
    activation  a linear layer to the classes for v and a each, mean of its top seconds, mean of both: m
    fusion      v <- fused(v, a),  a <- fused(a, v),  their mean
    class       c + gamma m, with c of the maximum over time
    loss        binary cross-entropy of relevance and of s_a s_v with whether the row lies in the event + cross-entropy
                of the class and of m

Where it differs: the loss of s_a s_v is that of a probability, which it is; the release squashes it once more by a
sigmoid (`gate_loss=released`). The authors choose the epoch by the test split; here it is the last unless `--select
best` names a split. The weakly supervised form is another network and is not here; `cmran` and `psp` have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from vidloc.core.lanes import Lane
from vidloc.core.records import Prediction, Source
from vidloc.heads.audio_visual import (
    AUDIO,
    VISUAL,
    ClipHead,
    ClipTargets,
    MaskedBiLSTM,
    PairedRows,
    clip_targets,
    event_classes,
    paired_rows,
    relevance_lanes,
    row_loss,
)
from vidloc.heads.base import UNLABELLED, Batch, Kept, Share, numbers
from vidloc.heads.cross_modal import (
    ChannelSpatialAttention,
    CrossModalOptions,
    CrossModalRelation,
    EncodedRows,
    FusedRows,
    attended,
    relevance_loss,
    relevant_rows,
)
from vidloc.heads.layers import masked_max, masked_top_mean

_HIDDEN = 256
_DROPOUT = 0.2
_LEAST = 1e-7


class CmbsOptions(CrossModalOptions):
    """Options of CMBS."""

    lr: float = Field(7e-4, gt=0, description="Learning rate at the start.")
    epochs: int = Field(200, ge=1, description="Passes over the training samples.")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (0.05, 0.1, 0.15), description="Shares of all epochs after which the learning rate drops, such as 0.6,0.85."
    )
    feedforward: int = Field(1024, ge=1, description="Width within the transformer layers.")
    alpha: float = Field(0.1, ge=0, description="How much each modality's gate weighs the other's rows.")
    beta: float = Field(0.4, ge=0, description="How much the picture's own attention weighs that of the sound.")
    gamma: float = Field(0.3, ge=0, description="Weight of the activations of each modality in the class.")
    top: int = Field(4, ge=1, description="Seconds whose activations are averaged; clips of fewer rows have fewer.")
    gate_loss: Literal["probability", "released"] = Field(
        "probability", description="Loss of the gates' product; see the head's text."
    )


class Judged(NamedTuple):
    """What CMBS says of a batch.

    Attributes:
        relevance: `(batch, time)` before the sigmoid.
        scores: `(batch, classes)` before softmax.
        gates: `(batch, time)` s_a s_v, in (0, 1).
        activation: `(batch, classes)` m, before softmax.
    """

    relevance: Tensor
    scores: Tensor
    gates: Tensor
    activation: Tensor


class SelfAttention(nn.Module):
    """Positions of a picture among each other, and what they attend to by themselves.

    Args:
        visual: width of a position; keys and queries have a quarter of it.
    """

    def __init__(self, visual: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Linear(visual, max(visual // 4, 1)) for _ in range(2))
        self.value = nn.Linear(visual, visual)
        self.norm, self.dropout = nn.LayerNorm(visual), nn.Dropout(_DROPOUT)
        self.guide, self.products = nn.Linear(visual, _HIDDEN), nn.Linear(visual, _HIDDEN)
        self.spatial = nn.Linear(_HIDDEN, 1)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """`(..., positions, visual)` maps and `(..., visual)` u, from maps."""
        weights = torch.softmax(self.query(maps) @ self.key(maps).transpose(-1, -2), dim=-1)
        maps = self.norm(maps + self.dropout(weights @ self.value(maps)))
        return maps, attended(maps, self.products(maps), self.guide(maps.mean(dim=-2)), self.spatial)


class Cmbs(ClipHead):
    """CMRAN with gates by which each modality dampens the other where it finds background."""

    task = "event"
    Options = CmbsOptions
    source = Source(
        paper="Xia and Zhao, Cross-modal Background Suppression for Audio-Visual Event Localization, CVPR 2022",
        code="https://github.com/marmot-xy/CMBS",
        commit="48e1ffc2",
        differs="The loss of the gates is that of a probability unless gate_loss=released; the epoch is not chosen by "
        "the test split. Layers of the release that nothing uses are left out.",
    )

    options: CmbsOptions

    def __init__(self, options: CmbsOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.label_task, self.events = event_classes("cmbs", labels)
        sizes, width = options.sizes(), options.width
        self.adapt = nn.Sequential(nn.Linear(dims[VISUAL], dims[VISUAL]), nn.ReLU(), nn.Dropout(_DROPOUT))
        self.self_attention = SelfAttention(dims[VISUAL])
        self.attention = ChannelSpatialAttention(dims[AUDIO], dims[VISUAL])
        self.lstm_audio, self.lstm_visual = MaskedBiLSTM(dims[AUDIO], width // 2), MaskedBiLSTM(dims[VISUAL], width)
        heard, seen = 2 * (width // 2), 2 * width
        self.encoded_visual, self.encoded_audio = EncodedRows(seen, **sizes), EncodedRows(heard, **sizes)
        self.related_visual, self.related_audio = CrossModalRelation(seen, **sizes), CrossModalRelation(heard, **sizes)
        self.gate_visual, self.gate_audio = nn.Linear(width, 1), nn.Linear(width, 1)
        self.activation_visual, self.activation_audio = (nn.Linear(width, len(self.events)) for _ in range(2))
        self.fused_visual, self.fused_audio = (
            FusedRows(width, heads=options.heads, dropout=_DROPOUT) for _ in range(2)
        )
        self.relevance, self.classifier = nn.Linear(width, 1), nn.Linear(width, len(self.events))

    def seen(self, audio: Tensor, visual: Tensor) -> Tensor:
        """`(..., visual)`, pictures attended by the sound and by themselves."""
        maps = self.adapt(visual)
        judged, own = self.self_attention(maps)
        return self.attention(audio, maps, judged=judged) * (1 + self.options.beta * torch.sigmoid(own))  # type: ignore[no-any-return]

    def outputs(self, pair: PairedRows) -> Judged:
        """What the clips' rows and classes are taken to be."""
        mask = pair.mask
        audio = self.lstm_audio.over(pair.audio, mask)
        visual = self.lstm_visual.over(self.seen(pair.audio, pair.visual), mask)
        encoded_visual, encoded_audio = self.encoded_visual(visual, mask), self.encoded_audio(audio, mask)
        gate_visual = torch.sigmoid(self.gate_visual(encoded_visual))
        gate_audio = torch.sigmoid(self.gate_audio(encoded_audio))
        sounds = self.related_audio(audio, encoded_visual, mask) * (1 + self.options.alpha * gate_visual)
        pictures = self.related_visual(visual, encoded_audio, mask) * (1 + self.options.alpha * gate_audio)
        activation = self._activation(self.activation_visual(pictures), self.activation_audio(sounds), mask)
        pictures = self.fused_visual(pictures, sounds, mask)
        fused = (pictures + self.fused_audio(sounds, pictures, mask)) / 2
        return Judged(
            relevance=self.relevance(fused).squeeze(-1),
            scores=self.classifier(masked_max(fused, mask)) + self.options.gamma * activation,
            gates=(gate_audio * gate_visual).squeeze(-1),
            activation=activation,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of relevance, gates, class and activation, added up."""
        pair = paired_rows(batch, positions=self.options.positions)
        judged = self.outputs(pair)
        targets = clip_targets(batch, pair, self.label_task, len(self.events))
        known = targets.classes != UNLABELLED
        losses = {
            "class": row_loss(judged.scores, targets.classes, known),
            "activation": row_loss(judged.activation, targets.classes, known),
            "relevance": relevance_loss(judged.relevance, targets),
            "gates": self._gate_loss(judged.gates, targets),
        }
        return {"total": torch.stack([*losses.values()]).sum(), **losses}

    def predict(self, batch: Batch) -> list[Prediction]:
        """The clip's class or background for every row; the score is how sure the relevance is of that."""
        pair = paired_rows(batch, positions=self.options.positions)
        judged = self.outputs(pair)
        return relevant_rows(batch, pair, judged.relevance, judged.scores, self.events)

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """Relevance of every row with the threshold of an event, and how it is divided among the clip's classes."""
        pair = paired_rows(batch, positions=self.options.positions)
        judged = self.outputs(pair)
        return relevance_lanes(pair, torch.sigmoid(judged.relevance), judged.scores, self.events)

    def _activation(self, visual: Tensor, audio: Tensor, mask: Tensor) -> Tensor:
        counts = mask.sum(dim=1, keepdim=True).clamp(max=self.options.top)
        return (masked_top_mean(visual, mask, counts) + masked_top_mean(audio, mask, counts)) / 2

    def _gate_loss(self, gates: Tensor, targets: ClipTargets) -> Tensor:
        if self.options.gate_loss == "released":
            return relevance_loss(gates, targets)
        return relevance_loss(torch.logit(gates, eps=_LEAST), targets)


HEAD = Cmbs
