"""Stores to search: rows of a few directions with noise, so that neighbours are known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import TimeGrid
from vidloc.stores.base import StreamSpec, create_store

GRID = TimeGrid(Fraction(1), Fraction(1, 2), Fraction(-1, 4))


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
    """Makes stores open for writing, which also read what is committed."""
    opened = []

    def make(name="feats.zarr"):
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        opened.append(create_store(folder / name))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(new_store):
    """Three items of 40, 3 and 25 rows."""
    writer = new_store()
    writer.add_stream(_clip_spec())
    for seed, (item, count) in enumerate({"a": 40, "b/c": 3, "d@1": 25}.items()):
        writer.write("clips", item, Rows.dense(features=_clustered(count, 16, seed)), GRID, extent=(0.0, count / 2))
        writer.commit(item)
    return writer
