"""Stretches of items in batches: crops drawn at random, those that hold a labelled row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidloc.errors import OptionError

_MOST_TRIES = 100


@dataclass(frozen=True, eq=False)
class Clips:
    """Items or stretches of them, padded.

    Attributes:
        features: `(batch, rows, width)` by stream.
        mask: `(batch, rows)` true for rows.
        targets: `(batch, rows, classes)`, 1 in sum at labelled rows, 0 elsewhere.
    """

    features: Mapping[str, Tensor]
    mask: Tensor
    targets: Tensor


def drawn_clips(
    items: Callable[[Sequence[int]], Iterator[Clips]],
    length: int,
    *,
    num_clips: int,
    seed: Sequence[int],
    to_end: bool,
) -> Clips:
    """Crops of items in random order, those with a labelled row, until there are `num_clips` or no more items.

    Args:
        items: all items whole, in batches, in the order of a seed.
        length: most rows of a crop.
        to_end: whether a crop may reach an item's last row.

    Raises:
        OptionError: no crop with a labelled row is found.
    """
    for attempt in range(_MOST_TRIES):
        own_seed = (*seed, attempt)
        random = np.random.default_rng(own_seed)
        parts: list[Clips] = []
        missing = num_clips
        for whole in items(own_seed):
            part = cropped(whole, length, random, to_end=to_end)
            parts.append(_taken(part, part.targets.sum(dim=(1, 2)) > 0, missing))
            missing -= len(parts[-1].mask)
            if not missing:
                break
        if missing < num_clips:
            return _joined(parts)
    raise OptionError(f"no crop of {length} rows holds a labelled one. Make --crop longer.")


def cropped(clips: Clips, length: int, random: np.random.Generator, *, to_end: bool) -> Clips:
    """Stretches of `length` rows of longer clips, their starts drawn evenly; shorter clips as they are.

    Args:
        to_end: whether a crop may reach the last row; the release never does.
    """
    counts = clips.mask.sum(dim=1).cpu().numpy()
    starts = np.zeros(len(counts), dtype=np.int64)
    for k in np.flatnonzero(counts > length):
        starts[k] = random.integers(0, counts[k] - length + int(to_end))
    device = clips.mask.device
    start, count = (torch.from_numpy(values).to(device).unsqueeze(1) for values in (starts, counts))
    rows = start + torch.arange(min(length, int(counts.max())), device=device)
    entry = torch.arange(len(counts), device=device).unsqueeze(1)
    mask = rows < count
    rows = torch.where(mask, rows, 0)
    features = {name: values[entry, rows] * mask.unsqueeze(-1) for name, values in clips.features.items()}
    return Clips(features, mask, clips.targets[entry, rows] * mask.unsqueeze(-1))


def _taken(clips: Clips, keep: Tensor, most: int) -> Clips:
    chosen = keep.nonzero().squeeze(1)[:most]
    features = {name: values[chosen] for name, values in clips.features.items()}
    return Clips(features, clips.mask[chosen], clips.targets[chosen])


def _joined(parts: Sequence[Clips]) -> Clips:
    """Clips of several batches, cut to the longest."""
    if len(parts) == 1 and bool(parts[0].mask[:, -1].any()):
        return parts[0]

    def together(tensors: Sequence[Tensor]) -> Tensor:
        return pad_sequence([entry for tensor in tensors for entry in tensor], batch_first=True)[:, :longest]

    longest = max(int(part.mask.sum(dim=1).max()) for part in parts if len(part.mask))
    return Clips(
        {name: together([part.features[name] for part in parts]) for name in parts[0].features},
        together([part.mask for part in parts]),
        together([part.targets for part in parts]),
    )
