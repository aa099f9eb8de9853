"""A run as a page for people: one self-contained HTML file, made of what the run folder, its labels and its rows say.

from vidloc.pipelines.report import report
report(Path("runs/sf"))      # runs/sf/report.html

It opens from disk and loads nothing. No head is named here: what a head knows over time it hands out itself
(`Head.lanes`), so a head of one's own has its page too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidloc import __version__
from vidloc.core import registry
from vidloc.core.lanes import Bars, Curves
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.heads.base import Head, Kept
from vidloc.metrics.per_class import ClassTable, class_tables
from vidloc.pipelines.evaluate import Answers, LabelSource, Scores, protocol_of, read_answers, score
from vidloc.pipelines.metric_table import flat, shown
from vidloc.pipelines.predict import open_trained
from vidloc.pipelines.reports.figures import Colours, confusion_plot, curve_colours, timeline, training_curves
from vidloc.pipelines.reports.page import Page, Picture, Section, Table, rendered
from vidloc.pipelines.reports.samples import Shown, shown_samples
from vidloc.pipelines.run_record import (
    METRICS_FILE,
    RunRecord,
    StreamRecord,
    predictions_path,
    read_metrics,
    read_predictions,
    read_run,
    write_text,
)
from vidloc.pipelines.runs import load_kept
from vidloc.pipelines.setting import Notice, Setting

DEFAULT_ITEMS = 12
REPORT_FILE = "report.html"
_MOST_CARDS = 4
_MOST_LEGEND = 12
_HEADLINES = ("map", "@0.5", "top1", "accuracy", "accuracy.all", "accuracy.mean", "accuracy.a2v", "accuracy.v2a")
_HINT = (
    "Bars are fainter the less sure they are. Drag to move along time, choose wheel or box zoom beside a picture to "
    "look closer, and point at anything for its name and numbers."
)


@dataclass(frozen=True)
class ReportFile:
    """A report that was written.

    Attributes:
        timelines: samples shown over time, by split.
        scored: whether there are metrics on it.
    """

    path: Path
    num_bytes: int
    timelines: Mapping[str, int]
    scored: bool

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        facts = {"path": str(self.path), "num_bytes": self.num_bytes}
        return facts | {"timelines": dict(self.timelines), "scored": self.scored}


def report(
    run: Path,
    *,
    out: Path | None = None,
    items: int = DEFAULT_ITEMS,
    splits: Sequence[str] = (),
    stores: Sequence[str] = (),
    annotations: Path | None = None,
    notice: Notice = lambda _: None,
) -> ReportFile:
    """Write a run's page.

    Args:
        out: file to write; `None` for `report.html` in the run's folder.
        items: most samples of a split that are shown over time: the worst, the best, and others at random. 0 shows
            none, and then neither the rows nor the weights are opened.
        splits: whose samples are shown; empty for the evaluation split, and for the training split where its labels
            were given by single frames or the head kept something of the training.
        stores, annotations: where rows and labels lie now; empty for where they were in training.

    Raises:
        OptionError: no finished run there, or no such split.
        ProvenanceError: rows or labels that are not those of the run.
    """
    record = read_run(run)
    if record.status != "finished":
        raise OptionError(
            f"{run} is not finished (status {record.status!r}), so there is nothing to report. Start it again to let "
            "it go on."
        )
    answers = _answers(run, record, annotations)
    scores = score(answers.predictions, answers.account, answers.annotations) if answers is not None else None
    tables = _class_tables(answers) if answers is not None and scores is not None else []
    sections = [
        *([_metrics_section(scores)] if scores is not None else []),
        *_training_section(run, record),
        *_class_sections(tables, scores),
    ]
    timelines: dict[str, int] = {}
    if items > 0:
        with ExitStack() as stack:
            try:
                setting, head = open_trained(run, record, stack, stores=stores, annotations=annotations, notice=notice)
            except Exception as error:
                error.add_note(
                    "Timelines need the rows: say where they lie with --store, or leave them out: --items 0."
                )
                raise
            kept = load_kept(run)
            for split in splits or _splits(record, setting, kept):
                shown_ones = _shown(run, record, setting, head, split, kept, items, notice)
                if any(one.lanes for one in shown_ones):
                    sections.append(_timelines_section(split, shown_ones, record, head))
                    timelines[split] = len(shown_ones)
    path = out or run / REPORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = rendered(_page(run, record, scores, sections))
    write_text(path, text)
    return ReportFile(path, len(text.encode("utf-8")), timelines, scores is not None)


def _answers(run: Path, record: RunRecord, annotations: Path | None) -> Answers | None:
    """Predictions of the evaluation split; `None` where the run has none."""
    split = record.spec.eval_split
    if not split:
        return None
    return read_answers(run, split=split, labels=LabelSource(annotations=annotations))


def _class_tables(answers: Answers) -> list[ClassTable]:
    account, annotations = answers.account, answers.annotations
    return class_tables(
        protocol_of(account.task, annotations),
        answers.predictions,
        annotations.split(account.split),
        classes=annotations.classes,
        durations_s={**account.durations_s, **annotations.durations_s},
        task=account.label_task or None,
    )


def _splits(record: RunRecord, setting: Setting, kept: Kept) -> list[str]:
    """The evaluation split, and the training split where there is something to be seen of what was learnt from."""
    spec = record.spec
    taught = bool(kept) or bool(setting.annotations.points)
    return [
        *([spec.eval_split] if spec.eval_split else []),
        *([spec.train_split] if taught or not spec.eval_split else []),
    ]


def _shown(
    run: Path, record: RunRecord, setting: Setting, head: Head, split: str, kept: Kept, items: int, notice: Notice
) -> list[Shown]:
    path = predictions_path(run, split, record)
    found = setting.samples(split)
    if not found.samples:
        raise OptionError(f"split {split!r}: no annotation has rows, so there is nothing to be shown over time.")
    predictions = read_predictions(path) if path.is_file() else None
    return shown_samples(setting, head, found, predictions, kept, count=items, notice=notice)


def _page(run: Path, record: RunRecord, scores: Scores | None, sections: Sequence[Section]) -> Page:
    spec, head = record.spec, registry.load("heads", record.spec.head).target
    name = Path(spec.head).name
    evaluated = f", evaluated on split {spec.eval_split!r}" if spec.eval_split else ", not evaluated"
    train = record.splits["train"]
    unit = "items" if head.unit == "item" else "segments"
    facts = [
        ("head", f"{name} ({record.head_origin}, version {record.head_version}), {record.num_parameters:,} parameters"),
        ("after", " · ".join(part for part in (head.source.paper, head.source.code) if part)),
        (
            "trained on",
            f"{spec.dataset}, split {spec.train_split!r}: {train.num_used} {unit} of {train.num_annotations}",
        ),
        ("evaluated on", _evaluated(spec.eval_split, scores)),
        ("kept", f"epoch {record.epoch}: {record.chosen}"),
        *((f"role {role}", _stream(stream)) for role, stream in record.streams.items()),
        ("options", _changed(head, spec.options)),
        ("trained", f"{record.started}, {record.duration_s:.1f} s on {record.device}"),
        ("command", record.command or "from Python"),
    ]
    lacking = [lack for split in record.splits.values() for lack in split.lacking]
    more = {
        "All options": _pairs("option", spec.options),
        "Dataset and annotations": _pairs(
            "option", {**spec.dataset_options, **{f"sha256 of {k}": v for k, v in record.annotations_sha256.items()}}
        ),
        "Rows": Table(
            ("role", "sha256 of the rows", "sha256 of their origin"),
            tuple((role, stream.digest, stream.origin_sha256) for role, stream in record.streams.items()),
        ),
        "Versions": _pairs("library", record.versions),
    }
    if lacking:
        more[f"{len(lacking)} annotations without rows"] = Table(
            ("annotation", "item", "reason"), tuple((lack.id, lack.item_id, lack.reason) for lack in lacking)
        )
    return Page(
        title=f"{name} on {spec.dataset}",
        subtitle=f"Trained on split {spec.train_split!r}{evaluated}. Run folder: {run}",
        cards=_cards(scores) if scores is not None else (),
        facts=tuple((name, value) for name, value in facts if value),
        more={title: table for title, table in more.items() if table.rows},
        sections=sections,
        footer=f"Made by vidloc {__version__}. This page is complete in itself and loads nothing.",
    )


def _stream(stream: StreamRecord) -> str:
    made = f"{stream.encoder or 'unknown encoder'}, weights {stream.weights or 'unknown'}"
    return f"{stream.stream} of {stream.store}: {made}, {stream.dim} numbers a row"


def _evaluated(split: str, scores: Scores | None) -> str:
    if not split:
        return "no split"
    if scores is None:
        return f"split {split!r}, whose labels are withheld"
    lacking = f", of which {scores.num_lacking} lack rows and were not answered" if scores.num_lacking else ""
    return f"split {split!r}: {scores.num_annotations} annotations{lacking}"


def _changed(head: type[Head], options: Mapping[str, Any]) -> str:
    """Options that differ from the head's defaults."""
    defaults = head.Options().model_dump(mode="json")
    differing = [f"{name} {value}" for name, value in options.items() if defaults.get(name) != value]
    return ", ".join(differing) if differing else "all defaults"


