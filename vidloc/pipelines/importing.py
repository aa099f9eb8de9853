"""Features that a lab has in files of its own, into a feature store: one commit per item, resumed like an extraction.

    from vidloc.pipelines.importing import ImportRequest, import_features, parse_stream
    request = ImportRequest("npy", Path("i3d/"), (parse_stream("i3d_rgb:channels=0:1024"),),
                            options={"fps": "30", "window": "16f", "stride": "4f"})
    report = import_features("feats.zarr", request)

Layouts (`vidloc.stores.imports`) read; here what they read is checked, cast and written. A file that cannot be read
fails its item with the reason, and the run goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidloc.core.grammar import parse_encoder
from vidloc.core.records import ItemInfo, Source
from vidloc.core.registry import load
from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans, Timeline
from vidloc.datasets.tables import Row, read_table
from vidloc.errors import AnnotationError, OptionError, StoreError
from vidloc.pipelines.extraction.interrupts import Interrupts
from vidloc.pipelines.extraction.report import Outcome, named, reason_of
from vidloc.stores.base import Extent, FeatureWriter, StreamSpec, append_to_store
from vidloc.stores.fitting import check_times, fitted
from vidloc.stores.imports.base import Content, ItemFacts, Layout, Listing, StreamOptions, fields_of
from vidloc.stores.imports.timing import parse_fps
from vidloc.stores.tables import WITH_ROWS

Progress = Callable[[int, int], None]

_BLOCK_BYTES = 64 * 2**20
_FACT_COLUMNS = ("fps", "duration_s", "width_px", "height_px")


@dataclass(frozen=True)
class StreamPlan:
    """One `--stream NAME[:option=value,...]`."""

    name: str
    options: StreamOptions


@dataclass(frozen=True)
class ImportRequest:
    """What is imported, and all that the files do not say.

    Attributes:
        layout: registered name, or path of a Python file.
        path: file or folder of the features.
        streams: streams to make.
        options: options of the layout by name, as typed or as values.
        facts: what is known of items, by id.
        source: paper, address and licence of the features, as the user states them.
    """

    layout: str
    path: Path
    streams: Sequence[StreamPlan]
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, ItemFacts] = field(default_factory=dict)
    source: Source = field(default_factory=Source)


@dataclass(frozen=True)
class ImportReport:
    """Result of `import_features`.

    Attributes:
        outcomes: by item, then stream, of this run.
        already_done: items that had nothing to do.
        ignored: what was found and not taken, by name, with the reason.
        without_features: items of which facts were given but no features found, sorted.
        notes: what the layout wants to be known.
        not_reached: items left because the run was interrupted.
        interrupted_by: number of the signal that ended the run early.
    """

    store: str
    outcomes: tuple[Outcome, ...]
    already_done: int
    ignored: Mapping[str, str]
    without_features: tuple[str, ...]
    notes: tuple[str, ...]
    not_reached: int = 0
    interrupted_by: int | None = None

    @property
    def failures(self) -> list[str]:
        """Items with a stream that failed, sorted."""
        return sorted({o.item_id for o in self.outcomes if o.status == "failed"})

    @property
    def rows(self) -> dict[str, int]:
        """Rows written, by stream."""
        rows: dict[str, int] = {}
        for outcome in self.outcomes:
            rows[outcome.stream] = rows.get(outcome.stream, 0) + outcome.num_rows
        return rows

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "store": self.store,
            "done": sorted({o.item_id for o in self.outcomes} - set(self.failures)),
            "failed": [
                {"item": o.item_id, "stream": o.stream, "reason": o.reason}
                for o in self.outcomes
                if o.status == "failed"
            ],
            "items_already_done": self.already_done,
            "rows": self.rows,
            "ignored": dict(self.ignored),
            "without_features": list(self.without_features),
            "notes": list(self.notes),
            "not_reached": self.not_reached,
            "interrupted_by": self.interrupted_by,
        }

    def lines(self) -> list[str]:
        """The same for people: counts, then every item that failed."""
        items = len({o.item_id for o in self.outcomes})
        rows = ", ".join(f"{name} {count:,} rows" for name, count in self.rows.items())
        text = [
            f"{items} items worked on, {len(self.failures)} failed; {self.already_done} were done before."
            + (f" {rows}." if rows else "")
        ]
        if self.ignored:
            name, reason = next(iter(self.ignored.items()))
            text.append(f"Not taken: {len(self.ignored)} ({named(list(self.ignored), most=3)}). {name}: {reason}.")
        if self.without_features:
            text.append(
                f"Facts but no features: {len(self.without_features)} ({named(self.without_features, most=5)})."
            )
        text += [f"Note: {note}." for note in self.notes]
        text += [f"failed: {o.item_id} ({o.stream}): {o.reason}" for o in self.outcomes if o.status == "failed"]
        if self.interrupted_by is not None:
            text.append(
                f"Stopped by signal {self.interrupted_by}; {self.not_reached} items are left. What was committed "
                "stays: the same command goes on from here."
            )
        return text


def parse_stream(text: str) -> StreamPlan:
    """Read `NAME[:option=value,...]`.

    Raises:
        OptionError: no usable name, or an option that streams do not have.
    """
    plan = parse_encoder(text)  # one grammar for everything that has a name and options
    return StreamPlan(plan.stream, StreamOptions.parse(plan.options, where=f"--stream {plan.stream}"))


def read_facts(path: Path) -> dict[str, ItemFacts]:
    """Facts of items from a csv file: `item_id` and any of `fps`, `duration_s`, `width_px`, `height_px`.

    Empty values are not known.

    Raises:
        AnnotationError: the file is missing or malformed, or states none of them.
    """
    table = read_table(path, ("item_id",))
    known = [name for name in _FACT_COLUMNS if name in table.columns]
    if not known:
        raise AnnotationError(f"{path} states no facts: give at least one of the columns {', '.join(_FACT_COLUMNS)}.")
    facts: dict[str, ItemFacts] = {}
    for row in table.rows:
        item = row.text("item_id")
        if item in facts:
            raise AnnotationError(f"{path}, line {row.line}: item {item!r} occurs a second time.")
        facts[item] = _facts(row, known)
    return facts


def import_features(store: str | Path, request: ImportRequest, *, progress: Progress | None = None) -> ImportReport:
    """Read features from files and append their rows to a store, which is made where there is none.

    Items that the store holds are skipped, so the same call resumes after a stop, and failed ones are tried again.
    Ctrl-C and SIGTERM end the run in order.

    Raises:
        OptionError, UnknownNameError: something needed is missing or unknown; the option is named.
        StoreError: there is nothing to import, or the store is locked, damaged, or cannot be written.
        ProvenanceError: the store holds rows of another origin under one of the stream names.
    """
    layout = _open_layout(request)
    try:
        listing = layout.items()
        with append_to_store(store) as writer, Interrupts() as interrupts:
            work, specs = _prepare(writer, layout, listing, request)
            run = _Run(writer, layout, specs, {plan.name: plan.options for plan in request.streams})
            outcomes: list[Outcome] = []
            reached = 0
            for item in work:
                if interrupts.signal is not None:
                    break
                outcomes += run.item(item, work[item])
                reached += 1
                if progress is not None:
                    progress(reached, len(work))
            if interrupts.signal is not None:
                writer.stop()
    finally:
        layout.close()
    return ImportReport(
        store=str(store),
        outcomes=tuple(sorted(outcomes, key=lambda o: (o.item_id, o.stream))),
        already_done=len(listing.items) - len(work),
        ignored=listing.ignored,
        without_features=tuple(sorted(set(request.facts) - set(listing.items))),
        notes=listing.notes,
        not_reached=len(work) - reached,
        interrupted_by=interrupts.signal,
    )


def _open_layout(request: ImportRequest) -> Layout:
    names = [plan.name for plan in request.streams]
    if not names:
        raise OptionError("name the streams to make: --stream NAME[:option=value,...].")
    if len(set(names)) < len(names):
        raise OptionError(f"--stream names {max(names, key=names.count)!r} twice; give every stream its own name.")
    found = load("imports", request.layout)
    options = found.target.Options.parse(request.options, where=f"layout {found.name!r}")
    layout: Layout = found.target(request.path, options, request.facts, name=found.name)
    return layout


def _prepare(
    writer: FeatureWriter, layout: Layout, listing: Listing, request: ImportRequest
) -> tuple[dict[str, list[str]], dict[str, StreamSpec]]:
    """Streams left to do by item; and what the streams are."""
    known = writer.streams()
    specs: dict[str, StreamSpec] = {}
    for plan in request.streams:
        if plan.name in known:
            specs[plan.name] = _spec(plan, layout, request, dict(known[plan.name].fields))
        else:
            specs[plan.name] = _spec(plan, layout, request, _first_fields(layout, listing.items, plan))
        writer.add_stream(specs[plan.name])
    work: dict[str, list[str]] = {}
    for item in listing.items:
        entries = {name: writer.entry(name, item) for name in specs}
        left = [name for name, entry in entries.items() if entry is None or entry.status not in WITH_ROWS]
        if left:
            work[item] = left
    return work, specs


def _first_fields(layout: Layout, items: Sequence[str], plan: StreamPlan) -> dict[str, Any]:
    """Fields of the first item that can be read."""
    first = ""
    for item in items:
        try:
            return fields_of(layout.read(item, plan.options).rows, plan.options)
        except OptionError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever a file makes a reader raise fails that item)
            first = first or f"{item}: {reason_of(error)}"
    raise StoreError(f"none of {len(items)} items can be read as stream {plan.name!r}. {first}")


def _spec(plan: StreamPlan, layout: Layout, request: ImportRequest, fields: dict[str, Any]) -> StreamSpec:
    options = layout.recorded()
    by_item = any(fact.fps for fact in request.facts.values())
    return StreamSpec(
        name=plan.name,
        kind=plan.options.kind or layout.kind,
        fields=fields,
        timeline=layout.timeline,
        sampling={"align": "imported", "fps": "per item" if by_item else str(options.get("fps", ""))},
        encoder=f"import:{layout.name}",
        encoder_version=layout.version,
        options={**options, **plan.options.model_dump(mode="json", include={"channels", "key"}, exclude_defaults=True)},
        source=request.source,
        preprocessing={"network": plan.options.network} if plan.options.network else {},
    )


class _Run:
    """Writes items.

    Args:
        specs, options: by stream.
    """

    def __init__(
        self,
        writer: FeatureWriter,
        layout: Layout,
        specs: Mapping[str, StreamSpec],
        options: Mapping[str, StreamOptions],
    ) -> None:
        self._writer = writer
        self._layout = layout
        self._specs = specs
        self._options = options
        self._known = set(writer.items())
        self._digests: dict[Path, str] = {}

    def item(self, item_id: str, streams: Sequence[str]) -> list[Outcome]:
        """Read and commit one item; returns what became of each stream."""
        facts = self._layout.facts_of(item_id)
        extent = (0.0, facts.duration_s) if facts.duration_s else None
        outcomes: list[Outcome] = []
        for name in streams:
            try:
                content = self._checked(item_id, name, extent)
            except OptionError:
                raise
            except Exception as error:  # noqa: BLE001  (whatever a file makes a reader raise fails that item)
                outcomes.append(Outcome(item_id, name, "failed", 0, reason_of(error)))
                self._writer.mark(name, item_id, "failed", outcomes[-1].reason)
                continue
            for rows, timeline in _pieces(content):
                self._writer.write(name, item_id, rows, timeline, extent=extent)
            outcomes.append(Outcome(item_id, name, "done", len(content.rows)))
        self._writer.set_info(self._info(item_id, facts, [o.stream for o in outcomes if o.status == "done"]))
        self._writer.commit(item_id)
        return outcomes

    def _checked(self, item_id: str, name: str, extent: Extent | None) -> Content:
        """Rows that the store will take: what is wrong with a file shows here, what is wrong with the disk later."""
        content = self._layout.read(item_id, self._options[name])
        spec = self._specs[name]
        where = f"stream {name!r}, item {item_id!r}"
        check_times(spec, content.timeline, len(content.rows), extent, where=where)
        for rows, _ in _pieces(content):
            fitted(spec, rows, where=where)
        self._files(item_id)  # read once more for their digests, while that can still fail the item
        return content

    def _info(self, item_id: str, facts: ItemFacts, streams: Sequence[str]) -> ItemInfo:
        """What is known already, then what the user knows; and of which files the new rows are."""
        known = self._writer.info(item_id) if item_id in self._known else ItemInfo(item_id=item_id)
        stated = {"duration_s": facts.duration_s, "width_px": facts.width_px, "height_px": facts.height_px}
        missing = {name: value for name, value in stated.items() if getattr(known, name) is None}
        imported = dict(known.imported or {})
        if streams:
            imported |= dict.fromkeys(streams, self._files(item_id))
        return known.model_copy(update={**missing, "imported": imported or None})

    def _files(self, item_id: str) -> dict[str, str]:
        return {path.name: self._sha256(path) for path in self._layout.files(item_id)}

    def _sha256(self, path: Path) -> str:
        if path not in self._digests:
            with path.open("rb") as file:
                self._digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[path]


def _pieces(content: Content) -> Iterator[tuple[Rows, Timeline]]:
    """The rows in blocks, so that a large mapped array is never in memory as a whole."""
    rows = content.rows
    num_bytes = sum(array.nbytes for array in rows.fields.values())
    step = max(1, len(rows) * _BLOCK_BYTES // max(num_bytes, 1))
    for start in range(0, max(len(rows), 1), step):
        part = slice(start, min(start + step, len(rows)))
        timeline = content.timeline
        yield rows[part], Spans(timeline.array[part]) if isinstance(timeline, Spans) else timeline


def _facts(row: Row, columns: Sequence[str]) -> ItemFacts:
    stated = [name for name in columns if row.values[name].strip()]
    try:
        fps = parse_fps(row.values["fps"].strip()) if "fps" in stated else None
    except OptionError:
        raise row.problem("fps", row.values["fps"], "frames per second, such as 25 or 30000/1001") from None
    duration_s = row.number("duration_s") if "duration_s" in stated else None
    if duration_s is not None and duration_s <= 0:
        raise row.problem("duration_s", row.values["duration_s"], "seconds above 0")
    width_px, height_px = (row.integer(name) if name in stated else None for name in ("width_px", "height_px"))
    return ItemFacts(fps=fps, duration_s=duration_s, width_px=width_px, height_px=height_px)
