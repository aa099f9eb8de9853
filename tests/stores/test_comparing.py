"""Two stores compared by digest."""

from __future__ import annotations

from store_samples import CLIP, FREE, GRID, SPECS, clip_rows, fill

from vidloc.stores.base import append_to_store, create_store
from vidloc.stores.comparing import diff


def make(path, items, specs=SPECS):
    with create_store(path) as writer:
        for spec in specs:
            writer.add_stream(spec)
        for item in items:
            fill(writer, item)
            writer.commit(item)
    return path


def test_the_same_rows_in_another_backend_are_the_same(tmp_path):
    found = diff(make(tmp_path / "a.zarr", "ab"), make(tmp_path / "b.h5", "ba"))
    assert found.is_same
    assert found.digests[0] == found.digests[1]
    assert {name: stream.num_same for name, stream in found.streams.items()} == {"clip": 2, "free": 2, "objects": 2}


def test_every_difference_is_named(store_path, tmp_path):
    first, second = make(store_path, "abc"), make(tmp_path / "other.zarr", "bcd")
    with append_to_store(second) as writer:
        writer.write("clip", "b", clip_rows(5, seed=9), GRID)
        writer.mark("clip", "e", "failed", "no frames")
        writer.add_stream(FREE.model_copy(update={"name": "more"}))
        writer.commit("b")
        writer.commit("e")
    found = diff(first, second)
    clip = found.streams["clip"]
    assert (clip.num_same, clip.differing, clip.only_first, clip.only_second) == (1, ("b",), ("a",), ("d",))
    assert found.streams["objects"].differing == ()
    assert found.streams["more"].origin == ("the first store has no such stream",)
    assert diff(second, first).streams["more"].origin == ("the second store has no such stream",)
    assert not found.is_same


def test_another_origin_is_a_difference_though_rows_are_equal(tmp_path):
    other = CLIP.model_copy(update={"weights_sha256": "random:2", "versions": {"numpy": "1"}})
    found = diff(make(tmp_path / "a.zarr", "a"), make(tmp_path / "b.zarr", "a", (other, *SPECS[1:])))
    assert found.streams["clip"].origin == ("weights_sha256 'random:1' and 'random:2'",)
    assert found.digests[0] == found.digests[1]
    assert not found.is_same
