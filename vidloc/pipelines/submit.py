"""A benchmark's submission file from a run: predictions of its test splits, in the official format.

Whole predictions that the run folder holds already are taken as they are; others are made first, which needs the store,
and so are all of them where another store is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import Prediction
from vidloc.datasets.base import Annotations
from vidloc.errors import OptionError
from vidloc.metrics.actions import PriorKind, action_prior, pair_counts
from vidloc.metrics.epic_submission import write_epic55_submission, write_epic100_submission
from vidloc.pipelines.labels import read_labels
from vidloc.pipelines.run_record import RunRecord, predictions_path, read_account, read_predictions, read_run

_SPLITS = {"epic55": ("test_s1", "test_s2"), "epic100": ("test",)}


@dataclass(frozen=True)
class SubmitReport:
    """What was written.

    Attributes:
        splits: segments by split.
        prior: how actions were weighed; `none` means that no actions were written.
    """

    path: Path
    benchmark: str
    splits: dict[str, int]
    prior: str


def submit(
    run: Path,
    out: Path,
    *,
    split: str = "test",
    stores: Sequence[str] = (),
    prior: PriorKind = "none",
    sls: tuple[int, int, int] | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> SubmitReport:
    """Write a submission.

    Args:
        split: `test`; EPIC-KITCHENS-55 takes both of its test splits for it.
        stores: where the rows lie now, if predictions are to be made.
        prior: weigh actions by the training pairs, and write them.
        sls: levels of supervision, which EPIC-KITCHENS-100 asks for.

    Raises:
        OptionError: a benchmark without submissions, another split, missing segments or levels.
    """
    record = read_run(run)
    place = Path(record.spec.annotations) if record.spec.annotations else None
    _, annotations = read_labels(record.spec.dataset, record.spec.dataset_options, place)
    benchmark = annotations.protocol
    if benchmark not in _SPLITS or record.task != "recognition":
        raise OptionError(
            f"there is no submission format for {record.task} on {annotations.dataset}; there are formats for "
            "recognition on epic55 and epic100. For the plain predictions: vidloc predict RUN --split SPLIT."
        )
    if split != "test":
        raise OptionError(f"a submission is of split 'test' ({' and '.join(_SPLITS[benchmark])}), not {split!r}.")
    if (benchmark == "epic100") != (sls is not None):
        raise OptionError(
            "EPIC-KITCHENS-100 asks for the levels of supervision: --sls PRETRAINING LABELS DATA, such as --sls 2 3 3."
            if sls is None
            else "levels of supervision (--sls) are part of EPIC-KITCHENS-100 submissions only."
        )
    found = {name: _predictions(run, record, name, stores, notice) for name in _SPLITS[benchmark]}
    ids = {name: [segment.id for segment in annotations.split(name)] for name in found}
    mu = _prior(annotations, record, prior)
    if benchmark == "epic55":
        seen, unseen = _SPLITS["epic55"]
        write_epic55_submission(out, found[seen], found[unseen], ids_seen=ids[seen], ids_unseen=ids[unseen], prior=mu)
    elif sls is not None:
        write_epic100_submission(out, found["test"], ids=ids["test"], sls=sls, prior=mu)
    return SubmitReport(out, benchmark, {name: len(names) for name, names in ids.items()}, prior)


def _predictions(
    run: Path, record: RunRecord, split: str, stores: Sequence[str], notice: Callable[[str], None]
) -> list[Prediction]:
    path = predictions_path(run, split, record)
    known = read_account(path) if path.is_file() else None
    # Predictions that lack rows are made again: the missing videos may have been extracted since.
    if not path.is_file() or stores or (known is not None and known.record.lacking):
        from vidloc.pipelines.predict import predict  # imports torch, which predictions at hand do not need

        notice(f"predicting split {split!r} first.")
        known = predict(run, split=split, stores=stores, notice=notice)
    if known is not None and known.record.lacking:
        first = known.record.lacking[0]
        raise OptionError(
            f"a submission needs every segment of split {split!r}, and {len(known.record.lacking)} of "
            f"{known.record.num_annotations} lack rows; the first is {first.id!r}: {first.reason}. Extract what is "
            "missing (vidloc extract), or add the store that has it with --store, and submit again."
        )
    return read_predictions(path)


def _prior(annotations: Annotations, record: RunRecord, prior: PriorKind) -> NDArray[np.float64] | None:
    if prior == "none":
        return None
    train = annotations.split(record.spec.train_split)
    counts = pair_counts(train, len(annotations.classes["verb"]), len(annotations.classes["noun"]))
    return action_prior(counts, prior)
