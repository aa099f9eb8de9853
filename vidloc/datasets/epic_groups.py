"""Groups of EPIC-KITCHENS classes, by the rules that reproduce the official lists exactly.

Many-shot (EPIC-55): classes with more than 100 training rows, and the pairs of such classes that occur at all. Tail
(EPIC-100): the rarest classes that together make at most a fifth of the training rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from vidloc.core.records import Segment

MANY_SHOT_ABOVE = 100
TAIL_SHARE = 0.2


def many_shot_groups(segments: Iterable[Segment]) -> dict[str, frozenset[object]]:
    """`many_shot_verb`, `many_shot_noun` (class ids) and `many_shot_action` ((verb, noun) pairs) of training rows."""
    pairs = Counter((segment.labels["verb"], segment.labels["noun"]) for segment in segments)
    verbs: Counter[int] = Counter()
    nouns: Counter[int] = Counter()
    for (verb, noun), count in pairs.items():
        verbs[verb] += count
        nouns[noun] += count
    many_verbs = frozenset(verb for verb, count in verbs.items() if count > MANY_SHOT_ABOVE)
    many_nouns = frozenset(noun for noun, count in nouns.items() if count > MANY_SHOT_ABOVE)
    return {
        "many_shot_verb": many_verbs,
        "many_shot_noun": many_nouns,
        "many_shot_action": frozenset(pair for pair in pairs if pair[0] in many_verbs and pair[1] in many_nouns),
    }


def tail_classes(labels: Iterable[int]) -> frozenset[int]:
    """The rarest classes, taken in ascending order of count (then id) while they hold at most a fifth of all rows.

    As in the official lists, a class that never occurs is not in the tail.
    """
    counts = Counter(labels)
    limit = TAIL_SHARE * counts.total()
    taken: set[int] = set()
    rows = 0
    for label, count in sorted(counts.items(), key=lambda pair: (pair[1], pair[0])):
        rows += count
        if rows > limit:
            break
        taken.add(label)
    return frozenset(taken)
