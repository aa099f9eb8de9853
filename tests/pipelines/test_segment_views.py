"""Rows per annotated segment: which clips and crops are seen, how rows are kept, and that heads find them by id."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.core.records import Segment
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.extract.base import AudioInput, ClipInput, FrameInput, FrameSize, TextInput
from vidloc.extract.pictures import cut
from vidloc.heads.bank import Bank
from vidloc.heads.base import Sample, StreamNeed
from vidloc.heads.linear import Linear
from vidloc.heads.sampling import SegmentRows
from vidloc.heads.two_branch import TwoBranch
from vidloc.pipelines.extract import Selection, extract, plan_extraction
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.pipelines.extraction.segment_views import SegmentClips, SegmentLayout, parse_views, segment_layout
from vidloc.pipelines.samples import split_samples
from vidloc.pipelines.streams import StoreRows, match_streams
from vidloc.stores.base import open_store
from vidloc.testing.synthetic_annotations import AnnotatedSegment, AnnotatedVideo, write_epic55

DATA = Path(__file__).parent.parent / "data"
COLOUR, LOUDNESS, NUMBERS = (str(DATA / f"{name}.py") for name in ("mean_colour", "loudness", "frame_numbers"))
CLIP = ClipInput(4, Fraction(1), FrameSize(16, 16))
DENSE = {"features": FieldSpec(row_shape=(3,), dtype="float16")}


def write_ramp(path: Path, num_frames: int, *, fps: int = 10) -> Path:
    """A lossless video, three times as wide as high, whose red says the column and whose green says the frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=fps)
        video.width, video.height, video.pix_fmt = 48, 16, "bgr0"
        for number in range(num_frames):
            picture = np.zeros((16, 48, 3), np.uint8)
            picture[..., 0] = 5 * np.arange(48)
            picture[..., 1] = number
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    return path


def segment(start: float, end: float, name: str = "a") -> Segment:
    return Segment(item_id="v", span=Span(start, end), id=name)


class TestClips:
    def test_clips_lie_at_equal_distances_along_the_segment(self):
        layout = SegmentLayout(parse_views("5x1"), CLIP)
        assert layout.spans_of(segment(2, 7)) == [(k, k + 1) for k in (2, 3, 4, 5, 6)]
        ten = SegmentLayout(parse_views("10x3"), CLIP).spans_of(segment(2, 7))
        assert len(ten) == 10
        assert (ten[0][0], ten[-1][1]) == (2, 7)

    def test_a_single_clip_is_in_the_middle(self):
        assert SegmentLayout(parse_views("1x1"), CLIP).spans_of(segment(2, 7)) == [(4, 5)]

    def test_a_segment_shorter_than_a_clip_is_seen_from_its_start(self):
        assert SegmentLayout(parse_views("3x1"), CLIP).spans_of(segment(2, 2.5)) == [(2, 3)] * 3

    def test_single_frames_see_the_middles_of_equal_parts(self):
        spans = SegmentLayout(parse_views("4x1"), FrameInput(FrameSize(16, 16))).spans_of(segment(2, 4))
        assert spans == [(2 + k * Fraction(1, 2), 2 + (k + 1) * Fraction(1, 2)) for k in range(4)]

    def test_overlapping_segments_in_any_order_come_by_time_and_go_back_in_place(self):
        layout = SegmentLayout(parse_views("3x3"), CLIP)
        segments = (segment(5, 9, "late"), segment(0, 8, "long"), segment(2, 3, "short"), segment(20, 21, "beyond"))
        clips = SegmentClips.of(layout, segments, Fraction(10))
        centres = [start + end for start, end in clips.windows.spans]
        assert centres == sorted(centres)
        assert [s.id for s in clips.segments] == ["late", "long", "short"]
        assert clips.num_beyond == 1
        places = [clips.place(row, crop) for row in range(9) for crop in range(3)]
        views = Rows.dense(features=np.array(places, np.float32)[:, None])
        rows = layout.rows(views, places, [s.id for s in clips.segments])
        np.testing.assert_array_equal(rows.fields["features"][..., 0], np.arange(27).reshape(3, 9))
        assert rows.strings("key") == ["late", "long", "short"]


