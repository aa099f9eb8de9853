"""`vidloc list`: names, summaries, and all about one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.core.registry import entries, load
from vidloc.errors import UnknownNameError

MEAN_COLOUR = str(Path(__file__).parent / "data" / "mean_colour.py")


def listed(*arguments: str) -> str:
    result = CliRunner().invoke(vidloc, ["list", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("group", ["encoders", "heads", "datasets", "imports"])
def test_every_registered_name_is_listed_with_its_summary(group):
    lines = listed(group).splitlines()
    known = entries(group)
    assert [line.split()[0] for line in lines] == list(known)
    assert all(entry.summary in line for entry, line in zip(known.values(), lines, strict=True))
    assert {entry["name"] for entry in json.loads(listed(group, "--json"))} == set(known)


@pytest.mark.parametrize("group", ["encoders", "heads", "datasets", "imports"])
def test_every_option_of_everything_is_shown_with_help(group):
    for name in entries(group):
        shown = {option["name"]: option for option in json.loads(listed(group, name, "--json"))["options"]}
        fields = load(group, name).target.Options.model_fields
        assert list(shown) == list(fields), name
        assert all(option["help"] and option["type"] for option in shown.values()), name


def test_description_names_types_ranges_defaults_source_and_licence():
    text = listed("encoders", "slowfast_r50")
    assert "precision: float32 | tf32 | bfloat16 | float16 [default: float32]" in text
    assert "dtype: float16 | float32 [default: float16]" in text
    assert "paper: Feichtenhofer" in text
    assert "licence: Apache-2.0" in text
    assert "get: vidloc weights fetch slowfast_r50" in text
    assert "align: centre | start [default: centre]" in text
    assert "stride: text [default: 1/2]" in text
    assert "align: " not in listed("heads", "linear")


def test_a_path_works_wherever_a_name_does():
    text = listed("encoders", MEAN_COLOUR)
    assert text.startswith("mean_colour (")
    assert "Mean colour of a few frames per window" in text
    assert "num_frames: int, at least 1, at most 64 [default: 4]" in text


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UnknownNameError, match=r"no encoder called 'slowfas_r50'\. Did you mean slowfast_r50"):
        CliRunner().invoke(vidloc, ["list", "encoders", "slowfas_r50"], catch_exceptions=False)


def test_an_unknown_group_is_wrong_usage():
    result = CliRunner().invoke(vidloc, ["list", "models"])
    assert result.exit_code == 2
    assert "'models' is not one of 'heads', 'encoders', 'datasets', 'imports'" in result.stderr
