"""What heads of audio-visual events share: rows of sound and picture side by side, guided attention, and BiLSTMs.

A sample is a clip with one event: the batch holds all rows of the clip, and the segment says when the event is. Both
streams must have rows at the same times, such as one a second, as `vidloc extract --stride 1` makes them.

The attention is that of Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018 (section
4.2), with the names of its layers as in the authors' code (YapengTian/AVE-ECCV18, commit 93f843fe). For a row with
sound a and the vectors v_i of its picture's positions:

    M_ij = [affine_v ReLU(affine_video v_i)]_j + g,   g of affine_g ReLU(affine_audio a)
    alpha = softmax_i(affine_h tanh(M_i)),   attended = sum_i alpha_i v_i

By the paper the sound is added along the hidden axis, g = g_j; the code adds it along the positions, g = g_i, which
works as both axes have 49 entries. Trained weights fit one of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from vidloc.core.lanes import Curves, Lane, class_curves
from vidloc.core.records import Prediction, Source
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.heads.base import UNLABELLED, Batch, Head, HeadOptions, RowBatch, Sample, StreamNeed
from vidloc.heads.sampling import AllRows, Sampling

BACKGROUND = "background"
LEAST_RELEVANCE = 0.5  # of a row that belongs to the event
AUDIO, VISUAL = "audio", "visual"
MAPS: Mapping[str, StreamNeed] = {AUDIO: StreamNeed(("audio",)), VISUAL: StreamNeed(("clip",), rank=3)}
TIAN = Source(
    paper="Tian et al., Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018",
    code="https://github.com/YapengTian/AVE-ECCV18",
    commit="93f843fe",
)

GuidedBy = Literal["released", "paper"]


class ClipHead(Head):
    """A head that reads all rows of a clip, of sound and of picture, wherever its event is."""

    unit = "segment"
    needs: ClassVar[Mapping[str, StreamNeed]] = MAPS

    @classmethod
    def sampling(cls, options: HeadOptions) -> Mapping[str, Sampling]:
        """All rows of the clip."""
        return dict.fromkeys(cls.needs_for(options), AllRows())


@dataclass(frozen=True, eq=False)
class PairedRows:
    """Rows of both streams at the same times.

    Attributes:
        audio: `(batch, time, width)`.
        visual: `(batch, time, positions, width)`; of vectors there is one position.
        mask: `(batch, time)` bool, true for real rows; they come first.
        centers: `(batch, time)` float64, seconds.
    """

    audio: Tensor
    visual: Tensor
    mask: Tensor
    centers: Tensor

    def inside(self, samples: Sequence[Sample], *, at_least_one: bool = False) -> Tensor:
        """`(batch, time)` bool, rows whose centres lie in the event.

        Args:
            at_least_one: take the row nearest to the event's middle where none is centred in it.
        """
        ends = torch.tensor([tuple(map(float, s.span)) for s in samples], dtype=torch.float64, device=self.mask.device)
        found = self.mask & (self.centers >= ends[:, :1]) & (self.centers < ends[:, 1:])
        if at_least_one:
            away = (self.centers - ends.mean(dim=1, keepdim=True)).abs().masked_fill(~self.mask, torch.inf)
            nearest = torch.zeros_like(found).scatter_(1, away.argmin(dim=1, keepdim=True), 1)
            found = found | (nearest & ~found.any(dim=1, keepdim=True))
        return found

    def cells(self) -> list[list[Span]]:
        """What the rows of each sample answer for: from halfway to the row before to halfway to the row after."""
        found = []
        for centers, mask in zip(self.centers.cpu(), self.mask.cpu(), strict=True):
            times = centers[mask].tolist()
            halves = [(b - a) / 2 for a, b in pairwise(times)] or [0.5]
            borders = [t + half for t, half in zip(times, halves, strict=False)][: len(times) - 1]
            borders = [max(times[0] - halves[0], 0.0), *borders, times[-1] + halves[-1]]
            found.append([Span(a, b) for a, b in pairwise(borders)])
        return found

    def of_samples(self, values: Tensor) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Centres of the real rows of each sample `(time,)`, and their part of `(batch, time, ...)` values."""
        for centers, own, mask in zip(self.centers.cpu(), values.double().cpu(), self.mask.cpu(), strict=True):
            yield centers[mask].numpy(), own[mask].numpy()


def class_lanes(pair: PairedRows, scores: Tensor, events: Sequence[str]) -> list[tuple[Lane, ...]]:
    """The probability of each class and of background over every clip.

    Args:
        scores: `(batch, time, classes + 1)` before the softmax.
    """
    shares = torch.softmax(scores.double(), dim=-1)
    return [(class_curves("class probability", *own, (*events, BACKGROUND)),) for own in pair.of_samples(shares)]


