"""DAM for matching: an event as a whole, in one modality, against every moment of the other.

Wu, Zhu, Yan, Yang, "Dual Attention Matching for Audio-Visual Event Localization", ICCV 2019. No code was published.

    f_t     = linear of the picture (mean of its positions) or of the sound
    phi     = mean over t in E of the self-attention of {f_t : t in E}, E the rows of the event
    p^V_t   = sigmoid(phi^A . f^V_t),   p^A_t = sigmoid(phi^V . f^A_t),   p_t = (p^A_t + p^V_t) / 2
    loss    = mean over t of BCE(p_t, whether t lies in the event)

Sound finds pictures (A2V) where the sum of p^V over the window is largest, with phi^A of the given excerpt; the
reverse alike. The order inside the excerpt plays no part.

Use it with `--dataset ave --protocol matching`, whose splits are not those of event localization; for that there is
`dam_event`. Widths, one attention head and the optimiser are not fixed by the paper and are chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vidloc.core.lanes import Curves, Lane
from vidloc.core.records import Prediction, Source
from vidloc.errors import OptionError
from vidloc.heads.audio_visual import AUDIO, VISUAL, ClipHead, PairedRows, paired_rows
from vidloc.heads.avdln import MatchingOptions, matching_needs
from vidloc.heads.base import Batch, Kept, StreamNeed
from vidloc.heads.layers import masked_mean
from vidloc.heads.matching import DIRECTIONS, answers, match_lanes, query_rows, window_sums

_LEAST = 1e-7
WU = Source(
    paper="Wu et al., Dual Attention Matching for Audio-Visual Event Localization, ICCV 2019",
    differs="Widths, one attention head and the optimiser are chosen here; no code was published to compare with.",
)


class DamOptions(MatchingOptions):
    """Options of DAM for matching."""

    epochs: int = Field(50, ge=1, description="Passes over the training samples.")
    clip_norm: float = Field(0.5, ge=0, description="Longest gradient; longer ones are scaled down. 0 = off.")
    width: int = Field(256, ge=1, description="Width of the space in which both are matched.")
    heads: int = Field(1, ge=1, description="Heads of the self-attention; they divide the width.")


class EventEmbedding(nn.Module):
    """Self-attention over the rows of an event, and their mean: what the event is as a whole."""

    def __init__(self, width: int, *, heads: int = 1) -> None:
        super().__init__()
        if width % heads:
            raise OptionError(f"width {width} is not divisible by heads {heads}; choose --width and --heads that are.")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, rows: Tensor, event: Tensor) -> Tensor:
        """`(batch, width)` from `(batch, time, width)` and `(batch, time)` bool with at least one row each."""
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=event[:, None, None, :])
        return masked_mean(attended.transpose(1, 2).flatten(2), event)


class DualMatching(nn.Module):
    """The event of each modality against the moments of the other.

    Args:
        audio, visual: widths of the rows.
        width: width of the common space.
        heads: heads of both self-attentions.
    """

    def __init__(self, audio: int, visual: int, *, width: int, heads: int) -> None:
        super().__init__()
        self.to_audio, self.to_visual = nn.Linear(audio, width), nn.Linear(visual, width)
        self.audio_event, self.visual_event = (EventEmbedding(width, heads=heads) for _ in range(2))

    def events(self, audio: Tensor, visual: Tensor, event: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Local features `(batch, time, width)` and events `(batch, width)`, of sound and of pictures each."""
        sounds, pictures = self.to_audio(audio), self.to_visual(visual)
        return sounds, pictures, self.audio_event(sounds, event), self.visual_event(pictures, event)

    def forward(self, audio: Tensor, visual: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, time)` probabilities: of sounds by the picture's event, of pictures by the sound's.

        Args:
            audio, visual: `(batch, time, width)` of each.
            event: `(batch, time)` bool, the rows that the event is made of.
        """
        sounds, pictures, sound, picture = self.events(audio, visual, event)
        return relevance(picture, sounds), relevance(sound, pictures)


class Dam(ClipHead):
    """Dual attention matching of an excerpt of one modality with the other."""

    task = "crossmodal"
    Options = DamOptions
    source = WU

    options: DamOptions

    def __init__(self, options: DamOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.matching = DualMatching(dims[AUDIO], dims[VISUAL], width=options.width, heads=options.heads)

    @classmethod
    def needs_for(cls, options: DamOptions) -> Mapping[str, StreamNeed]:
        """Maps or vectors of pictures, as the options say."""
        return matching_needs(options)

    def relevances(self, pair: PairedRows, event: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, time)` p^A and p^V, with `event` the rows of the excerpts."""
        return self.matching(pair.audio, pair.visual.mean(dim=2), event)  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Binary cross-entropy of p_t with whether the row lies in the event."""
        pair = paired_rows(batch)
        event = pair.inside(batch.samples, at_least_one=True)
        sound, picture = self.relevances(pair, event)
        return {"total": relevance_loss((sound + picture) / 2, event, pair.mask)}

    def predict(self, batch: Batch) -> list[Prediction]:
        """Where each event lies in the pictures, given its sound, and the reverse."""
        pair = paired_rows(batch)
        event = pair.inside(batch.samples, at_least_one=True)
        return answers(batch, pair, _gains(pair, event, self.relevances(pair, event)))

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """How well each window answers, in both directions, and the relevance of every row that this is summed of."""
        pair = paired_rows(batch)
        event = pair.inside(batch.samples, at_least_one=True)
        sound, picture = self.relevances(pair, event)
        both = pair.of_samples(torch.stack([picture, sound], dim=-1))
        names = ("pictures, by the sound's event", "sound, by the picture's event")
        relevant = [Curves("relevance", times, dict(zip(names, values.T, strict=True))) for times, values in both]
        matches = match_lanes(pair, _gains(pair, event, (sound, picture)))
        return [(*match, curves) for match, curves in zip(matches, relevant, strict=True)]


HEAD = Dam


def _gains(pair: PairedRows, event: Tensor, relevances: tuple[Tensor, Tensor]) -> dict[str, list[NDArray[np.float64]]]:
    """How good each start is, by direction, for every sample; the pictures' relevance tells where sound leads."""
    sound, picture = (p.double().cpu().numpy() for p in relevances)
    counts, lengths = pair.mask.sum(dim=1).tolist(), [length for _, length in query_rows(event)]
    return {
        direction: [window_sums(row[:n], length) for row, n, length in zip(rows, counts, lengths, strict=True)]
        for direction, rows in zip(DIRECTIONS, (picture, sound), strict=True)
    }


def relevance(event: Tensor, rows: Tensor) -> Tensor:
    """`(batch, time)` sigmoid of the products of an event `(batch, width)` with rows `(batch, time, width)`."""
    return torch.sigmoid(torch.einsum("bw,btw->bt", event, rows))


def relevance_loss(probabilities: Tensor, event: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross-entropy of the real rows; p is a mean of sigmoids, so there is no score to take it from."""
    kept = probabilities[mask].clamp(_LEAST, 1 - _LEAST)
    return F.binary_cross_entropy(kept, event[mask].to(kept.dtype))
