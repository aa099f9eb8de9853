"""One training from several stores: rows are joined by item id and time, and what has no partner is listed."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from vidloc.core.records import Segment
from vidloc.core.timeline import Span, TimeGrid
from vidloc.heads.bank import Bank
from vidloc.heads.base import Sample
from vidloc.heads.sampling import SegmentRows
from vidloc.pipelines.streams import Match, StoreRows
from vidloc.pipelines.train import TrainPlan, train
from vidloc.stores.base import append_to_store, open_store
from vidloc.testing.planted import make_recognition

LATE_ROWS = 6


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """All streams but one, and that one with other items first, each begun later, and one missing."""
    folder = tmp_path_factory.mktemp("stores")
    planted = make_recognition(folder, num_training=3, num_held_out=1)
    first, second = folder / "motion.zarr", folder / "looks.zarr"
    with open_store(planted.store) as source, append_to_store(first) as one, append_to_store(second) as other:
        one.add_stream(source.streams()["motion"])
        other.add_stream(source.streams()["looks"])
        for item in source.items():
            one.write("motion", item, source.read("motion", item), source.timeline("motion", item))
            one.set_info(source.info(item))
            one.commit(item)
        for item in reversed(source.items()[1:]):
            grid = source.timeline("looks", item)
            late = TimeGrid(grid.window_s, grid.stride_s, grid.start_s + LATE_ROWS * grid.stride_s)
            other.write("looks", item, source.read("looks", item)[LATE_ROWS:], late)
            other.commit(item)
    return planted, first, second


def batch_of(stack, paths, samples):
    opened = [stack.enter_context(open_store(path)) for path in paths]
    streams = {name: store for store in opened for name in store.streams()}
    match = Match({role: (streams[role], streams[role].streams()[role]) for role in ("motion", "looks")}, ())
    bank = Bank(samples, {"motion": SegmentRows(), "looks": SegmentRows()}, StoreRows(match))
    return next(bank.batches(len(samples)))


def test_rows_are_joined_by_item_and_time_and_never_by_number(stores):
    planted, first, second = stores
    with open_store(first) as store:
        spans = [Span(4.0, 6.5), Span(10.25, 12.0)]
        samples = [
            Sample(item, span, (Segment(item_id=item, span=span),)) for item in store.items()[1:] for span in spans
        ]
    with ExitStack() as stack:
        joined = batch_of(stack, [first, second], samples)
        whole = batch_of(stack, [planted.store], samples)
    for role in ("motion", "looks"):
        assert torch.equal(joined.rows[role].features, whole.rows[role].features)
        assert torch.equal(joined.rows[role].spans, whole.rows[role].spans)
    centers = joined.rows["looks"].spans.mean(-1)[joined.rows["looks"].mask]
    assert np.array_equal(centers, joined.rows["motion"].spans.mean(-1)[joined.rows["motion"].mask])


def test_what_has_no_partner_is_listed_with_the_reason(stores, tmp_path):
    planted, first, second = stores
    plan = TrainPlan(
        head="sapnet",
        stores=(str(first), str(second)),
        dataset="epic",
        annotations=planted.annotations,
        options={"variant": "cnn_baseline", "epochs": 1},
        streams={"verb": "motion", "noun": "looks"},
    )
    lacking = train(plan, tmp_path / "run").record.splits["train"].lacking
    reasons = {lack.reason for lack in lacking if lack.item_id == "P01_01"}
    assert reasons == {"stream 'looks' has no item 'P01_01'"}
    assert sum(lack.item_id == "P01_01" for lack in lacking) == 7
    # The stream begins 3 s into each video: the first segment, up to 2.75 s, has rows in one role only.
    early = [lack for lack in lacking if lack.item_id != "P01_01"]
    assert [lack.item_id for lack in early] == ["P02_01", "P03_01"]
    assert all("for role noun cover" in lack.reason for lack in early)
