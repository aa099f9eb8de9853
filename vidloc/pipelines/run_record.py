"""What a run says of itself: `run.json`, and the account beside each `predictions.jsonl`. Reading needs no torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import JsonValue, ValidationError

from vidloc.core.records import HeadTask, Prediction, Record
from vidloc.errors import OptionError

RUN_FORMAT = 1
RUN_FILE, WEIGHTS_FILE, METRICS_FILE = "run.json", "weights.safetensors", "metrics.csv"


class RunSpec(Record):
    """Everything that decides a training, after defaults: enough to repeat it.

    Attributes:
        head: name, or path of a Python file.
        options: the head's options.
        dataset, dataset_options, annotations: what was read as labels.
        stores: paths, in the order given.
        streams: stream by role.
        train_split, eval_split: splits used; `eval_split` is empty where nothing is evaluated.
    """

    head: str
    options: Mapping[str, JsonValue]
    dataset: str
    dataset_options: Mapping[str, JsonValue]
    annotations: str | None
    stores: tuple[str, ...]
    streams: Mapping[str, str]
    train_split: str
    eval_split: str


class StreamRecord(Record):
    """A stream that a run was trained on.

    Attributes:
        store: path of the store.
        stream: name of the stream in it.
        dim: width of one feature.
        encoder, weights: what made the rows, for people.
        origin_sha256: sha256 of the stream's origin; rows of another origin do not fit the trained head.
        digest: sha256 over the digests of the items of the training split that took part.
    """

    store: str
    stream: str
    dim: int
    encoder: str
    weights: str
    origin_sha256: str
    digest: str


class Lacking(Record):
    """An annotation (or an item) that no rows answer for, and why."""

    id: str
    item_id: str
    reason: str


class LeakRecord(Record):
    """Seconds by which the rows of a segment show what lies beyond its ends, for one role."""

    mean_s: float
    max_s: float


class SplitRecord(Record):
    """What became of a split's annotations.

    Attributes:
        num_annotations: segments of the split (items, for heads that work on items).
        num_used: those with rows in every role.
        lacking: the others.
        leak: reach of the rows beyond the segments, by role sampled with a segment rule.
    """

    split: str
    num_annotations: int
    num_used: int
    lacking: tuple[Lacking, ...] = ()
    leak: Mapping[str, LeakRecord] = {}


class RunRecord(Record):
    """One training: what was asked, what it met, how it ended.

    Attributes:
        spec: what was asked, after defaults.
        head_origin, head_version: which code the head is.
        streams: streams by role.
        classes: class names by task.
        annotations_sha256: sha256 by annotation file.
        versions: vidloc and the libraries that took part.
        splits: account of each split that was read, by its use (`train`, `select`).
        num_parameters: trainable numbers of the head.
        status: `running` until weights are written.
        epoch, chosen: which epoch's weights were kept, and how it was chosen.
        command: as typed, where it came from a command line.
    """

    format: int = RUN_FORMAT
    spec: RunSpec
    task: HeadTask
    head_origin: str
    head_version: str
    streams: Mapping[str, StreamRecord]
    classes: Mapping[str, tuple[str, ...]]
    annotations_sha256: Mapping[str, str]
    versions: Mapping[str, str]
    splits: Mapping[str, SplitRecord]
    device: str
    num_parameters: int
    started: str
    status: Literal["running", "finished"] = "running"
    duration_s: float = 0.0
    epoch: int = 0
    chosen: str = ""
    command: str = ""


class PredictionsRecord(Record):
    """What a file of predictions answers: enough to score it without the run, torch or a store.

    Attributes:
        run, head, task: what made them.
        label_task: task whose labels a detection head predicts; empty for recognition.
        split: the split that they are of.
        train_split, chosen: what the head was trained on, and how the epoch was chosen.
        record: which annotations were answered, and which could not be.
        durations_s: duration by item as the store knows it, for detection.
    """

    run: str
    head: str
    task: HeadTask
    dataset: str
    dataset_options: Mapping[str, JsonValue]
    annotations: str | None
    annotations_sha256: Mapping[str, str]
    split: str
    train_split: str
    chosen: str
    record: SplitRecord
    label_task: str = ""
    durations_s: Mapping[str, float] = {}


def read_run(folder: Path) -> RunRecord:
    """The record of a run folder.

    Raises:
        OptionError: no run there, or one of a newer version.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise OptionError(f"{folder} is no run: it has no {RUN_FILE}. Train one: vidloc train-head NAME --out {folder}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("format") != RUN_FORMAT:
            raise OptionError(f"{path} has format {value.get('format')}; this version of vidloc reads {RUN_FORMAT}.")
        return RunRecord.model_validate(value)
    except (ValidationError, json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def read_metrics(path: Path) -> dict[int, dict[str, float]]:
    """The numbers of each epoch in a run's metrics.csv, by epoch from 1; none where there is no such file.

    Raises:
        OptionError: a file that holds something else.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {
            int(row["epoch"]): {name: float(value) for name, value in row.items() if name != "epoch" and value != ""}
            for row in rows
        }
    except (KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{path} is damaged: {error}") from None


def predictions_path(run: Path, split: str, record: RunRecord) -> Path:
    """Where a run keeps the predictions of a split: `predictions.jsonl` for the split it evaluates on."""
    name = "predictions.jsonl" if split == record.spec.eval_split else f"predictions-{split}.jsonl"
    return run / name


def account_path(predictions: Path) -> Path:
    """The account beside a file of predictions."""
    return predictions.with_suffix(".info.json")


def write_predictions(path: Path, predictions: Iterable[Prediction], record: PredictionsRecord) -> None:
    """Write predictions, one per line, and their account beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(p.model_dump_json(exclude_none=True) + "\n" for p in predictions)
    write_text(path, lines)
    write_text(account_path(path), record.model_dump_json(indent=2) + "\n")


def read_predictions(path: Path) -> list[Prediction]:
    """Predictions of a file.

    Raises:
        OptionError: no such file, or a line that is no prediction.
    """
    if not path.is_file():
        raise OptionError(f"there is no file {path}.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(Prediction.model_validate_json(line))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise OptionError(f"{path}, line {number}: {where}: {problem['msg']}.") from None
    return found


def read_account(predictions: Path) -> PredictionsRecord | None:
    """The account beside a file of predictions, `None` where there is none.

    Raises:
        OptionError: it is damaged.
    """
    path = account_path(predictions)
    if not path.is_file():
        return None
    try:
        return PredictionsRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise OptionError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader sees the old or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
