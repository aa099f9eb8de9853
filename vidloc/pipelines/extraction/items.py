"""Which items a run is about: a corpus's videos, a folder, or a list, narrowed by split, pattern and part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidloc.core.grammar import Part, parse_encoder
from vidloc.core.numbered_pictures import FlowPictures, FrameRate
from vidloc.core.patterns import matching
from vidloc.core.records import Narration, Segment
from vidloc.core.registry import load
from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.datasets.video_list import read_flow_list, read_video_list
from vidloc.errors import AnnotationError, MediaError, OptionError
from vidloc.pipelines.extraction.report import named


@dataclass(frozen=True)
class Items:
    """What is to be extracted, before looking at any store.

    Attributes:
        paths: file by item id (folder or tar archive of numbered pictures); empty for items that consist of text alone.
        missing: items the annotations name for which no file was found, sorted.
        narrations: sentences by item, for text streams.
        segments: annotated segments by item, of all splits and each once, for streams of a row per segment.
        durations_s: duration by item where annotations state it.
        ignored: files below the root that were not taken, with the reason.
        text_only: items are taken from the narrations, and need no file.
        frame_rates: by item, for those kept as numbered pictures.
        flows: released flow by item, looked for where a stream is made of it.
        notes: what the reader of the annotations or of the corpus's folders wants to be known.
    """

    paths: Mapping[str, Path]
    missing: tuple[str, ...] = ()
    narrations: Mapping[str, tuple[Narration, ...]] = field(default_factory=dict)
    segments: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)
    durations_s: Mapping[str, float] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    text_only: bool = False
    frame_rates: Mapping[str, FrameRate] = field(default_factory=dict)
    flows: Mapping[str, FlowPictures] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        """All items that can be worked on, sorted."""
        return sorted(self.narrations if self.text_only else {*self.paths, *self.flows})

    def only(self, keep: Iterable[str]) -> Items:
        """The same with the named items alone, missing ones included."""
        wanted = set(keep)
        return replace(
            self,
            paths={item: path for item, path in self.paths.items() if item in wanted},
            flows={item: flow for item, flow in self.flows.items() if item in wanted},
            missing=tuple(item for item in self.missing if item in wanted),
            narrations={item: said for item, said in self.narrations.items() if item in wanted},
        )


@dataclass(frozen=True)
class Selection:
    """Which items a run is asked to work on.

    Attributes:
        dataset: the corpus; may be left out where `videos` lists the files.
        root: folder of its videos.
        annotations: folder or file of its annotations; also the source of narrations.
        videos: a csv with a column `path`, `item_id` where ids are not to be the paths, and others that
            `vidloc.datasets.video_list` describes; takes the place of `root`.
        split: keep the items of this split.
        patterns: ids, or shell patterns such as `P01_*`; keep what matches any of them.
        part: keep one job's share.
    """

    dataset: Dataset | None = None
    root: Path | None = None
    annotations: Path | None = None
    videos: Path | None = None
    split: str | None = None
    patterns: Sequence[str] = ()
    part: Part | None = None


def open_dataset(text: str) -> Dataset:
    """The reader of a corpus, from `NAME[:option=value,...]`.

    Raises:
        UnknownNameError: no such dataset.
        OptionError: an option that it does not have.
    """
    plan = parse_encoder(text)  # one grammar for everything that has a name and options
    found = load("datasets", plan.name)
    dataset: Dataset = found.target(
        found.target.Options.parse(plan.options, where=f"dataset {plan.name!r}"), name=found.name
    )
    return dataset


def find_items(
    selection: Selection, *, text_only: bool = False, per_segment: bool = False, released_flow: bool = False
) -> Items:
    """Find the items of a run.

    Args:
        text_only: every encoder reads sentences, so that no video is needed.
        per_segment: rows answer annotated segments, so that annotations are needed.
        released_flow: a stream is made of flow pictures, so that these are looked for too.

    Raises:
        OptionError: neither a list nor a corpus with its root, or a corpus that released no flow.
        UnknownNameError: an unknown split, or a pattern that matches nothing.
        AnnotationError: malformed annotations or list.
        MediaError: there is nothing to work on.
    """
    read = _annotations_of(selection, needed=text_only or per_segment)
    items = _with_media(selection, read, text_only=text_only)
    if released_flow:
        items = _with_flow(items, selection, read)
    if per_segment and read is not None:
        items = replace(items, segments=_segments_of(read))
    if selection.split is not None and read is not None:
        items = items.only(read.items_of(selection.split))
    if selection.patterns:
        items = items.only(matching((*items.ids, *items.missing), selection.patterns))
    if not items.ids:
        raise MediaError(_nothing_found(selection, items))
    if selection.part is not None:
        items = items.only(selection.part.select([*items.ids, *items.missing]))
    return items


def _annotations_of(selection: Selection, *, needed: bool) -> Annotations | None:
    needed = needed or selection.split is not None
    if selection.dataset is None:
        if selection.annotations is not None:
            raise OptionError("annotations are read by a dataset: add --dataset NAME ('vidloc list datasets').")
        if needed:
            raise OptionError(
                "a split, narrations or segments come from annotations: add --dataset NAME --annotations DIR."
            )
        return None
    if selection.annotations is None and not needed:
        return None
    return selection.dataset.read(selection.annotations)


def _segments_of(read: Annotations) -> dict[str, tuple[Segment, ...]]:
    found: dict[str, dict[str, Segment]] = {}
    for segment in (segment for split in read.splits.values() for segment in split):
        if not segment.id:
            raise AnnotationError(
                f"{read.dataset} has segments without an id, by which rows are found again; one is of "
                f"{segment.item_id!r}."
            )
        known = found.setdefault(segment.item_id, {}).setdefault(segment.id, segment)
        if known.span != segment.span:
            raise AnnotationError(
                f"{read.dataset} has two segments of {segment.item_id!r} with the id {segment.id!r}, from "
                f"{known.span.start_s:g} and from {segment.span.start_s:g} s."
            )
    return {item: tuple(segments.values()) for item, segments in found.items()}


def _with_media(selection: Selection, read: Annotations | None, *, text_only: bool) -> Items:
    said = Items(
        paths={},
        narrations=read.narrations if read else {},
        durations_s=read.durations_s if read else {},
        notes=read.notes if read else (),
    )
    root = selection.root
    if selection.videos is not None:
        if root is not None:
            raise OptionError("give either --videos or --root: the list names the files.")
        return _found(said, read_video_list(selection.videos))
    if text_only and root is None:
        return replace(said, text_only=True)
    if selection.dataset is None or root is None:
        raise OptionError("say where the videos are: --videos list.csv, or --dataset NAME --root DIR.")
    return _found(said, selection.dataset.find_media(root, read))


def _with_flow(items: Items, selection: Selection, read: Annotations | None) -> Items:
    if selection.videos is not None:
        found = read_flow_list(selection.videos)
    elif selection.dataset is not None and selection.root is not None:
        found = selection.dataset.find_flow(selection.root, read)
    else:
        return items  # sentences alone
    return replace(
        items,
        flows={item: FlowPictures(path, found.frame_rates[item]) for item, path in found.paths.items()},
        missing=tuple(item for item in items.missing if item not in found.paths),
        ignored={**items.ignored, **found.ignored},
        notes=(*items.notes, *found.notes),
    )


def _found(said: Items, media: Media) -> Items:
    return replace(
        said,
        paths=media.paths,
        missing=media.missing,
        ignored=media.ignored,
        frame_rates=media.frame_rates,
        notes=(*said.notes, *media.notes),
    )


def _nothing_found(selection: Selection, items: Items) -> str:
    place = str(selection.videos or selection.root or selection.annotations)
    if items.missing:
        return (
            f"none of the {len(items.missing)} videos that the annotations name lies below {place} "
            f"(missing: {named(items.missing, most=3)}). Is --root the folder that the corpus's own layout begins in?"
        )
    ignored = f"; {len(items.ignored)} files there are no videos by their extension" if items.ignored else ""
    return f"{place} holds nothing to work on{ignored}."
