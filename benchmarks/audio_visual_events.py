"""What attention, fusion and matching of whole events gain on made-up clips, over several seeds.

The clips are those of `vidloc.testing.planted_events`. For event localization, an event is where an object sounds and
is somewhere in the picture, so that a head must look at the right place. For matching, no second of sound beside one of
pictures tells whether both belong to one event; the seconds together do.

    python benchmarks/audio_visual_events.py
    python benchmarks/audio_visual_events.py --seeds 5 --clips 256
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from vidloc.pipelines.train import TrainPlan, train
from vidloc.testing.planted import Planted
from vidloc.testing.planted_events import make_events, make_matching

# Widths of the paper would learn no more from rows of 12 numbers, in four times the time.
SMALL = {"width": 64, "feedforward": 128}
EVENTS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("avel", {"fusion": "audio"}),
    ("avel", {"fusion": "visual", "attention": "none"}),
    ("avel", {"attention": "none"}),
    ("avel", {"attention": "released"}),
    ("avel", {"attention": "paper"}),
    ("avel", {"attention": "paper", "fusion": "dmrn"}),
    ("dam_event", {"attention": "paper"}),
    ("psp", {"attention": "paper", "propagation": False}),
    ("psp", {"attention": "paper"}),
    ("psp", {"attention": "paper", "pair_weight": 0}),
    ("cmran", {**SMALL}),
    ("cmbs", {**SMALL, "alpha": 0, "beta": 0, "gamma": 0}),
    ("cmbs", {**SMALL}),
)
MATCHING: tuple[tuple[str, Mapping[str, Any]], ...] = (("avdln", {}), ("dam", {}))
NUM_HELD_OUT = 64


def accuracy(planted: Planted, head: str, options: Mapping[str, Any], out: Path, *, protocol: str) -> float:
    """Of the test clips, by the last epoch."""
    plan = TrainPlan(
        head=head,
        stores=(str(planted.store),),
        dataset="ave",
        annotations=planted.annotations,
        dataset_options={"protocol": protocol},
        options={"device": "cpu", "batch": 16, **options},
    )
    scores = train(plan, out).scores
    if scores is None:
        raise RuntimeError("the made-up test split has labels, yet nothing was scored")
    value = scores.metrics["accuracy"]
    return float(value["mean"] if protocol == "matching" else value)


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--clips", default=128, show_default=True, help="Training clips.")
@click.option("--epochs", default=20, show_default=True)
def main(*, seeds: int, clips: int, epochs: int) -> None:
    """Print the accuracy on made-up test clips, a line for every head: mean and extremes over the seeds."""
    table = Table("task", "head", "options", "mean", "lowest", "highest")
    for protocol, make, runs in (("event", make_events, EVENTS), ("matching", make_matching, MATCHING)):
        found: dict[int, list[float]] = {k: [] for k in range(len(runs))}
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                planted = make(folder, num_training=clips, num_held_out=NUM_HELD_OUT, seed=seed)
                for k, (head, options) in enumerate(runs):
                    asked = {**options, "epochs": epochs, "seed": seed}
                    found[k].append(accuracy(planted, head, asked, folder / f"run{k}", protocol=protocol))
        for k, (head, options) in enumerate(runs):
            shown = ", ".join(f"{key}={value}" for key, value in options.items())
            cells = (np.mean(found[k]), np.min(found[k]), np.max(found[k]))
            table.add_row(protocol, head, shown, *(f"{100 * value:.1f} %" for value in cells))
    Console().print(table)
    Console().print(f"{clips} training and {NUM_HELD_OUT} test clips, {epochs} epochs, {seeds} seeds, on the CPU")


if __name__ == "__main__":
    main()
