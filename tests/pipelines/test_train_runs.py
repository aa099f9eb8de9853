"""Training end to end on planted rows: runs that learn, resume, repeat, and say what they could not use."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vidloc.errors import OptionError, ProvenanceError, StreamNotFoundError, UnknownNameError
from vidloc.pipelines.evaluate import LabelSource, evaluate
from vidloc.pipelines.predict import predict
from vidloc.pipelines.run_record import account_path, read_predictions, read_run
from vidloc.pipelines.runs import load_weights
from vidloc.pipelines.train import TrainPlan, repeat_plan, train
from vidloc.stores.base import append_to_store, open_store
from vidloc.testing.planted import make_detection, make_recognition

STREAMS = {"verb": "motion", "noun": "motion", "objects": "things"}
OPTIONS = {"epochs": 6, "batch": 4, "lr": 0.05, "dropout": 0.2, "object_window_s": 2.0, "objects_per_frame": 6}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return make_recognition(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def plan(planted) -> TrainPlan:
    return TrainPlan(
        head="sapnet",
        stores=(str(planted.store),),
        dataset="epic",
        annotations=planted.annotations,
        options=OPTIONS,
        streams=STREAMS,
    )


@pytest.fixture(scope="module")
def trained(plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    notes = []
    report = train(plan, out, command="vidloc train-head sapnet", notice=notes.append)
    return out, report, notes


def scores_of(run: Path):
    return read_predictions(run / "predictions.jsonl")


def test_the_head_beats_guessing_on_planted_rows(trained):
    _, report, _ = trained
    top1 = report.scores.metrics["verb"]["top1"]
    assert top1 > 0.9
    assert top1 > report.scores.baselines["most_frequent"]["verb"]["top1"] + 0.2
    assert report.scores.baselines["chance"]["verb"]["top1"] == pytest.approx(1 / 3, abs=0.05)


def test_the_folder_says_everything(trained, planted):
    out, _, _ = trained
    record = read_run(out)
    assert record.status == "finished"
    assert record.spec.options["epochs"] == 6
    assert record.spec.options["momentum"] == 0.9  # defaults are written out
    assert record.head_origin == "vidloc.heads.sapnet"
    assert record.streams["objects"].stream == "things"
    assert len(record.streams["verb"].digest) == 64
    assert record.annotations_sha256["EPIC_train_action_labels.csv"]
    assert record.versions["torch"]
    assert record.chosen == "the last epoch; no split was looked at to choose it"
    assert record.command == "vidloc train-head sapnet"
    assert record.duration_s > 0
    assert record.num_parameters == sum(t.numel() for t in load_weights(out).values())
    assert record.splits["train"].num_used == record.splits["train"].num_annotations == 42
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert list((out / "tensorboard").glob("events*"))
    assert not (out / "checkpoints").exists()


def test_the_leak_is_reported_and_kept(trained):
    out, _, notes = trained
    said = [note for note in notes if "rows look beyond" in note and "'train'" in note]
    expected = "split 'train', roles verb and noun: rows look beyond the ends of their segments by 0.50 s on average, "
    assert said == [expected + "0.50 s at most."]
    assert read_run(out).splits["train"].leak["verb"].max_s == pytest.approx(0.5)


def test_a_repeated_run_has_the_same_numbers(trained, tmp_path):
    out, report, _ = trained
    again = train(repeat_plan(out), tmp_path / "again")
    assert again.scores.metrics == report.scores.metrics
    for name, tensor in load_weights(out).items():
        assert torch.equal(load_weights(tmp_path / "again")[name], tensor), name
    assert scores_of(tmp_path / "again") == scores_of(out)
    assert (tmp_path / "again" / "metrics.csv").read_text() == (out / "metrics.csv").read_text()


def test_a_repeat_over_other_rows_is_refused(trained, tmp_path):
    out, _, _ = trained
    other = make_recognition(tmp_path / "other", seed=1)
    plan = replace(repeat_plan(out), stores=(str(other.store),))
    with pytest.raises(ProvenanceError, match="the rows of role verb and noun and objects are not those of the run"):
        train(plan, tmp_path / "again")
    plan = replace(plan, digests={}, annotations=other.annotations)
    with pytest.raises(ProvenanceError, match="the annotation files are not those of the run"):
        train(plan, tmp_path / "more")


def test_predict_makes_what_training_wrote(trained, tmp_path):
    out, _, _ = trained
    account = predict(out, out=tmp_path / "mine.jsonl")
    assert read_predictions(tmp_path / "mine.jsonl") == scores_of(out)
    assert account.split == "validation"
    assert account.record.num_used == 14


def test_predictions_on_training_rows_keep_their_own_file(trained):
    out, _, _ = trained
    predict(out, split="train")
    assert len(read_predictions(out / "predictions-train.jsonl")) == 42
    assert evaluate(out, split="train").split == "train"
    assert evaluate(out).split == "validation"


def test_evaluate_needs_neither_torch_nor_store(trained, planted, tmp_path):
    out, report, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "weights.safetensors").unlink()
    code = (
        "import sys, json; from pathlib import Path; from vidloc.pipelines.evaluate import evaluate;"
        f"s = evaluate(Path({str(copy)!r})); assert 'torch' not in sys.modules and 'zarr' not in sys.modules;"
        "print(json.dumps(s.metrics))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == report.scores.metrics


def test_a_split_that_is_unknown_is_told_from_one_not_predicted_yet(trained, tmp_path):
    with pytest.raises(UnknownNameError, match=r"no split 'validaton'\. Did you mean validation"):
        evaluate(trained[0], split="validaton")
    shutil.copytree(trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("predictions*"))
    with pytest.raises(OptionError, match=r"no predictions of split 'train' yet\. Make them: vidloc predict"):
        evaluate(tmp_path / "run", split="train")


def test_a_prior_changes_actions_alone(trained):
    out, report, _ = trained
    scores = evaluate(out, prior="joint")
    assert scores.prior == "joint"
    assert scores.metrics["verb"] == report.scores.metrics["verb"]


def test_predictions_from_elsewhere_are_scored_with_labels_named(trained, planted, tmp_path):
    out, report, _ = trained
    shutil.copy(out / "predictions.jsonl", tmp_path / "mine.jsonl")
    with pytest.raises(OptionError, match="has no account beside it"):
        evaluate(tmp_path / "mine.jsonl")
    labels = LabelSource("epic", {}, planted.annotations)
    assert evaluate(tmp_path / "mine.jsonl", labels=labels).metrics == report.scores.metrics


def test_changed_labels_are_noticed(trained, planted, tmp_path):
    out, _, _ = trained
    moved = tmp_path / "annotations"
    shutil.copytree(planted.annotations, moved)
    shutil.copy(out / "predictions.jsonl", tmp_path)
    account = json.loads(account_path(out / "predictions.jsonl").read_text())
    account["annotations"] = str(moved)
    account_path(tmp_path / "predictions.jsonl").write_text(json.dumps(account))
    labels = moved / "EPIC_train_action_labels.csv"
    labels.write_text(labels.read_text() + "\n")
    with pytest.raises(ProvenanceError, match="have changed since the predictions"):
        evaluate(tmp_path / "predictions.jsonl")


def test_a_stopped_run_goes_on_to_the_same_end(plan, trained, tmp_path):
    def stop(epoch, _num_epochs, _values):
        if epoch == 4:
            raise KeyboardInterrupt  # after the numbers of epoch 4 were logged, before its checkpoint

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(plan, out, on_epoch=stop)
    assert read_run(out).status == "running"
    with pytest.raises(OptionError, match="is not finished"):
        predict(out)
    epochs = []
    train(plan, out, on_epoch=lambda epoch, *_: epochs.append(epoch))
    assert epochs == [4, 5, 6]
    assert scores_of(out) == scores_of(trained[0])
    assert (out / "metrics.csv").read_text() == (trained[0] / "metrics.csv").read_text()


def test_a_killed_process_goes_on_to_the_same_end(plan, trained, tmp_path):
    out = tmp_path / "run"
    code = (
        "import os, signal; from pathlib import Path; from vidloc.pipelines.train import TrainPlan, train\n"
        f"plan = TrainPlan(head='sapnet', stores={plan.stores!r}, dataset='epic', "
        f"annotations=Path({str(plan.annotations)!r}), options={plan.options!r}, streams={plan.streams!r})\n"
        f"train(plan, Path({str(out)!r}), "
        "on_epoch=lambda epoch, *_: os.kill(os.getpid(), signal.SIGKILL) if epoch == 3 else None)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    train(plan, out)
    assert scores_of(out) == scores_of(trained[0])
    for name, tensor in load_weights(trained[0]).items():
        assert torch.equal(load_weights(out)[name], tensor), name


def test_a_stopped_run_is_not_taken_up_with_other_settings(plan, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "run", on_epoch=stop)
    with pytest.raises(OptionError, match=r"interrupted run with other settings: lr was 0\.05, now 0\.1"):
        train(replace(plan, options={**OPTIONS, "lr": 0.1}), tmp_path / "run")


def test_folders_in_use_are_refused(plan, trained, tmp_path):
    notes = []
    with pytest.raises(OptionError, match=r"holds a finished run of sapnet\. .*; to score it: vidloc evaluate "):
        train(plan, trained[0], notice=notes.append)
    assert notes == []  # refused before annotations and rows are read
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="is not empty and holds no run"):
        train(plan, tmp_path)


def test_the_best_epoch_is_looked_up_on_the_split_named(plan, tmp_path):
    notes = []
    options = {**OPTIONS, "epochs": 3, "select": "best", "select_split": "validation"}
    report = train(replace(plan, options=options), tmp_path / "run", notice=notes.append)
    assert "on split 'validation'" in report.scores.chosen
    assert "not held out" in report.scores.chosen
    assert any("chooses the epoch and is no longer held out" in note for note in notes)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(range(3), key=lambda k: float(rows[k]["select"]))
    assert report.record.epoch == best + 1
    assert report.scores.metrics["action"]["top1"] == pytest.approx(float(rows[best]["select"]))


def test_choosing_needs_a_split_and_a_split_needs_choosing(plan, tmp_path):
    with pytest.raises(OptionError, match="--select best needs the split"):
        train(replace(plan, options={"select": "best"}), tmp_path / "a")
    with pytest.raises(OptionError, match="looked at only with --select best"):
        train(replace(plan, options={"select_split": "validation"}), tmp_path / "b")


def test_roles_that_two_streams_fit_must_be_chosen(plan, tmp_path):
    with pytest.raises(OptionError, match=r"--stream verb=looks or --stream verb=motion"):
        train(replace(plan, streams={}), tmp_path / "a")
    with pytest.raises(OptionError, match="--stream objects=motion: that stream is of kind clip, not objects"):
        train(replace(plan, streams={**STREAMS, "objects": "motion"}), tmp_path / "b")
    with pytest.raises(
        StreamNotFoundError, match=r"--stream verb=motoin: there is no such stream\. Did you mean motion"
    ):
        train(replace(plan, streams={**STREAMS, "verb": "motoin"}), tmp_path / "c")
    with pytest.raises(UnknownNameError, match="the head has no role 'sound'"):
        train(replace(plan, streams={**STREAMS, "sound": "motion"}), tmp_path / "d")


def test_streams_of_a_kind_that_only_a_later_version_knows_fit_no_role(plan, planted, tmp_path):
    store = tmp_path / "feats.zarr"
    shutil.copytree(planted.store, store)
    document = json.loads((store / "zarr.json").read_bytes())
    for name in ("motion", "looks"):
        spec = document["consolidated_metadata"]["metadata"][f"streams/{name}"]["attributes"]["vidloc_stream"]
        spec["kind"] = "point_cloud"
    (store / "zarr.json").write_text(json.dumps(document))
    plan = replace(plan, stores=(str(store),))
    with pytest.raises(OptionError, match=r"is of kind point_cloud \(a newer vidloc may know it\), not clip"):
        train(plan, tmp_path / "a")
    with pytest.raises(OptionError, match=r"none fits \(streams: .*motion \(point_cloud\)"):
        train(replace(plan, streams={}), tmp_path / "b")


def test_annotations_without_rows_are_counted_and_listed(plan, planted, tmp_path):
    store = tmp_path / "feats.zarr"
    shutil.copytree(planted.store, store)
    with append_to_store(store) as writer:
        for item in ("P01_01", "P26_01"):
            writer.mark("things", item, "failed", "the detector gave up")
            writer.commit(item)
    notes = []
    report = train(
        replace(plan, stores=(str(store),), options={**OPTIONS, "epochs": 1}), tmp_path / "run", notice=notes.append
    )
    lacking = report.record.splits["train"].lacking
    assert len(lacking) == 7
    assert lacking[0].reason == "item 'P01_01' is failed in stream 'things': the detector gave up"
    assert report.num_lacking == 14
    assert report.scores.num_lacking == 7
    assert report.scores.metrics["num_segments"] == 7
    assert any("7 of 42 annotations lack rows" in note for note in notes)


def test_a_store_of_other_videos_says_so(plan, tmp_path):
    other = make_recognition(tmp_path / "other", num_training=1, num_held_out=0)
    with pytest.raises(OptionError, match="split 'validation': none of its 14 annotations has rows"):
        train(replace(plan, stores=(str(other.store),), options={**OPTIONS, "epochs": 1}), tmp_path / "run")


def test_rows_of_another_origin_do_not_fit_a_trained_head(trained, planted, tmp_path):
    out, _, _ = trained
    store = tmp_path / "feats.zarr"
    with open_store(planted.store) as source, append_to_store(store) as writer:
        for name, spec in source.streams().items():
            other = (
                spec.model_copy(update={"weights": "other.pt", "weights_sha256": "ab" * 32})
                if name == "motion"
                else spec
            )
            writer.add_stream(other)
            for item in source.items(name):
                writer.write(name, item, source.read(name, item), source.timeline(name, item))
        for item in source.items():
            writer.commit(item)
    with pytest.raises(ProvenanceError, match=r"with weights other\.pt, but the run was trained on rows of planted"):
        predict(out, stores=[str(store)])


def test_roles_may_come_from_two_stores(plan, planted, trained, tmp_path):
    parts = []
    with open_store(planted.store) as source:
        for names in (("motion",), ("things",)):
            path = tmp_path / f"{names[0]}.zarr"
            with append_to_store(path) as writer:
                for name in names:
                    writer.add_stream(source.streams()[name])
                for item in source.items():
                    for name in names:
                        writer.write(name, item, source.read(name, item), source.timeline(name, item))
                    writer.commit(item)
            parts.append(str(path))
    train(replace(plan, stores=tuple(parts), streams={}), tmp_path / "run")
    assert scores_of(tmp_path / "run") == scores_of(trained[0])


def test_one_stream_in_two_stores_is_refused(plan, planted, tmp_path):
    shutil.copytree(planted.store, tmp_path / "twin.zarr")
    with pytest.raises(OptionError, match=r"stream 'looks' is in .* vidloc store merge"):
        train(replace(plan, stores=(*plan.stores, str(tmp_path / "twin.zarr"))), tmp_path / "run")


@pytest.mark.parametrize("variant", ["cnn_baseline", "max_pooling"])
def test_ablations_train_without_the_streams_they_do_not_read(plan, tmp_path, variant):
    streams = {"objects": "things"} if variant == "max_pooling" else {"verb": "motion", "noun": "looks"}
    options = {**OPTIONS, "variant": variant, "epochs": 1}
    report = train(replace(plan, options=options, streams=streams), tmp_path / "run")
    assert sorted(report.record.streams) == sorted(streams)


def test_the_linear_head_finds_planted_segments(tmp_path):
    planted = make_detection(tmp_path / "planted")
    plan = TrainPlan("linear", (str(planted.store),), "segments", planted.annotations)
    report = train(plan, tmp_path / "run")
    assert report.scores.protocol == "segments"
    assert report.scores.metrics["frame_accuracy"]["all"] > 0.95
    assert report.scores.metrics["recall"]["0.5"] == 1
    assert "no epochs" in report.record.chosen
    assert report.record.num_parameters == 3 * (12 * 2 + 1)
    assert evaluate(tmp_path / "run").metrics == report.scores.metrics
    predict(tmp_path / "run", out=tmp_path / "mine.jsonl")
    assert read_predictions(tmp_path / "mine.jsonl") == scores_of(tmp_path / "run")
