"""Which options of `linear` are best, by cross-validation over the items of one split: how its defaults were chosen.

The items of the training split are divided into folds; each fold is predicted by a head trained on the others, and all
predictions are scored together. No other split is read, so numbers on a test split stay those of videos never looked
at. Items are drawn to folds at random, the same ones for every choice.

    python benchmarks/linear_choice.py feats.zarr labels.json
    python benchmarks/linear_choice.py feats.zarr labels.json --context-s 0,0.5,1 --penalty 1,10 --folds 8
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import GroupKFold

from vidloc.core.records import Prediction
from vidloc.heads.base import numbers
from vidloc.heads.training import FitData, predict_all
from vidloc.metrics.protocols import evaluate
from vidloc.pipelines.samples import SplitSamples
from vidloc.pipelines.setting import Setting, TrainPlan, open_setting

GRID = {"context_s": "0.5", "penalty": "1", "change_cost": "0,0.5,1,1.5,2,3", "also_above": "0.1"}
FITTED = ("context_s", "penalty")  # the others say how rows become segments, and need no other fit


class Silent:
    """A recorder for fits that leave no run behind."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        pass

    def chose(self, epoch: int, reason: str) -> None:
        pass


def held_out(
    setting: Setting, found: SplitSamples, folds: int, seed: int, decodings: Sequence[Mapping[str, float]]
) -> list[list[Prediction]]:
    """Predictions of every item by a head that was not trained on it, for each way of making segments of rows."""
    items = [sample.item_id for sample in found.samples]
    predictions: list[list[Prediction]] = [[] for _ in decodings]
    for trained, left_out in GroupKFold(folds, shuffle=True, random_state=seed).split(items, groups=items):
        train, test = (
            setting.bank(replace(found, samples=tuple(found.samples[k] for k in places)), click.echo)
            for places in (trained, left_out)
        )
        head = setting.build()
        head.fit(FitData(train), Silent())
        for known, decoding in zip(predictions, decodings, strict=True):
            head.options = setting.options.model_copy(update=dict(decoding))
            known.extend(predict_all(head, test, batch=setting.options.batch))
    return predictions


def scored(setting: Setting, found: SplitSamples, predictions: Sequence[Prediction]) -> tuple[float, ...]:
    """Frame accuracy, recall and precision at tIoU 0.5, their harmonic mean, mean AP."""
    annotations, items = setting.annotations, [sample.item_id for sample in found.samples]
    metrics = evaluate(
        "segments",
        predictions,
        [segment for sample in found.samples for segment in sample.segments],
        classes=annotations.classes,
        groups=annotations.groups,
        items=items,
        durations_s={**setting.durations(found), **annotations.durations_s},
        task=setting.build().label_task,
    )
    recall, precision = metrics["recall"]["0.5"], metrics["precision"]["0.5"]
    f1 = 2 * recall * precision / max(recall + precision, 1e-12)
    return metrics["frame_accuracy"]["all"], recall, precision, f1, metrics["detection"]["map"]


def choices(values: Mapping[str, str], names: Sequence[str]) -> list[dict[str, float]]:
    """Every combination of the values asked for."""
    asked = [[float(value) for value in numbers(values[name])] for name in names]
    return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*asked)]


@click.command()
@click.argument("store")
@click.argument("annotations", type=click.Path(path_type=Path))
@click.option("--split", default="train", show_default=True)
@click.option("--folds", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--context-s", default=GRID["context_s"], show_default=True)
@click.option("--penalty", default=GRID["penalty"], show_default=True)
@click.option("--change-cost", default=GRID["change_cost"], show_default=True)
@click.option("--also-above", default=GRID["also_above"], show_default=True)
def main(*, store: str, annotations: Path, split: str, folds: int, seed: int, **values: str) -> None:
    """Print scores on items left out, a line for every combination; options take values separated by commas."""
    decodings = choices(values, [name for name in GRID if name not in FITTED])
    table = Table(*(name.replace("_", " ") for name in (*GRID, "frame accuracy", "recall", "precision", "F1", "mAP")))
    for fitted in choices(values, FITTED):
        with ExitStack() as stack:
            plan = TrainPlan("linear", (store,), "segments", annotations, options=fitted)
            setting = open_setting(plan, stack, click.echo)
            found = setting.samples(split)
            for decoding, own in zip(decodings, held_out(setting, found, folds, seed, decodings), strict=True):
                cells = [f"{value:g}" for value in (*fitted.values(), *decoding.values())]
                table.add_row(*cells, *(f"{value:.4f}" for value in scored(setting, found, own)))
    Console().print(table)
    num_items = len(np.unique([sample.item_id for sample in found.samples]))
    Console().print(f"{num_items} items of split {split!r}, {folds} folds; no other split was read")


if __name__ == "__main__":
    main()