def _pairs(name: str, values: Mapping[str, Any]) -> Table:
    return Table((name, "value"), tuple((key, str(value)) for key, value in values.items()))


def _cards(scores: Scores) -> tuple[tuple[str, str, str], ...]:
    """The first shares among the metrics, each beside what guessing scores."""
    shares = {name: value for name, value in flat(scores.metrics).items() if isinstance(value, float)}
    first = [name for name in shares if name.endswith(_HEADLINES)] or list(shares)
    cards = []
    for name in first[:_MOST_CARDS]:
        guesses = {kind: flat(metrics).get(name) for kind, metrics in scores.baselines.items()}
        told = ", ".join(
            f"{kind.replace('_', ' ')} {shown(guess)}" for kind, guess in guesses.items() if guess is not None
        )
        cards.append((name.replace("_", " "), shown(shares[name]), told))
    return tuple(cards)


def _metrics_section(scores: Scores) -> Section:
    others = [flat(metrics) for metrics in scores.baselines.values()]
    rows = [(name, value, *(other.get(name) for other in others)) for name, value in flat(scores.metrics).items()]
    head = ("metric", Path(scores.head).name, *(name.replace("_", " ") for name in scores.baselines))
    text = (f"Split {scores.split!r} of {scores.dataset}, metrics of protocol {scores.protocol}, beside guessing.",)
    return Section("Metrics", (*text, *scores.notes), (("", Table(head, tuple(rows))),))


