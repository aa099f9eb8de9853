"""Random ragged rows on both backends, with NumPy as the oracle: any pieces, any items, any order of commits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import CLIP, GRID, OBJECTS, clip_rows, object_rows, same_rows, spans

from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans
from vidloc.stores.base import append_to_store, create_store, open_store

_PIECE = st.tuples(st.sampled_from(["a", "b/c", "ü"]), st.lists(st.integers(0, 4), max_size=5))
_STEPS = st.lists(st.one_of(_PIECE, st.sampled_from(["commit", "reopen", "discard", "flush"])), max_size=14)


@pytest.mark.parametrize("name", ["feats.zarr", "feats.h5"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, chunk=st.sampled_from([64, 2**20]))
def test_any_history_reads_as_numpy_says(name, steps, chunk):
    waiting: dict[str, list[tuple[Rows, Rows]]] = {}
    expected: dict[str, tuple[Rows, Rows]] = {}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        from vidloc.stores.format import chunk_rows

        patch.setitem(chunk_rows.__kwdefaults__, "target", chunk)
        patch.setattr("vidloc.stores.hdf5_file._CHUNK_BYTES", chunk)
        patch.setattr("vidloc.stores.pending.MEMORY_BYTES", 300)
        path = Path(folder) / name
        writer = create_store(path)
        writer.add_stream(CLIP)
        writer.add_stream(OBJECTS)
        for number, step in enumerate(steps):
            if step == "reopen":
                writer.close()
                waiting.clear()
                writer = append_to_store(path)
            elif step == "flush":
                writer.flush()
            elif step in ("commit", "discard"):
                for item, pieces in waiting.items():
                    getattr(writer, step)(item)
                    if step == "commit":
                        first, second = zip(*pieces, strict=True)
                        expected[item] = Rows.concatenated(first), Rows.concatenated(second)
                waiting.clear()
            else:
                item, counts = step
                pair = clip_rows(len(counts), number), object_rows(counts, number)
                writer.write("clip", item, pair[0], GRID)
                writer.write("objects", item, pair[1], spans(len(counts)))
                waiting.setdefault(item, []).append(pair)
        _check(writer, expected)
        before = writer.digest()
        _check(open_store(path), expected)
        writer.close()
        store = open_store(path)
        _check(store, expected)
        assert store.digest() == before


def _check(store, expected):
    assert store.items() == sorted(expected)
    for item, (clip, objects) in expected.items():
        assert same_rows(store.read("clip", item), clip, CLIP)
        assert same_rows(store.read("objects", item), objects, OBJECTS)
        assert isinstance(store.timeline("objects", item), Spans)
        for first in range(0, len(objects), 2):
            rows = slice(first, first + 3)
            part = objects[rows]
            assert same_rows(store.read("objects", item, rows), part, OBJECTS)
            out = np.empty_like(part.fields["boxes"])
            assert np.array_equal(store.read_field("objects", item, "boxes", rows, out=out), part.fields["boxes"])
        assert store.recomputed_digest("objects", item) == store.entry("objects", item).digest
