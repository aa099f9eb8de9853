"""Labels of rows, mining and losses of SF-Net: the specification's worked numbers (its acceptance checks)."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from vidloc.core.records import Point, Segment
from vidloc.core.timeline import Span, TimeGrid
from vidloc.errors import OptionError
from vidloc.heads.row_counts import RowCounts, conversion, converted
from vidloc.heads.single_frame_clips import Clips, cropped, drawn_clips
from vidloc.heads.single_frame_labels import (
    item_random,
    point_counts,
    row_borders,
    segment_counts,
    simulated_counts,
)
from vidloc.heads.single_frame_losses import actionness_loss, frame_loss, mined_rows, top_means, video_loss
from vidloc.heads.single_frame_mining import grown


def borders(num_rows, fps):
    """Rows of 16 frames each, one after the other, as the paper's."""
    seconds = TimeGrid(Fraction(16, fps), Fraction(16, fps))
    return row_borders(seconds.spans(num_rows))


def point(time_s, label=0):
    return Point(item_id="v", time_s=time_s, labels={"label": label})


def segment(start, end, label=0):
    return Segment(item_id="v", span=Span(start, end), labels={"label": label})


@pytest.mark.parametrize(
    ("fps", "time_s", "row"),
    [
        (25, 68.900356, 107),
        (25, 87.533185, 136),
        (15, 1.547714, 1),
        (15, 7.322291, 6),
        (30, 11.584469, 21),
        (30, 16.735412, 31),
    ],
)
def test_rows_of_times(fps, time_s, row):
    assert np.flatnonzero(point_counts([point(time_s)], borders(200, fps), "label", 1)).tolist() == [row]


def test_every_time_belongs_to_the_row_of_the_published_rule():
    edges = borders(60, 25)
    for row in range(60):
        at_start = point_counts([point(row * 16 / 25)], edges, "label", 1)
        assert np.flatnonzero(at_start).tolist() == [row]


def test_times_beyond_the_rows_count_nowhere_and_repeats_are_kept():
    edges = borders(5, 25)
    assert not point_counts([point(3.2), point(60)], edges, "label", 1).any()
    counts = point_counts([point(0.1, 0), point(0.2, 0), point(0.3, 1)], edges, "label", 2)
    assert counts[0].tolist() == [2, 1]


def test_full_labels():
    edges = borders(200, 25)
    assert np.flatnonzero(segment_counts([segment(67.5, 75.9)], edges, "label", 1)).tolist() == list(range(105, 118))
    assert np.flatnonzero(segment_counts([segment(1.0, 1.4)], edges, "label", 1)).tolist() == [1, 2]
    assert segment_counts([segment(1.0, 9.0), segment(2.0, 3.0)], edges, "label", 1).max() == 1


def test_simulated_rows_lie_in_the_segment_and_where_annotators_pause():
    edges, segments = borders(200, 25), [segment(10.0, 42.0)]
    first, last = 10 / 0.64, 42 / 0.64
    for where in ("random", "center", "annotator_like"):
        rows = [
            int(
                np.flatnonzero(simulated_counts(segments, edges, "label", 1, where=where, random=item_random(k, "v")))[
                    0
                ]
            )
            for k in range(300)
        ]
        assert math.floor(first) <= min(rows) <= max(rows) < last
        position = np.mean([(row + 0.5 - first) / (last - first) for row in rows])
        expected = {"random": 0.5, "center": 0.5, "annotator_like": 0.3575}[where]  # mean of the tenths' middles
        assert position == pytest.approx(expected, abs=0.05)
    again = [simulated_counts(segments, edges, "label", 1, where="random", random=item_random(3, "v")) for _ in "ab"]
    assert (again[0] == again[1]).all()


def test_rows_that_go_back_are_refused():
    with pytest.raises(OptionError, match="rows in order of time"):
        row_borders(np.array([[0.0, 1], [2, 3], [1, 2]]))
    assert row_borders(np.array([[0.5, 1.5]])).tolist() == [0.5, 1.5]


def test_numbers_of_rows_at_another_stride():
    paper = RowCounts(3, 750, 2800, 2)
    assert converted(paper, 0.64, 0.32, way="convert") == RowCounts(6, 1500, 5600, 4)
    assert converted(paper, 0.64, 0.64, way="refuse") == paper
    assert converted(paper, 0.64, 0.1, way="keep") == paper
    assert converted(RowCounts(0, 1, 1, 1), 0.1, 5.0, way="convert") == RowCounts(0, 1, 1, 1)
    with pytest.raises(OptionError, match=r"rows are 0\.1 s apart, .* meant for 0\.64 s"):
        converted(paper, 0.64, 0.1, way="refuse")
    said = conversion(paper, converted(paper, 0.64, 0.32, way="convert"), 0.64, 0.32)
    assert "radius 3 to 6, crop 750 to 1500, crop_even 2800 to 5600, min_rows 2 to 4" in said


