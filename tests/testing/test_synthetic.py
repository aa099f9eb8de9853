"""The made-up corpus: real media files that show, sound and say what their annotations state, again and again."""

from __future__ import annotations

import csv
import gzip
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidloc.testing.synthetic import MadeSet, make_set
from vidloc.testing.synthetic_annotations import timestamp
from vidloc.testing.synthetic_videos import LOOKS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeSet:
    return make_set(tmp_path_factory.mktemp("made"), num_training=1, num_held_out=1)


def labels(made: MadeSet) -> list[dict[str, str]]:
    with (made.annotations / "EPIC_train_action_labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pictures(path: Path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([f.to_ndarray(format="rgb24") for f in frames]).astype(np.int32), [f.time for f in frames]


def test_files_lie_in_the_official_layout_and_end_with_their_scenes(made):
    for video in made.videos:
        assert video.path == made.root / "videos" / "train" / video.video_id[:3] / f"{video.video_id}.MP4"
        with av.open(str(video.path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert container.streams.audio[0].codec_context.name == "aac"
            assert container.duration / 1e6 == pytest.approx(float(video.duration_s), abs=0.05)
            assert container.streams.video[0].average_rate == video.form.fps
    assert [v.video_id for v in made.held_out] == ["P26_01"]


def test_segments_show_the_colour_and_the_motion_they_are_labelled_with(made):
    strongest = {"ball": {0}, "box": {2}, "star": {0, 1}}  # channels; the star is green and yellow
    for video in made.videos:
        frames, times = pictures(video.path)
        start_s = 0.0
        for scene in video.scenes:
            inside = [k for k, t in enumerate(times) if start_s <= t < start_s + float(scene.duration_s)]
            clip = frames[inside]
            coloured = np.ptp(clip, axis=-1) > 90
            assert np.median(clip[coloured].argmax(axis=-1)) in strongest[scene.noun]
            area = coloured.sum(axis=(1, 2))
            shown = np.flatnonzero(area > 20)
            if scene.verb == "blink":
                assert 0.3 < 1 - len(shown) / len(area) < 0.7
            elif scene.verb == "grow":
                assert area[-1] > 10 * max(area[1], 1)
            else:
                centre = [np.nonzero(coloured[k])[1].mean() for k in (shown[2], shown[-3])]
                assert centre[1] - centre[0] > 60
            start_s += float(scene.duration_s)


def test_the_note_follows_the_noun(made):
    video = made.training[0]
    with av.open(str(video.path)) as container:
        rate = container.streams.audio[0].rate
        track = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    for k, scene in enumerate(video.scenes):
        first, stop = (int(rate * 2 * (k + share)) for share in (0.6, 0.95))
        spectrum = np.abs(np.fft.rfft(track[first:stop] * np.hanning(stop - first)))
        loudest_hz = spectrum.argmax() * rate / (stop - first)
        assert loudest_hz == pytest.approx(LOOKS[scene.noun].pitch_hz, rel=0.04)


def test_annotations_name_every_scene_in_the_official_columns(made, shared):
    official = shared / "data" / "epic55"
    for path in made.annotations.iterdir():
        theirs = official / path.name
        text = theirs.read_bytes() if theirs.exists() else gzip.decompress((official / f"{path.name}.gz").read_bytes())
        with path.open(newline="") as file:
            assert next(csv.reader(file)) == next(csv.reader(io.StringIO(text.decode()))), path.name
    rows = labels(made)
    scenes = [(v.video_id, s) for v in made.videos for s in v.scenes]
    assert [(r["video_id"], r["verb"], r["noun"]) for r in rows] == [(i, s.verb, s.noun) for i, s in scenes]
    assert rows[1]["start_timestamp"] == "00:00:02.00"
    assert rows[1]["narration"].startswith(f"{scenes[1][1].verb} the ")


def test_the_same_seed_makes_the_same_files_and_another_seed_others(tmp_path, made):
    again = make_set(tmp_path / "again", num_training=1, num_held_out=0)
    other = make_set(tmp_path / "other", seed=1, num_training=1, num_held_out=0)
    assert again.training[0].path.read_bytes() == made.training[0].path.read_bytes()
    assert labels(again) == [row for row in labels(made) if row["video_id"] == "P01_01"]
    assert other.training[0].scenes != made.training[0].scenes


@pytest.mark.parametrize(
    ("seconds", "digits", "text"), [(0, 2, "00:00:00.00"), (3661.5, 2, "01:01:01.50"), (59.9996, 3, "00:00:59.999")]
)
def test_timestamps_are_cut_off_not_rounded(seconds, digits, text):
    assert timestamp(Fraction(seconds), digits=digits) == text
