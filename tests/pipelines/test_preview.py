"""Contact sheets: which rows are shown, that their pixels are those encoders get, and what a sheet says of itself."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from made_videos import write_video
from PIL import Image
from torchvision.utils import flow_to_image

from vidloc.cli import vidloc
from vidloc.core.rows import FieldSpec
from vidloc.core.timeline import Span, center_grid
from vidloc.errors import MediaError, OptionError, UnknownNameError, VidlocError
from vidloc.extract.base import ClipInput, FrameInput, FrameSize, Sample
from vidloc.extract.frames import VideoPass
from vidloc.extract.logmel import spectrogram
from vidloc.pipelines.preview import TEXT_CHUNK
from vidloc.pipelines.previews.panels import draw_rows
from vidloc.pipelines.previews.rows import Box, ShownRow, Spread
from vidloc.pipelines.previews.sheet import Subject, draw_sheet
from vidloc.stores.base import StreamSpec

DATA = Path(__file__).parents[1] / "data"
COLOUR = f"colour={DATA / 'mean_colour.py'}:num_frames=3"
LOUDNESS, BOXES = f"loudness={DATA / 'loudness.py'}", f"objects={DATA / 'one_box.py'}"
CLIP = ClipInput(3, Fraction(1), FrameSize(short_side_px=16, crop_px=16))
HALF = Fraction(1, 2)


def sample(start_s: float = 0.0, data=None, end_s: float | None = None, **more) -> Sample:
    end = start_s + 1 if end_s is None else end_s
    return Sample((Fraction(start_s), Fraction(end)), data, more.pop("pts_s", np.empty(0)), **more)


def facts_of(path: Path) -> dict:
    with Image.open(path) as image:
        return json.loads(image.text[TEXT_CHUNK])


def pictures(path: Path, row: dict) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray(image.crop(place)) for place in row["pictures"]]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", seconds=3.0)
    write_video(folder / "silent.mp4", seconds=1.0, sound=False)
    write_video(folder / "large.mp4", seconds=0.5, size=(160, 96), sound=False)
    listed = folder / "list.csv"
    listed.write_text("item_id,path\na,a.mp4\nsilent,silent.mp4\nlarge,large.mp4\n../up/b@1-2,a.mp4\n")
    return listed


@pytest.fixture
def draw(videos, tmp_path):
    """Runs `vidloc extract --preview`; returns exit code, what it said, and the sheets' folder."""

    def run(*arguments: object):
        out = tmp_path / "sheets"
        flags = ["extract", "--videos", videos, "--preview-out", out, *arguments]
        result = CliRunner().invoke(vidloc, [str(flag) for flag in flags], catch_exceptions=True)
        if isinstance(result.exception, VidlocError):
            raise result.exception
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output, out

    return run


class TestSpread:
    @given(num_seen=st.integers(1, 400), num_rows=st.integers(1, 24))
    def test_first_and_last_and_evenly_between(self, num_seen, num_rows):
        spread = Spread(num_rows, None)
        for row in range(num_seen):
            spread.take(sample(row))
        rows = [row for row, _ in spread.chosen()]
        assert [float(taken.span[0]) for _, taken in spread.chosen()] == rows
        assert len(rows) == min(num_rows, num_seen)
        assert rows[0] == 0
        if num_rows > 1:
            assert rows[-1] == num_seen - 1
            # At best 1 / (rows - 1) of the whole lies between neighbours; at worst twice that, and a step.
            assert max(np.diff([*rows, num_seen - 1])) <= 2 * max(num_seen / (num_rows - 1), 1) + 1

    def test_memory_does_not_grow(self):
        spread = Spread(6, None)
        for row in range(10_000):
            spread.take(sample(row))
            assert len(spread._kept) <= 12

    @pytest.mark.parametrize(
        ("span", "rows"),
        [((2.0, 4.0), [2, 3]), ((2.6, 3.4), [2]), ((2.5, 3.5), [2]), ((8.7, 9.5), [9]), ((11.0, 12.0), [])],
    )
    def test_rows_centred_in_the_span_else_the_nearest_that_overlaps(self, span, rows):
        spread = Spread(6, Span(*span))
        for row in range(10):
            spread.take(sample(row))
        assert [row for row, _ in spread.chosen()] == rows


