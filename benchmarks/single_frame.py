"""How much of full supervision one labelled frame of each segment keeps: `sfnet` beside itself and `linear`.

Trains on one split and scores another: `linear` and `sfnet` on all rows of every segment, then `sfnet` on one row of
each, its middle one, one drawn evenly, and one where annotators pause. Every setting is repeated with several seeds,
which also draw the rows. Nothing is chosen on the split that is scored: all options are given beforehand.

    python benchmarks/single_frame.py feats.zarr labels.json
    python benchmarks/single_frame.py feats.zarr labels.json --seeds 0,1,2 --options steps=100,lr=0.001
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from vidloc.core.grammar import parse_pairs
from vidloc.heads.training import FitData, predict_all
from vidloc.metrics.protocols import evaluate
from vidloc.pipelines.setting import TrainPlan, open_setting
from vidloc.testing.head_checks import MemoryRecorder

SETTINGS = (
    ("linear", "full"),
    *(("sfnet", supervision) for supervision in ("full", "center", "random", "annotator_like")),
)
SHOWN = ("map", "map@0.3", "map@0.5", "map@0.7")


def scored(plan: TrainPlan, train_split: str, eval_split: str) -> dict[str, float]:
    """Mean AP of one training on the split that it has not seen."""
    with ExitStack() as stack:
        setting = open_setting(plan, stack, lambda _: None)
        head = setting.build()
        head.fit(FitData(setting.bank(setting.samples(train_split), click.echo)), MemoryRecorder())
        found = setting.samples(eval_split)
        predictions = predict_all(head, setting.bank(found, click.echo), batch=setting.options.batch)
        metrics = evaluate(
            "segments",
            predictions,
            [segment for sample in found.samples for segment in sample.segments],
            classes=setting.annotations.classes,
            items=[sample.item_id for sample in found.samples],
            durations_s={**setting.durations(found), **setting.annotations.durations_s},
            task=head.label_task,
        )
    return dict(metrics["detection"])


@click.command()
@click.argument("store")
@click.argument("annotations", type=click.Path(path_type=Path))
@click.option("--dataset", default="segments", show_default=True)
@click.option("--train-split", default="train", show_default=True)
@click.option("--eval-split", default="test", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--options", default="steps=100,lr=0.001", show_default=True, help="Options of sfnet, NAME=VALUE,...")
def main(
    *, store: str, annotations: Path, dataset: str, train_split: str, eval_split: str, seeds: str, options: str
) -> None:
    """Print mean AP for each head and supervision, and the share of full supervision that single frames keep."""
    asked: Mapping[str, str] = parse_pairs(options.split(","), flag="--options")
    table = Table("head", "supervision", *SHOWN, "of full")
    full = float("nan")
    for head, supervision in SETTINGS:
        own = {"inputs": "rgb", "supervision": supervision, **asked} if head == "sfnet" else {}
        results = [
            scored(
                TrainPlan(head, (store,), dataset, annotations, options={**own, "seed": seed}), train_split, eval_split
            )
            for seed in seeds.split(",")
        ]
        means = {name: statistics.fmean(result[name] for result in results) for name in SHOWN}
        if (head, supervision) == ("sfnet", "full"):
            full = means["map"]
        spread = statistics.pstdev(result["map"] for result in results)
        cells = [f"{means['map']:.3f} +- {spread:.3f}", *(f"{means[name]:.3f}" for name in SHOWN[1:])]
        table.add_row(head, supervision, *cells, f"{means['map'] / full:.0%}" if head == "sfnet" else "")
    Console().print(table)
    Console().print(f"split {eval_split!r} after training on {train_split!r}, seeds {seeds}; sfnet with {options}")


if __name__ == "__main__":
    main()