def _training_section(run: Path, record: RunRecord) -> list[Section]:
    epochs = read_metrics(run / METRICS_FILE)
    names = dict.fromkeys(name for values in epochs.values() for name in values)
    of_name = {name: {epoch: own[name] for epoch, own in epochs.items() if name in own} for name in names}
    once = [
        (name, epoch, f"{value:g}") for name, own in of_name.items() if len(own) == 1 for epoch, value in own.items()
    ]
    tables = (("", Table(("number", "epoch", "value"), tuple(once))),) if once else ()
    curves = {name: own for name, own in of_name.items() if len(own) > 1}
    if not curves:
        return [Section("Training", (f"Kept: {record.chosen}.",), tables)] if once else []
    text = f"Dashed: epoch {record.epoch}, whose weights were kept ({record.chosen})."
    return [Section("Training", (text,), tables, (Picture("", training_curves(curves, record.epoch)),))]


def _class_sections(tables: Sequence[ClassTable], scores: Scores | None) -> list[Section]:
    found = []
    for table in tables:
        rows = tuple((name, *(values[k] for values in table.columns.values())) for k, name in enumerate(table.classes))
        pictures: tuple[Picture, ...] = ()
        if (figure := confusion_plot(table)) is not None:
            pictures = (Picture("Confusion of the classes that are confused most", figure),)
        split = f" on split {scores.split!r}" if scores is not None else ""
        text = (f"Classes that occur{split}: {len(table.classes)}. Click a column's title to sort by it.",)
        content = Table(("class", *table.columns), rows)
        found.append(Section(f"Per class: {table.task}", text, (("", content),), pictures))
    return found


def _timelines_section(split: str, samples: Sequence[Shown], record: RunRecord, head: Head) -> Section:
    colours = Colours([name for names in record.classes.values() for name in names])
    pictures = []
    for one in samples:
        if not one.lanes:
            continue
        legend = tuple(_legend(one, colours).items())[:_MOST_LEGEND]
        said = (
            *([f"score {100 * one.score:.1f} %"] if one.score is not None else []),
            *([one.said] if one.said else []),
        )
        figure = timeline(one.lanes, one.sample.span if head.unit == "item" else _whole_span(one), colours)
        identity = one.sample.item_id + (f" · {one.sample.id}" if one.sample.id not in ("", one.sample.item_id) else "")
        pictures.append(Picture(identity, figure, one.choice, said, legend))
    counts = {choice: sum(one.choice == choice for one in samples) for choice in ("worst", "at random", "best")}
    told = ", ".join(f"{count} {choice}" for choice, count in counts.items() if count)
    text = (f"{len(samples)} shown: {told}. {_HINT}",)
    return Section(f"Over time: split {split!r}", text, pictures=tuple(pictures))


def _legend(one: Shown, colours: Colours) -> dict[str, str]:
    """Colour by what it stands for, of bars, marks, and lanes of several curves."""
    found: dict[str, str] = {}
    for lane in one.lanes:
        if isinstance(lane, Curves):
            found |= curve_colours(lane, one.lanes, colours) if len(lane.values) > 1 else {}
        else:
            labels = [bar.label for bar in lane.bars] if isinstance(lane, Bars) else [m.label for m in lane.marks]
            found |= {label: colours.of(label) for label in labels if label}
    return found


def _whole_span(one: Shown) -> Span:
    """From the first to the last second of what is drawn of a segment."""
    times = [float(second) for second in one.sample.span]
    for lane in one.lanes:
        if isinstance(lane, Curves):
            half = float(np.median(np.diff(lane.times_s))) / 2 if len(lane.times_s) > 1 else 0.0
            times += [max(float(t), 0.0) for t in (*(lane.times_s[:1] - half), *(lane.times_s[-1:] + half))]
        elif isinstance(lane, Bars):
            times += [second for bar in lane.bars for second in bar.span]
        else:
            times += [mark.time_s for mark in lane.marks]
    return Span(min(times), max(times))