class TestFrames:
    def test_every_pixel_is_the_encoders(self, draw, videos, tmp_path):
        code, output, out = draw("--encoder", COLOUR, "--preview", "a", "--preview-rows", "3")
        path = out / "a.colour.png"
        assert (code, output) == (0, f"{path}: rows 0, 2, 5\n")
        assert [found.name for found in out.rglob("*")] == ["a.colour.png"], "nothing else is written"
        facts = facts_of(path)
        assert (facts["encoder"], facts["rows_decoded"], facts["shrink"]) == ("mean_colour", 6, 1)
        assert (facts["sampling"]["stride_s"], facts["preprocessing"]) == ("1/2", {"normalised": "to 0..1"})
        fed = [s for _, _, s in VideoPass(videos.with_name("a.mp4"), {"x": (CLIP, center_grid(Fraction(1), HALF))})]
        for shown in facts["rows"]:
            wanted = fed[shown["row"]]
            assert shown["span_s"] == [float(seconds) for seconds in wanted.span]
            assert shown["pts_s"] == wanted.pts_s.tolist()
            np.testing.assert_array_equal(pictures(path, shown), wanted.data)

    def test_only_the_excerpt_is_decoded(self, draw):
        _, _, out = draw("--encoder", COLOUR, "--preview", "a@0.4-1.4")
        facts = facts_of(out / "a@0.4-1.4.colour.png")
        assert [row["row"] for row in facts["rows"]] == [1, 2]
        assert facts["rows_decoded"] < 6

    def test_views_of_segments_are_named_by_segment_and_view(self, draw, tmp_path):
        segments = tmp_path / "segments.csv"
        segments.write_text("item_id,start_s,end_s,label,id\na,0,1,stir,first\na,1.5,3,pour,second\n")
        _, output, out = draw(
            "--dataset", "segments", "--annotations", segments, "--windows", "segments", "--views", "2x3",
            "--encoder", COLOUR, "--preview", "a", "--preview-rows", "24",
        )  # fmt: skip
        path = out / "a.colour.png"
        assert output == f"{path}: rows 0, 1\n"
        rows = facts_of(path)["rows"]
        assert {(row["row"], row["view"], row["key"]) for row in rows} == {
            (k, view, key) for k, key in enumerate(["first", "second"]) for view in range(6)
        }
        assert {tuple(row["span_s"]) for row in rows if row["row"] == 1} == {(1.5, 2.5), (2.0, 3.0)}
        assert all(len(pictures(path, row)) == 3 for row in rows)

    def test_numbered_pictures(self, draw, tmp_path):
        (tmp_path / "frames").mkdir()
        shades = np.random.default_rng(0).integers(0, 256, (10, 3), dtype=np.uint8)
        for k, shade in enumerate(shades, 1):
            Image.fromarray(np.full((16, 16, 3), shade)).save(tmp_path / "frames" / f"frame_{k:010d}.png")
        listed = tmp_path / "frames.csv"
        listed.write_text("item_id,path,fps\nb,frames,10\n")
        code, _, out = draw("--videos", listed, "--encoder", COLOUR, "--preview", "b", "--preview-rows", "1")
        (row,) = facts_of(out / "b.colour.png")["rows"]
        assert code == 0
        numbers = np.round(np.array(row["pts_s"]) * 10).astype(int)
        shown = [picture[0, 0] for picture in pictures(out / "b.colour.png", row)]
        np.testing.assert_array_equal(shown, shades[numbers])

    def test_smaller_ones_are_means_over_squares(self):
        frames = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
        drawn = draw_rows([ShownRow(0, sample(data=frames), frames)], shrink=4)
        means = frames.reshape(2, 2, 4, 3, 4, 3).mean(axis=(2, 4))
        assert np.abs([panel.picture for panel in drawn.panels[0]] - means).max() <= 0.5

    def test_large_frames_shrink_until_the_sheet_is_of_reasonable_size(self):
        frames = np.zeros((32, 400, 700, 3), np.uint8)
        rows = [ShownRow(k, sample(k, frames), frames) for k in range(3)]
        image, facts = draw_sheet(subject(rows))
        assert facts["shrink"] > 1
        assert image.width <= 1600
        assert image.height <= 2400
        assert all(len(row["pictures"]) == 32 for row in facts["rows"])
        places = [place for row in facts["rows"] for place in row["pictures"]]
        covered = np.zeros((image.height, image.width), np.int8)
        for left, top, right, bottom in places:
            covered[top:bottom, left:right] += 1
        assert covered.max() == 1, "pictures do not overlap"