def grow(columns, anchors, *, radius, ratio=0.95, rule="release"):
    """Labelled rows by class after mining; `anchors` are rows by class."""
    scores = np.array(columns, dtype=np.float64).T
    counts = np.zeros(scores.shape, dtype=np.int64)
    for row, label in anchors.items():
        counts[row, label] = 1
    result = grown(scores, counts, radius=radius, ratio=ratio, rule=rule)
    assert (result[list(anchors)] == counts[list(anchors)]).all()
    assert (grown(scores, counts, radius=radius, ratio=ratio, rule=rule) == result).all()
    assert (grown(scores, counts, radius=0, ratio=ratio, rule=rule) == counts).all()
    return {int(row): int(label) for row, label in zip(*np.nonzero(result), strict=True)}


HILL = [0.1, 1, 1.91, 1.96, 2, 1.95, 1.5, 1.92, 0]
FLAT = [0] * 8 + [1]


def test_growing_by_the_released_rule():
    assert list(grow([HILL, FLAT], {4: 0}, radius=3)) == [2, 3, 4, 5]
    assert list(grow([HILL, [-1] * 9], {4: 0}, radius=3)) == [2, 3, 4, 5, 7]
    assert list(grow([HILL, [-1] * 9], {4: 0}, radius=3, ratio=0.7)) == [2, 3, 4, 5, 6, 7]
    assert list(grow([HILL, FLAT], {4: 0}, radius=2)) == [2, 3, 4, 5]


def test_growing_by_the_papers_rule():
    assert list(grow([HILL, [-1] * 9], {4: 0}, radius=3, rule="paper")) == [2, 3, 4, 5]


def test_agreement_on_a_wrong_class_passes_in_the_release_alone():
    columns = [[0, 1.95, 1.95, 2, 1.95, 1.95, 0], [5, 5, 5, 1, 5, 5, 5]]
    assert grow(columns, {3: 0}, radius=3) == {1: 0, 2: 0, 3: 0, 4: 0, 5: 0}
    assert grow(columns, {3: 0}, radius=3, rule="paper") == {3: 0}


def test_growing_from_a_negative_score_is_stricter():
    assert list(grow([[-5, -1, -0.96, -1, -0.94, -1.02, -5], [-9] * 7], {3: 0}, radius=3)) == [3, 4]


def test_growing_at_the_ends_and_beside_other_labels():
    assert list(grow([[2] * 5, [0] * 5], {1: 0}, radius=3)) == [1, 2, 3]
    both = grow([[2] * 9, [0] * 9], {2: 0, 5: 1}, radius=3)
    assert both == {1: 0, 2: 0, 3: 0, 4: 0, 5: 1, 6: 1, 7: 1}


def frame(columns, labelled, *, classes=2, ratio=7.0):
    """Frame loss of one clip of K = classes + 1 outputs, weighted as released; `labelled` are shares by row."""
    logits = torch.tensor(columns, dtype=torch.float64).T.unsqueeze(0)
    targets = torch.zeros(1, logits.shape[1], classes, dtype=torch.float64)
    for row, shares in labelled.items():
        targets[0, row] = torch.tensor(shares, dtype=torch.float64)
    mask = torch.ones(logits.shape[:2], dtype=torch.bool)
    return float(frame_loss(logits, targets, mask, ratio=ratio, weight=1 / (classes + 1))), logits, targets, mask


def test_losses_of_equal_logits():
    value, logits, targets, mask = frame([[0.0] * 8] * 3, {2: [1.0, 0.0]})
    assert value == pytest.approx(math.log(3) * 4 / 3, abs=1e-6)
    assert float(video_loss(logits, targets, mask)) == pytest.approx(1.098612, abs=1e-6)
    action = actionness_loss(logits[..., 0], targets, mask, ratio=7, negatives="hardest", bounded=True)
    assert float(action) == pytest.approx(1.384296, abs=1e-6)
    assert 3 * (value + 1.098612 + float(action)) == pytest.approx(11.843175, abs=1e-5)


def test_video_loss():
    columns = torch.tensor([[0.0] * 10, list(range(10)), [5.0] + [1.0] * 9], dtype=torch.float64).T.unsqueeze(0)
    mask = torch.ones(1, 10, dtype=torch.bool)
    assert top_means(columns, mask)[0].tolist() == [0, 8.5, 3]
    targets = torch.zeros(1, 10, 2, dtype=torch.float64)
    targets[0, 3, 0] = 1
    assert float(video_loss(columns, targets, mask)) == pytest.approx(0.0042810, abs=1e-6)
    targets[0, 5, 1] = 1
    assert float(video_loss(columns, targets, mask)) == pytest.approx(2.7542810, abs=1e-6)
    padded = [torch.nn.functional.pad(x, (0, 0, 0, 20)) for x in (columns, targets)]
    longer = torch.nn.functional.pad(mask, (0, 20))
    assert float(video_loss(*padded, longer)) == pytest.approx(2.7542810, abs=1e-6)


