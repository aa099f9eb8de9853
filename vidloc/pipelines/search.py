"""Search over a store: from what a person asks to moments, with or without an index; and building indexes.

A query is an excerpt of an item, one row, a file, or a text. Its rows are normalised, averaged and compared by cosine
with every row of one stream.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vidloc.core.grammar import Excerpt
from vidloc.core.timeline import Span
from vidloc.errors import OptionError, StoreError, StreamNotFoundError, did_you_mean
from vidloc.retrieval.exact import ExactSearch, Searcher
from vidloc.retrieval.index_meta import built_types
from vidloc.retrieval.moments import Excluded, Moment, find_moments
from vidloc.retrieval.vectors import FIELD, Vectors, pooled, read_vectors, row_table, searchable_spec
from vidloc.stores.base import FeatureStore, StreamSpec, open_store

Method = Literal["exact", "flat", "sq16", "hnsw", "ivfpq"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class RowQuery:
    """One row of an item."""

    item_id: str
    row: int


@dataclass(frozen=True)
class FileQuery:
    """A video or sound file outside the store, the whole of it."""

    path: Path


@dataclass(frozen=True)
class TextQuery:
    """A sentence, for streams of kind text and for pictures in a common space with sentences (CLIP, MIL-NCE)."""

    text: str


Query = Excerpt | RowQuery | FileQuery | TextQuery
_END_SLACK_S = 0.5  # a video's last row may stop a little before its end


@dataclass(frozen=True)
class Answer:
    """A moment, with the sentence it was annotated with in text streams."""

    item_id: str
    start_s: float | None
    end_s: float | None
    score: float
    best_row: int
    num_rows: int
    key: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """What was asked, what was searched, and what was found.

    Attributes:
        query: the question in words.
        searched: what the stream is made of, in words: a search over narrations has not looked at pixels.
        method: exact, or which index.
        notes: what one should know before trusting the answers.
    """

    store: str
    stream: str
    query: str
    searched: str
    method: str
    num_rows: int
    num_items: int
    answers: tuple[Answer, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return asdict(self)


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        k: moments wanted.
        method: `None` takes the most exact index there is, or exact search without one.
        include_self: let the query's own rows be answers.
        encoder: see `query_encoding.encoder_of`.
    """

    k: int = 10
    method: Method | None = None
    include_self: bool = False
    encoder: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class _Asked:
    """A query as a vector."""

    vector: Vectors
    words: str
    excluded: Excluded = lambda _item, _row: False
    notes: tuple[str, ...] = field(default=())


def search(
    store_path: str | Path, query: Query, *, stream: str | None = None, options: SearchOptions | None = None
) -> SearchResult:
    """The best moments of one stream for a query.

    Raises:
        StreamNotFoundError: no such stream or item, or a text for a stream that no sentence can be compared with.
        StoreError: the index is damaged or stale.
        OptionError: several streams could be meant, or the query names no row.
        WeightsError, ProvenanceError, MediaError: a file or text cannot be encoded as the stream was.
    """
    options = options or SearchOptions()
    if options.k < 1:
        raise OptionError(f"at least one answer must be asked for, got {options.k}.")
    with open_store(store_path) as store:
        spec = choose_stream(store, query, stream)
        searcher = _searcher(store, spec.name, options.method)
        asked = _asked(store, spec, query, options)
        moments = find_moments(
            store,
            spec.name,
            searcher,
            asked.vector,
            options.k,
            excluded=asked.excluded,
            joined="key" not in spec.fields,
        )
        answers = tuple(_answer(store, spec, moment) for moment in moments)
        return SearchResult(
            store=str(store_path),
            stream=spec.name,
            query=asked.words,
            searched=_searched(spec, query),
            method=searcher.method,
            num_rows=searcher.table.num_rows,
            num_items=len(searcher.table.items),
            answers=answers,
            notes=(*asked.notes, *_notes(spec)),
        )


def choose_stream(store: FeatureStore, query: Query, name: str | None) -> StreamSpec:
    """The stream to search: the one named, else the only one that fits the query.

    Raises:
        StreamNotFoundError: none fits.
        OptionError: several fit; they are listed.
    """
    specs = store.streams()
    texts = [s for s, spec in specs.items() if spec.kind == "text" and FIELD in spec.fields]
    others = [s for s, spec in specs.items() if spec.kind != "text" and FIELD in spec.fields]
    if isinstance(query, TextQuery):
        paired = [s for s in others if "text_encoder" in specs[s].preprocessing]
        return _text_stream(store, [*texts, *paired], name)
    if name is not None:
        return searchable_spec(store, name)
    fitting = others or texts
    if len(fitting) != 1:
        what = "has several streams" if fitting else "has no stream with vectors"
        raise OptionError(f"{store.path} {what}; choose one with --stream: {', '.join(fitting) or '(none)'}.")
    return searchable_spec(store, fitting[0])


