"""Layouts of rows through the real decoding of made videos: which frames each row shows, and when it is."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import write_video

from vidloc.core.timeline import Spans, TimeGrid
from vidloc.core.windows import Windows
from vidloc.errors import OptionError, ProvenanceError
from vidloc.extract.base import ClipInput, FrameInput, FrameSize
from vidloc.extract.frames import PlannedRows, VideoPass
from vidloc.extract.track_times import track_times
from vidloc.pipelines.extract import Selection, extract, plan_extraction
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.pipelines.extraction.layout import Layout, layout_for, words_of
from vidloc.pipelines.extraction.recipes import RECIPES
from vidloc.stores.base import open_store

DATA = Path(__file__).parent.parent / "data"
COVER = Windows(TimeGrid(Fraction(1), Fraction(1, 10)), "cover")
FRAME_NUMBERS, LOUDNESS = str(DATA / "frame_numbers.py"), str(DATA / "loudness.py")


def write_numbered(
    path: Path, num_frames: int, *, fps: Fraction = Fraction(30), ticks_ms: list[int] | None = None
) -> Path:
    """A lossless video whose frames hold their own number: the last three bits in each of three bands."""
    container = av.open(str(path), "w")
    video = container.add_stream("ffv1", rate=fps)
    video.width, video.height, video.pix_fmt = 48, 16, "bgr0"
    if ticks_ms is not None:
        video.codec_context.time_base = Fraction(1, 1000)
    for number in range(num_frames):
        bands = [number // 64 % 8, number // 8 % 8, number % 8]
        picture = np.repeat(np.repeat(np.array(bands, np.uint8) * 32 + 16, 16)[None, :, None], 16, axis=0)
        frame = av.VideoFrame.from_ndarray(np.repeat(picture, 3, axis=2), format="rgb24")
        frame.pts, frame.time_base = (number, 1 / fps) if ticks_ms is None else (ticks_ms[number], Fraction(1, 1000))
        container.mux(video.encode(frame))
    container.mux(video.encode(None))
    container.close()
    return path


def laid_out(path: Path, words: str, tmp_path: Path) -> tuple[list[list[int]], object]:
    """Frame numbers that each row shows, and the timeline of the rows."""
    selection = Selection(dataset=open_dataset("folder"), root=path.parent, patterns=[path.name])
    store = tmp_path / f"s{len(list(tmp_path.glob('*.zarr')))}.zarr"
    report = extract(store, [f"frames={FRAME_NUMBERS}:weights=random:0,{words}"], selection)
    assert not report.failures, report.lines()
    with open_store(store) as opened:
        if path.name not in opened.items("frames"):
            return [], None
        rows = opened.read_field("frames", path.name).astype(int)
        return rows.tolist(), opened.timeline("frames", path.name)


def runs(*starts: int, length: int = 32) -> list[list[int]]:
    return [list(range(start, start + length)) for start in starts]


@pytest.fixture(scope="module")
def hundred(tmp_path_factory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("made") / "hundred.mkv", 100)


class TestStart:
    """Acceptance check 18: 100 frames at 30 fps, windows of 32, stride 16."""

    WORDS = "num_frames=32,align=start,window=32/30,stride=16/30"

    def test_drop(self, hundred, tmp_path):
        rows, timeline = laid_out(hundred, f"{self.WORDS},tail=drop", tmp_path)
        assert rows == runs(0, 16, 32, 48, 64)
        assert timeline == TimeGrid(Fraction(32, 30), Fraction(16, 30))

    def test_backpad(self, hundred, tmp_path):
        rows, timeline = laid_out(hundred, "num_frames=32,align=start,rate=30,stride=16f,tail=backpad", tmp_path)
        assert rows == runs(0, 16, 32, 48, 64, 68)
        assert isinstance(timeline, Spans)
        assert timeline.array[-1].tolist() == [68 / 30, 100 / 30]

    def test_pad_repeats_the_last_frame(self, hundred, tmp_path):
        rows, _ = laid_out(hundred, f"{self.WORDS},tail=pad", tmp_path)
        assert rows == [*runs(0, 16, 32, 48, 64), [*range(80, 100), *[99] * 12]]

    def test_cover_has_a_row_wherever_one_begins(self, hundred, tmp_path):
        rows, timeline = laid_out(hundred, f"{self.WORDS},tail=cover", tmp_path)
        assert rows == [*runs(0, 16, 32, 48, 64), [*range(80, 100), *[99] * 12], [*range(96, 100), *[99] * 28]]
        assert timeline == TimeGrid(Fraction(32, 30), Fraction(16, 30))

    def test_cover_of_a_damaged_video_ends_where_that_does(self, hundred, tmp_path):
        path = tmp_path / "cut.mkv"
        path.write_bytes(hundred.read_bytes()[: hundred.stat().st_size // 2])
        seen = VideoPass(path, {})
        assert list(seen) == []
        wants = {"x": (ClipInput(2, Fraction(1), FrameSize()), PlannedRows(COVER, Fraction(100, 30)))}
        planned, starts = len(wants["x"][1]), [row for _, row, _ in VideoPass(path, wants)]
        assert starts == list(range(math.ceil(seen.report.duration_s / Fraction(1, 10))))
        assert len(starts) < planned == 34

    def test_a_start_before_the_first_frame(self, hundred, tmp_path):
        rows, timeline = laid_out(hundred, "num_frames=3,align=start,rate=30,stride=40f,start=-1f,tail=pad", tmp_path)
        assert rows == [[0, 0, 1], [39, 40, 41], [79, 80, 81]]
        assert timeline == TimeGrid(Fraction(3, 30), Fraction(40, 30), Fraction(-1, 30))

    @pytest.mark.parametrize("spare", [0, 1])
    def test_a_spare_frame(self, hundred, tmp_path, spare):
        rows, _ = laid_out(hundred, f"num_frames=10,align=start,rate=native,stride=10f,spare={spare}", tmp_path)
        assert rows == runs(*range(0, 100 - 10 * spare, 10), length=10)

    def test_a_short_video(self, tmp_path):
        path = write_numbered(tmp_path / "short.mkv", 20)
        padded = [[*range(20), *[19] * 12]]
        assert laid_out(path, f"{self.WORDS},tail=drop", tmp_path) == ([], None)
        assert laid_out(path, f"{self.WORDS},tail=backpad", tmp_path)[0] == padded
        assert laid_out(path, f"{self.WORDS},tail=pad", tmp_path)[0] == padded

    def test_a_short_video_is_absent_and_stays_done(self, tmp_path):
        path = write_numbered(tmp_path / "short.mkv", 20)
        selection = Selection(dataset=open_dataset("folder"), root=path.parent, patterns=[path.name])
        encoders = [f"frames={FRAME_NUMBERS}:weights=random:0,{self.WORDS}"]
        (outcome,) = extract(tmp_path / "s.zarr", encoders, selection).outcomes
        assert (outcome.status, outcome.num_rows) == ("absent", 0)
        assert "its 0.67 s have no room for a window of 1.07 s (tail=drop" in outcome.reason
        assert extract(tmp_path / "s.zarr", encoders, selection).already_done == 1


class TestStep:
    """Frames a step apart, that stay within their window."""

    WORDS = "num_frames=8,align=start,stride=12f,window=12f,step=2f"

    @pytest.mark.parametrize("rate", ["30", "native"])
    def test_those_beyond_the_window_repeat_its_last_frame(self, hundred, tmp_path, rate):
        rows, timeline = laid_out(hundred, f"{self.WORDS},rate={rate}", tmp_path)
        assert rows == [[min(12 * k + 2 * j, 12 * k + 11) for j in range(8)] for k in range(8)]
        assert timeline == TimeGrid(Fraction(12, 30), Fraction(12, 30))

    def test_a_wide_window_is_seen_at_its_beginning(self, hundred, tmp_path):
        rows, _ = laid_out(hundred, "num_frames=3,align=start,rate=30,stride=2,window=1,step=1/30", tmp_path)
        assert rows == [[0, 1, 2], [60, 61, 62]]

    def test_the_cells_of_hero(self, hundred, tmp_path):
        """Its own rule on 100 frames: 32 of 64 by linspace, truncated, within a cell of 45."""
        words = RECIPES["hero_slowfast"].encoders[0].split("align")[1]
        rows, _ = laid_out(hundred, f"num_frames=32,align{words}", tmp_path)
        spread = np.linspace(0, 63, 32).astype(int)
        assert rows == [np.minimum(45 * cell + np.minimum(spread, 44), 99).tolist() for cell in range(3)]

    def test_frames_of_another_rate_are_those_of_a_re_encoded_video(self, tmp_path):
        path = write_numbered(tmp_path / "sixty.mkv", 120, fps=Fraction(60))
        every, _ = laid_out(path, "num_frames=1,align=start,rate=25,stride=1f", tmp_path)
        rows, _ = laid_out(path, "num_frames=10,align=start,rate=25,stride=20f,window=20f,step=2f", tmp_path)
        assert rows == [[number for (number,) in every[start : start + 20 : 2]] for start in (0, 20)]

    def test_what_has_no_frames_of_its_own_has_no_step(self):
        motion = ClipInput(5, Fraction(1), FrameSize(), frames_after=1)
        for wanted in (motion, FrameInput()):
            with pytest.raises(OptionError, match="it: step is for clips of a window's own frames"):
                layout_for(wanted, {"step": "0.2", "rate": "25"}, {}, where="it")
        with pytest.raises(OptionError, match="stride, window and step must be more than 0"):
            layout_for(motion, {"step": "0", "rate": "25"}, {}, where="it")
        with pytest.raises(OptionError, match="a step leads from frame to frame of a rate"):
            layout_for(motion, {"step": "0.1"}, {}, where="it")

    def test_it_is_part_of_the_rule(self, hundred, tmp_path):
        selection = Selection(dataset=open_dataset("folder"), root=hundred.parent)
        encoder = f"frames={FRAME_NUMBERS}:weights=random:0,{self.WORDS},rate=30"
        text = "\n".join(plan_extraction(tmp_path / "s.zarr", [encoder], selection).lines())
        assert "windows of 0.4 s (8 frames from 12, 0.06667 s apart) every 0.4 s (12 frames at 30 fps)" in text


class TestRates:
    def test_thirty_to_twenty_five(self, tmp_path):
        """Acceptance check 15."""
        path = write_numbered(tmp_path / "long.mkv", 420)
        rows, timeline = laid_out(path, "num_frames=10,align=start,rate=25,stride=10f", tmp_path)
        assert list(itertools.chain(*rows)) == [
            math.ceil(Fraction(2 * k + 1, 2) * Fraction(6, 5)) - 1 for k in range(350)
        ]
        assert rows[0] == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]
        assert timeline == TimeGrid(Fraction(10, 25), Fraction(10, 25))

    @pytest.mark.parametrize(("rate", "count"), [(25, 452), (10, 181)])
    def test_an_odd_rate_counts_as_a_re_encoded_video(self, tmp_path, rate, count):
        """Acceptance check 16."""
        path = write_numbered(tmp_path / "odd.avi", 355, fps=Fraction(1962, 100))
        rows, _ = laid_out(path, f"num_frames=1,align=start,rate={rate},stride=1f", tmp_path)
        assert len(rows) == count

    def test_native_rate_keeps_the_files_own_frames(self, tmp_path):
        for name, fps in {"a.mkv": Fraction(30_000, 1001), "b.avi": Fraction(1962, 100)}.items():
            path = write_numbered(tmp_path / name, 75, fps=fps)
            rows, timeline = laid_out(path, "num_frames=16,align=start,rate=native,stride=4f", tmp_path)
            assert rows == runs(*range(0, 60, 4), length=16)
            assert timeline == TimeGrid(16 / fps, 4 / fps)

    def test_centred_in_the_files_own_frames(self, tmp_path):
        path = write_numbered(tmp_path / "c.mkv", 30)
        rows, timeline = laid_out(path, "num_frames=5,align=centre,rate=native,stride=1f", tmp_path)
        assert rows == [[min(max(k + j, 0), 29) for j in range(-2, 3)] for k in range(30)]
        assert timeline == TimeGrid(Fraction(5, 30), Fraction(1, 30), Fraction(-2, 30))

    def test_variable_rate_follows_presentation_times(self, tmp_path):
        """Acceptance check 19: gaps of 20, 60, 20, 60 ms."""
        ticks = [80 * (k // 2) + 20 * (k % 2) for k in range(50)]
        path = write_numbered(tmp_path / "v.mkv", 50, ticks_ms=ticks)
        rows, _ = laid_out(path, "num_frames=1,align=start,window=1/25,stride=1/25,tail=pad", tmp_path)
        shown = [max(k for k, tick in enumerate(ticks) if tick < 40 * row + 20 or k == 0) for row in range(len(rows))]
        assert [number for (number,) in rows] == shown
        assert shown[:6] == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        "name",
        [
            "videos/v_ApplyEyeMakeup_g01_c01.avi",
            "videos_bad/vfr.mp4",
            "videos_bad/edit_list_cut.mp4",
            "videos_bad/start_offset_10s.mkv",
            "videos_bad/fps_1000.mp4",
            "videos_bad/animated.gif",
        ],
    )
    def test_times_from_packets_are_those_of_decoding(self, shared, name):
        seen = VideoPass(shared / "data" / name, {})
        assert list(seen) == []
        found = track_times(shared / "data" / name)
        assert (found.num_frames, found.duration_s) == (seen.report.num_frames, seen.report.duration_s)


class TestSound:
    @pytest.mark.parametrize(("tail", "count"), [("drop", 2), ("pad", 3), ("backpad", 3), ("cover", 3)])
    def test_tails(self, tmp_path, tail, count):
        write_video(tmp_path / "a.mp4", seconds=1.3)
        selection = Selection(dataset=open_dataset("folder"), root=tmp_path)
        words = {"align": "start", "tail": tail}
        report = extract(tmp_path / "s.zarr", [f"{LOUDNESS}:stride=0.5"], selection, layout=words)
        assert not report.failures
        with open_store(tmp_path / "s.zarr") as store:
            spans = store.timeline("loudness", "a.mp4").spans(count)
            assert store.entry("loudness", "a.mp4").num_rows == count
        last = {"drop": (0.5, 1.0), "pad": (1.0, 1.5), "backpad": (0.8, 1.3), "cover": (1.0, 1.5)}[tail]
        assert spans[-1].tolist() == list(last)


class TestWords:
    def test_rows_of_another_layout_are_not_mixed_in(self, tmp_path):
        path = write_numbered(tmp_path / "a.mkv", 30)
        selection = Selection(dataset=open_dataset("folder"), root=path.parent)
        encoder = f"frames={FRAME_NUMBERS}:weights=random:0,align=start,stride=0.5"
        extract(tmp_path / "s.zarr", [encoder], selection)
        with pytest.raises(ProvenanceError, match="sampling"):
            plan_extraction(tmp_path / "s.zarr", [f"{encoder},tail=pad"], selection)

    def test_the_plan_counts_rows_of_the_layout(self, tmp_path):
        write_numbered(tmp_path / "a.mkv", 100)
        selection = Selection(dataset=open_dataset("folder"), root=tmp_path)
        encoders = [
            f"native={FRAME_NUMBERS}:num_frames=16,align=start,rate=native,stride=4f",
            f"moved={FRAME_NUMBERS}:num_frames=32,align=start,rate=25,window=64f,stride=16f,tail=backpad",
        ]
        plan = plan_extraction(tmp_path / "s.zarr", encoders, selection)
        assert [stream.num_rows for stream in plan.streams] == [22, 3]
        text = "\n".join(plan.lines())
        assert (
            "windows of 0.5333 s (16 frames) every 0.1333 s (4 frames at 30 fps); rate: the file's own; "
            "from the start, tail: drop" in text
        )
        assert "windows of 2.56 s (32 frames from 64) every 0.64 s (16 frames at 25 fps); rate: 25 fps" in text

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("tail=drop", "tail and start go with align=start"),
            ("align=start,stride=4f", "lengths in frames need a rate"),
            ("align=start,rate=native,stride=0.5", "at rate=native lengths are in frames"),
            ("stride=4x", "not seconds such as 0.5"),
            ("align=start,rate=0", "must be more than 0"),
            ("align=start,rate=25,tail=pad,spare=1", "spare goes with"),
            ("stride=0", "must be more than 0"),
            ("align=middle", "'centre' or 'start'"),
        ],
    )
    def test_words_that_do_not_fit(self, tmp_path, words, message):
        write_numbered(tmp_path / "a.mkv", 3)
        selection = Selection(dataset=open_dataset("folder"), root=tmp_path)
        with pytest.raises(OptionError, match=message):
            plan_extraction(tmp_path / "s.zarr", [f"frames={FRAME_NUMBERS}:{words}"], selection)

    def test_sound_has_no_frames(self, tmp_path):
        selection = Selection(dataset=open_dataset("folder"), root=tmp_path)
        with pytest.raises(OptionError, match="rate and window are for frames"):
            plan_extraction(tmp_path / "s.zarr", [f"{LOUDNESS}:rate=25"], selection)

    @pytest.mark.parametrize(
        "words",
        [
            {"stride": "0.5"},
            {"align": "start", "stride": "16f", "rate": "25", "tail": "backpad"},
            {"align": "start", "stride": "4f", "window": "64f", "rate": "native", "spare": "1"},
            {"align": "start", "stride": "1", "start": "-2/25", "tail": "pad"},
            {"align": "start", "stride": "45f", "window": "45f", "step": "2f", "rate": "30", "tail": "cover"},
            {"stride": "8f", "window": "32f", "step": "2f", "rate": "native"},
        ],
    )
    def test_provenance_lays_rows_out_again(self, words):
        for wanted in (ClipInput(16, Fraction(1), FrameSize()), *([] if "step" in words else [FrameInput()])):
            made = layout_for(wanted, words, {}, where="it")
            assert made is not None
            again = layout_for(wanted, words_of(made.sampling()), {}, where="it")
            assert again is not None
            assert again.sampling() == made.sampling()
            assert Layout.model_validate(words).rate == again.asked.rate
