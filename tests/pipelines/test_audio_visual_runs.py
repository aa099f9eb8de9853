"""AVE's heads end to end: they learn planted events, answer for AVE's protocols only, and read real rows of sound."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import TimeGrid
from vidloc.errors import OptionError
from vidloc.pipelines.evaluate import LabelSource, evaluate
from vidloc.pipelines.run_record import read_predictions
from vidloc.pipelines.train import TrainPlan, train
from vidloc.stores.base import StreamSpec, create_store
from vidloc.testing.planted import Planted
from vidloc.testing.planted_events import make_events, make_matching

COMMON = {"device": "cpu", "batch": 16}


@pytest.fixture(scope="module")
def matching(tmp_path_factory) -> Planted:
    return make_matching(tmp_path_factory.mktemp("matching"), num_training=96, num_held_out=24)


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Planted:
    return make_events(tmp_path_factory.mktemp("events"), num_training=12, num_held_out=6)


def plan(planted, head, protocol, **options) -> TrainPlan:
    return TrainPlan(
        head=head,
        stores=(str(planted.store),),
        dataset="ave",
        annotations=planted.annotations,
        dataset_options={"protocol": protocol},
        options={**COMMON, **options},
    )


def test_the_event_as_a_whole_is_matched_where_its_seconds_alone_are_not(matching, tmp_path):
    """Any two parts of the planted events belong to one class together: second beside second tells next to nothing."""
    found = {
        head: train(plan(matching, head, "matching", epochs=12, **options), tmp_path / head).scores
        for head, options in (("avdln", {}), ("dam", {"width": 64}))
    }
    accuracy = {head: scores.metrics["accuracy"]["mean"] for head, scores in found.items()}
    assert accuracy["dam"] > accuracy["avdln"] + 0.1
    assert accuracy["dam"] > found["dam"].baselines["chance"]["accuracy"]["mean"] + 0.2
    assert len(read_predictions(tmp_path / "dam" / "predictions.jsonl")) == 2 * 24


@pytest.mark.parametrize(
    ("head", "protocol", "wanted"),
    [("dam", "event", "av-matching"), ("avdln", "weak", "av-matching"), ("avel", "matching", "av-event")],
)
def test_the_other_protocol_is_refused_as_its_splits_overlap(events, tmp_path, head, protocol, wanted):
    with pytest.raises(OptionError, match=rf"protocol '{wanted}', and ave_{protocol} has .* Their splits overlap"):
        train(plan(events, head, protocol), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_scored_by_the_other_protocol(events, tmp_path):
    train(plan(events, "dam_event", "event", epochs=1, width=8), tmp_path / "run")
    other = LabelSource("ave", {"protocol": "matching"}, events.annotations)
    with pytest.raises(OptionError, match="Their splits overlap"):
        evaluate(tmp_path / "run", labels=other)
    weak = evaluate(tmp_path / "run", labels=LabelSource("ave", {"protocol": "weak"}, events.annotations))
    assert weak.metrics["accuracy"] == evaluate(tmp_path / "run").metrics["accuracy"]  # the test labels are the same


def test_weak_training_from_the_command_line(events, tmp_path):
    base = ["--store", events.store, "--dataset", "ave", "--protocol", "weak", "--annotations", events.annotations]
    flags = ["--supervision", "weak", "--fusion", "dmrn", "--epochs", "2", "--lr-drops", "0.5", "--device", "cpu"]
    chosen = ["--select", "best", "--select-split", "val"]
    result = CliRunner().invoke(
        vidloc, [str(a) for a in ["train-head", "avel", *base, *flags, *chosen, "--out", tmp_path / "run", "--json"]]
    )
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)["scores"]["metrics"]
    assert (metrics["num_segments"], metrics["num_seconds"], metrics["num_seconds_without_prediction"]) == (6, 60, 0)
    # A file of predictions without its account is scored by the dataset's protocol.
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes((tmp_path / "run" / "predictions.jsonl").read_bytes())
    again = CliRunner().invoke(
        vidloc, ["evaluate", str(alone), "--dataset", "ave", "--annotations", str(events.annotations), "--json"]
    )
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["metrics"]["accuracy"] == metrics["accuracy"]


def test_real_rows_of_sound_train_the_audio_path(shared: Path, tmp_path):
    """The 178 background clips of the weak protocol, real VGGish rows, beside made-up clips of one class each."""
    with np.load(shared / "data" / "ave" / "background_audio_features.npz", allow_pickle=False) as arrays:
        background = arrays["features"]
    random = np.random.default_rng(0)
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    np.savez(annotations / "background_audio_features.npz", features=background[:40])
    lines = [f"{name}&clip_{k:02d}&good&2&8" for k, name in enumerate(["Bell", "Horn"] * 8)]
    (annotations / "Annotations.txt").write_text("\n".join(lines), encoding="utf-8")
    splits = {"train": list(range(10)), "val": [10, 11], "test": list(range(12, 16))}
    (annotations / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    spec = StreamSpec(
        name="vggish", kind="audio", fields={"features": FieldSpec(row_shape=(128,), dtype="float32")}, encoder="vggish"
    )
    scale = float(background.std())
    codes = np.abs(random.normal(size=(2, 128))) * 4 * scale
    with create_store(tmp_path / "feats.zarr") as writer:
        writer.add_stream(spec)
        rows = {f"background_{k:03d}": background[k] for k in range(40)}
        # Real sound beside the event, and within it a sound of the class on top of it.
        for k in range(16):
            clip = background[100 + k].copy()
            clip[2:8] += codes[k % 2]
            rows[f"clip_{k:02d}"] = clip
        for item, features in rows.items():
            writer.set_info(ItemInfo(item_id=item, duration_s=10))
            dense = Rows.dense(features=features.astype(np.float32))
            writer.write("vggish", item, dense, TimeGrid(Fraction(1), Fraction(1)), extent=(0.0, 10.0))
            writer.commit(item)
    planted = Planted(tmp_path / "feats.zarr", annotations)
    notes: list[str] = []
    options = {"fusion": "audio", "epochs": 10, "lr": 5e-3, "clip_norm": 1.0}
    full = train(plan(planted, "avel", "event", **options), tmp_path / "full")
    assert full.scores.metrics["accuracy"] > 0.9 > full.scores.baselines["most_frequent"]["accuracy"] + 0.2
    weak = train(plan(planted, "avel", "weak", supervision="weak", **options), tmp_path / "weak", notice=notes.append)
    assert weak.record.splits["train"].num_used == 10 + 40
    # Classes alone do not tell when: naming the right one on all ten seconds, six of them the event, gives 60 %.
    assert weak.scores.metrics["accuracy"] >= 0.6 > weak.scores.baselines["most_frequent"]["accuracy"] + 0.1
    assert any("items background_000 to background_039" in note for note in notes)