class TestBoxes:
    def test_outlines_lie_on_the_regions_with_labels_and_scores(self, draw, videos):
        code, _, out = draw("--encoder", BOXES, "--preview", "large")
        path = out / "large.objects.png"
        (row,) = facts_of(path)["rows"]
        assert code == 0
        assert [(box["label"], box["score"]) for box in row["boxes"]] == [("egg", 0.875), ("pan", 0.25)]
        assert row["boxes"][0]["corners"] == [0.125, 0.5, 0.75, 1.0]
        (drawn,) = pictures(path, row)
        wants = {"x": (FrameInput(), center_grid(HALF, HALF))}
        plain = next(iter(VideoPass(videos.with_name("large.mp4"), wants)))[2].data
        assert drawn.shape == plain.shape == (96, 160, 3)
        # Of 160 x 96 pixels, x1 y1 x2 y2 are columns 20 to 119 and rows 48 to 95.
        changed = (drawn != plain).any(axis=-1)
        colour = drawn[95, 20]
        assert (drawn[94:, 20:120] == colour).all()
        assert (drawn[48:, [20, 21, 118, 119]] == colour).all()
        assert not changed[48:, :20].any()
        assert not changed[48:, 120:].any()
        inside = changed[48:94, 22:118]
        assert inside[:16].any(), "the label stands in the upper left corner"
        assert not inside[18:].any()
        assert not changed[:48, :80].any(), "the other region is the upper right one"
        assert changed[0, 80:].all()
        assert not np.array_equal(drawn[23, 159], colour), "labels have colours of their own"

    def test_those_of_a_clip_lie_on_its_middle_frame(self):
        frames = np.full((4, 32, 32, 3), 255, np.uint8)
        clip = sample(2.0, frames, 4.0, pts_s=np.array([2.0, 2.4, 2.9, 3.9]))
        row = ShownRow(0, clip, frames, (Box("pan", 0.5, (0.0, 0.0, 1.0, 1.0)),))
        changed = [(panel.picture != 255).any() for panel in draw_rows([row], shrink=1).panels[0]]
        assert changed == [False, False, True, False]


class TestSound:
    def test_a_tone_lies_at_its_place_on_both_axes(self):
        seconds = np.arange(15_600) / 16_000
        wave = np.where(seconds < 0.5, 0.5 * np.sin(2 * np.pi * 1000 * seconds), 0.0)
        heard = sample(2.0, wave, 2.975)
        drawn = draw_rows([ShownRow(0, heard, spectrogram(heard))], shrink=1)
        picture = drawn.panels[0][0].picture[..., 0].astype(float)
        plot = picture[6:-22, 56:-16]
        assert plot.shape == (64 * 3, 96 * 3)
        ticks_hz = [y for y in range(picture.shape[0]) if (picture[y, 53:56] == 0).all()]
        brightest = int(plot[:, :120].sum(axis=1).argmax()) + 6
        assert len(ticks_hz) == 5, "250, 500, 1000, 2000 and 4000 Hz"
        assert abs(brightest - ticks_hz[2]) <= 3, "within a band of the tick of 1000 Hz, the third from either end"
        silent = plot[:, 160:]
        assert plot[:, :140].max() == 255
        assert silent.max() == silent.min() == 0, "silence is black, however loud the rest is"
        assert "black is -4.61" in drawn.legend

    def test_a_waveform_where_the_encoder_says_no_more(self, draw):
        code, _, out = draw("--encoder", LOUDNESS, "--preview", "a", "--preview-rows", "2")
        facts = facts_of(out / "a.loudness.png")
        assert (code, len(facts["rows"])) == (0, 2)
        (picture,) = pictures(out / "a.loudness.png", facts["rows"][0])
        assert (picture[6:-22, 56:-16] == 60).any(axis=(0, 2)).all(), "there is sound in each column"

    def test_an_item_without_sound_has_a_sheet_that_says_so(self, draw):
        code, output, out = draw("--encoder", LOUDNESS, "--encoder", COLOUR, "--preview", "silent", "--json")
        sheets = {sheet["stream"]: sheet for sheet in json.loads(output)["sheets"]}
        assert code == 0
        assert sheets["colour"]["status"] == "done"
        assert sheets["loudness"] == {
            "path": str(out / "silent.loudness.png"), "excerpt": "silent", "stream": "loudness", "status": "absent",
            "rows": [], "reason": "the file has no sound track",
        }  # fmt: skip
        facts = facts_of(out / "silent.loudness.png")
        assert (facts["status"], facts["reason"], facts["rows"]) == ("absent", "the file has no sound track", [])


def test_flow_is_coloured_by_direction_on_one_scale():
    slow, fast = np.zeros((2, 2, 8, 8, 2), np.float32)
    slow[0, ..., 0] = 2.0  # to the right, then rest
    fast[1, ..., 1] = 8.0  # rest, then downwards
    rows = [ShownRow(k, sample(k, pts_s=np.array([k, k + 0.1, k + 0.2])), flow) for k, flow in enumerate((slow, fast))]
    drawn = draw_rows(rows, shrink=1)
    shown = np.stack([panel.picture for panels in drawn.panels for panel in panels[:2]])
    together = torch.from_numpy(np.concatenate([slow, fast])).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(shown, flow_to_image(together).permute(0, 2, 3, 1).numpy())
    assert (shown[1] == 255).all()
    assert [panel.caption for panel in drawn.panels[1]] == ["1.000 - 1.100 s", "1.100 - 1.200 s", "direction"]
    assert "8.00 pixels" in drawn.legend