def test_background_is_mined_where_its_logit_is_highest():
    background, zeros = [0.1, 3, 9, -1, 2, 0.5], [0.0] * 6
    value, logits, targets, mask = frame([background, zeros, zeros], {2: [1.0, 0.0]}, ratio=2)
    mined = mined_rows(logits[..., 0], targets.sum(-1) > 0, mask, ratio=2, negatives="hardest")
    assert mined[0].nonzero().flatten().tolist() == [1, 4]
    assert value == pytest.approx(9.055991, abs=1e-6)


def test_actionness_by_both_choices_of_negatives():
    scores = torch.tensor([[0.0, 4, 1, -2, 3, -1]], dtype=torch.float64)
    targets, mask = torch.zeros(1, 6, 1, dtype=torch.float64), torch.ones(1, 6, dtype=torch.bool)
    targets[0, 2] = 1
    common = {"ratio": 2, "bounded": True}
    hardest = actionness_loss(scores, targets, mask, negatives="hardest", **common)
    assert float(hardest) == pytest.approx(3.809141, abs=3e-6)
    assert float(actionness_loss(scores, targets, mask, negatives="last", **common)) == pytest.approx(
        1.983069, abs=1e-6
    )
    exact = actionness_loss(scores, targets, mask, ratio=2, bounded=False, negatives="hardest")
    naive = math.log1p(math.exp(-1)) + (math.log1p(math.exp(4)) + math.log1p(math.exp(3))) / 2
    assert float(exact) == pytest.approx(naive, abs=1e-9)


def test_quotas_follow_from_the_clip_and_candidates_from_clips_with_a_quota():
    labelled = torch.zeros(3, 10, dtype=torch.bool)
    labelled[0, :4] = labelled[1, :2] = labelled[2, :1] = True
    scores, mask = torch.zeros(3, 10), torch.ones(3, 10, dtype=torch.bool)
    scores[2] = 9
    mined = mined_rows(scores, labelled, mask, ratio=0.5, negatives="hardest")
    assert int(mined.sum()) == 3
    assert not mined[2].any()


def test_mining_is_pooled_over_the_batch():
    labelled = torch.zeros(2, 6, dtype=torch.bool)
    labelled[:, 0] = True
    scores = torch.zeros(2, 6)
    scores[1, 2:4] = 5
    mined = mined_rows(scores, labelled, torch.ones(2, 6, dtype=torch.bool), ratio=1, negatives="hardest")
    assert mined[1].nonzero().flatten().tolist() == [2, 3]
    assert not mined[0].any()


def test_two_classes_at_a_row_share_its_loss():
    columns = [[0.0], [1.0], [3.0]]
    both, first, second = (frame(columns, {0: shares})[0] for shares in ([0.5, 0.5], [1.0, 0.0], [0.0, 1.0]))
    assert both == pytest.approx((first + second) / 2)


def made_clips(lengths, labelled):
    """Clips whose only feature is the number of the row, with a label at one row of each."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    rows = torch.arange(max(lengths), dtype=torch.float32).expand(len(lengths), -1)
    targets = torch.zeros(*mask.shape, 1)
    for clip, row in enumerate(labelled):
        targets[clip, row] = 1
    features = torch.stack([rows, torch.arange(len(lengths)).unsqueeze(1).expand_as(rows)], dim=-1) * mask.unsqueeze(-1)
    return Clips({"rgb": features}, mask, targets)


@pytest.mark.parametrize(("to_end", "last"), [(True, 6), (False, 5)])
def test_crops_start_anywhere_and_stay_aligned(to_end, last):
    whole, random, starts = made_clips([10, 3], [5, 1]), np.random.default_rng(0), set()
    for _ in range(200):
        crop = cropped(whole, 4, random, to_end=to_end)
        rows = crop.features["rgb"][0, :, 0]
        assert (rows.diff() == 1).all()
        starts.add(int(rows[0]))
        assert (crop.targets[0, :, 0] == (rows == 5)).all()
        assert crop.mask.sum(dim=1).tolist() == [4, 3]
        assert crop.features["rgb"][1, :, 0].tolist() == [0, 1, 2, 0]
    assert starts == set(range(last + 1))


def test_batches_hold_labelled_crops_of_different_items():
    whole = made_clips([30, 30, 4, 30, 30], [3, 20, 1, 29, 0])

    def items(seed):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(5))
        for part in order.split(2):
            yield Clips({"rgb": whole.features["rgb"][part]}, whole.mask[part], whole.targets[part])

    sizes = set()
    for number in range(50):
        clips = drawn_clips(items, 10, num_clips=3, seed=(0, number), to_end=True)
        assert (clips.targets.sum(dim=(1, 2)) > 0).all()
        names = [int(features[mask, 1][-1]) for features, mask in zip(clips.features["rgb"], clips.mask, strict=True)]
        assert len(set(names)) == len(names) <= 3
        assert bool(clips.mask[:, -1].any())
        sizes.add(len(names))
    assert 3 in sizes


def test_crops_that_never_reach_a_label_are_an_error():
    whole = made_clips([30], [29])
    with pytest.raises(OptionError, match="no crop of 10 rows holds a labelled one"):
        drawn_clips(lambda _: iter([whole]), 10, num_clips=1, seed=(0, 0), to_end=False)
