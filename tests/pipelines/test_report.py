"""Reports of small runs of every kind: one page each, complete in itself, with the numbers of the run, and safe."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from vidloc.cli import main, vidloc
from vidloc.pipelines.evaluate import evaluate
from vidloc.pipelines.metric_table import flat, shown
from vidloc.pipelines.report import report
from vidloc.pipelines.run_record import RUN_FILE
from vidloc.pipelines.setting import TrainPlan
from vidloc.pipelines.train import train
from vidloc.testing.planted import make_detection, make_recognition, make_single_frames
from vidloc.testing.planted_events import make_events, make_matching

HOSTILE = "<img src=x onerror=alert(1)></script>$$x$$"


class Parsed(HTMLParser):
    """Tags with their attributes, the text of tables, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data + "\n"


def trained(folder, head, make, dataset, *, dataset_options=None, streams=None, **options):
    corpus = make(folder)
    given = {"points": str(corpus.points)} if corpus.points else dataset_options or {}
    plan = TrainPlan(
        head,
        (str(corpus.store),),
        dataset,
        corpus.annotations,
        dataset_options=given,
        options={"device": "cpu", **options},
        streams=streams or {},
    )
    train(plan, folder / "run", command="vidloc train-head")
    return folder / "run"


def few(make):
    return lambda folder: make(folder, num_training=8, num_held_out=4)


RUNS = {
    "sfnet": ((make_single_frames, "segments"), {"inputs": "rgb", "epochs": 2, "steps": 2, "expand_at": 0.5}),
    "linear": ((make_detection, "segments"), {}),
    "two_branch": (
        (make_recognition, "epic"),
        {"epochs": 2, "streams": {"verb": "motion", "noun": "looks"}},
    ),
    "avel": ((few(make_events), "ave"), {"epochs": 1, "dataset_options": {"protocol": "event"}}),
    "dam_event": ((few(make_events), "ave"), {"epochs": 1, "width": 8, "dataset_options": {"protocol": "event"}}),
    "avdln": ((few(make_matching), "ave"), {"epochs": 1, "dataset_options": {"protocol": "matching"}}),
    "dam": ((few(make_matching), "ave"), {"epochs": 1, "width": 8, "dataset_options": {"protocol": "matching"}}),
}
LANES = {
    "sfnet": {"ground truth", "predictions", "single frames", "actionness", "labelled rows", "grown rows"},
    "linear": {"ground truth", "predictions", "rows, each by itself", "class\\\\nprobability"},
    "two_branch": {"taken for"},
    "avel": {"ground truth", "predictions", "class\\\\nprobability"},
    "dam_event": {"relevance", "predictions"},
    "avdln": {"match, by start", "found in pictures (a2v)", "found in sound (v2a)"},
    "dam": {"match, by start", "relevance"},
}


@pytest.mark.parametrize("head", RUNS)
def test_a_run_of_each_kind(head, tmp_path):
    (make, dataset), options = RUNS[head]
    run = trained(tmp_path, head, make, dataset, **options)
    written = report(run, items=3)
    assert written.path == run / "report.html"
    text = written.path.read_text(encoding="utf-8")
    assert written.num_bytes == len(text.encode())
    page = Parsed(text)
    for name, value in flat(evaluate(run).metrics).items():
        assert name in page.text
        assert shown(value) in page.text
    for name in LANES[head]:
        assert name in page.scripts[-2], name
    counts = {"two_branch": {}, "sfnet": {"test": 3, "train": 3}, "linear": {"test": 2}}
    assert written.timelines == counts.get(head, {"test": 3})
    assert_complete_in_itself(page)


def assert_complete_in_itself(page):
    """No tag loads anything, and the policy lets no script run but those on the page."""
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "img", "form"}
    assert not [attributes for _, attributes in page.tags if {"src", "href", "srcset", "action"} & attributes.keys()]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    [policy] = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    assert {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts} == allowed


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("detected"), "linear", make_detection, "segments")


def test_names_of_a_run_are_text_and_nothing_else(tmp_path):
    def hostile(folder):
        corpus = make_detection(folder)
        labels = corpus.annotations.read_text().replace("wave", HOSTILE)
        corpus.annotations.write_text(labels)
        return corpus

    run = trained(tmp_path, "linear", hostile, "segments")
    record = json.loads((run / RUN_FILE).read_text())
    record["command"] = f"vidloc {HOSTILE}"
    (run / RUN_FILE).write_text(json.dumps(record))
    text = report(run).path.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "<img" not in text.split("<script>")[0]
    page = Parsed(text)
    assert page.text.count(HOSTILE) >= 3  # in the table of classes, a legend and the command
    assert_complete_in_itself(page)


def test_without_timelines_neither_rows_nor_weights_are_needed(detected, tmp_path):
    moved = detected.parent / "elsewhere.zarr"
    (detected.parent / "feats.zarr").rename(moved)
    try:
        result = CliRunner().invoke(
            vidloc, ["report", str(detected), "--items", "0", "--out", str(tmp_path / "a.html")]
        )
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith("no timelines.\n")
        again = CliRunner().invoke(
            vidloc, ["report", str(detected), "--store", str(moved), "--split", "train", "--items", "2", "--json"]
        )
        assert json.loads(again.stdout)["timelines"] == {"train": 2}
    finally:
        moved.rename(detected.parent / "feats.zarr")


def test_what_is_no_finished_run_is_one_line(detected, tmp_path, capsys):
    assert said(["report", str(tmp_path / "none")], capsys).startswith(f"Error: {tmp_path / 'none'} is no run")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    record = json.loads((detected / RUN_FILE).read_text()) | {"status": "running"}
    (unfinished / RUN_FILE).write_text(json.dumps(record))
    line = said(["report", str(unfinished)], capsys)
    assert "is not finished (status 'running'), so there is nothing to report. Start it again" in line
    assert not (unfinished / "report.html").exists()


def said(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    return line
