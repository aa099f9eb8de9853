"""From what a store's root says to its tables and arrays in memory, the same for both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from vidloc.errors import StoreError
from vidloc.stores.base import StreamSpec
from vidloc.stores.format import ArrayLayout, Root, check_item_id, item_arrays, stream_arrays, table_arrays
from vidloc.stores.packed import PackedArray
from vidloc.stores.reading import Contents, Part, StreamState
from vidloc.stores.tables import Commit, ItemTable, StreamTable, split_texts

MakeArray = Callable[[str, ArrayLayout, str], PackedArray]

# Of texts looked at together; damage is found before all of a column is in memory.
_BLOCK_BYTES = 16 * 1024**2


@dataclass
class Catalog:
    """The validated description of a store.

    Attributes:
        root: versions and entry counts.
        specs: streams by name.
        layouts: all arrays by their path in the store (`streams/i3d/features`).
    """

    root: Root
    specs: dict[str, StreamSpec] = field(default_factory=dict)
    layouts: dict[str, ArrayLayout] = field(default_factory=dict)


def arrays_of_items() -> dict[str, ArrayLayout]:
    """Paths and types of the arrays that every store has."""
    return {f"items/{name}": layout for name, layout in item_arrays().items()}


def arrays_of_stream(spec: StreamSpec) -> dict[str, ArrayLayout]:
    """Paths and types of all arrays of one stream."""
    rows = {f"streams/{spec.name}/{name}": layout for name, layout in stream_arrays(spec).items()}
    table = {f"streams/{spec.name}/table/{name}": layout for name, layout in table_arrays(spec).items()}
    return rows | table


def load_contents(catalog: Catalog, commits: Iterable[Commit], make_array: MakeArray, *, store: str) -> Contents:
    """Read the tables of a store, and then what was committed since they were written.

    Args:
        make_array: opens an array by its path, layout and name in messages.
        store: what the user calls the store.

    Raises:
        StoreError: tables and arrays contradict each other, or bytes are missing.
    """
    arrays = {path: make_array(path, layout, f"{_title(path)} in {store}") for path, layout in catalog.layouts.items()}
    items = _load_items(catalog, arrays, store)
    contents = Contents([items])
    for name, spec in catalog.specs.items():
        table = _load_table(catalog, spec, items, arrays, store)
        prefix = f"streams/{name}/"
        rows = {path.removeprefix(prefix): array for path, array in arrays.items() if path.startswith(prefix)}
        contents.streams[name] = StreamState(spec, [Part(table, rows)])
    for commit in commits:
        apply_commit(contents, commit, store=store)
    return contents


def apply_commit(contents: Contents, commit: Commit, *, store: str) -> None:
    """Add a commit to the newest tables.

    Raises:
        StoreError: it speaks of a stream that the store lacks or of rows of others, or its id is none.
    """
    check_item_id(commit.item_id)
    contents.items[-1].add(commit.item_id, commit.info)
    for name, entry in commit.streams.items():
        if name not in contents.streams:
            raise StoreError(f"{store} is damaged: its journal has rows of {name!r}, a stream that the root lacks.")
        table = contents.streams[name].parts[-1].table
        if entry.num_rows and entry.first_row < table.num_rows:
            raise StoreError(
                f"{store} is damaged: its journal gives item {commit.item_id!r} rows of {name!r} that others have."
            )
        table.add(commit.item_id, entry)


def _load_items(catalog: Catalog, arrays: Mapping[str, PackedArray], store: str) -> ItemTable:
    texts = {
        name: _texts(
            arrays[f"items/{name}"],
            catalog.root.items,
            where=f"column items/{name} of {store}",
            are_json=name == "facts",
        )
        for name in ("id", "facts")
    }
    return ItemTable(texts["id"], texts["facts"])


def _load_table(
    catalog: Catalog, spec: StreamSpec, items: ItemTable, arrays: Mapping[str, PackedArray], store: str
) -> StreamTable:
    where = f"table of stream {spec.name!r} in {store}"
    prefix = f"streams/{spec.name}/"
    count = catalog.root.streams[spec.name]
    # Texts first: so many entries have their line breaks on the disk, and no hole or claim makes the columns longer.
    reasons = _texts(arrays[f"{prefix}table/reason"], count, where=f"{where}: column reason")
    columns = {}
    for name in table_arrays(spec):
        layout = catalog.layouts[f"{prefix}table/{name}"]
        if name == "reason":
            continue
        if layout.length != count:
            raise StoreError(f"{where}: column {name} has {layout.length} entries, expected {count}.")
        columns[name] = arrays[f"{prefix}table/{name}"].view(0, count)
    index = columns.pop("item")
    if count and not 0 <= int(index.min()) <= int(index.max()) < len(items):
        raise StoreError(f"{where}: an entry refers to an item that the store lacks.")
    try:
        table = StreamTable([items.ids[k] for k in index.tolist()], columns, reasons)
    except StoreError as error:
        raise StoreError(f"{where}: {error}") from None
    for name in stream_arrays(spec):
        dense = name not in spec.fields or spec.fields[name].axis is None
        if dense and table.num_rows > catalog.layouts[prefix + name].length:
            raise StoreError(
                f"{where} refers to {table.num_rows} rows, array {name} has {catalog.layouts[prefix + name].length}."
            )
    return table


def _texts(array: PackedArray, count: int, *, where: str, are_json: bool = False) -> list[str]:
    pieces = array.pieces(0, array.layout.length)
    blocks = (piece[start : start + _BLOCK_BYTES] for piece in pieces for start in range(0, len(piece), _BLOCK_BYTES))
    return split_texts(blocks, count, where=where, are_json=are_json)


def _title(path: str) -> str:
    group, _, rest = path.partition("/")
    if group == "items":
        return f"column {rest!r} of the items"
    stream, _, name = rest.partition("/")
    return f"stream {stream!r}, array {name!r}"