def subject(rows, **more) -> Subject:
    spec = StreamSpec(name="x", kind="text", fields={"features": FieldSpec(row_shape=(3,), dtype="float32")})
    return Subject("item", "", spec, rows, len(rows), "done", **more)


def test_sentences_stand_under_their_spans_whole():
    long = "take the large frying pan out of the cupboard below the sink " * 8
    rows = [ShownRow(4, sample(1.5, long, 2.25, key="P01_01_7"), long), ShownRow(5, sample(3, "wash", key="8"), "wash")]
    image, facts = draw_sheet(subject(rows))
    assert [(row["row"], row["span_s"], row["key"], row["text"]) for row in facts["rows"]] == [
        (4, [1.5, 2.25], "P01_01_7", long),
        (5, [3.0, 4.0], "8", "wash"),
    ]
    one, _ = draw_sheet(subject(rows[1:]))
    assert image.width <= 1600
    assert image.height > one.height + 18, "the long one takes several lines"


def test_what_went_wrong_is_on_the_sheet():
    plain, _ = draw_sheet(subject([]))
    warned, facts = draw_sheet(subject([], reason="the file is damaged"))
    red = (np.asarray(warned) == (0xB0, 0x00, 0x20)).all(axis=-1)
    assert not (np.asarray(plain) == (0xB0, 0x00, 0x20)).all(axis=-1).any()
    assert red.any()
    assert facts["reason"] == "the file is damaged"


class TestErrors:
    def test_an_unknown_item_names_the_nearest(self, draw):
        with pytest.raises(UnknownNameError, match=r"no item 'silnt' to preview\. Did you mean silent\?"):
            draw("--encoder", COLOUR, "--preview", "silnt")

    @pytest.mark.parametrize(
        ("excerpt", "message"),
        [
            ("a@12-13", r"no row of item 'a' lies in 12-13 s; those that were looked at cover -0\.25-3\.25 s"),
            ("a@2-1", "ends at or before its start"),
            ("a@1:2", r"'a@1:2' is no excerpt: write ITEM@START-END"),
        ],
    )
    def test_an_excerpt_that_cannot_be(self, draw, excerpt, message):
        with pytest.raises(OptionError, match=message):
            draw("--encoder", COLOUR, "--preview", excerpt)

    def test_an_id_with_slashes_stays_in_the_folder(self, draw):
        _, _, out = draw("--encoder", COLOUR, "--preview", "../up/b@1-2")
        assert [path.name for path in out.iterdir()] == ["..%2Fup%2Fb@1-2.colour.png"]
        assert len(facts_of(next(out.iterdir()))["rows"]) == 6, "an id first, an excerpt only where there is no such id"

    @pytest.mark.parametrize("flag", [["--plan"], ["--report", "r.json"], ["--print-sbatch"]])
    def test_other_purposes_are_refused(self, draw, flag):
        code, output, _ = draw("--encoder", COLOUR, "--preview", "a", *flag)
        assert code == 2
        assert "--preview only draws" in output

    def test_a_store_is_needed_otherwise(self, draw):
        code, output, _ = draw("--encoder", COLOUR)
        assert code == 2
        assert "--store feats.zarr" in output

    def test_a_folder_that_cannot_be_made(self, draw, tmp_path):
        (tmp_path / "sheets").write_text("a file")
        with pytest.raises(MediaError, match=r"preview .*a\.colour\.png cannot be written"):
            draw("--encoder", COLOUR, "--preview", "a")

    def test_an_encoder_that_fails_fails_its_own_sheet(self, draw, tmp_path):
        source = (DATA / "mean_colour.py").read_text()
        assert "ENCODER = MeanColour" in source
        (tmp_path / "odd.py").write_text(
            source.replace(
                "    def preferred_batch",
                "    def as_seen(self, sample):\n        return {}\n\n    def preferred_batch",
            )
        )
        code, output, out = draw("--encoder", f"odd={tmp_path / 'odd.py'}", "--encoder", COLOUR, "--preview", "a")
        assert code == 3
        assert "odd.png: no row (failed: a preview cannot draw dict" in output
        assert facts_of(out / "a.odd.png")["status"] == "failed"
        assert len(facts_of(out / "a.colour.png")["rows"]) == 6
