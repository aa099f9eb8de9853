"""The demo: the whole way from videos to a trained head and a search, on a small made-up corpus.

The steps are plain `vidloc` command lines, so that what the demo does is what a user types. The grid has one row per
scene (72 in all) and clips have 224 pixels, because on two cores such a clip costs SlowFast 0.8 s and I3D 0.5 s. All
networks but the sentence encoder have random weights, so that nothing is downloaded: their rows still tell colours,
sizes and motions apart, which is enough for a head to beat guessing here, and says nothing of any benchmark.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidloc.errors import OptionError, VidlocError
from vidloc.pipelines.evaluate import evaluate
from vidloc.testing.synthetic import MadeSet, make_set

HEADS = ("sapnet", "two_branch")
METRICS = ("verb.top1", "noun.top1", "action.top1")
HONESTY = (
    "The video and sound networks are RANDOM (untrained) and the videos are made up: these numbers show that the "
    "parts work together. They are no benchmark."
)
_MARKER = "vidloc-demo.json"
_QUESTION = "shove the crimson sphere"

Run = Callable[[Sequence[str]], int]
"""Runs one `vidloc` command line, given without the leading `vidloc`, and returns its exit code."""


@dataclass(frozen=True)
class DemoPlan:
    """Size of the demo; the defaults suit two cores.

    Attributes:
        num_training, num_held_out: videos of nine scenes each.
        encoders: texts for `--encoder`.
        verb_stream, noun_stream: clip streams that the heads read.
    """

    num_training: int = 5
    num_held_out: int = 3
    encoders: tuple[str, ...] = (
        "slowfast_r50:weights=random:0,crop_px=224",
        "i3d_r50:weights=random:0,crop_px=224",
        "vggish:weights=random:0",
        "fasterrcnn:weights=random:0,min_size=160,min_boxes=5,max_boxes=5",
        "text",
    )
    verb_stream: str = "slowfast_r50"
    noun_stream: str = "i3d_r50"


@dataclass(frozen=True)
class Places:
    """Where the demo's parts lie."""

    out: Path

    @property
    def corpus(self) -> Path:
        """Videos and annotations."""
        return self.out / "EPIC"

    @property
    def store(self) -> Path:
        """The feature store."""
        return self.out / "feats.zarr"

    def run(self, head: str) -> Path:
        """A head's run folder."""
        return self.out / "runs" / head


@dataclass(frozen=True)
class Step:
    """One command line of the demo, and what it is for."""

    title: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class DemoReport:
    """What came out.

    Attributes:
        accuracies: held-out top-1 accuracy by metric (`verb.top1`), then by head or baseline.
        seconds: wall time by step, in order.
    """

    places: Places
    accuracies: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]


def run_demo(out: Path, *, run: Run, say: Callable[[str], None], plan: DemoPlan | None = None) -> DemoReport:
    """Make the corpus, extract, train, evaluate, index and search below `out`.

    Args:
        out: a new folder, or one of an earlier demo, which is made anew.
        say: told the title of each step.

    Raises:
        OptionError: `out` holds something else.
        VidlocError: a step ended with another exit code than 0.
    """
    places, plan = Places(out), plan or DemoPlan()
    _clear(places)
    seconds: dict[str, float] = {}
    begun = time.perf_counter()
    title = "Make a small labelled corpus: mp4 files with sound, annotations in EPIC-KITCHENS-55 format"
    say(title)
    made = make_set(places.corpus, num_training=plan.num_training, num_held_out=plan.num_held_out)
    seconds[title] = time.perf_counter() - begun
    for step in steps(places, made, plan):
        say(step.title)
        begun = time.perf_counter()
        code = run(step.arguments)
        if code:
            raise VidlocError(
                f"the demo stopped: 'vidloc {step.arguments[0]}' ended with exit code {code} (see above)."
            )
        seconds[step.title] = time.perf_counter() - begun
    return DemoReport(places, held_out_accuracies(places), seconds)


def steps(places: Places, made: MadeSet, plan: DemoPlan) -> list[Step]:
    """The command lines, in order."""
    store = str(places.store)
    labels = ("--dataset", "epic55", "--annotations", str(made.annotations))
    scene_s = float(made.scene_s)
    chosen = tuple(text for encoder in plan.encoders for text in ("--encoder", encoder))
    roles = ("--stream", f"verb={plan.verb_stream}", "--stream", f"noun={plan.noun_stream}")
    training = ("--store", store, *labels, *roles, "--standardize")
    # One frame per scene is all there is: SAP's usual window of 6 s would show the neighbours' objects.
    objects = ("--object-window-s", f"{scene_s:g}", "--object-rate-hz", f"{1 / scene_s:g}", "--epochs", "20")
    like = f"{made.held_out[0].video_id}@{scene_s:.1f}-{2 * scene_s:.1f}"
    return [
        Step(
            "Extract five streams in one decode pass",
            ("extract", *labels, "--root", str(made.root), "--store", store, "--stride", f"{scene_s:g}", *chosen),
        ),
        Step("Look at the store", ("store", "info", store)),
        Step("Train SAP", ("train-head", "sapnet", *training, *objects, "--out", str(places.run("sapnet")))),
        Step(
            "Train the two-branch baseline",
            ("train-head", "two_branch", *training, "--out", str(places.run("two_branch"))),
        ),
        *(Step(f"Evaluate {head} on the held-out videos", ("evaluate", str(places.run(head)))) for head in HEADS),
        Step("Build an index", ("index", "build", store, "--stream", plan.verb_stream)),
        Step(
            "Search by a clip of a held-out video",
            ("search", store, "--stream", plan.verb_stream, "--like", like, "-k", "5"),
        ),
        Step("Search the narrations by a sentence", ("search", store, "--text", _QUESTION, "-k", "5")),
    ]


def held_out_accuracies(places: Places) -> dict[str, dict[str, float]]:
    """Top-1 accuracies of both heads beside chance and the most frequent class, from the runs' predictions."""
    table: dict[str, dict[str, float]] = {name: {} for name in METRICS}
    for head in HEADS:
        scores = evaluate(places.run(head))
        for column, metrics in ((head, scores.metrics), *scores.baselines.items()):
            for name in METRICS:
                task, metric = name.split(".")
                table[name][column] = float(metrics[task][metric])
    return table


def next_commands(places: Places) -> list[str]:
    """What to type next."""
    store, annotations = places.store, places.corpus / "annotations"
    return [
        f"vidloc store ls {store}",
        f"vidloc store verify {store}",
        f"vidloc train-head --from {places.run('sapnet')} --out {places.run('sapnet_again')}",
        "vidloc train-head sapnet --help",
        f"vidloc search {store} --stream vggish --row P01_01:3",
        "vidloc list encoders",
        f"tensorboard --logdir {places.out / 'runs'}",
        f"head {annotations / 'EPIC_train_action_labels.csv'}",
    ]


def _clear(places: Places) -> None:
    """Remove what an earlier demo wrote, and nothing else."""
    out = places.out
    marker = out / _MARKER
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not marker.is_file():
        raise OptionError(f"{out} exists and was not made by 'vidloc demo'; choose another place with --out.")
    index = out / f"{places.store.name}.index"
    for folder in (places.corpus, places.store, index, out / "runs"):
        if folder.exists():
            shutil.rmtree(folder)
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"made_by": "vidloc demo"}) + "\n", encoding="utf-8")
