"""Actions from verb and noun scores: P(v, n) = mu(v, n) P(v) P(n), with or without the prior mu.

Two procedures are in use, and both are here:

- EPIC-KITCHENS' own code (`cut=100`): only the 100 best verbs and 100 best nouns of a segment form pairs; each list is
  put through a softmax, the pairs multiplied, the 100 best kept. A prior acts after the cut.
- Long-term feature banks and SAP (`cut=None`): all pairs compete.

The softmax is per segment. (The EPIC-100 code takes it over the whole array of segments and classes; ranks within a
segment are the same until a segment far below the global maximum underflows.)

The prior mu comes from counts of training pairs, without smoothing: `joint` is the relative frequency (both papers), so
that a pair never trained on scores 0; `noun_given_verb` divides each verb's row by its sum + 1e-5 (the code released
with long-term feature banks).

Where a corpus numbers its actions (EGTEA Gaze+), `known_actions` scores these pairs alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.core.records import Segment
from vidloc.errors import OptionError

PriorKind = Literal["none", "joint", "noun_given_verb"]
OFFICIAL_CUT = 100
_ROW_EPSILON = 1e-5
_PAIRS_PER_BLOCK = 4_000_000


@dataclass(frozen=True, eq=False)
class ActionRanking:
    """The best pairs of each segment, best first.

    Attributes:
        pairs: (verb, noun), `(segments, kept, 2)`.
        scores: `(segments, kept)`, not normalised.
    """

    pairs: NDArray[np.int64]
    scores: NDArray[np.float64]


def rank_actions(
    verb: ArrayLike,
    noun: ArrayLike,
    *,
    prior: ArrayLike | None = None,
    cut: int | None = OFFICIAL_CUT,
    keep: int = OFFICIAL_CUT,
) -> ActionRanking:
    """Rank (verb, noun) pairs by the product of their probabilities and the prior.

    Args:
        verb, noun: scores before softmax, `(segments, classes)`.
        prior: `(verbs, nouns)`; `None` for none.
        cut: verbs and nouns of a segment that may form pairs; `None` for all.
        keep: pairs returned per segment (all, where there are fewer).

    Raises:
        OptionError: shapes that do not belong together.
    """
    verbs, nouns = np.asarray(verb, dtype=np.float64), np.asarray(noun, dtype=np.float64)
    if verbs.ndim != 2 or nouns.ndim != 2 or len(verbs) != len(nouns):
        raise OptionError(
            f"verb and noun scores must be (segments, classes), got shapes {verbs.shape} and {nouns.shape}."
        )
    mu = None if prior is None else np.asarray(prior, dtype=np.float64)
    if mu is not None and mu.shape != (verbs.shape[1], nouns.shape[1]):
        raise OptionError(
            f"the prior has shape {mu.shape}, but there are {verbs.shape[1]} verbs and {nouns.shape[1]} nouns."
        )
    num_verbs, num_nouns = (min(c, cut or c) for c in (verbs.shape[1], nouns.shape[1]))
    keep = min(keep, num_verbs * num_nouns)
    pairs = np.empty((len(verbs), keep, 2), dtype=np.int64)
    scores = np.empty((len(verbs), keep))
    step = max(_PAIRS_PER_BLOCK // (num_verbs * num_nouns), 1)
    for start in range(0, len(verbs), step):
        block = slice(start, start + step)
        pairs[block], scores[block] = _rank_block(
            _best(verbs[block], num_verbs), _best(nouns[block], num_nouns), mu, keep
        )
    return ActionRanking(pairs, scores)


def known_actions(verb: ArrayLike, noun: ArrayLike, parts: Iterable[tuple[int, int, int]]) -> NDArray[np.float64]:
    """Scores of numbered actions, `(segments, actions)`: log of P(verb) P(noun).

    Args:
        verb, noun: scores before softmax, `(segments, classes)`.
        parts: (action, verb, noun) of every action; actions count from 0 without gaps.

    Raises:
        OptionError: actions that leave gaps, or parts that are no classes.
    """
    table = np.array(sorted(parts), dtype=np.int64).reshape(-1, 3)
    verbs, nouns = (np.asarray(scores, dtype=np.float64) for scores in (verb, noun))
    limits = (len(table), verbs.shape[1], nouns.shape[1])
    if not np.array_equal(table[:, 0], np.arange(len(table))) or (table < 0).any() or (table >= limits).any():
        raise OptionError(
            f"the parts of actions must be (action, verb, noun) for action 0 to {len(table) - 1}, with verbs below "
            f"{limits[1]} and nouns below {limits[2]}."
        )
    logs: NDArray[np.float64] = _log_softmax(verbs)[:, table[:, 1]] + _log_softmax(nouns)[:, table[:, 2]]
    return logs


def action_prior(counts: ArrayLike, kind: PriorKind) -> NDArray[np.float64] | None:
    """The prior mu `(verbs, nouns)` from counts of training pairs; `None` for kind `none`.

    Raises:
        OptionError: there are no counts.
    """
    if kind == "none":
        return None
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or table.sum() <= 0:
        raise OptionError("an action prior needs counts (verbs, nouns) of training pairs, and there are none.")
    joint: NDArray[np.float64] = table / table.sum()
    if kind == "joint":
        return joint
    conditional: NDArray[np.float64] = joint / (joint.sum(axis=1, keepdims=True) + _ROW_EPSILON)
    return conditional


def pair_counts(segments: Iterable[Segment], num_verbs: int, num_nouns: int) -> NDArray[np.int64]:
    """How often each (verb, noun) pair occurs, `(verbs, nouns)`."""
    counts = np.zeros((num_verbs, num_nouns), dtype=np.int64)
    for segment in segments:
        counts[segment.labels["verb"], segment.labels["noun"]] += 1
    return counts


def softmax(scores: ArrayLike) -> NDArray[np.float64]:
    """Softmax of each row, in float64."""
    values = np.asarray(scores, dtype=np.float64)
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the softmax of each row, finite where the softmax would underflow."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def _best(scores: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes by falling score and their softmax among themselves, both `(segments, count)`."""
    classes = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return classes, softmax(np.take_along_axis(scores, classes, axis=1))


def _rank_block(
    verbs: tuple[NDArray[np.int64], NDArray[np.float64]],
    nouns: tuple[NDArray[np.int64], NDArray[np.float64]],
    prior: NDArray[np.float64] | None,
    keep: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    products = verbs[1][:, :, None] * nouns[1][:, None, :]
    if prior is not None:
        products *= prior[verbs[0][:, :, None], nouns[0][:, None, :]]
    flat = products.reshape(len(products), -1)
    # Partition first: sorting ten thousand pairs to keep a hundred would be most of the time of an evaluation.
    top = np.argpartition(-flat, keep - 1, axis=1)[:, :keep]
    top.sort(axis=1)
    order = np.argsort(-np.take_along_axis(flat, top, axis=1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, axis=1)
    verb_rank, noun_rank = np.divmod(top, nouns[0].shape[1])
    chosen = (np.take_along_axis(verbs[0], verb_rank, axis=1), np.take_along_axis(nouns[0], noun_rank, axis=1))
    return np.stack(chosen, axis=-1), np.take_along_axis(flat, top, axis=1)