def _text_stream(store: FeatureStore, fitting: list[str], name: str | None) -> StreamSpec:
    if name is not None and name not in fitting:
        kind = store.streams()[name].kind if name in store.streams() else None
        what = "is not in this store" if kind is None else f"is made of {kind}, not of sentences"
        raise StreamNotFoundError(
            f"stream {name!r} of {store.path} {what}; --text searches text streams, and pictures by an encoder that "
            f"has a text side (clip_image). This store has: {', '.join(fitting) or 'none'}."
        )
    if not fitting:
        raise StreamNotFoundError(
            f"{store.path} has no text stream, nor pictures that a text can be compared with. "
            "Extract the narrations first: vidloc extract ... --encoder text (or the pictures: --encoder clip_image)"
        )
    if name is None and len(fitting) > 1:
        raise OptionError(
            f"{store.path} has several streams that a text can be compared with; choose one with --stream: "
            f"{', '.join(fitting)}."
        )
    return searchable_spec(store, name or fitting[0])


def _searcher(store: FeatureStore, stream: str, method: Method | None) -> Searcher:
    if method is None:
        built = built_types(store.path, stream)
        method = built[0] if built else "exact"
    if method == "exact":
        table = row_table(store, stream)
        if table.num_rows == 0:
            raise StoreError(f"stream {stream!r} of {store.path} has no rows to search; extract some items first.")
        return ExactSearch(store, stream, table)
    from vidloc.retrieval.index_files import open_index

    return open_index(store, stream, method)


def _asked(store: FeatureStore, spec: StreamSpec, query: Query, options: SearchOptions) -> _Asked:
    match query:
        case Excerpt():
            return _excerpt(store, spec, query, options)
        case RowQuery():
            num_rows = _num_rows(store, spec.name, query.item_id)
            if not 0 <= query.row < num_rows:
                raise OptionError(f"item {query.item_id!r} has rows 0 to {num_rows - 1}, there is no row {query.row}.")
            rows = np.array([query.row])
            words = f"row {query.row} of {query.item_id}"
            return _rows_asked(store, spec, query.item_id, rows, None, words, options)
    # Encoders bring torch; a search by excerpt does without.
    from vidloc.pipelines.query_encoding import encoder_of, file_vectors, text_encoder_of, text_vectors

    if isinstance(query, TextQuery):
        sentences = text_encoder_of(spec, replacement=options.encoder, device=options.device)
        return _Asked(pooled(text_vectors(query.text, sentences)), f"the text {query.text!r}")
    encoder = encoder_of(spec, replacement=options.encoder, device=options.device)
    if encoder.rows is None:
        raise OptionError(f"stream {spec.name!r} is made of sentences, a file has none. Ask with --text.")
    vectors, damage = file_vectors(query.path, encoder)
    notes = (f"{query.path} is damaged, only what decodes was used: {damage}",) if damage else ()
    return _Asked(pooled(vectors), f"the file {query.path} ({len(vectors)} rows)", notes=notes)


def _excerpt(store: FeatureStore, spec: StreamSpec, query: Excerpt, options: SearchOptions) -> _Asked:
    num_rows = _num_rows(store, spec.name, query.item_id)
    if query.span is None:
        every = np.arange(num_rows)
        return _rows_asked(store, spec, query.item_id, every, None, f"all of {query.item_id}", options)
    timeline = store.timeline(spec.name, query.item_id)
    if timeline is None:
        raise OptionError(f"rows of stream {spec.name!r} have no times; ask with --row {query.item_id}:K.")
    spans = timeline.spans(num_rows)
    start, end = query.span
    if start >= spans[:, 1].max() or end <= spans[:, 0].min():
        raise OptionError(
            f"{start:g}-{end:g} s lies outside item {query.item_id!r}, whose rows cover "
            f"{spans[:, 0].min():.2f}-{spans[:, 1].max():.2f} s."
        )
    rows = np.arange(num_rows)[timeline.rows_centered_in(query.span, num_rows)]
    if not len(rows):
        rows = np.array([timeline.nearest_row(query.span.center_s, num_rows)])
    words = f"{query.item_id} from {start:g} to {end:g} s ({len(rows)} row{'s' if len(rows) > 1 else ''})"
    asked = _rows_asked(store, spec, query.item_id, rows, query.span, words, options)
    last = float(spans[:, 1].max())
    if end <= last + _END_SLACK_S:
        return asked
    note = f"rows of {query.item_id!r} end at {last:.2f} s; nothing after that is part of the query."
    return replace(asked, notes=(*asked.notes, note))


