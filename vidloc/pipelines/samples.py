"""From annotations to samples: which segments have rows in every role, which lack them, how far rows look outside."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vidloc.core.records import Point, Segment
from vidloc.core.timeline import Span
from vidloc.datasets.base import Annotations
from vidloc.errors import OptionError
from vidloc.heads.base import Head, Sample
from vidloc.heads.sampling import RowsAround, Sampling, SegmentRows, leak, reach_beyond, reaches, rows_of
from vidloc.pipelines.run_record import Lacking, LeakRecord, SplitRecord
from vidloc.pipelines.streams import StoreRows


@dataclass(frozen=True)
class SplitSamples:
    """Samples of one split with their account."""

    samples: tuple[Sample, ...]
    record: SplitRecord


def split_samples(
    head: type[Head], annotations: Annotations, split: str, sampling: Mapping[str, Sampling], reader: StoreRows
) -> SplitSamples:
    """Samples of a split that have rows in every role.

    Raises:
        UnknownNameError: no such split.
    """
    segments = annotations.split(split)
    if head.unit == "item":
        return _item_samples(split, annotations.items_of(split), segments, annotations.points, reader)
    return _segment_samples(split, segments, sampling, reader)


def require_samples(found: SplitSamples, *, labelled: bool) -> None:
    """Refuse a split that leaves nothing to work on.

    Raises:
        OptionError: no annotation has rows, or labels are needed and withheld.
    """
    record = found.record
    if not found.samples:
        reasons = Counter(lack.reason for lack in record.lacking).most_common(3)
        why = "; ".join(f"{reason} ({count}x)" for reason, count in reasons) or "the split is empty"
        raise OptionError(
            f"split {record.split!r}: none of its {record.num_annotations} annotations has rows. {why}. "
            "Are these the store and the annotations of the same videos?"
        )
    marked = any(sample.points for sample in found.samples)
    if labelled and not marked and not any(segment.labels for sample in found.samples for segment in sample.segments):
        raise OptionError(f"the labels of split {record.split!r} are withheld or empty; nothing can be learnt from it.")


def _item_samples(
    split: str,
    items: Sequence[str],
    segments: Sequence[Segment],
    points: Mapping[str, tuple[Point, ...]],
    reader: StoreRows,
) -> SplitSamples:
    by_item: defaultdict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_item[segment.item_id].append(segment)
    samples, lacking = [], []
    for item in items:
        if reason := next((why for role in reader.roles if (why := reader.trouble(role, item))), ""):
            lacking.append(Lacking(id=item, item_id=item, reason=reason))
            continue
        if any(reader.keys(role, item) is not None for role in reader.roles):
            raise OptionError(
                "rows per segment answer one annotation each, and this head reads whole items: extract windows over "
                "them (--windows grid) into another stream, and choose that one with --stream."
            )
        timeline, num_rows = reader.timeline(reader.roles[0], item)
        end = float(timeline.span(num_rows - 1)[1])
        samples.append(Sample(item, Span(0.0, max(end, 0.0)), tuple(by_item[item]), points.get(item, ())))
    record = SplitRecord(
        split=split, num_annotations=len(items), num_used=len(samples), lacking=tuple(lacking), leak={}
    )
    return SplitSamples(tuple(samples), record)


def _segment_samples(
    split: str, segments: Sequence[Segment], sampling: Mapping[str, Sampling], reader: StoreRows
) -> SplitSamples:
    samples, lacking = [], []
    beyond: dict[str, list[float]] = {role: [] for role, rule in sampling.items() if isinstance(rule, SegmentRows)}
    for segment in segments:
        if reason := _no_rows(segment, sampling, reader):
            lacking.append(Lacking(id=segment.id, item_id=segment.item_id, reason=reason))
            continue
        samples.append(Sample(segment.item_id, segment.span, (segment,)))
        for role, reached in beyond.items():
            timeline, num_rows = reader.timeline(role, segment.item_id)
            keys = reader.keys(role, segment.item_id)
            rows = rows_of(sampling[role], timeline, num_rows, keys, annotation_id=segment.id, span=segment.span)
            reached.append(reach_beyond(timeline, rows, segment.span))
    measured = {role: leak(reached) for role, reached in beyond.items()}
    record = SplitRecord(
        split=split,
        num_annotations=len(segments),
        num_used=len(samples),
        lacking=tuple(lacking),
        leak={role: LeakRecord(mean_s=m.mean_s, max_s=m.max_s) for role, m in measured.items()},
    )
    return SplitSamples(tuple(samples), record)


def _no_rows(segment: Segment, sampling: Mapping[str, Sampling], reader: StoreRows) -> str:
    """Why a segment lacks rows, empty if it has them in every role."""
    for role, rule in sampling.items():
        if reason := reader.trouble(role, segment.item_id):
            return reason
        keys = reader.keys(role, segment.item_id)
        if keys is not None:
            if isinstance(rule, RowsAround):
                raise OptionError(
                    f"role {role} reads the rows around a segment, and the rows of its stream answer one segment each. "
                    "Extract windows over the whole items (--windows grid) into another stream, and choose that one "
                    f"with --stream {role}=STREAM."
                )
            if segment.id not in keys:
                return f"no row of {segment.item_id!r} for role {role} answers it"
            continue
        timeline, num_rows = reader.timeline(role, segment.item_id)
        # A window of frames without any detection, or a whole item wherever its segment lies, is a sample like others;
        # a segment outside all rows is not.
        if isinstance(rule, SegmentRows) and not reaches(timeline, num_rows, segment.span):
            spans = timeline.spans(num_rows)
            return (
                f"the rows of {segment.item_id!r} for role {role} cover {spans[:, 0].min():.2f} to "
                f"{spans[:, 1].max():.2f} s, not {segment.span.start_s:.2f} to {segment.span.end_s:.2f} s"
            )
    return ""
