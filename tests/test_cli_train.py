"""The light stage from the command line: flags from typed options, exit codes, JSON, and the real gesture run."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import center_grid, num_center_rows
from vidloc.errors import OptionError
from vidloc.metrics.epic_submission import read_epic_submission
from vidloc.pipelines.run_record import read_predictions
from vidloc.stores.base import StreamSpec, append_to_store, create_store
from vidloc.testing.planted import make_detection, make_recognition

REPOSITORY = Path(__file__).parent.parent
ENCODER = REPOSITORY / "tests" / "data" / "mobilenet_v1.py"
WEIGHTS = Path("data/weights/mobilenet_v1_0.25_224_imagenet.safetensors")


@pytest.fixture(scope="module")
def recognition(tmp_path_factory):
    return make_recognition(tmp_path_factory.mktemp("recognition"))


@pytest.fixture(scope="module")
def detection(tmp_path_factory):
    return make_detection(tmp_path_factory.mktemp("detection"))


@pytest.fixture(scope="module")
def linear_run(detection, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "linear"
    result = call("train-head", "linear", *labelled(detection), "--out", out, "--json")
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def labelled(planted) -> list:
    return ["--store", planted.store, "--dataset", "segments", "--annotations", planted.annotations]


def call(*arguments):
    """Run a command as a user would; errors made on purpose come out as they are raised."""
    return CliRunner().invoke(vidloc, [str(a) for a in arguments], catch_exceptions=True)


def sapnet(recognition, *more):
    return call(
        *("train-head", "sapnet", "--store", recognition.store, "--dataset", "epic"),
        *("--annotations", recognition.annotations, "--stream", "verb=motion", "--stream", "noun=looks"),
        *("--epochs", 1, *more),
    )


def test_help_lists_heads_without_torch():
    code = (
        "import sys; from click.testing import CliRunner; from vidloc.cli import vidloc;"
        "r = CliRunner().invoke(vidloc, ['train-head', '--help']); print(r.output);"
        "assert r.exit_code == 0 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("sapnet", "two_branch", "linear"):
        assert name in done.stdout


def test_help_of_a_head_lists_its_options_and_the_datasets():
    plain = call("train-head", "sapnet", "--help")
    assert plain.exit_code == 0
    for flag in ("--variant", "--object-window-s", "--lr-drops", "--rows", "--select-split", "--stream"):
        assert flag in plain.output
    assert "--protocol" not in plain.output
    assert "--protocol" in call("train-head", "sapnet", "--dataset", "epic55", "--help").output
    assert "--also-above" in call("train-head", "linear", "--help").output


def test_a_head_that_does_not_exist_is_wrong_usage():
    result = call("train-head", "sapnot", "--help")
    assert result.exit_code == 2
    assert "Did you mean sapnet?" in result.output


def test_a_head_of_ones_own_is_a_file(detection, tmp_path):
    file = tmp_path / "my_linear.py"
    file.write_text(
        '"""MyLinear: the linear head under another name."""\n'
        "from vidloc.heads.linear import Linear\n\n\nclass MyLinear(Linear):\n    pass\n\n\nHEAD = MyLinear\n"
    )
    result = call("train-head", file, *labelled(detection), "--out", tmp_path / "run", "--context-s", 1)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["head_origin"] == str(file)
    assert record["spec"]["options"]["context_s"] == 1
    assert "MyLinear: the linear head" in call("train-head", file, "--help").output


def test_options_come_from_a_file_and_flags_go_before_it(recognition, tmp_path):
    (tmp_path / "options.json").write_text(json.dumps({"dropout": 0.25, "seed": 3}))
    result = sapnet(
        recognition, "--options", tmp_path / "options.json", "--seed", 4, "--out", tmp_path / "run", "--json"
    )
    assert result.exit_code == 0, result.output
    options = json.loads(result.stdout)["run"]["spec"]["options"]
    assert (options["dropout"], options["seed"], options["batch"]) == (0.25, 4, 64)


def test_an_unknown_option_in_a_file_is_one_line(recognition, tmp_path):
    (tmp_path / "options.json").write_text('{"dropuot": 1}')
    result = sapnet(recognition, "--options", tmp_path / "options.json", "--out", tmp_path / "run")
    assert isinstance(result.exception, OptionError)
    assert "has no option 'dropuot'. Did you mean dropout?" in str(result.exception)


def test_every_number_says_split_and_choice(linear_run):
    out, _ = linear_run
    result = call("evaluate", out)
    assert result.exit_code == 0
    assert "split 'test', trained on split 'train'; weights: logistic regression has no epochs" in result.stdout
    assert "most frequent" in result.stdout


def test_evaluate_json_is_that_of_training(linear_run):
    out, report = linear_run
    assert json.loads(call("evaluate", out, "--json").stdout) == report["scores"]


def test_predict_and_evaluate_another_split(linear_run, detection):
    out, _ = linear_run
    missing = call("evaluate", out, "--split", "train")
    assert f"vidloc predict {out} --split train" in str(missing.exception)
    assert call("predict", out, "--split", "train", "--store", detection.store).exit_code == 0
    assert json.loads(call("evaluate", out, "--split", "train", "--json").stdout)["split"] == "train"


def test_a_run_is_repeated_from_its_folder(linear_run, tmp_path):
    out, report = linear_run
    again = call("train-head", "--from", out, "--out", tmp_path / "again", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["scores"] == report["scores"]
    assert "needs --out" in call("train-head", "--from", out).output


def test_annotations_without_rows_end_in_exit_code_3(detection, tmp_path):
    store = tmp_path / "feats.zarr"
    shutil.copytree(detection.store, store)
    with append_to_store(store) as writer:
        writer.mark("frames", "video_07.mp4", "failed", "no picture")
        writer.commit("video_07.mp4")
    arguments = ["--store", store, "--dataset", "segments", "--annotations", detection.annotations]
    result = call("train-head", "linear", *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert "1 of 2 annotations lack rows" in result.stderr
    assert call("evaluate", tmp_path / "run").exit_code == 3
    assert call("predict", tmp_path / "run").exit_code == 3


def test_select_best_says_what_it_looked_at(recognition, tmp_path):
    result = sapnet(recognition, "--select", "best", "--select-split", "validation", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "on split 'validation' (score" in result.stdout
    assert "not held out" in result.stdout


def official_run(tmp_path, shared, name: str, items: dict[str, float]) -> Path:
    """A run trained on made-up rows for a few videos of the official annotations, cut down to those videos."""
    folder = tmp_path / name
    folder.mkdir()
    for path in (shared / "data" / name).iterdir():
        if path.is_file() and path.name.endswith((".csv", ".csv.gz")):
            _cut(path, folder / path.name.removesuffix(".gz"), set(items))
    spec = StreamSpec(name="clip", kind="clip", fields={"features": FieldSpec(row_shape=(4,), dtype="float16")})
    with create_store(tmp_path / f"{name}.zarr") as writer:
        writer.add_stream(spec)
        for item, duration in items.items():
            rows = np.random.default_rng(0).normal(size=(num_center_rows(1, duration), 4)).astype(np.float16)
            writer.set_info(ItemInfo(item_id=item, duration_s=duration))
            writer.write("clip", item, Rows.dense(features=rows), center_grid(2, 1))
            writer.commit(item)
    out = tmp_path / f"run_{name}"
    result = call(
        *("train-head", "two_branch", "--store", tmp_path / f"{name}.zarr", "--dataset", "epic"),
        *("--annotations", folder, "--out", out, "--epochs", 1),
    )
    assert result.exit_code == 0, result.output + str(result.exception)
    return out


def _cut(source: Path, target: Path, items: set[str]) -> None:
    """Keep the lines of some videos; tables without a column of videos stay whole."""
    text = (gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()).decode()
    with target.open("w", newline="") as out:
        reader = csv.reader(io.StringIO(text))
        header = next(reader)
        writer = csv.writer(out)
        writer.writerow(header)
        column = header.index("video_id") if "video_id" in header and "class" not in source.name else None
        if source.name.startswith("ek100_training"):  # has no header; its first line is of P01_01
            column = 1
        writer.writerows(row for row in reader if column is None or row[column] in items)


def test_a_submission_of_epic_55_reads_back(shared, tmp_path):
    run = official_run(tmp_path, shared, "epic55", {"P01_01": 1660, "P26_01": 300, "P01_11": 1000, "P09_01": 1000})
    target = tmp_path / "epic55.zip"
    result = call("submit", run, "--prior", "joint", "--out", target, "--json")
    assert result.exit_code == 0, result.output + str(result.exception)
    parts = read_epic_submission(target, "epic55")
    counts = json.loads(result.stdout)["splits"]
    assert len(parts["seen.json"].scores) == counts["test_s1"] > 0
    assert len(parts["unseen.json"].scores) == counts["test_s2"] > 0
    assert all(len(actions) == 100 for actions in parts["seen.json"].actions.values())
    predictions = {p.query_id: p for p in read_predictions(run / "predictions-test_s1.jsonl")}
    for segment, scores in parts["seen.json"].scores.items():
        np.testing.assert_allclose(scores["noun"], predictions[segment].scores["noun"], atol=1e-6)
    wrong = call("submit", run, "--sls", 1, 2, 3, "--out", target)
    assert "part of EPIC-KITCHENS-100 submissions only" in str(wrong.exception)
    wrong = call("submit", run, "--split", "validation", "--out", target)
    assert "a submission is of split 'test'" in str(wrong.exception)


def test_a_submission_is_of_the_store_named_and_lacks_nothing(shared, tmp_path):
    videos = {"P01_01": 1660, "P26_01": 300, "P01_11": 1000, "P09_01": 1000, "P09_02": 3000}
    run = official_run(tmp_path, shared, "epic55", videos)
    store, broken, target = tmp_path / "epic55.zarr", tmp_path / "broken.zarr", tmp_path / "epic55.zip"
    assert call("submit", run, "--out", target).exit_code == 0
    shutil.copytree(store, broken)
    with append_to_store(broken) as writer:
        writer.mark("clip", "P09_01", "failed", "cut short")
        writer.commit("P09_01")
    lacking = call("submit", run, "--store", broken, "--out", target)
    assert "lack rows; the first is" in str(lacking.exception)
    assert "item 'P09_01' is failed in stream 'clip': cut short. Extract what is missing" in str(lacking.exception)
    # The video has been extracted since: partial predictions in the run's folder do not stand in the way.
    assert call("submit", run, "--out", target).exit_code == 0


def test_a_submission_of_epic_100_reads_back(shared, tmp_path):
    run = official_run(tmp_path, shared, "epic100", {"P01_01": 1660, "P04_26": 300, "P34_108": 1000})
    target = tmp_path / "epic100.zip"
    assert "levels of supervision: --sls" in str(call("submit", run, "--out", target).exception)
    result = call("submit", run, "--sls", 2, 3, 3, "--out", target)
    assert result.exit_code == 0, result.output + str(result.exception)
    part = read_epic_submission(target, "epic100")["test.json"]
    assert len(part.scores) == 10
    assert part.header["sls_pt"] == 2


def test_a_benchmark_without_submissions_says_so(linear_run, tmp_path):
    result = call("submit", linear_run[0], "--out", tmp_path / "x.zip")
    assert "there is no submission format for detection on segments" in str(result.exception)


def test_the_encoder_file_equals_the_published_network(shared):
    torch = pytest.importorskip("torch")
    from PIL import Image

    from vidloc.core import registry
    from vidloc.extract.base import EncoderOptions, Sample

    encoder = registry.load("encoders", str(ENCODER)).target(
        EncoderOptions(weights=str(shared / WEIGHTS)), name="mobilenet_v1", device=torch.device("cpu")
    )
    folder = shared / "data" / "features" / "mobilenet_reference"
    picture = np.asarray(Image.open(folder / "exact_input_224.png").convert("RGB"))
    rows = encoder.encode([Sample(span=(0, 1), data=picture, pts_s=np.zeros(1))])
    np.testing.assert_allclose(
        rows.fields["features"][0], np.load(folder / "exact_features_256.npy").ravel(), atol=1e-4
    )


def test_the_gesture_run(shared, tmp_path):
    """32 untrimmed videos, a real network, the linear head as it is: through the command line alone, over the floor."""
    data = shared / "data" / "videos_asl"
    labels, store, run = data / "untrimmed_labels.json", tmp_path / "feats.zarr", tmp_path / "run"
    extracted = call(
        *("extract", "--dataset", "segments", "--root", data / "untrimmed", "--annotations", labels, "--store", store),
        *("--encoder", f"frames={ENCODER}:weights={shared / WEIGHTS}", "--stride", "0.1"),
    )
    assert extracted.exit_code == 0, extracted.output
    trained = call(
        *("train-head", "linear", "--store", store, "--dataset", "segments", "--annotations", labels, "--out", run)
    )
    assert trained.exit_code == 0, trained.output
    scores = json.loads(call("evaluate", run, "--json").stdout)
    assert scores["split"] == "test"
    assert scores["metrics"]["num_segments"] == 44
    assert scores["metrics"]["num_items_of_guessed_duration"] == 0
    assert scores["metrics"]["frame_accuracy"]["all"] >= 0.97
    assert scores["metrics"]["frame_accuracy"]["foreground"] >= 0.942
    assert scores["metrics"]["recall"]["0.5"] == 1.0
    assert scores["metrics"]["precision"]["0.5"] >= 0.7
    assert scores["baselines"]["most_frequent"]["frame_accuracy"]["all"] == pytest.approx(0.505, abs=0.01)
