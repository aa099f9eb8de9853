"""Made-up rows for any head: what its roles ask for, in memory, on a centre grid, with segments to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vidloc.core.records import Point, Segment
from vidloc.core.rows import Rows
from vidloc.core.timeline import Span, Timeline, center_grid, num_center_rows
from vidloc.heads.base import Sample, StreamNeed

STRIDE_S = Fraction(1, 2)
_DURATIONS_S = (6.0, 4.5, 9.0, 5.5)
_MAP_SIDE = 7  # as the last maps of networks for pictures of 224 pixels
_BOX = np.array([0.1, 0.1, 0.5, 0.5], dtype=np.float32)


@dataclass(frozen=True)
class MadeUpRows:
    """A reader of random rows, the same at every read: four items of different length.

    Attributes:
        needs: what fills each role; roles of kind `objects` get zero to four regions per row.
        dims: width of a feature by role.
    """

    needs: Mapping[str, StreamNeed]
    dims: Mapping[str, int]
    seed: int = 0

    @property
    def durations_s(self) -> dict[str, float]:
        """Seconds by item."""
        return {f"item_{n}": duration for n, duration in enumerate(_DURATIONS_S)}

    def expect(self, role: str, items: Sequence[str]) -> None:
        """See `RowReader`; everything is in memory."""

    def keys(self, role: str, item_id: str) -> None:
        """Rows are windows and answer no annotation."""

    def timeline(self, role: str, item_id: str) -> tuple[Timeline, int]:
        """Times of an item's rows, and how many there are."""
        del role
        return center_grid(1, STRIDE_S), num_center_rows(STRIDE_S, self.durations_s[item_id])

    def rows(self, role: str, item_id: str) -> Rows:
        """All rows of an item."""
        _, num_rows = self.timeline(role, item_id)
        place = (self.seed, sorted(self.needs).index(role), sorted(self.durations_s).index(item_id))
        random = np.random.default_rng(place)
        need, width = self.needs[role], self.dims[role]
        shape = (*[_MAP_SIDE] * (need.rank - 1), width)
        if "objects" not in need.kinds:
            return Rows.dense(features=random.standard_normal((num_rows, *shape)).astype(np.float16))
        counts = random.integers(0, 5, num_rows)
        return Rows.ragged(
            "regions",
            features=[random.standard_normal((n, *shape)).astype(np.float16) for n in counts],
            boxes=[np.tile(_BOX, (n, 1)) for n in counts],
            scores=[np.sort(random.random(n).astype(np.float32))[::-1] for n in counts],
        )

    def samples(self, unit: str, labels: Mapping[str, Sequence[str]]) -> list[Sample]:
        """Two segments per item of unlike length, so that batches are padded; or the items with all their segments.

        An item also has a single frame in the middle of each segment.
        """
        found: list[Sample] = []
        for number, (item, duration) in enumerate(self.durations_s.items()):
            spans = (Span(0.25, 0.25 + 0.4 * duration), Span(0.6 * duration, 0.6 * duration + 1.0))
            segments = [
                Segment(
                    item_id=item,
                    span=span,
                    labels={task: (number + place) % len(names) for task, names in labels.items()},
                    id=f"{item}_{place}",
                )
                for place, span in enumerate(spans)
            ]
            if unit == "item":
                points = tuple(Point(item_id=item, time_s=s.span.center_s, labels=s.labels) for s in segments)
                found.append(Sample(item, Span(0.0, duration), tuple(segments), points))
            else:
                found += [Sample(item, segment.span, (segment,)) for segment in segments]
        return found
