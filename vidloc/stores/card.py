"""A store's card: a README for people who get the store and have never heard of us.

What it is, from which videos, by which weights and under which licence, how to cite it, and how to load it with
zarr, h5py or vidloc in five lines. Everything in it is read from the store; texts from there are shown as text only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vidloc.core.records import ItemInfo, Status
from vidloc.stores.base import FeatureStore, StreamSpec, open_store
from vidloc.stores.facts import StoreFacts, StreamFacts, facts_of
from vidloc.stores.format import one_line
from vidloc.stores.tables import STATUSES, WITH_ROWS

_MOST_LISTED = 10
_FEW_SECONDS = 360  # below, hours would have no digits left
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")


def card_of(path: str | Path) -> str:
    """The card in Markdown.

    Raises:
        StoreError: no store there, or a damaged one.
    """
    facts = facts_of(path)
    with open_store(path) as store:
        lines = [*_title(facts), *_streams(facts), *_videos(store), *_origins(facts), *_terms(facts)]
        return "\n".join([*lines, *_loading(store, facts), ""])


def _title(facts: StoreFacts) -> Iterator[str]:
    name = Path(facts.path).name
    yield f"# {_text(name)}"
    yield ""
    yield (
        f"Features of {facts.num_items:,} items in {len(facts.streams)} streams: a feature store of vidloc, format 1, "
        f"as {'a Zarr folder' if facts.backend == 'zarr' else 'an HDF5 file'}."
    )
    yield ""
    yield f"Content id: `{facts.digest}`. Equal rows have an equal id; `vidloc store verify {_code(name)}` proves them."
    if any(stream.random_weights for stream in facts.streams):
        yield ""
        yield "**Some streams come from networks that were never trained (random weights). They are for tests only.**"


def _streams(facts: StoreFacts) -> Iterator[str]:
    yield from ("", "## Streams", "", "| stream | kind | items | rows | window and stride | fields |")
    yield "| --- | --- | ---: | ---: | --- | --- |"
    for stream in facts.streams:
        fields = ", ".join(f"`{name}{field}`" for name, field in stream.spec.fields.items())
        counts = f"{stream.num_items:,} | {stream.num_rows:,}"
        yield f"| {stream.spec.name} | {stream.spec.kind} | {counts} | {stream.times} | {fields} |"


def _videos(store: FeatureStore) -> Iterator[str]:
    infos = [store.info(item) for item in store.items()]
    yield from ("", "## Items", "")
    shown = ", ".join(f"`{_code(info.item_id)}`" for info in infos[:_MOST_LISTED])
    yield f"{len(infos):,} items{_hours(infos)}: {shown}{', ...' if len(infos) > _MOST_LISTED else ''}"
    for status in STATUSES[1:]:
        found = [(name, item) for name in store.streams() for item in _of_status(store, name, status)]
        if found:
            named = ", ".join(f"{name} of `{_code(item)}`" for name, item in found[:_MOST_LISTED])
            more = ", ..." if len(found) > _MOST_LISTED else ""
            yield from ("", f"{status.capitalize()}: {len(found):,}: {named}{more}")


def _of_status(store: FeatureStore, stream: str, status: Status) -> list[str]:
    return [item for item, entry in store.entries(stream).items() if entry.status == status]


def _hours(infos: list[ItemInfo]) -> str:
    known = [info.duration_s for info in infos if info.duration_s is not None]
    if not known:
        return ", of durations not stated"
    rest = f" ({len(infos) - len(known):,} of durations not stated)" if len(known) < len(infos) else ""
    total = sum(known)
    return f", {f'{total / 3600:.2f} hours' if total >= _FEW_SECONDS else f'{total:.4g} s'}{rest}"


def _origins(facts: StoreFacts) -> Iterator[str]:
    yield from ("", "## Where the rows come from")
    for stream in facts.streams:
        yield from ("", f"### {stream.spec.name}", "")
        yield from (f"- {line}" for line in _origin(stream))


def _origin(stream: StreamFacts) -> Iterator[str]:
    spec = stream.spec
    yield f"Encoder: {_text(spec.encoder) or 'not stated'} {_text(spec.encoder_version)}".rstrip()
    if stream.random_weights:
        yield f"Weights: RANDOM ({_text(spec.weights_sha256)}); the network was never trained"
    else:
        yield f"Weights: {_text(spec.weights) or 'not stated'}" + (
            f", sha256 `{_code(spec.weights_sha256)}`" if spec.weights_sha256 else ""
        )
    yield f"Licence of code or weights, as published: {_text(spec.source.licence) or 'not stated'}"
    if spec.source.paper:
        yield f"Paper: {_text(spec.source.paper)}"
    if spec.source.code:
        yield f"Code: {_text(spec.source.code)} {_text(spec.source.commit)}".rstrip()
    if spec.source.differs:
        yield f"Differs from it: {_text(spec.source.differs)}"
    for title, values in (("Sampling", spec.sampling), ("Options", spec.options), ("Preparation", spec.preprocessing)):
        if values:
            yield f"{title}: {'; '.join(f'{_text(key)} {_text(str(value))}' for key, value in values.items())}"
    for name, digest in spec.parents.items():
        yield f"Made of the stream {_text(name)}, whose content id was `{_code(digest)}`"


def _terms(facts: StoreFacts) -> Iterator[str]:
    papers = sorted({stream.spec.source.paper for stream in facts.streams if stream.spec.source.paper})
    yield from ("", "## Licence and citation", "")
    yield (
        "The licences above are those of code and weights; the videos have terms of their own, which also bind what is "
        "computed from them."
    )
    yield ""
    yield "Cite the videos' authors" + (
        " and:" if papers else ", and the networks' authors (the store names no paper)."
    )
    yield from (f"- {_text(paper)}" for paper in papers)
    yield from ("", f"In a paper, name the content id: `{facts.digest}`.")


def _loading(store: FeatureStore, facts: StoreFacts) -> Iterator[str]:
    found = _example(store)
    if found is None:
        return
    spec, field = found
    name, item = Path(facts.path).name, store.items(spec.name)[0]
    yield from ("", "## Loading", "", "With vidloc:", "", "```python", "from vidloc import open_store", "")
    yield f"store = open_store({name!r})"
    yield f"rows = store.read_field({spec.name!r}, {item!r}, {field!r})"
    times = "" if spec.timeline == "none" else f", store.timeline({spec.name!r}, {item!r}).spans(len(rows))[:3]"
    yield from (f"print(rows.shape{times})", "```", "")
    yield f"With plain {'zarr' if facts.backend == 'zarr' else 'h5py'}:"
    yield from ("", "```python")
    opened = f"zarr.open_group({name!r}, mode='r')" if facts.backend == "zarr" else f"h5py.File({name!r})"
    yield from (f"import {'zarr' if facts.backend == 'zarr' else 'h5py'}", "", f"root = {opened}")
    yield f"stream, ids = root['streams/{spec.name}'], bytes(root['items/id'][:]).decode().split('\\n')[:-1]"
    yield f"entry = [k for k, item in enumerate(stream['table/item'][:]) if ids[item] == {item!r}][-1]"
    yield "first, count = int(stream['table/first_row'][entry]), int(stream['table/num_rows'][entry])"
    yield from (f"print(stream[{field!r}][first : first + count].shape)", "```", "")
    yield "The format is documented in docs/store_format.md of vidloc."


def _example(store: FeatureStore) -> tuple[StreamSpec, str] | None:
    """A stream with rows, and a dense field of it."""
    for spec in store.streams().values():
        dense = [name for name, field in spec.fields.items() if field.axis is None]
        if dense and any(entry.status in WITH_ROWS for entry in store.entries(spec.name).values()):
            return spec, "features" if "features" in dense else dense[0]
    return None


def _text(value: str) -> str:
    return _MARKDOWN.sub(r"\\\1", one_line(value))


def _code(value: str) -> str:
    """For between backticks, which cannot be escaped there."""
    return one_line(value).replace("`", "'")
