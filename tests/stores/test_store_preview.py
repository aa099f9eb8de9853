"""The first rows of an item, as people are shown them."""

from __future__ import annotations

import numpy as np
import pytest
from store_samples import CLIP, FREE, GRID, OBJECTS, SPECS, clip_rows, fill

from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans
from vidloc.errors import StreamNotFoundError
from vidloc.stores.base import create_store
from vidloc.stores.preview import head_of


@pytest.fixture
def filled(store_path):
    with create_store(store_path) as writer:
        for spec in (CLIP, OBJECTS.model_copy(update={"vocabulary": ("cup", "tap")}), FREE):
            writer.add_stream(spec)
        fill(writer, "P01_01", 5)
        labels = np.array([1, 0, 9], np.int32)
        regions = Rows(
            1,
            {
                "boxes": np.arange(12, dtype=np.float32).reshape(3, 4),
                "labels": labels,
                "image": np.ones((1, 2, 3), np.float32),
                "key": np.frombuffer(b"le robinet\x1b[2J", np.uint8),
            },
            {"regions": np.array([3]), "bytes": np.array([14])},
            {"boxes": "regions", "labels": "regions", "key": "bytes"},
        )
        writer.write("objects", "P01_02", regions, Spans(np.array([(1.0, 2.5)])))
        writer.mark("clip", "P01_02", "failed", "no frames")
        writer.commit("P01_01")
        writer.commit("P01_02")
    return store_path


def test_rows_come_with_their_times_and_first_numbers(filled):
    clip = head_of(filled, "P01_01", num_rows=2).streams["clip"]
    assert (clip.status, clip.num_rows, len(clip.rows)) == ("done", 5, 2)
    start, end = (float(time) for time in GRID.span(1))
    assert clip.rows[1].span_s == (start, end)
    shown = clip.rows[1].fields["features"]
    assert shown.shape == (6,)
    assert shown.values == tuple(clip_rows(5).fields["features"].astype(np.float16)[1].tolist())


def test_boxes_classes_and_texts_are_readable(filled):
    found = head_of(filled, "P01_02")
    assert found.streams["clip"].reason == "no frames"
    assert list(found.streams) == ["clip", "objects"]
    [row] = found.streams["objects"].rows
    assert row.span_s == (1.0, 2.5)
    assert row.fields["boxes"].values == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert row.fields["labels"].values == (1, 0, 9)
    assert row.fields["labels"].names == ("tap", "cup", "?")
    assert row.fields["key"].text == "le robinet [2J"  # nothing that would steer a terminal


def test_an_unknown_item_or_stream_is_named_with_the_nearest(filled):
    with pytest.raises(StreamNotFoundError, match=r"no item 'P01_1'\. Did you mean P01_0[12]\?"):
        head_of(filled, "P01_1")
    with pytest.raises(StreamNotFoundError, match="no stream 'clips'"):
        head_of(filled, "P01_01", ["clips"])
    with pytest.raises(StreamNotFoundError, match=r"stream 'free' of .* has no item 'P01_02'; it was never tried"):
        head_of(filled, "P01_02", ["free"])


def test_more_rows_than_there_are_is_all_of_them(filled):
    assert [len(stream.rows) for stream in head_of(filled, "P01_01", num_rows=99).streams.values()] == [5] * len(SPECS)
