"""What CMRAN and CMBS share: attention over channels and positions, relations over time, and their fusion.

Xu, Zeng, Wu, Tan, Gan, "Cross-Modal Relation-Aware Networks for Audio-Visual Event Localization", ACM MM 2020; compared
with the authors' code (FloretCat/CMRAN, commit 3369be5d). For a row with sound a and the vectors v_i of its picture's
positions, products and gates taken number by number:

    gate        s = sigmoid(W ReLU(W mean_i ReLU(W_1 a) ReLU(W_2 v_i))),   v_i <- v_i (1 + s)
    attention   alpha = softmax_i tanh(w . ReLU(W_3 v_i) ReLU(W_4 a)),     attended = sum_i alpha_i v_i
    relations   a modality asks of the rows [encoded other modality; itself]
    fusion      g = video audio,   LN(g + attention of g over [audio; video])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vidloc.core.records import Prediction
from vidloc.errors import OptionError
from vidloc.heads.audio_visual import LEAST_RELEVANCE, ClipTargets, PairedRows, best_or_background, named_rows
from vidloc.heads.avel import EventOptions
from vidloc.heads.base import Batch

_DROPOUT = 0.1


class CrossModalOptions(EventOptions):
    """Options of both."""

    lr_factor: float = Field(0.5, gt=0, le=1, description="What a drop multiplies the learning rate by.")
    clip_norm: float = Field(0.5, ge=0, description="Longest gradient; longer ones are scaled down. 0 = off.")
    width: int = Field(256, ge=2, description="Width of the rows that are related.")
    heads: int = Field(4, ge=1, description="Heads of each attention; they divide the width.")
    feedforward: int = Field(2048, ge=1, description="Width within the transformer layers.")

    def sizes(self) -> RelationSizes:
        """Sizes of encoded rows and cross-modal relations.

        Raises:
            OptionError: heads do not divide the width.
        """
        if self.width % self.heads:
            raise OptionError(
                f"width {self.width} is not divisible by heads {self.heads}; choose --width and --heads that are."
            )
        return {"width": self.width, "heads": self.heads, "feedforward": self.feedforward}


class RelationSizes(TypedDict):
    """Width, heads and inner width of a layer over time."""

    width: int
    heads: int
    feedforward: int


class ChannelSpatialAttention(nn.Module):
    """Which channels of a picture count and where to look, told by the sound; see the module's text.

    Args:
        audio, visual: widths of both.
        hidden: width of the bottleneck and of the products by position.
    """

    def __init__(self, audio: int, visual: int, *, hidden: int = 256) -> None:
        super().__init__()
        self.channel_audio, self.channel_visual = nn.Linear(audio, visual), nn.Linear(visual, visual)
        self.bottleneck, self.channel_gate = nn.Linear(visual, hidden), nn.Linear(hidden, visual)
        self.spatial_audio, self.spatial_visual = nn.Linear(audio, hidden), nn.Linear(visual, hidden)
        self.spatial = nn.Linear(hidden, 1)

    def gate(self, audio: Tensor, visual: Tensor) -> Tensor:
        """`(..., 1, visual)` in (0, 1), from `(..., audio)` and `(..., positions, visual)`."""
        heard = torch.relu(self.channel_audio(audio)).unsqueeze(-2)
        agreed = (heard * torch.relu(self.channel_visual(visual))).mean(dim=-2, keepdim=True)
        return torch.sigmoid(self.channel_gate(torch.relu(self.bottleneck(agreed))))

    def forward(self, audio: Tensor, visual: Tensor, *, judged: Tensor | None = None) -> Tensor:
        """`(..., visual)`, the attended vector.

        Args:
            judged: maps that the gate is computed of; `None` takes `visual`.
        """
        gated = visual * (1 + self.gate(audio, visual if judged is None else judged))
        return attended(gated, self.spatial_visual(gated), self.spatial_audio(audio), self.spatial)


class EncodedRows(nn.Module):
    """Rows of one modality among each other: a linear layer and two transformer layers that normalise at their end.

    Args:
        inputs: width of the rows.
        width, heads, feedforward: of the transformer.
    """

    def __init__(self, inputs: int, *, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, width)
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout=_DROPOUT, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """`(batch, time, width)` from `(batch, time, inputs)` and `(batch, time)` bool, the real rows."""
        return self.encoder(self.project(rows), src_key_padding_mask=~mask)  # type: ignore[no-any-return]


class CrossModalRelation(nn.Module):
    """Rows of one modality in the light of the other's and of their own, side by side in time.

    Args:
        inputs: width of the rows that ask, which have a linear layer of their own.
        width, heads, feedforward: as of the encoded rows.
    """

    def __init__(self, inputs: int, *, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=_DROPOUT, batch_first=True)
        self.first_norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(), nn.Dropout(_DROPOUT), nn.Linear(feedforward, width)
        )
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, rows: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        """`(batch, time, width)`.

        Args:
            rows: `(batch, time, inputs)`, those that ask.
            others: `(batch, time, width)`, encoded rows of the other modality.
            mask: `(batch, time)` bool, the real rows of both.
        """
        asked = self.project(rows)
        memory, hidden = torch.cat([others, asked], dim=1), ~torch.cat([mask, mask], dim=1)
        related, _ = self.attention(asked, memory, memory, key_padding_mask=hidden, need_weights=False)
        asked = self.first_norm(asked + self.dropout(related))
        return self.last_norm(asked + self.dropout(self.feedforward(asked)))  # type: ignore[no-any-return]


class FusedRows(nn.Module):
    """The products of both modalities in the light of both.

    Args:
        width, heads: of the attention.
        dropout: of its weights.
    """

    def __init__(self, width: int, *, heads: int, dropout: float = _DROPOUT) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(_DROPOUT)

    def forward(self, one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        """`(batch, time, width)` from the same of both, and `(batch, time)` bool, the real rows."""
        product = one * other
        memory, hidden = torch.cat([other, one], dim=1), ~torch.cat([mask, mask], dim=1)
        found, _ = self.attention(product, memory, memory, key_padding_mask=hidden, need_weights=False)
        return self.norm(product + self.dropout(found))  # type: ignore[no-any-return]


def attended(maps: Tensor, products: Tensor, guide: Tensor, score: nn.Linear) -> Tensor:
    """`(..., visual)` mean of a map's positions, weighed by the softmax of tanh of their scores.

    Args:
        maps: `(..., positions, visual)`.
        products, guide: `(..., positions, hidden)` of the positions and `(..., hidden)` of what guides, before ReLU;
            positions are scored by the product of both.
        score: linear layer, hidden to 1.
    """
    scores = torch.tanh(score(torch.relu(products) * torch.relu(guide).unsqueeze(-2)))
    return (torch.softmax(scores, dim=-2) * maps).sum(dim=-2)


def relevance_loss(relevance: Tensor, targets: ClipTargets) -> Tensor:
    """Mean binary cross-entropy of the rows with whether they lie in the event; 0 where nothing is known.

    Args:
        relevance: `(batch, time)` before the sigmoid.
    """
    losses = F.binary_cross_entropy_with_logits(relevance, targets.event.to(relevance.dtype), reduction="none")
    return (losses * targets.mask).sum() / targets.mask.sum().clamp(min=1)


def relevant_rows(
    batch: Batch, pair: PairedRows, relevance: Tensor, scores: Tensor, names: Sequence[str]
) -> list[Prediction]:
    """One prediction per row: the clip's best class where the row is relevant, else background.

    Args:
        relevance: `(batch, time)` before the sigmoid; above 0 the row lies in the event.
        scores: `(batch, classes)`; of more classes than there are names, the one after the last is background.
    """
    probabilities = torch.sigmoid(relevance.double())
    classes = best_or_background(probabilities > LEAST_RELEVANCE, scores, len(names))
    surest = torch.where(classes < len(names), probabilities, 1 - probabilities)
    return named_rows(batch, pair, classes, surest, names)