def relevance_lanes(
    pair: PairedRows, relevance: Tensor, scores: Tensor, events: Sequence[str]
) -> list[tuple[Lane, ...]]:
    """Relevance of every row, and how it is divided among the classes of its clip; the rest is background's.

    Args:
        relevance: `(batch, time)` in [0, 1].
        scores: `(batch, classes)` before the softmax; one more than there are events is background.
    """
    classes = torch.softmax(scores.double(), dim=-1)[:, : len(events)]
    relevant = relevance.double().unsqueeze(-1)
    divided = relevant * classes.unsqueeze(1)
    values = torch.cat([relevant, divided, 1 - divided.sum(dim=-1, keepdim=True)], dim=-1)
    names = (*events, BACKGROUND)
    return [
        (
            Curves("relevance", times, {"relevance": own[:, 0]}, level=LEAST_RELEVANCE),
            class_curves("relevance x class probability", times, own[:, 1:], names),
        )
        for times, own in pair.of_samples(values)
    ]


def paired_rows(batch: Batch, *, positions: int = 0) -> PairedRows:
    """Sound and picture side by side; a row that one stream has beyond the other's last is left out.

    Args:
        positions: how many positions the maps must have; 0 takes any.

    Raises:
        OptionError: rows at other times in one stream than in the other, or maps of another size.
    """
    audio, visual = batch.rows[AUDIO], batch.rows[VISUAL]
    apart = (audio.counts - visual.counts).abs()
    if bool((apart > 1).any()):
        k = int(apart.argmax())
        raise OptionError(
            f"item {batch.samples[k].item_id!r} has {int(audio.counts[k])} rows of sound and "
            f"{int(visual.counts[k])} of pictures. "
            "Extract both in one run with one --stride, so that they describe the same moments."
        )
    time = min(audio.mask.shape[1], visual.mask.shape[1])
    mask = audio.mask[:, :time] & visual.mask[:, :time]
    centers, others = (rows.spans[:, :time].mean(dim=-1) for rows in (audio, visual))
    step = (centers[:, 1:2] - centers[:, :1]).abs() if time > 1 else torch.ones_like(centers[:, :1])
    aside = (((centers - others).abs() > step / 4) & mask).any(dim=1)
    if bool(aside.any()):
        item = batch.samples[int(aside.int().argmax())].item_id
        raise OptionError(
            f"the rows of sound and of pictures of item {item!r} lie at different times. "
            "Extract both in one run with one --stride."
        )
    maps = _positions(visual, time)
    if positions and maps.shape[2] != positions:
        raise OptionError(
            f"the maps have {maps.shape[2]} positions, and the head was made for {positions}. "
            f"Give --positions {maps.shape[2]}."
        )
    return PairedRows(audio.features[:, :time], maps, mask, centers)


def event_classes(head: str, labels: Mapping[str, Sequence[str]]) -> tuple[str, tuple[str, ...]]:
    """The one task and its classes without `background`, which has the id after theirs.

    Raises:
        OptionError: several tasks, or background among the classes and not their last.
    """
    if len(labels) != 1:
        raise OptionError(
            f"{head} learns the classes of one task, and the annotations have: {', '.join(labels) or 'none'}. "
            "Use a dataset of audio-visual events, such as --dataset ave."
        )
    [(task, names)] = labels.items()
    events = tuple(names[:-1] if names and names[-1] == BACKGROUND else names)
    if BACKGROUND in events or not events:
        raise OptionError(f"{head} expects classes with {BACKGROUND!r} as the last or not at all, got {list(names)}.")
    return task, events


def row_targets(inside: Tensor, labels: Tensor, background: int) -> Tensor:
    """`(batch, time)` class of every row: the clip's inside the event, else background; `UNLABELLED` where withheld."""
    classes = labels.unsqueeze(1).expand_as(inside)
    targets = torch.where(inside, classes, background)
    return torch.where(classes == UNLABELLED, UNLABELLED, targets)


@dataclass(frozen=True, eq=False)
class ClipTargets:
    """What heads learn that say whether each row belongs to the event, and which event the clip holds.

    Attributes:
        event: `(batch, time)` bool, rows of the event; none where the clip is of background alone.
        mask: `(batch, time)` bool, real rows of the clips whose class is known.
        classes: `(batch,)` class of the event; `UNLABELLED` where it is withheld or the clip is of background alone.
    """

    event: Tensor
    mask: Tensor
    classes: Tensor


