"""SF-Net from store to scores on planted segments: each part of it earns its place, and the command line runs it."""

from __future__ import annotations

import json
from statistics import fmean

import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.pipelines.setting import TrainPlan
from vidloc.pipelines.train import train
from vidloc.testing.planted import make_single_frames

OPTIONS = {
    "inputs": "rgb",
    "epochs": 2,
    "steps": 40,
    "lr": 0.004,
    "dropout": 0.3,
    "expand_at": 0.5,
    "paper_stride_s": 0.5,
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return [make_single_frames(tmp_path_factory.mktemp(f"planted_{seed}"), seed=seed) for seed in range(3)]


def test_background_and_growth_help(planted, tmp_path):
    """Mean over three corpora and seeds, on items not trained on; the order that the paper reports."""

    def mean_ap(variant):
        scores = []
        for seed, corpus in enumerate(planted):
            plan = TrainPlan(
                "sfnet",
                (str(corpus.store),),
                "segments",
                corpus.annotations,
                dataset_options={"points": str(corpus.points)},
                options={**OPTIONS, "variant": variant, "seed": seed, "device": "cpu"},
            )
            report = train(plan, tmp_path / f"{variant}_{seed}")
            assert report.scores is not None
            assert report.scores.split == "test"
            scores.append(report.scores.metrics["detection"]["map"])
        return fmean(scores)

    frames, background, everything = (mean_ap(variant) for variant in ("SF", "SFB", "SFBAE"))
    assert background > frames + 0.1
    assert everything > background + 0.05
    assert everything > 0.7


def test_from_the_command_line(planted, tmp_path):
    corpus, out = planted[0], tmp_path / "run"
    arguments = ["train-head", "sfnet", "--store", corpus.store, "--dataset", "segments", "--points", corpus.points]
    arguments += ["--annotations", corpus.annotations, "--out", out, "--inputs", "rgb", "--epochs", 2, "--steps", 3]
    result = CliRunner().invoke(vidloc, [str(a) for a in [*arguments, "--as-released", "--json"]])
    assert result.exit_code == 0, result.output
    assert "rows are 0.5 s apart, and the numbers of rows are meant for 0.64 s" in result.stderr
    report = json.loads(result.stdout)
    assert report["run"]["spec"]["options"]["expansion"] == "release"
    assert report["run"]["spec"]["dataset_options"]["points"] == str(corpus.points)
    assert "no split was looked at to choose it" in report["run"]["chosen"]
    assert (out / "metrics.csv").read_text().splitlines()[0].endswith("mined_rows,mined_precision")
    again = CliRunner().invoke(vidloc, ["evaluate", str(out), "--json"])
    assert json.loads(again.stdout) == report["scores"]


def test_without_true_segments_a_run_is_trained_and_not_scored(planted, tmp_path):
    corpus, out = planted[0], tmp_path / "run"
    arguments = ["train-head", "sfnet", "--store", corpus.store, "--dataset", "points", "--annotations", corpus.points]
    arguments += ["--out", out, "--inputs", "rgb", "--epochs", 1, "--steps", 2, "--json"]
    result = CliRunner().invoke(vidloc, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["scores"] is None
    assert report["run"]["splits"]["train"]["num_used"] == 8
