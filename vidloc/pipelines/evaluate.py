"""Predictions scored by a corpus's official metrics, beside chance and the most frequent class. No torch, no store.

Every result says which split it is of, what the head was trained on, how the epoch was chosen, and which annotations
could not be answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidloc.core.records import HeadTask, Prediction, Segment
from vidloc.datasets.base import Annotations, Dataset
from vidloc.errors import OptionError, ProvenanceError
from vidloc.metrics.actions import PriorKind, pair_counts
from vidloc.metrics.baselines import chance, most_frequent
from vidloc.metrics.protocols import AUDIO_VISUAL_PROTOCOLS, RECOGNITION_PROTOCOLS, composes_actions
from vidloc.metrics.protocols import evaluate as metrics_of
from vidloc.pipelines.labels import read_labels
from vidloc.pipelines.run_record import (
    PredictionsRecord,
    SplitRecord,
    predictions_path,
    read_account,
    read_predictions,
    read_run,
)

Metrics = Mapping[str, Any]
_PROTOCOL_OF: Mapping[HeadTask, str] = {"event": "av-event", "crossmodal": "av-matching"}
_TASK_OF: Mapping[str, HeadTask] = {protocol: task for task, protocol in _PROTOCOL_OF.items()}
_COMPOSED = "an action is scored by the product of its verb's and its noun's probability; the head scores no actions."


@dataclass(frozen=True)
class Scores:
    """Metrics of one file of predictions, with what must be known to read them.

    Attributes:
        protocol: which metrics these are.
        trained_on, chosen: split the head learnt from, and how its epoch was chosen; empty where that is not known.
        num_annotations, num_lacking: annotations of the split, and those that no rows answered for.
        metrics: of the predictions.
        baselines: the same metrics of guessing: `chance` and `most_frequent`.
        notes: how numbers were arrived at, where that is not the same for every head; one sentence each.
    """

    dataset: str
    split: str
    protocol: str
    prior: str
    head: str
    trained_on: str
    chosen: str
    num_annotations: int
    num_lacking: int
    metrics: Metrics
    baselines: Mapping[str, Metrics] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class LabelSource:
    """Where the true labels of a file of predictions are, for files without an account or whose labels have moved.

    Attributes:
        dataset, options: reader and its options; empty to take those of the account.
        annotations: files; `None` to take those of the account.
    """

    dataset: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    annotations: Path | None = None


def protocol_of(task: HeadTask, annotations: Annotations) -> str:
    """Which metrics apply to a head's task on a corpus.

    Raises:
        OptionError: a task that has no metrics yet, or one that the annotations do not serve.
    """
    if task in _PROTOCOL_OF:
        require_protocol(task, annotations)
        return annotations.protocol
    if task == "detection":
        return "segments"
    if task == "recognition":
        return annotations.protocol if annotations.protocol in RECOGNITION_PROTOCOLS else "recognition"
    raise OptionError(f"there are no metrics for heads of task {task!r}.")


def require_protocol(task: HeadTask, annotations: Annotations) -> None:
    """Refuse annotations whose splits are made for another task: those of AVE's two tasks overlap.

    Raises:
        OptionError: the annotations have another protocol than the task's.
    """
    wanted = _PROTOCOL_OF.get(task, annotations.protocol)
    if annotations.protocol != wanted:
        name = {"av-event": "event or weak", "av-matching": "matching"}[wanted]
        raise OptionError(
            f"heads of task {task!r} learn from and are scored by annotations of protocol {wanted!r}, and "
            f"{annotations.dataset} has {annotations.protocol or 'none'!r}. Their splits overlap, so that one's test "
            f"clips are the other's training clips. Use --dataset ave with the option protocol={name}."
        )


def headline(
    task: HeadTask,
    annotations: Annotations,
    predictions: Sequence[Prediction],
    segments: Sequence[Segment],
    *,
    label_task: str = "",
) -> float:
    """The one number by which epochs are compared: action top-1, mean top-1 of the tasks, mean AP, share of
    seconds named rightly, or of windows found exactly both ways.
    """
    protocol = protocol_of(task, annotations)
    metrics = metrics_of(
        protocol,
        predictions,
        segments,
        classes=annotations.classes,
        groups=annotations.groups,
        durations_s=annotations.durations_s,
        task=label_task or None,
    )
    if protocol == "segments":
        return float(metrics["detection"]["map"])
    if protocol in AUDIO_VISUAL_PROTOCOLS:
        accuracy = metrics["accuracy"]
        return float(accuracy["mean"] if protocol == "av-matching" else accuracy)
    if protocol != "recognition":
        action = (metrics.get("overall") or metrics)["action"]
        return float(action["top1"])
    tops = [metrics[task_name]["top1"] for task_name in annotations.classes]
    return float(sum(tops) / len(tops))


def score(
    predictions: Sequence[Prediction],
    account: PredictionsRecord,
    annotations: Annotations,
    *,
    prior: PriorKind = "none",
) -> Scores | None:
    """Metrics of predictions; `None` where the labels of the split are withheld.

    Raises:
        OptionError: predictions that do not belong to the split, or a prior where there are no actions.
    """
    segments = annotations.split(account.split)
    if not any(segment.labels for segment in segments):
        return None
    protocol = protocol_of(account.task, annotations)
    train = annotations.splits.get(account.train_split or "train", ())
    common: dict[str, Any] = {"classes": annotations.classes, "groups": annotations.groups}
    if protocol == "segments":
        common |= {
            "items": annotations.items_of(account.split),
            "durations_s": {**account.durations_s, **annotations.durations_s},
            "task": account.label_task or None,
        }
    if protocol in AUDIO_VISUAL_PROTOCOLS:
        common["durations_s"] = annotations.durations_s
    options: dict[str, Any] = {}
    if prior != "none":
        options = {"prior": prior, "prior_counts": _pair_counts(annotations, protocol, train, prior)}
    lacking = {lack.id for lack in account.record.lacking}
    metrics = metrics_of(protocol, predictions, segments, allow_missing=bool(lacking), **common, **options)
    if protocol != "segments":
        answered = {prediction.query_id for prediction in predictions}
        _require_answers(segments, answered, lacking)
        segments = tuple(segment for segment in segments if segment.id in answered)
    return Scores(
        dataset=annotations.dataset,
        split=account.split,
        protocol=protocol,
        prior=prior,
        head=account.head,
        trained_on=account.train_split,
        chosen=account.chosen,
        num_annotations=account.record.num_annotations,
        num_lacking=len(lacking),
        metrics=metrics,
        baselines=_baselines(protocol, segments, train, common),
        notes=(_COMPOSED,) if composes_actions(protocol, predictions) else (),
    )


@dataclass(frozen=True)
class Answers:
    """Predictions with what they answer.

    Attributes:
        account: which annotations were to be answered, by what.
        annotations: the true labels, or what the corpus gives of them.
    """

    predictions: Sequence[Prediction]
    account: PredictionsRecord
    annotations: Annotations


def evaluate(path: Path, *, split: str = "", prior: PriorKind = "none", labels: LabelSource | None = None) -> Scores:
    """Score a run folder or a file of predictions.

    Args:
        split: empty for the split that the predictions are of.
        labels: needed for files without an account beside them.

    Raises:
        UnknownNameError: the corpus has no such split.
        OptionError: no predictions of that split, or labels that are withheld or not to be found.
        ProvenanceError: annotation files that have changed since the predictions were made.
    """
    answers = read_answers(path, split=split, labels=labels)
    scores = score(answers.predictions, answers.account, answers.annotations, prior=prior)
    if scores is None:
        raise OptionError(
            f"the labels of split {answers.account.split!r} are withheld, so nothing can be scored. "
            "Write a submission file instead: vidloc submit."
        )
    return scores


def read_answers(path: Path, *, split: str = "", labels: LabelSource | None = None) -> Answers:
    """The predictions of a run folder or a file, and the annotations that they answer; arguments as in `evaluate`.

    Raises:
        UnknownNameError: the corpus has no such split.
        OptionError: no predictions of that split, or annotations that are not to be found.
        ProvenanceError: annotation files that have changed since the predictions were made.
    """
    labels = labels or LabelSource()
    if path.is_dir():
        record = read_run(path)
        wanted = split or record.spec.eval_split
        if not wanted:
            raise OptionError(f"{path} has no evaluation split; say which split with --split.")
        path = predictions_path(path, wanted, record)
        if not path.is_file():
            place = labels.annotations or (Path(record.spec.annotations) if record.spec.annotations else None)
            read_labels(record.spec.dataset, record.spec.dataset_options, place)[1].split(wanted)
            raise OptionError(
                f"there are no predictions of split {wanted!r} yet. Make them: "
                f"vidloc predict {path.parent} --split {wanted}"
            )
    predictions = read_predictions(path)
    known = read_account(path)
    dataset, annotations = _labels(path, labels, known)
    account = known or _account(
        path, predictions, split or dataset.default_eval_split(annotations), annotations, labels, dataset
    )
    if split and account.split != split:
        raise OptionError(f"{path} holds predictions of split {account.split!r}, not {split!r}.")
    return Answers(predictions, account, annotations)


def _labels(path: Path, asked: LabelSource, account: PredictionsRecord | None) -> tuple[Dataset, Annotations]:
    if account is None:
        if not asked.dataset:
            raise OptionError(
                f"{path} has no account beside it that says which labels it answers; give --dataset NAME and "
                "--annotations PATH."
            )
        return read_labels(asked.dataset, asked.options, asked.annotations)
    place = Path(account.annotations) if account.annotations else None
    dataset, annotations = read_labels(
        asked.dataset or account.dataset,
        asked.options if asked.dataset else account.dataset_options,
        asked.annotations or place,
    )
    if asked.annotations is None and dict(annotations.sha256) != dict(account.annotations_sha256):
        raise ProvenanceError(
            f"the annotation files at {place} have changed since the predictions in {path} were made. "
            "Give --annotations to score against the files as they are now."
        )
    return dataset, annotations


def _account(
    path: Path,
    predictions: Sequence[Prediction],
    split: str,
    annotations: Annotations,
    labels: LabelSource,
    dataset: Dataset,
) -> PredictionsRecord:
    """An account for predictions that came without one: from elsewhere, of all annotations of the split."""
    count = len(annotations.split(split))
    recognises = bool(predictions) and predictions[0].scores is not None
    return PredictionsRecord(
        run="",
        head=path.name,
        task="recognition" if recognises else _TASK_OF.get(annotations.protocol, "detection"),
        dataset=dataset.name,
        dataset_options=dict(labels.options),
        annotations=str(labels.annotations) if labels.annotations else None,
        annotations_sha256=annotations.sha256,
        split=split,
        train_split="",
        chosen="",
        record=SplitRecord(split=split, num_annotations=count, num_used=count),
    )


def _require_answers(segments: Sequence[Segment], answered: set[str | None], lacking: set[str]) -> None:
    unexplained = [s.id for s in segments if s.id not in answered and s.id not in lacking]
    if unexplained:
        raise OptionError(
            f"{len(unexplained)} segments have no prediction and are not listed as lacking rows, such as "
            f"{unexplained[0]!r}. Predict again: vidloc predict."
        )


def _pair_counts(annotations: Annotations, protocol: str, train: Sequence[Segment], prior: str) -> Any:
    if not protocol.startswith("epic"):
        raise OptionError(
            f"--prior {prior} weighs (verb, noun) pairs, which only the metrics of EPIC-KITCHENS rank; "
            f"{annotations.dataset} has those of {protocol!r}. Leave it out."
        )
    if not train:
        raise OptionError(f"--prior {prior} needs training segments to count pairs in, and there are none.")
    return pair_counts(train, len(annotations.classes["verb"]), len(annotations.classes["noun"]))


def _baselines(
    protocol: str, segments: Sequence[Segment], train: Sequence[Segment], common: Mapping[str, Any]
) -> dict[str, Metrics]:
    """What guessing scores on the segments that were answered."""
    if not train:
        return {}
    return {
        "chance": chance(protocol, segments, train_segments=train, **common),
        "most_frequent": most_frequent(protocol, segments, train_segments=train, **common),
    }
