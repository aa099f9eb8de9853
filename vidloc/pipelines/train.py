"""Rows and annotations in, a run out: match streams with roles, read the rows once, fit, predict, keep a record.

from vidloc.pipelines.train import TrainPlan, train
report = train(TrainPlan(head="sapnet", stores=("feats.zarr",), dataset="epic", annotations=folder), out)
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vidloc.core.records import Prediction
from vidloc.errors import OptionError, ProvenanceError
from vidloc.heads.base import Head, HeadOptions
from vidloc.heads.training import FitData
from vidloc.pipelines.evaluate import Scores, headline, require_protocol, score
from vidloc.pipelines.predict import predict_split
from vidloc.pipelines.run_record import RunRecord, RunSpec, SplitRecord, read_run
from vidloc.pipelines.runs import EpochNotice, RunFolder, refuse_used
from vidloc.pipelines.samples import SplitSamples, require_samples
from vidloc.pipelines.setting import Notice, Setting, TrainPlan, open_setting, say_account

__all__ = ["TrainPlan", "TrainReport", "repeat_plan", "train"]

_LIBRARIES = ("vidloc", "torch", "numpy", "scikit-learn", "safetensors", "zarr", "h5py", "pydantic")


@dataclass(frozen=True)
class TrainReport:
    """How a training ended.

    Attributes:
        evaluated: account of the evaluation split; `None` where there is none.
        scores: metrics on it; `None` also where its labels are withheld.
    """

    out: Path
    record: RunRecord
    evaluated: SplitRecord | None
    scores: Scores | None

    @property
    def num_lacking(self) -> int:
        """Annotations that took no part for want of rows."""
        splits = [*self.record.splits.values(), *([self.evaluated] if self.evaluated else [])]
        return sum(len(split.lacking) for split in splits)


def repeat_plan(run: Path) -> TrainPlan:
    """The plan that repeats a run: same options, same rows, same labels.

    Raises:
        OptionError: no run there.
    """
    record = read_run(run)
    spec = record.spec
    return TrainPlan(
        head=spec.head,
        stores=spec.stores,
        dataset=spec.dataset,
        annotations=Path(spec.annotations) if spec.annotations else None,
        dataset_options=spec.dataset_options,
        options=spec.options,
        streams=spec.streams,
        train_split=spec.train_split,
        eval_split=spec.eval_split,
        digests={role: stream.digest for role, stream in record.streams.items()},
        annotations_sha256=record.annotations_sha256,
    )


def train(
    plan: TrainPlan,
    out: Path,
    *,
    command: str = "",
    notice: Notice = lambda _: None,
    on_epoch: EpochNotice = lambda *_: None,
) -> TrainReport:
    """Train a head and evaluate it; the run folder holds everything.

    Args:
        command: as typed, for run.json.
        notice: told what a person should know before trusting the numbers.
        on_epoch: told of each epoch.

    Raises:
        VidlocError: options, streams, annotations or the run folder do not go together.
    """
    begun = time.monotonic()
    refuse_used(out)
    with ExitStack() as stack:
        setting = open_setting(plan, stack, notice)
        require_protocol(setting.head_class.task, setting.annotations)
        splits = _splits(plan, setting, notice)
        for found in splits.values():
            require_samples(found, labelled=True)
            say_account(found.record, notice)
        _require_unseen_items(plan, setting, splits["train"])
        head = setting.build()
        num_epochs = setting.options.epochs if isinstance(setting.options, HeadOptions) else 1
        folder = RunFolder(out, num_epochs=num_epochs, on_epoch=on_epoch)
        record = folder.start(_record(plan, setting, head, splits, command))
        stack.callback(folder.close)
        _require_same_data(plan, record)
        head.fit(_fit_data(setting, head, splits, notice), folder)
        record = record.model_copy(update={"duration_s": record.duration_s + time.monotonic() - begun})
        record = folder.finish(record, head.state_dict())
        if not record.spec.eval_split:
            return TrainReport(out, record, None, None)
        predictions, account = predict_split(setting, head, record, out, split=record.spec.eval_split, notice=notice)
        return TrainReport(out, record, account.record, score(predictions, account, setting.annotations))


def _splits(plan: TrainPlan, setting: Setting, notice: Notice) -> dict[str, SplitSamples]:
    """Samples of the splits that training looks at, by use."""
    splits = {"train": setting.samples(plan.train_split or setting.dataset.train_split)}
    options = setting.options
    if not isinstance(options, HeadOptions):
        return splits
    if options.select == "best":
        if not options.select_split:
            raise OptionError("--select best needs the split to look at: --select-split validation.")
        splits["select"] = setting.samples(options.select_split)
        notice(f"split {options.select_split!r} chooses the epoch and is no longer held out.")
    elif options.select_split:
        raise OptionError("--select-split is looked at only with --select best.")
    return splits


def _fit_data(setting: Setting, head: Head, splits: Mapping[str, SplitSamples], notice: Notice) -> FitData:
    train_bank = setting.bank(splits["train"], notice)
    if "select" not in splits:
        return FitData(train_bank, notice=notice)
    found = splits["select"]
    segments = [segment for sample in found.samples for segment in sample.segments]

    def rated(predictions: Sequence[Prediction]) -> float:
        return headline(head.task, setting.annotations, predictions, segments, label_task=head.label_task)

    return FitData(train_bank, setting.bank(found, notice), rated, notice)


def _eval_split(plan: TrainPlan, setting: Setting) -> str:
    """As asked, else the dataset's own where it exists, else none."""
    if plan.eval_split:
        setting.annotations.split(plan.eval_split)
        return plan.eval_split
    return setting.dataset.eval_split if setting.dataset.eval_split in setting.annotations.splits else ""