def clip_targets(batch: Batch, pair: PairedRows, task: str, background: int) -> ClipTargets:
    """The event's rows and class of every clip."""
    labels = batch.labels[task]
    known = labels != UNLABELLED
    real = known & (labels < background)
    return ClipTargets(
        event=pair.inside(batch.samples) & real.unsqueeze(1),
        mask=pair.mask & known.unsqueeze(1),
        classes=torch.where(real, labels, UNLABELLED),
    )


def best_or_background(event: Tensor, scores: Tensor, background: int) -> Tensor:
    """`(batch, time)` the best class of `(batch, classes)` scores where `event` is true, else `background`."""
    best = scores.argmax(dim=-1, keepdim=True).expand_as(event)
    return torch.where(event, best, background)


def row_loss(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of the real rows, or clips, that have a target; 0 where none has.

    Args:
        scores: `(batch, time, classes)` before softmax; of clips `(batch, classes)`.
        targets, mask: of the same shape without classes.
    """
    wanted = targets[mask]
    summed = F.cross_entropy(scores[mask], wanted, ignore_index=UNLABELLED, reduction="sum")
    return summed / (wanted != UNLABELLED).sum().clamp(min=1)


def named_rows(
    batch: Batch, pair: PairedRows, classes: Tensor, scores: Tensor, names: Sequence[str]
) -> list[Prediction]:
    """One prediction per row, without label where it is background.

    Args:
        classes: `(batch, time)` int64; `len(names)` is background.
        scores: `(batch, time)` how sure each is.
    """
    chosen, surest = classes.tolist(), scores.double().tolist()
    found = []
    for k, (sample, cells) in enumerate(zip(batch.samples, pair.cells(), strict=True)):
        for t, span in enumerate(cells):
            label = names[chosen[k][t]] if chosen[k][t] < len(names) else None
            found.append(
                Prediction(item_id=sample.item_id, span=span, score=surest[k][t], label=label, query_id=sample.id)
            )
    return found


class GuidedAttention(nn.Module):
    """Where in the picture to look, told by the sound; see the module's text.

    Args:
        audio, visual: widths of both.
        positions: positions of a map, also the width of the hidden layer.
        guided_by: how the sound is added: as in the released code, or by the paper.
    """

    def __init__(self, audio: int, visual: int, *, positions: int, guided_by: GuidedBy = "released") -> None:
        super().__init__()
        self.guided_by = guided_by
        self.affine_video = nn.Linear(visual, visual)
        self.affine_audio = nn.Linear(audio, visual)
        self.affine_v = nn.Linear(visual, positions, bias=False)
        self.affine_g = nn.Linear(visual, positions, bias=False)
        self.affine_h = nn.Linear(positions, 1, bias=False)

    def weights_of(self, audio: Tensor, visual: Tensor) -> Tensor:
        """`(..., positions)` attention from `(..., audio)` and `(..., positions, visual)`."""
        hidden = self.affine_v(torch.relu(self.affine_video(visual)))
        guide = self.affine_g(torch.relu(self.affine_audio(audio)))
        hidden = hidden + guide.unsqueeze(-1 if self.guided_by == "released" else -2)
        return torch.softmax(self.affine_h(torch.tanh(hidden)).squeeze(-1), dim=-1)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """`(..., visual)`, the attended vector."""
        return (self.weights_of(audio, visual).unsqueeze(-2) @ visual).squeeze(-2)


class MaskedBiLSTM(nn.LSTM):
    """One bidirectional layer over real rows alone: `(batch, time, width)` in, `(batch, time, 2 * hidden)` out."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, batch_first=True, bidirectional=True)

    def over(self, rows: Tensor, mask: Tensor) -> Tensor:
        """States forward, then backward; zero where the mask is false."""
        if bool(mask.all()):
            states: Tensor = self(rows)[0]
            return states
        packed = pack_padded_sequence(rows, mask.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self(packed)[0], batch_first=True, total_length=rows.shape[1])[0]


def xavier(*layers: nn.Linear) -> None:
    """Xavier-uniform weights; biases stay as they are."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)


def linear_layers(module: nn.Module) -> Iterator[nn.Linear]:
    """All linear layers of a module."""
    yield from (layer for layer in module.modules() if isinstance(layer, nn.Linear))


def _positions(rows: RowBatch, time: int) -> Tensor:
    features = rows.features[:, :time]
    return features.unsqueeze(2) if features.ndim == 3 else features.flatten(2, -2)
