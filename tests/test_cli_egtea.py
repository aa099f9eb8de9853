"""EGTEA Gaze+ from the command line: annotations in its files, made-up rows, heads trained and scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import center_grid, num_center_rows
from vidloc.datasets.egtea import CLIP_FPS
from vidloc.datasets.epic_kitchens import EpicKitchens, EpicOptions
from vidloc.stores.base import StreamSpec, create_store
from vidloc.testing.planted import make_recognition


def call(*arguments):
    return CliRunner().invoke(vidloc, [str(a) for a in arguments])


def clip_name(item: str, start_s: float, end_s: float) -> str:
    margin = 0.1 * (end_s - start_s)
    first, last = CLIP_FPS * (start_s - margin), CLIP_FPS * (end_s + margin)
    return f"{item}-{1000 * start_s:.0f}-{1000 * end_s:.0f}-F{max(int(first), 0):06d}-F{int(last) + 1:06d}"


def write_egtea(folder: Path, planted) -> Path:
    """The annotations of a planted corpus in the files of EGTEA Gaze+; every pair that there is, is an action."""
    source = EpicKitchens(EpicOptions(), name="epic55").read(planted.annotations)
    folder.mkdir()
    pairs = sorted({(s.labels["verb"], s.labels["noun"]) for split in source.splits.values() for s in split})
    for task in ("verb", "noun"):
        lines = [f"{k},{name}" for k, name in enumerate(source.classes[task], start=1)]
        (folder / f"{task}s.csv").write_text("\n".join([f"{task}_id,{task}", *lines]) + "\n")
    actions = [f"{k},{v}_{n},{v + 1},{n + 1}" for k, (v, n) in enumerate(pairs, start=1)]
    (folder / "actions.csv").write_text("\n".join(["action_id,action_name,verb_id,noun_ids", *actions]) + "\n")
    for split, other in (("train", "train"), ("test", "validation")):
        lines = [
            f"{clip_name(s.item_id, *s.span)} {pairs.index((v, n)) + 1} {v + 1} {n + 1}"
            for s in source.split(other)
            for v, n in [(s.labels["verb"], s.labels["noun"])]
        ]
        (folder / f"{split}_split2.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("egtea")
    planted = make_recognition(folder)
    arguments = ["--store", planted.store, "--dataset", "egtea", "--split-number", 2]
    return [*arguments, "--annotations", write_egtea(folder / "egtea", planted), "--stream", "verb=motion"]


def test_a_head_of_verb_and_noun_is_scored_on_actions_too(corpus, tmp_path):
    run = tmp_path / "run"
    options = ["--epochs", 25, "--lr", 0.05, "--batch", 16, "--dropout", 0.2]
    trained = call("train-head", "sapnet", *corpus, "--stream", "noun=looks", *options, "--out", run)
    assert trained.exit_code == 0, trained.output + str(trained.exception)
    assert "segments cover the annotated actions" in trained.stderr
    told = call("evaluate", run)
    assert "sapnet on egtea_split2, split 'test', trained on split 'train'" in told.stdout
    assert "an action is scored by the product of its verb's and its noun's probability" in " ".join(
        told.stdout.split()
    )
    scores = json.loads(call("evaluate", run, "--json").stdout)
    assert scores["protocol"] == "egtea"
    for task in ("verb", "noun", "action"):
        assert set(scores["metrics"][task]) == {"top1", "top5", "mean_class_accuracy"}
        assert f"{task}.mean_class_accuracy" in told.stdout
        assert scores["metrics"][task]["top1"] > scores["baselines"]["most_frequent"][task]["top1"] + 0.2
    assert "only the metrics of EPIC-KITCHENS rank" in str(call("evaluate", run, "--prior", "joint").exception)


def test_two_branch_learns_the_actions_themselves(corpus, tmp_path):
    run = tmp_path / "run"
    options = ["--action", "--epochs", 40, "--lr", 0.1, "--batch", 16, "--dropout", 0, "--select", "best"]
    trained = call(
        *("train-head", "two_branch", *corpus, "--stream", "noun=motion", *options, "--select-split", "test"),
        *("--cut", "clip", "--out", run),
    )
    assert trained.exit_code == 0, trained.output + str(trained.exception)
    assert "segments cover the cut clips" in trained.stderr
    scores = json.loads(call("evaluate", run, "--json").stdout)
    assert scores["notes"] == []
    assert scores["metrics"]["verb"]["top1"] > scores["baselines"]["chance"]["verb"]["top1"] + 0.2
    assert scores["metrics"]["action"]["top1"] > scores["baselines"]["chance"]["action"]["top1"] + 0.1
    record = json.loads((run / "run.json").read_text())
    assert record["spec"]["dataset_options"] == {"split_number": 2, "cut": "clip", "items": "video"}
    assert "(score" in record["chosen"]


def test_a_head_of_whole_items_needs_clips_as_items(tmp_path):
    """Both splits share a video, so `linear` is refused until every clip is an item of its own."""
    folder, random = tmp_path / "egtea", np.random.default_rng(0)
    folder.mkdir()
    (folder / "verbs.csv").write_text("verb_id,verb\n1,take\n2,put\n")
    (folder / "nouns.csv").write_text("noun_id,noun\n1,pan\n")
    (folder / "actions.csv").write_text("action_id,action_name,verb_id,noun_ids\n1,take_pan,1,1\n2,put_pan,2,1\n")
    clips = [(clip_name("P01", 10.0 * k + 1, 10.0 * k + 6), 1 + k % 2) for k in range(12)]
    for split, part in (("train", clips[:8]), ("test", clips[8:])):
        (folder / f"{split}_split1.txt").write_text("".join(f"{name} {action} {action} 1\n" for name, action in part))
    spec = StreamSpec(name="clip", kind="clip", fields={"features": FieldSpec(row_shape=(6,), dtype="float16")})
    with create_store(tmp_path / "feats.zarr") as writer:
        writer.add_stream(spec)
        for item, duration, label in (("P01", 130, 0), *((name, 6, action) for name, action in clips)):
            centers = np.arange(num_center_rows(1, duration)) + 0.5
            means = np.where(((centers > 0.5) & (centers < 5.5))[:, None], [[2.0 * label, 0, 0, 0, 0, 0]], 5)
            rows = means + random.normal(size=means.shape)
            writer.set_info(ItemInfo(item_id=item, duration_s=duration))
            writer.write("clip", item, Rows.dense(features=rows.astype(np.float16)), center_grid(1, 1))
            writer.commit(item)
    arguments = ["--store", tmp_path / "feats.zarr", "--dataset", "egtea", "--annotations", folder, "--label", "action"]
    refused = call("train-head", "linear", *arguments, "--out", tmp_path / "refused")
    assert "linear learns from whole items, and 1 of split 'test' are in split 'train' too, such as 'P01'" in str(
        refused.exception
    )
    assert not (tmp_path / "refused").exists()
    run = tmp_path / "run"
    trained = call(
        "train-head", "linear", *arguments, "--items", "clip", "--context-s", 0, "--change-cost", 0, "--out", run
    )
    assert trained.exit_code == 0, trained.output + str(trained.exception)
    scores = json.loads(call("evaluate", run, "--json").stdout)
    assert scores["metrics"]["num_items"] == 4
    assert scores["metrics"]["frame_accuracy"]["all"] > scores["baselines"]["most_frequent"]["frame_accuracy"]["all"]