def _record(
    plan: TrainPlan, setting: Setting, head: Head, splits: Mapping[str, SplitSamples], command: str
) -> RunRecord:
    match, annotations = setting.match, setting.annotations
    items = sorted({sample.item_id for sample in splits["train"].samples})
    return RunRecord(
        spec=RunSpec(
            head=str(Path(plan.head).resolve()) if plan.head.endswith(".py") else plan.head,
            options=setting.options.model_dump(mode="json"),
            dataset=plan.dataset,
            dataset_options=setting.dataset.options.model_dump(mode="json"),
            annotations=str(plan.annotations.resolve()) if plan.annotations else None,
            stores=tuple(str(Path(store).resolve()) if "://" not in store else store for store in plan.stores),
            streams={role: spec.name for role, (_, spec) in match.streams.items()},
            train_split=splits["train"].record.split,
            eval_split=_eval_split(plan, setting),
        ),
        task=head.task,
        head_origin=setting.loaded.origin,
        head_version=_head_version(setting.loaded.target),
        streams=match.records(items),
        classes=annotations.classes,
        annotations_sha256=annotations.sha256,
        versions={"python": platform.python_version(), **_versions()},
        splits={use: found.record for use, found in splits.items()},
        device=str(setting.device),
        num_parameters=head.num_parameters,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
    )


def _require_unseen_items(plan: TrainPlan, setting: Setting, train: SplitSamples) -> None:
    """A head that learns from whole items must not be evaluated on rows that it learnt as background."""
    split = _eval_split(plan, setting)
    if setting.head_class.unit != "item" or not split or split == train.record.split:
        return
    seen = {sample.item_id for sample in train.samples}
    if shared := [item for item in setting.annotations.items_of(split) if item in seen]:
        raise OptionError(
            f"{plan.head} learns from whole items, and {len(shared)} of split {split!r} are in split "
            f"{train.record.split!r} too, such as {shared[0]!r}: their segments would be learnt as background. Choose "
            "splits of different items (a dataset of clips may make each an item: --items clip), or name another split "
            "with --eval-split."
        )


def _require_same_data(plan: TrainPlan, record: RunRecord) -> None:
    """A run that is repeated must meet the rows and labels it had."""
    changed = [role for role, digest in plan.digests.items() if record.streams[role].digest != digest]
    if changed:
        raise ProvenanceError(
            f"the rows of role {' and '.join(changed)} are not those of the run that is repeated. "
            "Give --store to train on them all the same."
        )
    if plan.annotations_sha256 and dict(plan.annotations_sha256) != dict(record.annotations_sha256):
        raise ProvenanceError(
            "the annotation files are not those of the run that is repeated. "
            "Give --annotations to train on them all the same."
        )


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def _head_version(head: type[Head]) -> str:
    """Version of the package that provides the head, `file` for a file of one's own."""
    try:
        return version(head.__module__.split(".")[0])
    except PackageNotFoundError:
        return "file"
