"""Recipes: every one can be run, has the rows of its source's own formula, and takes weights by its streams' names."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from click.testing import CliRunner
from made_videos import write_video

from vidloc.cli import vidloc
from vidloc.core.grammar import parse_encoder
from vidloc.core.registry import entries
from vidloc.errors import OptionError, UnknownNameError
from vidloc.extract.base import AudioInput, ClipInput, EncoderInput, FrameInput, FrameSize
from vidloc.extract.track_times import TrackTimes
from vidloc.pipelines.extraction.encoders import choose_encoders
from vidloc.pipelines.extraction.layout import layout_for
from vidloc.pipelines.extraction.recipes import RECIPES, find_recipe, recipe_of_dataset, with_options
from vidloc.stores.base import open_store

I3D = ClipInput(16, Fraction(16, 25), FrameSize())
SLOWFAST = ClipInput(32, Fraction(64, 30), FrameSize())
VGGISH = AudioInput(15_600, 16_000)


def invoke(*arguments: object):
    return CliRunner().invoke(vidloc, list(map(str, arguments)))


def spans(recipe: str, wanted: EncoderInput, num_frames: int, fps: Fraction, *, encoder: int = 0) -> list[tuple]:
    """Windows of a recipe on a video of some length, in seconds."""
    (chosen,) = choose_encoders([RECIPES[recipe].plans[encoder]], stride_s=Fraction(1, 2), layout={})
    layout = layout_for(wanted, chosen.words, chosen.run, where=recipe)
    assert layout is not None
    duration = num_frames / fps
    windows = layout.windows(TrackTimes(num_frames, duration, fps))
    return [windows.span(row, duration) for row in range(windows.num_rows(duration))]


LENGTHS = [1, 15, 16, 17, 20, 31, 32, 33, 64, 65, 100, 129, 250]
# Rows by the source's own formula, from the number of frames at the rate; then window, stride and start in frames.
IN_FRAMES = {
    "i3d_finspire13": (I3D, None, lambda n: (n - 16) // 4 + 1, 16, 4, 0),
    "thumos14": (I3D, 25, lambda n: n // 16, 16, 16, 0),
    "gtea": (I3D, 15, lambda n: n // 16, 16, 16, 0),
    "beoid": (I3D, 30, lambda n: n // 16, 16, 16, 0),
    "charades_sta": (I3D, 24, lambda n: n // 16, 16, 16, 0),
    "tacos": (I3D, None, lambda n: n // 16, 16, 16, 0),
    "slowfast_epic100": (SLOWFAST, 30, lambda n: (n - 32) // 16 + 1, 32, 16, 0),
    "video_features_i3d": (
        ClipInput(64, Fraction(64, 25), FrameSize()), None, lambda n: (n - 65) // 64 + 1, 64, 64, 0,
    ),
    "mstcn_i3d": (ClipInput(21, Fraction(21, 25), FrameSize()), None, lambda n: n, 21, 1, -10),
    "milnce_coot": (ClipInput(32, Fraction(32, 10), FrameSize()), 10, lambda n: max(-((16 - n) // 16), 1), 32, 16, 0),
    "didemo": (FrameInput(), 25, lambda n: -(-n // 5), 5, 5, -2),
    "howto100m": (FrameInput(), 1, lambda n: max(n, 1), 1, 1, 0),
    "hara_3d": (I3D, None, lambda n: len(range(1, n - 16 + 1, 16)), 16, 16, 0),
    "hero_slowfast": (SLOWFAST, 30, lambda n: max(-(-n // 45), 1), 45, 45, 0),
    "mmaction2_activitynet": (FrameInput(), None, lambda n: max(len(range(8, n, 16)), 1), 1, 16, 8),
}  # fmt: skip


@pytest.mark.parametrize("recipe", IN_FRAMES)
@pytest.mark.parametrize("fps", [Fraction(30), Fraction(30_000, 1001), Fraction(25)])
def test_rows_and_starts_are_those_of_the_source(recipe, fps):
    wanted, rate, count, window, stride, start = IN_FRAMES[recipe]
    for num_frames in LENGTHS:
        found = spans(recipe, wanted, num_frames, fps)
        unit = 1 / Fraction(rate or fps)
        at_rate = math.floor(num_frames / fps / unit + Fraction(1, 2))
        expected = [start + stride * k for k in range(max(count(at_rate), 0))]
        assert [span[0] / unit for span in found] == expected, (recipe, num_frames)
        assert all((span[1] - span[0]) / unit == window for span in found)


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_ego4d_moves_the_last_window_back(num_frames):
    found = [start * 30 for start, _ in spans("ego4d_slowfast", SLOWFAST, num_frames, Fraction(30))]
    starts = list(range(0, num_frames - 31, 16)) or [0]
    if starts[-1] + 32 < num_frames:
        starts.append(num_frames - 32)
    assert found == starts


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_the_clips_of_howto100m_are_filled_up(num_frames):
    found = spans("howto100m", I3D, num_frames, Fraction(24), encoder=1)
    assert [start * 24 for start, _ in found] == list(range(0, num_frames, 16))


@pytest.mark.parametrize(("seconds", "count"), [(10, 10), (9, 9), (Fraction(1, 2), 1)])
def test_ave_has_a_row_per_second(seconds, count):
    second = ClipInput(16, Fraction(1), FrameSize())
    for encoder, (wanted, window) in enumerate([(second, Fraction(1)), (VGGISH, Fraction(39, 40))]):
        found = spans("ave", wanted, int(seconds * 30), Fraction(30), encoder=encoder)
        assert found == [(k, k + window) for k in range(count)]


@pytest.mark.parametrize(("num_samples", "count"), [(15_599, 0), (15_600, 1), (30_959, 1), (30_960, 2), (160_000, 10)])
def test_continuous_vggish_has_its_examples(num_samples, count):
    assert len(spans("vggish_continuous", VGGISH, num_samples, Fraction(16_000))) == count


@pytest.mark.parametrize("name", ["epic", "egtea", "crosstask"])
def test_streams_of_heads_that_join_them_share_their_centres(name):
    centres = set()
    for encoder, plan in enumerate(RECIPES[name].plans):
        wanted = {"vggish": VGGISH, "i3d": I3D, "slowfast_r50": SLOWFAST}.get(plan.name, FrameInput())
        found = spans(name, wanted, 307, Fraction(30), encoder=encoder)
        centres.add(tuple((start + end) / 2 for start, end in found))
    assert len(centres) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_encoders_are_registered_and_their_options_fit(name):
    recipe = RECIPES[name]
    assert {plan.name for plan in recipe.plans} <= set(entries("encoders"))
    assert choose_encoders(recipe.plans, stride_s=Fraction(1, 2), layout={})
    assert recipe.source
    assert recipe.summary.endswith(".")


@pytest.mark.parametrize("name", ["epic", "epic55", "epic100"])
def test_a_recipe_of_a_dataset_is_found_by_any_of_its_names(name):
    assert find_recipe("dataset", dataset=name) is recipe_of_dataset(name) is RECIPES["epic"]


class TestGiven:
    def test_options_are_added_to_the_stream_and_others_follow(self):
        given = [parse_encoder("slowfast_r101:weights=random:3,stride=8f"), parse_encoder("vggish")]
        slowfast, vggish = with_options(RECIPES["ego4d_slowfast"], given)
        assert slowfast.options == {
            "align": "start", "rate": "30", "window": "32f", "stride": "8f", "tail": "backpad", "weights": "random:3",
        }  # fmt: skip
        assert vggish.name == "vggish"

    def test_another_encoder_under_its_stream_is_refused(self):
        with pytest.raises(OptionError, match="makes the stream 'i3d' with i3d, not with s3d"):
            with_options(RECIPES["thumos14"], [parse_encoder("i3d=s3d")])

    def test_names(self):
        with pytest.raises(UnknownNameError, match="Did you mean thumos14"):
            find_recipe("thumos", dataset=None)
        with pytest.raises(OptionError, match="add --dataset NAME"):
            find_recipe("dataset", dataset=None)
        with pytest.raises(UnknownNameError, match="no recipe for the dataset 'folder'"):
            find_recipe("dataset", dataset="folder")


class TestCommand:
    def test_a_recipe_extracts(self, tmp_path):
        folder = tmp_path / "videos"
        folder.mkdir()
        write_video(folder / "a.mp4", seconds=2.2)
        result = invoke(
            "extract", "--dataset", "folder", "--root", folder, "--store", tmp_path / "s.zarr",
            "--recipe", "vggish_continuous", "--encoder", "vggish:weights=random:0",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        with open_store(tmp_path / "s.zarr") as store:
            assert store.timeline("vggish", "a.mp4").spans(2).tolist() == [[0.0, 0.975], [0.96, 1.935]]
            assert store.streams()["vggish"].sampling["tail"] == "drop"

    def test_without_an_encoder_the_recipe_of_the_dataset_is_proposed(self, tmp_path):
        result = invoke("extract", "--dataset", "epic", "--root", tmp_path, "--store", tmp_path / "s.zarr")
        assert result.exit_code == 2
        assert "for which --recipe epic is short" in result.output
        for text in RECIPES["epic"].encoders:
            assert f"--encoder {text}" in result.output

    def test_list(self):
        names = [line.split()[0] for line in invoke("list", "recipes").stdout.splitlines()]
        as_json = json.loads(invoke("list", "recipes", "--json").stdout)
        assert names == sorted(RECIPES) == [recipe["name"] for recipe in as_json]
        text = invoke("list", "recipes", "ave").stdout
        assert "Tian et al." in text
        assert "--encoder vggish:align=start,stride=1,tail=pad" in text
        assert json.loads(invoke("list", "recipes", "ave", "--json").stdout)["datasets"] == ["ave"]


class TestPlanWithoutWeights:
    @pytest.fixture
    def planned(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path / "empty"))
        folder = tmp_path / "videos"
        folder.mkdir()
        write_video(folder / "a.mp4", seconds=2.2)
        common = ("extract", "--dataset", "folder", "--root", folder, "--store", tmp_path / "s.zarr", "--plan")
        return lambda *arguments: invoke(*common, *arguments)

    def test_it_says_what_is_missing_and_exits_1(self, planned, tmp_path):
        result = planned("--recipe", "vggish_continuous", "--encoder", "i3d:weights=random:0,align=start,stride=1")
        assert result.exit_code == 1
        text = result.stdout
        assert "vggish (vggish): 1 items, about 2 rows" in text
        assert "windows of 0.975 s (15600 samples at 16000 Hz) every 0.96 s" in text
        assert "WEIGHTS ARE MISSING, see below; licence: Apache-2.0" in text
        assert "Weights are missing for vggish:" in text
        assert "vidloc weights fetch vggish" in text
        assert "Weights are missing for i3d" not in text
        assert not (tmp_path / "s.zarr").exists()

    def test_json_holds_it_too(self, planned):
        result = planned("--recipe", "vggish_continuous", "--json")
        assert result.exit_code == 1
        plan = json.loads(result.stdout)
        assert list(plan["missing_weights"]) == ["vggish"]
        assert plan["streams"]["vggish"]["rows"] == 2
        assert plan["streams"]["vggish"]["bytes"] == 2 * 128 * 2

    def test_an_encoder_that_cannot_be_untrained_is_named_alone(self, planned):
        result = planned("--encoder", "vggish:postprocess=pca_round,weights=random:0")
        assert result.exit_code == 1
        assert "Weights are missing for vggish:" in result.stdout
        assert "about" not in result.stdout.split("Weights are missing")[0].split("to do.")[1]

    def test_with_all_weights_it_exits_0(self, planned):
        assert planned("--encoder", "vggish:weights=random:0").exit_code == 0
