"""The Zarr v3 backend: a folder that any Zarr client reads.

The root's metadata, replaced in one step at each fold, states all that was true at that moment; the journal it names
adds the commits since. A reader takes both, and so sees one consistent state while a writer appends.
"""

from __future__ import annotations

import time
from pathlib import Path

from vidloc.errors import StoreError
from vidloc.stores.catalog import Catalog, arrays_of_items, arrays_of_stream, load_contents
from vidloc.stores.confined import read_inside
from vidloc.stores.format import (
    MAX_DOCUMENT_BYTES,
    METADATA_NAME,
    SPEC_ATTRIBUTE,
    STORE_ATTRIBUTE,
    ArrayLayout,
    check_name,
    inside,
    parse_json,
    parse_root,
    parse_spec,
)
from vidloc.stores.journal import read_journal
from vidloc.stores.mapped import FilePool
from vidloc.stores.packed import ChunkedArray, PackedArray
from vidloc.stores.reading import Contents, LocalReader

_ATTEMPTS = 20


class ZarrStore(LocalReader):
    """A Zarr store open for reading."""

    backend = "zarr"

    def load(self) -> Contents:
        """Tables as of the last fold, and the journal that the root named at that moment."""
        return load_folder(self._path, self._pool, store=self._path)


def load_folder(path: Path, pool: FilePool, *, store: Path) -> Contents:
    """Tables and arrays of a folder.

    Args:
        pool: keeps its files open.
        store: what the user calls the store.

    Raises:
        StoreError: it is no store of vidloc's, or damaged.
        FormatVersionError: it is that of a newer version.
    """

    def make_array(name: str, layout: ArrayLayout, where: str) -> PackedArray:
        return ChunkedArray(path / name, layout, pool, where=where, root=path)

    for attempt in range(_ATTEMPTS):
        catalog = read_catalog(path)
        try:
            commits = read_journal(path / catalog.root.journal)
        except FileNotFoundError:  # folded since the root was read: the new root names another journal
            time.sleep(0.01 * attempt)
            continue
        return load_contents(catalog, commits, make_array, store=str(store))
    raise StoreError(f"store {store} is damaged: its journal {catalog.root.journal} is missing.")


def read_catalog(path: Path) -> Catalog:
    """What the root of a Zarr store says, validated.

    Raises:
        StoreError: it is no store of vidloc's, or damaged.
        FormatVersionError: it is that of a newer version.
    """
    where = f"store {path}"
    try:
        data = read_inside(path / METADATA_NAME, path, limit=MAX_DOCUMENT_BYTES)
    except StoreError:
        raise
    except FileNotFoundError:
        raise StoreError(f"{where} is not there: {path / METADATA_NAME} does not exist.") from None
    except OSError as error:
        raise StoreError(f"{where} cannot be read: {error}.") from error
    return parse_catalog(data, where=where)


def parse_catalog(data: bytes, *, where: str) -> Catalog:
    """What the bytes of a root say, validated.

    Raises:
        StoreError: they are those of no store of vidloc's, or damaged.
        FormatVersionError: of a newer version.
    """
    document = parse_json(data, where=f"{where}, {METADATA_NAME}")
    root = parse_root(inside(document, "attributes", STORE_ATTRIBUTE), where=where)
    members = inside(document, "consolidated_metadata", "metadata")
    if not isinstance(members, dict):
        raise StoreError(f"{where} is damaged: its root lacks the consolidated metadata of its arrays.")
    catalog = Catalog(root)
    expected = arrays_of_items()
    for name in root.streams:
        check_name(name, where=where)
        document = inside(members.get(f"streams/{name}"), "attributes", SPEC_ATTRIBUTE)
        catalog.specs[name] = parse_spec(document, name=name, where=where)
        expected |= arrays_of_stream(catalog.specs[name])
    for array, layout in expected.items():
        catalog.layouts[array] = ArrayLayout.from_metadata(members.get(array), layout, where=f"{where}, array {array}")
    return catalog
