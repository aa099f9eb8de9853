"""Stores to search: rows of a few directions with noise, so that neighbours are known."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import TimeGrid
from vidloc.errors import StreamNotFoundError
from vidloc.stores.base import ItemEntry, StreamSpec

GRID = TimeGrid(Fraction(1), Fraction(1, 2), Fraction(-1, 4))


class MemoryStore:  # until the backends land
    backend = "memory"

    def __init__(self, path):
        self.path = str(path)
        self._specs, self._data = {}, {}

    def add_stream(self, spec):
        self._specs[spec.name] = spec

    def write(self, stream, item_id, rows, timeline, *, extent=None):
        self._data.setdefault(stream, {})[item_id] = (rows, timeline, extent)

    def commit(self, item_id):
        pass

    def streams(self):
        return self._specs

    def items(self, stream=None):
        return sorted(self._data.get(stream, {}), key=str.encode)

    def entry(self, stream, item_id):
        return self.entries(stream).get(item_id)

    def entries(self, stream):
        if stream not in self._specs:
            raise StreamNotFoundError(f"no stream {stream}")
        found = {}
        for item, (rows, _, extent) in self._data.get(stream, {}).items():
            digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in rows.fields.values()))
            found[item] = ItemEntry("done", len(rows), digest.hexdigest(), "", extent)
        return found

    def timeline(self, stream, item_id):
        return self._data[stream][item_id][1]

    def read(self, stream, item_id, rows=None):
        found = self._data[stream][item_id][0]
        return found if rows is None else found[rows]

    def read_field(self, stream, item_id, field="features", rows=None, out=None):
        return self.read(stream, item_id, rows).fields[field]


@pytest.fixture
def grid():
    """Windows of a second, every half second."""
    return GRID


@pytest.fixture
def clip_spec():
    return _clip_spec


@pytest.fixture
def clustered():
    return _clustered


def _clip_spec(name="clips", dim=16, **more):
    fields = {"features": FieldSpec(row_shape=(dim,), dtype="float16")}
    return StreamSpec(name=name, kind="clip", fields=fields, encoder="made_up", **more)


def _clustered(num_rows, dim, seed, clusters=50):
    """Rows around a few directions, varying along a few more: what features of neighbouring windows look like."""
    generator, shared = np.random.default_rng(seed), np.random.default_rng(99)
    centers, varying = shared.standard_normal((clusters, dim)), shared.standard_normal((3, dim))
    rows = centers[generator.integers(0, clusters, num_rows)] + 0.5 * generator.standard_normal((num_rows, 3)) @ varying
    return rows.astype(np.float16)


@pytest.fixture
def new_store(tmp_path):
    return lambda name="feats.zarr": MemoryStore(tmp_path / name)


@pytest.fixture
def store(new_store):
    """Three items of 40, 3 and 25 rows."""
    writer = new_store()
    writer.add_stream(_clip_spec())
    for seed, (item, count) in enumerate({"a": 40, "b/c": 3, "d@1": 25}.items()):
        writer.write("clips", item, Rows.dense(features=_clustered(count, 16, seed)), GRID, extent=(0.0, count / 2))
        writer.commit(item)
    return writer