def _rows_asked(
    store: FeatureStore,
    spec: StreamSpec,
    item_id: str,
    rows: np.ndarray[Any, np.dtype[np.int64]],
    span: Span | None,
    words: str,
    options: SearchOptions,
) -> _Asked:
    """A query made of rows of an item, which are left out of the answers with all rows that share their time."""
    first, last = int(rows.min()), int(rows.max())
    vectors, counts = read_vectors(store, spec, item_id, slice(first, last + 1))
    wanted = np.repeat(np.isin(np.arange(first, last + 1), rows), counts)
    if not wanted.any():
        raise OptionError(f"{words}: no row there holds a vector of stream {spec.name!r}.")
    vector = pooled(vectors[wanted])
    if options.include_self:
        return _Asked(vector, words)
    own = set(rows.tolist())
    timeline, num_rows = store.timeline(spec.name, item_id), _num_rows(store, spec.name, item_id)
    if timeline is not None:
        spans = timeline.spans(num_rows)
        times = span or Span(float(spans[rows, 0].min()), float(spans[rows, 1].max()))
        own |= set(np.arange(num_rows)[timeline.rows_in(times, num_rows)].tolist())
    return _Asked(vector, words, lambda item, row: item == item_id and row in own)


def _num_rows(store: FeatureStore, stream: str, item_id: str) -> int:
    entry = store.entry(stream, item_id)
    if entry is not None and entry.num_rows:
        return entry.num_rows
    if entry is not None:
        raise StreamNotFoundError(
            f"item {item_id!r} has no rows in stream {stream!r}: {entry.status}, {entry.reason or 'without a reason'}."
        )
    if "@" in item_id and store.entry(stream, item_id.rpartition("@")[0]) is not None:
        raise OptionError(f"{item_id!r} is no excerpt: write ITEM@START-END in seconds, such as @12.0-14.5.")
    close = did_you_mean(item_id, store.items(stream)[:10_000]).split(" Known: ")[0]
    hint = close if close.startswith("Did") else f"'vidloc store info {store.path}' lists what it has."
    raise StreamNotFoundError(f"stream {stream!r} of {store.path} has no item {item_id!r}. {hint}")


def _answer(store: FeatureStore, spec: StreamSpec, moment: Moment) -> Answer:
    said: dict[str, str] = {}
    wanted = [name for name in ("key", "text") if name in spec.fields]
    if wanted:
        rows = store.read(spec.name, moment.item_id, slice(moment.best_row, moment.best_row + 1))
        said = {name: rows.strings(name)[0] for name in wanted}
    return Answer(
        item_id=moment.item_id,
        start_s=None if moment.span is None else moment.span.start_s,
        end_s=None if moment.span is None else moment.span.end_s,
        score=moment.score,
        best_row=moment.best_row,
        num_rows=len(moment.rows),
        key=said.get("key"),
        text=said.get("text"),
    )


def _searched(spec: StreamSpec, query: Query) -> str:
    made = f"by {spec.encoder}" if spec.encoder else "by an encoder that the store does not name"
    if spec.kind == "text":
        return f"narrations, not pixels: sentences of the annotations, encoded {made}"
    what = {"clip": "pictures", "audio": "sound", "objects": "detected regions"}.get(
        spec.kind, f"rows of kind {spec.kind}"
    )
    said = f"{what}, encoded {made}"
    if isinstance(query, TextQuery):
        return (
            f"{said}; not narrations: the text was encoded by {spec.preprocessing['text_encoder']}, in the same space"
        )
    return said


def _notes(spec: StreamSpec) -> tuple[str, ...]:
    if spec.weights_sha256.startswith("random:"):
        return (f"the encoder of stream {spec.name!r} is untrained ({spec.weights_sha256}): answers mean little.",)
    return ()
