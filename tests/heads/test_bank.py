"""The bank against naive reads: the same rows in every batch, resident or streamed, pooled or not."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from vidloc.core.records import Segment
from vidloc.core.rows import Rows
from vidloc.core.timeline import Span, center_grid
from vidloc.heads.bank import Bank
from vidloc.heads.base import RowBatch, Sample
from vidloc.heads.sampling import FramesAround, SegmentRows

GRID = center_grid(1, Fraction(1, 2))
LENGTHS = {"a": 30, "b": 12, "c": 40}
FRAMES = FramesAround(window_s=3, rate_hz=2, top=2)


class Reader:
    """Rows that name themselves: item and row number can be read off the values."""

    def __init__(self):
        self.reads = 0
        random = np.random.default_rng(0)
        self.regions = {item: random.integers(0, 5, size=n) for item, n in LENGTHS.items()}
        self.scores = {item: random.random(int(c.sum())).astype(np.float32) for item, c in self.regions.items()}

    def expect(self, role, items):
        pass

    def keys(self, role, item_id):
        return None

    def timeline(self, role, item_id):
        return GRID, LENGTHS[item_id]

    def rows(self, role, item_id):
        self.reads += 1
        count = LENGTHS[item_id]
        base = 100.0 * sorted(LENGTHS).index(item_id)
        if role == "objects":
            counts = self.regions[item_id]
            total = int(counts.sum())
            fields = {
                "features": (base + np.arange(total, dtype=np.float32))[:, None] + np.zeros(3, np.float32),
                "boxes": np.arange(4 * total, dtype=np.float32).reshape(-1, 4),
                "scores": self.scores[item_id],
            }
            return Rows(count, fields, {"regions": counts.astype(np.int64)}, dict.fromkeys(fields, "regions"))
        return Rows.dense(features=(base + np.arange(count))[:, None].astype(np.float16) * np.ones(2, np.float16))


def samples() -> list[Sample]:
    found = []
    for k, (item, start, end) in enumerate(
        [("a", 0.0, 3.0), ("c", 5.0, 5.1), ("a", 9.0, 14.0), ("b", 1.0, 2.0), ("c", 0.0, 19.0), ("b", 5.0, 9.0)]
    ):
        span = Span(start, end)
        found.append(Sample(item, span, (Segment(item_id=item, span=span, labels={"verb": k}, id=str(k)),)))
    return found


def made_bank(sampling, **options) -> Bank:
    return Bank(samples(), sampling, Reader(), tasks=("verb",), **options)


def by_id(bank: Bank, size: int, seed=None):
    """Everything a bank serves, by sample, without padding."""
    found = {}
    for batch in bank.batches(size, seed=seed):
        for k, sample in enumerate(batch.samples):
            assert int(batch.labels["verb"][k]) == int(sample.id)
            rows = {role: part.features[k][part.mask[k]].numpy() for role, part in batch.rows.items()}
            spans = {role: part.spans[k][part.mask[k]].numpy() for role, part in batch.rows.items()}
            found[sample.id] = (rows, spans, batch)
    return found


@pytest.mark.parametrize("size", [1, 4, 6])
@pytest.mark.parametrize("memory", [0, 1])
@pytest.mark.parametrize("seed", [None, (0, 3)])
def test_batches_hold_the_rows_that_a_plain_read_gives(size, memory, seed):
    rule, reader = SegmentRows("overlap"), Reader()
    served = by_id(made_bank({"verb": rule}, memory_bytes=memory), size, seed)
    assert sorted(served) == ["0", "1", "2", "3", "4", "5"]
    for sample in samples():
        rows, spans, _ = served[sample.id]
        pick = rule.index(GRID, LENGTHS[sample.item_id], sample.span)
        expected = reader.rows("verb", sample.item_id).fields["features"][pick]
        np.testing.assert_array_equal(rows["verb"], expected.astype(np.float32))
        np.testing.assert_allclose(spans["verb"], GRID.spans(LENGTHS[sample.item_id])[pick])


def test_padding_is_zero_and_masked():
    batch = next(made_bank({"verb": SegmentRows("center")}).batches(6))
    rows = batch.rows["verb"]
    assert rows.features.dtype == torch.float32
    assert (rows.features[~rows.mask] == 0).all()
    assert (rows.spans[~rows.mask] == 0).all()
    assert rows.mask.sum(1).tolist() == [6, 1, 10, 2, 38, 2]


def test_packed_rows_are_the_real_rows_of_each_sample_in_turn():
    rows = next(made_bank({"verb": SegmentRows("center")}).batches(6)).rows["verb"]
    packed, features = rows.packed, rows.features
    assert rows.counts.tolist() == [6, 1, 10, 2, 38, 2]
    assert packed.dtype == torch.float32
    torch.testing.assert_close(packed, features[rows.mask], rtol=0, atol=0)
    again = RowBatch(features, rows.mask, rows.spans)
    torch.testing.assert_close(again.packed, packed, rtol=0, atol=0)
    with pytest.raises(ValueError, match="padded or packed"):
        RowBatch(None, rows.mask, rows.spans)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_packed_rows_passes_gradients_to_them(dtype):
    packed = torch.arange(6, dtype=dtype).view(3, 2).requires_grad_()
    mask = torch.tensor([[True, False], [True, True]])
    features = RowBatch(None, mask, torch.zeros(2, 2, 2), packed=packed).features
    assert features.tolist() == [[[0, 1], [0, 0]], [[2, 3], [4, 5]]]
    (features[1] * 3).sum().backward()
    assert packed.grad is not None
    assert packed.grad.tolist() == [[0, 0], [3, 3], [3, 3]]


@pytest.mark.parametrize(("pool", "join"), [("mean", np.mean), ("max", np.max)])
def test_pooled_rows_are_joined_once(pool, join):
    served = by_id(made_bank({"verb": SegmentRows("center", pool)}), 2)
    plain = by_id(made_bank({"verb": SegmentRows("center")}), 2)
    for key, (rows, spans, _) in served.items():
        np.testing.assert_allclose(rows["verb"][0], join(plain[key][0]["verb"], axis=0), rtol=1e-6)
        assert spans["verb"][0].tolist() == [plain[key][1]["verb"][0, 0], plain[key][1]["verb"][-1, 1]]


@pytest.mark.parametrize("memory", [0, 1])
def test_regions_are_the_most_confident_of_each_frame(memory):
    reader = Reader()
    for batch in made_bank({"objects": FRAMES}, memory_bytes=memory).batches(4):
        regions = batch.regions["objects"]
        assert regions.features.shape[1:] == (FRAMES.num_slots, 3)
        assert regions.slot[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        for k, sample in enumerate(batch.samples):
            frames = FRAMES.index(GRID, LENGTHS[sample.item_id], sample.span)
            rows = reader.rows("objects", sample.item_id)
            expected = []
            for frame in frames:
                entries = rows.entries("features")[frame] if frame >= 0 else np.empty((0, 3))
                order = np.argsort(-rows.entries("scores")[frame])[: FRAMES.top] if frame >= 0 else []
                kept = list(entries[order]) if len(order) else []
                expected += kept + [None] * (FRAMES.top - len(kept))
            for slot, wanted in enumerate(expected):
                assert bool(regions.mask[k, slot]) is (wanted is not None)
                np.testing.assert_array_equal(regions.features[k, slot], 0 if wanted is None else wanted)


def test_roles_are_served_side_by_side():
    bank = made_bank({"verb": SegmentRows("center", "mean"), "noun": SegmentRows("center"), "objects": FRAMES})
    batch = next(bank.batches(3))
    assert sorted(batch.rows) == ["noun", "verb"]
    assert sorted(batch.regions) == ["objects"]


def test_order_follows_the_seed_alone():
    bank = made_bank({"verb": SegmentRows()})

    def order(seed):
        return [sample.id for batch in bank.batches(4, seed=seed) for sample in batch.samples]

    assert order(None) == ["0", "1", "2", "3", "4", "5"]
    assert order((0, 1)) == order((0, 1))
    assert len({tuple(order((0, epoch))) for epoch in range(8)}) > 1


def test_rows_are_read_once_where_they_fit():
    reader = Reader()
    bank = Bank(samples(), {"verb": SegmentRows()}, reader)
    for _ in range(3):
        assert sum(len(batch) for batch in bank.batches(2)) == 6
    assert reader.reads == len(LENGTHS)


def test_what_does_not_fit_is_streamed_and_said():
    said = []
    bank = made_bank({"verb": SegmentRows()}, memory_bytes=1, notice=said.append)
    assert not bank.resident
    assert len(said) == 1
    assert "do not fit" in said[0]
    assert "streamed item by item" in said[0]


@pytest.mark.parametrize("memory", [0, 1])
@pytest.mark.parametrize("role", ["verb", "objects"])
def test_moments_are_those_of_the_rows_used(role, memory):
    sampling = {"verb": SegmentRows("center"), "objects": FRAMES}
    bank = made_bank(sampling, memory_bytes=memory)
    rows, reader = [], Reader()
    for item, length in LENGTHS.items():
        picks = [sampling[role].index(GRID, length, s.span) for s in samples() if s.item_id == item]
        used = np.unique(np.concatenate(picks))
        if role == "verb":
            rows.append(reader.rows(role, item).fields["features"][used].astype(np.float64))
            continue
        read = reader.rows(role, item)
        for frame in used[used >= 0]:
            order = np.argsort(-read.entries("scores")[frame])[: FRAMES.top]
            rows.append(read.entries("features")[frame][order].astype(np.float64))
    values = np.concatenate(rows)
    mean, deviation = bank.moments(role)
    np.testing.assert_allclose(mean.numpy(), values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation.numpy(), values.std(0), rtol=1e-5)


def test_a_constant_dimension_has_no_deviation():
    class Constant(Reader):
        def rows(self, role, item_id):
            return Rows.dense(features=np.full((LENGTHS[item_id], 2), 1000.1, np.float32))

    _, deviation = Bank(samples(), {"verb": SegmentRows()}, Constant()).moments("verb")
    assert deviation.tolist() == [0, 0]