class TestCrops:
    @pytest.mark.parametrize(
        ("place", "corner"),
        [
            ("centre", (2, 7)),
            ("near", (2, 0)),
            ("far", (2, 14)),
            ("top_left", (0, 0)),
            ("top_right", (0, 14)),
            ("bottom_left", (4, 0)),
            ("bottom_right", (4, 14)),
        ],
    )
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_places_are_exact(self, place, corner, mirrored):
        picture = np.random.default_rng(0).integers(0, 256, (12, 22, 3), dtype=np.uint8)
        top, left = corner
        expected = picture[top : top + 8, left : left + 8]
        size = FrameSize(crop_px=8, place=place, mirrored=mirrored)
        np.testing.assert_array_equal(cut(picture, size), expected[:, ::-1] if mirrored else expected)
        if place in ("near", "far"):  # the ends of the longer side, whichever that is
            upright = cut(picture.swapaxes(0, 1), FrameSize(crop_px=8, place=place))
            np.testing.assert_array_equal(upright, expected.swapaxes(0, 1))

    @pytest.mark.parametrize(("text", "count"), [("10x3", 30), ("1x1", 1), ("2xflips", 4), ("3xten-crop", 30)])
    def test_views_are_counted(self, text, count):
        assert parse_views(text).count == count
        assert len(set(parse_views(text).places)) == count // parse_views(text).num_clips
        assert str(parse_views(text)) == text

    @pytest.mark.parametrize("text", ["10", "10x", "0x3", "10x4", "x3", "-1x3", "10x3x3"])
    def test_what_is_no_views_is_refused(self, text):
        with pytest.raises(OptionError, match="is not CLIPSxCROPS"):
            parse_views(text)

    def test_too_many_are_refused(self):
        with pytest.raises(OptionError, match="makes 310 views"):
            parse_views("31xten-crop")

    def test_what_cannot_be_cropped_or_stacked_is_refused(self):
        views = parse_views("2x3")
        with pytest.raises(OptionError, match="takes sound, of which nothing is cropped"):
            segment_layout(AudioInput(10, 10), DENSE, views, where="it")
        with pytest.raises(OptionError, match="takes whole frames"):
            segment_layout(FrameInput(), DENSE, views, where="it")
        regions = {"boxes": FieldSpec(row_shape=("regions", 4), dtype="float32")}
        with pytest.raises(OptionError, match="any number of boxes per row"):
            segment_layout(CLIP, regions, views, where="it")
        assert segment_layout(TextInput(), DENSE, views, where="it") is None


@pytest.fixture
def labelled(tmp_path) -> Selection:
    """Two videos of 6 s, one of them with overlapping segments in no order, and one beyond its end."""
    for name in ("a.mkv", "b.mkv"):
        write_ramp(tmp_path / "videos" / name, 60)
    (tmp_path / "labels.csv").write_text(
        "item_id,start_s,end_s,label,split\n"
        "a.mkv,3,5,x,test\na.mkv,0,6,y,test\na.mkv,1,1.5,x,test\nb.mkv,0,2,x,train\nb.mkv,60,62,y,train\n"
    )
    return Selection(dataset=open_dataset("segments"), root=tmp_path / "videos", annotations=tmp_path / "labels.csv")


