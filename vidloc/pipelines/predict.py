"""A trained run applied to a split: rows in, `predictions.jsonl` and its account out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from vidloc.core.records import Prediction
from vidloc.errors import OptionError, ProvenanceError
from vidloc.heads.base import Head
from vidloc.heads.training import predict_all
from vidloc.pipelines.run_record import PredictionsRecord, RunRecord, predictions_path, read_run, write_predictions
from vidloc.pipelines.runs import load_weights
from vidloc.pipelines.samples import require_samples
from vidloc.pipelines.setting import Notice, Setting, TrainPlan, open_setting, say_account


def predict(
    run: Path,
    *,
    split: str = "",
    stores: Sequence[str] = (),
    out: Path | None = None,
    notice: Notice = lambda _: None,
) -> PredictionsRecord:
    """Write a run's predictions for a split.

    Args:
        split: empty for the split that the run evaluates on.
        stores: where the rows lie now; empty for the stores of the training.
        out: file to write; `None` for the run's own place.

    Raises:
        OptionError: the run is not finished, or has no such split.
        ProvenanceError: rows of another origin, or classes that have changed.
    """
    record = read_run(run)
    spec = record.spec
    wanted = split or spec.eval_split
    if not wanted:
        raise OptionError(f"{run} has no evaluation split; say which split to predict with --split.")
    with ExitStack() as stack:
        setting, head = open_trained(run, record, stack, stores=stores, notice=notice)
        return predict_split(setting, head, record, run, split=wanted, out=out, notice=notice)[1]


def open_trained(
    run: Path,
    record: RunRecord,
    stack: ExitStack,
    *,
    stores: Sequence[str] = (),
    annotations: Path | None = None,
    notice: Notice = lambda _: None,
) -> tuple[Setting, Head]:
    """What a finished run was trained on, opened again, and its head with the weights that predict.

    Args:
        stack: closes the stores.
        stores, annotations: where the rows and the labels lie now; empty for where they were in training.

    Raises:
        OptionError: the run is not finished.
        ProvenanceError: rows of another origin, or classes that have changed.
    """
    spec = record.spec
    weights = load_weights(run)
    place = annotations or (Path(spec.annotations) if spec.annotations else None)
    plan = TrainPlan(
        head=spec.head,
        stores=tuple(stores) or spec.stores,
        dataset=spec.dataset,
        annotations=place,
        dataset_options=spec.dataset_options,
        options=spec.options,
    )
    setting = open_setting(plan, stack, notice, trained_on=record.streams)
    if dict(setting.annotations.classes) != dict(record.classes):
        raise ProvenanceError(
            f"the classes in {place} are not those that {run} was trained on; its outputs would be given wrong names. "
            "Train again, or put the annotation files back."
        )
    head = setting.build()
    head.load_state_dict(weights)
    return setting, head


def predict_split(
    setting: Setting,
    head: Head,
    record: RunRecord,
    run: Path,
    *,
    split: str,
    out: Path | None = None,
    notice: Notice,
) -> tuple[list[Prediction], PredictionsRecord]:
    """Predictions of one split, written with their account.

    Raises:
        OptionError: no annotation of the split has rows.
    """
    found = setting.samples(split)
    require_samples(found, labelled=False)
    say_account(found.record, notice)
    predictions = predict_all(head, setting.bank(found, notice), batch=setting.options.batch)
    spec = record.spec
    account = PredictionsRecord(
        run=str(run),
        head=spec.head,
        task=record.task,
        dataset=spec.dataset,
        dataset_options=spec.dataset_options,
        annotations=spec.annotations,
        annotations_sha256=setting.annotations.sha256,
        split=split,
        train_split=spec.train_split,
        chosen=record.chosen,
        record=found.record,
        label_task=head.label_task,
        durations_s=setting.durations(found) if head.task == "detection" else {},
    )
    write_predictions(out or predictions_path(run, split, record), predictions, account)
    return predictions, account
