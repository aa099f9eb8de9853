"""AVDLN: sound and picture put into one space, in which rows of one event are near each other.

The audio-visual distance learning network of Tian et al., ECCV 2018 (section 5); compared with the authors' code
(YapengTian/AVE-ECCV18, commit 93f843fe).

    picture   mean of its positions, linear to 128, LeakyReLU 0.3, linear to 64: x
    sound     linear to 128, LeakyReLU 0.3, linear to 64: y
    D(x, y) = sqrt(max(sum (x - y)^2, 1e-7)),   loss = y D^2 + (1 - y) max(margin - D, 0)^2

Pairs are of the same clip and moment; those of the event are alike (y = 1), those of its background are not. An event
is found where the sum of distances, row by row in the query's order, is smallest.

Use it with `--dataset ave --protocol matching`, whose splits are not those of event localization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from vidloc.core.lanes import Lane
from vidloc.core.records import Prediction
from vidloc.heads.audio_visual import (
    AUDIO,
    MAPS,
    TIAN,
    VISUAL,
    ClipHead,
    PairedRows,
    linear_layers,
    paired_rows,
    xavier,
)
from vidloc.heads.base import Batch, HeadOptions, Kept, StreamNeed
from vidloc.heads.layers import masked_mean
from vidloc.heads.matching import answers, diagonal_sums, match_lanes, query_rows

_LEAST_SQUARE = 1e-7


class MatchingOptions(HeadOptions):
    """Options of heads that match sound with pictures."""

    lr: float = Field(1e-3, gt=0, description="Learning rate at the start.")
    optimizer: Literal["sgd", "adam"] = Field("adam", description="Optimiser.")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty on the weights.")
    lr_factor: float = Field(1.0, gt=0, le=1, description="What a drop multiplies the learning rate by.")
    picture: Literal["map", "vector"] = Field(
        "map", description="Stream of pictures: maps, whose positions are averaged, or vectors."
    )


class AvdlnOptions(MatchingOptions):
    """Options of AVDLN."""

    epochs: int = Field(20, ge=1, description="Passes over the training samples.")
    batch: int = Field(8, ge=1, description="Samples per step.")
    margin: float = Field(2.0, gt=0, description="Distance from which rows of background add no loss.")


class Avdln(ClipHead):
    """Two small networks and the distance of what they give."""

    task = "crossmodal"
    Options = AvdlnOptions
    source = TIAN

    options: AvdlnOptions

    def __init__(self, options: AvdlnOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.visual, self.audio = (
            nn.Sequential(nn.Linear(dims[role], 128), nn.LeakyReLU(0.3), nn.Linear(128, 64)) for role in (VISUAL, AUDIO)
        )
        xavier(*linear_layers(self))
        for layer in linear_layers(self):
            nn.init.zeros_(layer.bias)

    @classmethod
    def needs_for(cls, options: MatchingOptions) -> Mapping[str, StreamNeed]:
        """Maps or vectors of pictures, as the options say."""
        return matching_needs(options)

    def embedded(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, time, 64)` of sound and of pictures, whose positions are averaged."""
        return self.audio(audio), self.visual(visual.mean(dim=2))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Contrastive loss of the rows of one moment."""
        pair = paired_rows(batch)
        sounds, pictures = self.embedded(pair.audio, pair.visual)
        alike = pair.inside(batch.samples, at_least_one=True)
        losses = contrastive(distance(sounds, pictures), alike, margin=self.options.margin)
        return {"total": masked_mean(losses.flatten().view(1, -1, 1), pair.mask.flatten().unsqueeze(0)).squeeze()}

    def predict(self, batch: Batch) -> list[Prediction]:
        """Where each event lies in the pictures, given its sound, and the reverse."""
        pair = paired_rows(batch)
        return answers(batch, pair, self._gains(batch, pair))

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """How near the excerpt comes to each window, in both directions: the sum of distances, below zero."""
        pair = paired_rows(batch)
        return match_lanes(pair, self._gains(batch, pair))

    def _gains(self, batch: Batch, pair: PairedRows) -> dict[str, list[NDArray[np.float64]]]:
        """How good each start is, by direction, for every sample."""
        sounds, pictures = self.embedded(pair.audio, pair.visual)
        apart = distance(sounds.unsqueeze(1), pictures.unsqueeze(2)).double().cpu().numpy()  # (batch, visual, audio)
        counts, queries = pair.mask.sum(dim=1).tolist(), query_rows(pair.inside(batch.samples, at_least_one=True))
        tables = [table[:n, :n] for table, n in zip(apart, counts, strict=True)]
        return {
            "a2v": [-diagonal_sums(table, *query) for table, query in zip(tables, queries, strict=True)],
            "v2a": [-diagonal_sums(table.T, *query) for table, query in zip(tables, queries, strict=True)],
        }


HEAD = Avdln


def matching_needs(options: MatchingOptions) -> Mapping[str, StreamNeed]:
    """Sound, and maps or vectors of pictures."""
    return MAPS if options.picture == "map" else {**MAPS, VISUAL: StreamNeed(("clip",))}


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Distance along the last axis, at least the root of 1e-7, where its gradient would not be finite."""
    return (one - other).square().sum(dim=-1).clamp(min=_LEAST_SQUARE).sqrt()


def contrastive(distances: Tensor, alike: Tensor, *, margin: float) -> Tensor:
    """Loss of each pair: the square of its distance, or of what it lacks of the margin.

    Args:
        distances: any shape.
        alike: of the same shape, bool.
    """
    return torch.where(alike, distances.square(), (margin - distances).clamp(min=0).square())
