"""How much of full supervision one labelled frame of each segment keeps: `sfnet` beside itself and `linear`.

Trains on one split and scores another: `linear` and `sfnet` on all rows of every segment, then `sfnet` on one row of
each, its middle one, one drawn evenly, and one where annotators pause. Every setting is repeated with several seeds,
which also draw the rows. Nothing is chosen on the split that is scored: options are given beforehand, and `--folds`
chooses among several without reading that split. The training items are then divided, each fold is predicted by a head
trained on the others, and the options that score best on average over full supervision and annotator-like frames are
those to take.

    python benchmarks/single_frame.py feats.zarr labels.json --folds 3 --options lr=0.001 --options lr=0.003
    python benchmarks/single_frame.py feats.zarr labels.json --seeds 0,1,2 --options lr=0.003

The published rows of 50 Salads are brought into this form by `vidloc import npy`, and their labels by `--salads FILE`,
which writes a file of segments for `--dataset segments` and stops.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import KFold

from vidloc.core.grammar import parse_pairs
from vidloc.core.records import Prediction
from vidloc.heads.training import FitData, predict_all
from vidloc.metrics.protocols import evaluate
from vidloc.pipelines.samples import SplitSamples
from vidloc.pipelines.setting import Setting, TrainPlan, open_setting
from vidloc.testing.head_checks import MemoryRecorder

CHOSEN_BY = ("full", "annotator_like")
SETTINGS = (
    ("linear", "full"),
    *(("sfnet", supervision) for supervision in ("full", "center", "random", "annotator_like")),
)
SHOWN = ("map", "map@0.3", "map@0.5", "map@0.7")


def predicted(setting: Setting, train: SplitSamples, test: SplitSamples) -> list[Prediction]:
    """What a head trained on the ones says of the others."""
    head = setting.build()
    head.fit(FitData(setting.bank(train, click.echo)), MemoryRecorder())
    return predict_all(head, setting.bank(test, click.echo), batch=setting.options.batch)


def left_out(setting: Setting, found: SplitSamples, folds: int) -> list[Prediction]:
    """Predictions of every item by a head that was not trained on it; the same folds for every choice."""
    predictions = []
    for places in KFold(folds, shuffle=True, random_state=0).split(found.samples):
        train, test = (replace(found, samples=tuple(found.samples[k] for k in own)) for own in places)
        predictions.extend(predicted(setting, train, test))
    return predictions


def scored(setting: Setting, found: SplitSamples, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Mean AP."""
    metrics = evaluate(
        "segments",
        predictions,
        [segment for sample in found.samples for segment in sample.segments],
        classes=setting.annotations.classes,
        items=[sample.item_id for sample in found.samples],
        durations_s={**setting.durations(found), **setting.annotations.durations_s},
        task=setting.build().label_task,
    )
    return dict(metrics["detection"])


def results(plan: TrainPlan, seeds: Sequence[str], splits: tuple[str, str], folds: int) -> Iterator[dict[str, float]]:
    """Mean AP by seed, on the second split, or with `folds` on items of the first that were left out."""
    for seed in seeds:
        with ExitStack() as stack:
            seeded = replace(plan, options={**plan.options, "seed": seed})
            setting = open_setting(seeded, stack, lambda _: None)
            train = setting.samples(splits[0])
            if folds:
                yield scored(setting, train, left_out(setting, train, folds))
            else:
                test = setting.samples(splits[1])
                yield scored(setting, test, predicted(setting, train, test))


def sfnet_options(supervision: str, asked: Mapping[str, str]) -> dict[str, str]:
    """Options of one row of the table."""
    return {"inputs": "rgb", "supervision": supervision, **asked}


def write_salads(labels: Path, out: Path, split: int) -> None:
    """Segments of 50 Salads as JSON by video, from a file that lists them by video with the class `background`."""
    stated = json.loads(labels.read_text(encoding="utf-8"))
    videos = {
        item: {
            "subset": "test" if video["test_in_split"] == split else "train",
            "duration_s": video["duration_s"],
            "annotations": [
                {name: segment[name] for name in ("start_s", "end_s", "label")}
                for segment in video["segments"]
                if segment["label"] != "background"
            ],
        }
        for item, video in stated["videos"].items()
    }
    classes = [name for name in stated["classes_mid"] if name != "background"]
    out.write_text(json.dumps({"classes": classes, "videos": videos}), encoding="utf-8")


@click.command()
@click.argument("store")
@click.argument("annotations", type=click.Path(path_type=Path))
@click.option("--dataset", default="segments", show_default=True)
@click.option("--train-split", default="train", show_default=True)
@click.option("--eval-split", default="test", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--options", "choices", multiple=True, default=("steps=100,lr=0.001",), show_default=True,
              help="Options of sfnet, NAME=VALUE,...; with --folds several times.")  # fmt: skip
@click.option("--folds", default=0, show_default=True, help="Choose among --options on the training split alone.")
@click.option("--salads", type=click.Path(path_type=Path), help="Labels of 50 Salads, to be written to ANNOTATIONS.")
@click.option("--salads-split", default=1, show_default=True)
def main(
    *,
    store: str,
    annotations: Path,
    dataset: str,
    train_split: str,
    eval_split: str,
    seeds: str,
    choices: Sequence[str],
    folds: int,
    salads: Path | None,
    salads_split: int,
) -> None:
    """Print mean AP for each head and supervision, and the share of full supervision that single frames keep."""
    if salads is not None:
        write_salads(salads, annotations, salads_split)
        return
    splits, plan = (train_split, eval_split), TrainPlan("sfnet", (store,), dataset, annotations)
    if folds:
        choose(plan, choices, seeds.split(",")[:1], splits, folds)
        return
    if len(choices) > 1:
        raise click.UsageError("give --options once, or --folds to choose among several.")
    asked = parse_pairs(choices[0].split(","), flag="--options")
    table = Table("head", "supervision", *SHOWN, "of full")
    full = float("nan")
    for head, supervision in SETTINGS:
        own = sfnet_options(supervision, asked) if head == "sfnet" else {}
        found = list(results(replace(plan, head=head, options=own), seeds.split(","), splits, 0))
        means = {name: statistics.fmean(result[name] for result in found) for name in SHOWN}
        if (head, supervision) == ("sfnet", "full"):
            full = means["map"]
        spread = statistics.pstdev(result["map"] for result in found)
        cells = [f"{means['map']:.3f} +- {spread:.3f}", *(f"{means[name]:.3f}" for name in SHOWN[1:])]
        table.add_row(head, supervision, *cells, f"{means['map'] / full:.0%}" if head == "sfnet" else "")
    Console().print(table)
    Console().print(f"split {eval_split!r} after training on {train_split!r}, seeds {seeds}; sfnet with {choices[0]}")


def choose(plan: TrainPlan, choices: Sequence[str], seeds: Sequence[str], splits: tuple[str, str], folds: int) -> None:
    """Print mean AP on training items left out, a line for every choice of options."""
    asked = {choice: parse_pairs(choice.split(","), flag="--options") for choice in choices}
    click.echo(f"items of split {splits[0]!r} left out in {folds} folds; no other split is read")
    for choice, options in asked.items():
        means = {
            where: statistics.fmean(
                result["map"]
                for result in results(replace(plan, options=sfnet_options(where, options)), seeds, splits, folds)
            )
            for where in CHOSEN_BY
        }
        shown = ", ".join(f"{where} {mean:.3f}" for where, mean in means.items())
        click.echo(f"{choice}: {shown}, mean {statistics.fmean(means.values()):.3f}")


if __name__ == "__main__":
    main()