class TestRows:
    VIEWS = parse_views("2x3")

    def test_rows_hold_the_views_of_their_segments_in_the_order_of_the_annotations(self, labelled, tmp_path):
        report = extract(
            tmp_path / "s.zarr", [f"clips={COLOUR}:dtype=float32,num_frames=2"], labelled, views=self.VIEWS
        )
        with open_store(tmp_path / "s.zarr") as store:
            rows = store.read("clips", "a.mkv")
            spec = store.streams()["clips"]
            spans = store.timeline("clips", "a.mkv").spans(3)
        assert spec.fields["features"].row_shape == (6, 3)
        assert (spec.sampling["align"], spec.sampling["views"]) == ("segments", "2x3")
        assert spans.tolist() == [[3, 5], [0, 6], [1, 1.5]]
        assert len(set(rows.strings("key"))) == 3
        # Red: the column, 5 levels each, over 16 columns at the left, in the middle, at the right.
        red = np.array([5 * (first + 7.5) for first in (0, 16, 32)]) / 255
        np.testing.assert_allclose(rows.fields["features"][..., 0], np.tile(red, (3, 2)), atol=1e-6)
        # Green: the frame; two frames of a clip of 1 s, at its first and third quarter.
        starts = np.array([[3, 4], [0, 5], [1, 1]])
        green = (10 * starts + (2 + 7) / 2) / 255
        np.testing.assert_allclose(rows.fields["features"][..., 1], np.repeat(green, 3, axis=1), atol=1e-6)
        (partial,) = report.with_status("partial")
        assert partial.item_id == "b.mkv"
        assert "1 of 2 segments lie beyond its end" in partial.reason

    def test_a_view_is_the_row_of_a_grid_over_the_same_frames(self, labelled, tmp_path):
        encoder = f"{COLOUR}:dtype=float32,num_frames=2"
        extract(tmp_path / "s.zarr", [f"clips={encoder}"], labelled, views=parse_views("6x1"))
        extract(tmp_path / "s.zarr", [f"grid={encoder},align=start,stride=1"], labelled)
        with open_store(tmp_path / "s.zarr") as store:
            whole = store.read_field("clips", "a.mkv")[1]  # the segment from 0 to 6 s
            np.testing.assert_array_equal(whole, store.read_field("grid", "a.mkv"))

    def test_several_encoders_sound_included_see_one_pass(self, labelled, tmp_path):
        report = extract(tmp_path / "s.zarr", [COLOUR, LOUDNESS], labelled, views=parse_views("2x1"))
        statuses = {(o.item_id, o.stream): o.status for o in report.outcomes}
        assert statuses["a.mkv", "mean_colour"] == "done"
        assert statuses["a.mkv", "loudness"] == "absent"  # these videos have no sound track

    def test_the_same_command_resumes_and_new_annotations_are_missed(self, labelled, tmp_path):
        run = {"views": self.VIEWS}
        extract(tmp_path / "s.zarr", [f"clips={COLOUR}"], labelled, **run)
        assert extract(tmp_path / "s.zarr", [f"clips={COLOUR}"], labelled, **run).already_done == 2
        path = labelled.annotations
        assert path is not None
        path.write_text(path.read_text() + "a.mkv,4,6,y,test\n")
        report = extract(tmp_path / "s.zarr", [f"clips={COLOUR}"], labelled, **run)
        assert [o.num_rows for o in report.with_status("done")] == [4]

    def test_an_item_without_segments_is_absent(self, labelled, tmp_path):
        write_ramp(tmp_path / "videos" / "c.mkv", 5)
        (tmp_path / "list.csv").write_text("item_id,path\na.mkv,videos/a.mkv\nc.mkv,videos/c.mkv\n")
        listed = replace(labelled, root=None, videos=tmp_path / "list.csv")
        report = extract(tmp_path / "s.zarr", [f"clips={COLOUR}"], listed, views=self.VIEWS)
        assert extract(tmp_path / "s.zarr", [f"clips={COLOUR}"], listed, views=self.VIEWS).already_done == 2
        (absent,) = report.with_status("absent")
        assert (absent.item_id, absent.reason) == ("c.mkv", "the annotations hold no segment of it")

    def test_workers_make_the_same_rows(self, labelled, tmp_path):
        for device in ("cpu", "cpu:2"):
            extract(tmp_path / f"{device}.zarr", [f"clips={COLOUR}"], labelled, device=device, views=self.VIEWS)
        with open_store(tmp_path / "cpu.zarr") as one, open_store(tmp_path / "cpu:2.zarr") as two:
            assert one.digest() == two.digest()

    def test_the_plan_says_rows_and_views(self, labelled, tmp_path):
        plan = plan_extraction(tmp_path / "s.zarr", [f"clips={COLOUR}"], labelled, views=self.VIEWS)
        assert (plan.streams[0].num_rows, plan.num_samples) == (5, 30)
        assert "one row per annotated segment: views 2x3 (clips of 1 s along it x crops of each)" in "\n".join(
            plan.lines()
        )

    def test_annotations_are_needed_and_layouts_are_not(self, labelled, tmp_path):
        root = labelled.root
        with pytest.raises(OptionError, match="segments come from annotations"):
            extract(
                tmp_path / "s.zarr", [COLOUR], Selection(dataset=None, root=root), views=self.VIEWS,
            )  # fmt: skip
        with pytest.raises(OptionError, match="rows per segment have no layout"):
            extract(tmp_path / "s.zarr", [f"{COLOUR}:stride=1"], labelled, views=self.VIEWS)


