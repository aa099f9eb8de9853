"""The demo through the real commands, at a smaller size: it runs to its end, and the heads beat guessing.

Smaller means fewer videos and one clip network; corpus, commands, heads and evaluation are those of `vidloc demo`.
"""

from __future__ import annotations

import json
import shlex
from fractions import Fraction
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.commands.demo import demo
from vidloc.errors import OptionError, VidlocError
from vidloc.pipelines import demo as pipeline

SMALL = pipeline.DemoPlan(
    num_training=3,
    num_held_out=2,
    encoders=(
        "i3d_r50:weights=random:0,crop_px=224",
        "vggish:weights=random:0",
        "fasterrcnn:weights=random:0,min_size=96,min_boxes=5,max_boxes=5",
        "text",
    ),
    verb_stream="i3d_r50",
)

# One worker makes the demo once for all tests of this file.
pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Output and folder of one demo."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "DemoPlan", lambda: SMALL)
        result = CliRunner().invoke(vidloc, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return result.output, out


def test_trained_heads_beat_chance_and_the_most_frequent_class(made):
    accuracies = pipeline.held_out_accuracies(pipeline.Places(made[1]))
    for metric, values in accuracies.items():
        for head in pipeline.HEADS:
            assert values[head] > values["most_frequent"] + 0.1, (metric, values)
            assert values[head] > values["chance"] + 0.1, (metric, values)


def test_every_step_shows_the_command_that_it_runs(made):
    output, out = made
    lines = [shlex.split(line[2:]) for line in output.splitlines() if line.startswith("$ ")]
    assert [line[1] for line in lines] == [
        *("extract", "store", "train-head", "train-head", "evaluate", "evaluate", "index", "search", "search"),
    ]
    command = json.loads((out / "runs" / "sapnet" / "run.json").read_text())["command"]
    assert shlex.split(command) == lines[2]


def test_the_output_is_honest_and_says_what_to_type_next(made):
    output, out = made
    assert "They are no benchmark." in output
    assert "most frequent" in output
    assert "RANDOM WEIGHTS" in output
    assert f"vidloc store verify {out / 'feats.zarr'}" in output


def test_what_to_type_next_works(made):
    for line in pipeline.next_commands(pipeline.Places(made[1])):
        program, *arguments = shlex.split(line)
        if program == "vidloc":
            result = CliRunner().invoke(vidloc, arguments)
            assert result.exit_code == 0, f"{line}\n{result.output}"


def test_a_sentence_finds_narrations_that_say_it_in_other_words(made):
    output = made[0]
    answers = output[output.index("shove the crimson sphere") :]
    assert "push the red ball" in answers.splitlines()[3]


def test_all_five_streams_are_encoded_by_default():
    assert [text.split(":")[0] for text in pipeline.DemoPlan().encoders] == [
        "slowfast_r50", "i3d_r50", "vggish", "fasterrcnn", "text",
    ]  # fmt: skip


def test_a_folder_that_is_not_a_demo_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(OptionError, match="was not made by 'vidloc demo'"):
        pipeline.run_demo(tmp_path, run=lambda _: 0, say=lambda _: None)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_failing_step_ends_the_demo(tmp_path, monkeypatch):
    made = SimpleNamespace(
        root=tmp_path, annotations=tmp_path, held_out=[SimpleNamespace(video_id="P26_01")], scene_s=Fraction(2)
    )
    monkeypatch.setattr(pipeline, "make_set", lambda *_, **__: made)
    calls = []

    def fail(arguments: list[str]) -> int:
        calls.append(arguments[0])
        return 3

    with pytest.raises(VidlocError, match="'vidloc extract' ended with exit code 3"):
        pipeline.run_demo(tmp_path / "out", run=fail, say=lambda _: None)
    assert calls == ["extract"]


def test_help_teaches_by_example():
    result = CliRunner().invoke(demo, ["--help"])
    assert "vidloc demo --out" in result.output
