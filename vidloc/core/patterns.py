"""Choosing item ids as people type them: whole ids, or shell patterns such as `P01_*`."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from vidloc.errors import UnknownNameError, did_you_mean

_MOST_LISTED = 20


def matching(ids: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The ids that match any of the patterns.

    Raises:
        UnknownNameError: a pattern matches nothing; the nearest ids are named.
    """
    known = set(ids)
    kept: set[str] = set()
    for pattern in patterns:
        # An exact id first: ids of files may hold brackets, which mean something in a pattern.
        matched = {pattern} if pattern in known else set(fnmatch.filter(known, pattern))
        if not matched:
            raise UnknownNameError(f"no item matches {pattern!r}. {some_of(pattern, ids)}")
        kept |= matched
    return kept


def some_of(pattern: str, ids: Sequence[str]) -> str:
    """A sentence about which items there are, led by the one closest to a pattern that matches none."""
    if len(ids) <= _MOST_LISTED:
        return did_you_mean(pattern, ids)
    return f"There are {len(ids)} items, such as {', '.join(sorted(ids)[:3])}."