class TestHeads:
    """Heads find the row of a segment by its id, not by its time."""

    def test_rows_are_found_by_id_and_views_are_averaged(self, labelled, tmp_path):
        extract(tmp_path / "s.zarr", [f"clips={COLOUR}:dtype=float32"], labelled, views=parse_views("2x3"))
        segments = labelled.dataset.read(labelled.annotations).split("test")
        with open_store(tmp_path / "s.zarr") as store:
            match = match_streams({"visual": StreamNeed(("clip",))}, [store], chosen={}, recipe={})
            reader = StoreRows(match)
            views = store.read_field("clips", "a.mkv")
            samples = [Sample(s.item_id, s.span, (s,)) for s in segments]
            (batch,) = Bank(samples[::-1], {"visual": SegmentRows()}, reader).batches(3)
        assert match.dims == {"visual": 3}
        assert "has one row per annotated segment" in match.notes[0]
        np.testing.assert_allclose(batch.rows["visual"].features[:, 0], views.mean(axis=1)[::-1], atol=1e-6)
        assert batch.rows["visual"].mask.shape == (3, 1)

    def test_segments_without_a_row_are_reported(self, labelled, tmp_path):
        extract(tmp_path / "s.zarr", [f"clips={COLOUR}"], labelled, views=parse_views("1x1"))
        read = labelled.dataset.read(labelled.annotations)
        with open_store(tmp_path / "s.zarr") as store:
            reader = StoreRows(match_streams({"visual": StreamNeed(("clip",))}, [store], chosen={}, recipe={}))
            found = split_samples(TwoBranch, read, "train", {"visual": SegmentRows()}, reader)
            assert [sample.span for sample in found.samples] == [Span(0, 2)]
            (lacking,) = found.record.lacking
            assert lacking.reason == "no row of 'b.mkv' for role visual answers it"
            with pytest.raises(OptionError, match="this head reads whole items"):
                split_samples(Linear, read, "train", {"visual": SegmentRows()}, reader)


class TestCommand:
    """EPIC-format annotations, from videos to predictions."""

    @pytest.fixture(scope="class")
    @staticmethod
    def epic(tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("epic")
        segments = []
        for video in ("P01_01", "P02_01", "P26_01"):
            write_ramp(folder / "videos" / f"{video}.mkv", 60)
            for k, (verb, noun) in enumerate([("push", "box"), ("grow", "ball"), ("push", "ball")]):
                # Two of them overlap.
                start = Fraction(2 * k) - Fraction(k, 2)
                segments.append(AnnotatedSegment(video, verb, noun, start, start + 2, f"{verb} {noun}"))
        videos = [AnnotatedVideo(v, "48x16", Fraction(6), Fraction(10)) for v in ("P01_01", "P02_01", "P26_01")]
        write_epic55(folder / "labels", segments, videos, verbs=["push", "grow"], nouns=["box", "ball"])
        return folder

    def test_from_videos_to_predictions(self, epic, tmp_path):
        def call(*arguments: object):
            result = CliRunner().invoke(vidloc, list(map(str, arguments)))
            assert result.exit_code == 0, (result.output, result.exception)
            return result

        annotations = ("--dataset", "epic", "--annotations", epic / "labels")
        call(
            "extract", *annotations, "--root", epic / "videos", "--store", tmp_path / "s.zarr",
            "--encoder", f"clips={COLOUR}", "--windows", "segments", "--views", "10x3",
        )  # fmt: skip
        with open_store(tmp_path / "s.zarr") as store:
            assert store.entry("clips", "P01_01").num_rows == 3
            assert store.read_field("clips", "P01_01").shape == (3, 30, 3)
        trained = call(
            "train-head", "two_branch", "--store", tmp_path / "s.zarr", *annotations,
            "--stream", "verb=clips", "--stream", "noun=clips", "--epochs", 1, "--out", tmp_path / "run",
        )  # fmt: skip
        assert "stream 'clips' has one row per annotated segment, found by its id; its views (10x3)" in trained.output
        call("predict", tmp_path / "run", "--out", tmp_path / "predictions.jsonl")
        lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
        assert len([line for line in lines if "query_id" in line]) == 3

    def test_wrong_usage(self, tmp_path):
        common = ["extract", "--store", str(tmp_path / "s.zarr"), "--encoder", COLOUR]
        for more, message in {
            ("--views", "10x3"): "--views goes with --windows segments",
            ("--windows", "segments", "--align", "start"): "--align and --tail go with --windows grid",
        }.items():
            result = CliRunner().invoke(vidloc, [*common, *more])
            assert result.exit_code == 2
            assert message in result.output
