"""The commands of the light stage: train-head, predict, evaluate, submit.

`train-head NAME` makes its flags from the typed options of the head and of the dataset. Only `train-head` and `predict`
import torch.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidloc.cli import EXIT_FAILURES, console, echo_json, given, option_flags
from vidloc.commands.storage import STORAGE_OPTION, storage_flag, without_secrets
from vidloc.core import registry
from vidloc.core.grammar import parse_encoder, parse_pairs
from vidloc.errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from vidloc.pipelines.setting import TrainPlan
    from vidloc.pipelines.train import TrainReport

_PATH = click.Path(path_type=Path)
_DATASET = "dataset"
_EXAMPLES = {
    "detection": "segments --annotations my.csv",
    "event": "ave --annotations ave-annotations/",
    "crossmodal": "ave --protocol matching --annotations ave-annotations/",
}


class HeadGroup(click.Group):
    """One subcommand per head, made when it is asked for; a path to a Python file is a name too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all heads; nothing is imported for it."""
        return list(registry.entries("heads"))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a head, with the flags of the dataset that the arguments name."""
        if args and not args[0].startswith("-"):
            ctx.meta[_DATASET] = _peek(args, "--dataset")
            if args[0] not in self.list_commands(ctx) and not args[0].endswith(".py"):
                ctx.fail(f"no head {args[0]!r}. {did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a head."""
        return _head_command(cmd_name, ctx.meta.get(_DATASET))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The heads with a line each, without importing them."""
        with formatter.section("Heads"):
            formatter.write_dl([(name, entry.summary) for name, entry in registry.entries("heads").items()])


@click.group(
    cls=HeadGroup,
    invoke_without_command=True,
    short_help="Train a head on the rows of one or more stores.",
    subcommand_metavar="[NAME|FILE.py] [FLAGS]...",
)
@click.option("--from", "source", type=_PATH, metavar="RUN", help="Repeat this run: same options, rows and labels.")
@click.option("--out", type=_PATH, help="With --from: the new run's folder.")
@click.option("--store", "stores", multiple=True, metavar="PATH", help="With --from: where the rows lie now.")
@STORAGE_OPTION
@click.option("--annotations", type=_PATH, help="With --from: where the annotations lie now.")
@click.option("--json", "as_json", is_flag=True, help="With --from: print the result as JSON.")
@click.pass_context
def train_head(
    ctx: click.Context, source: Path | None, out: Path | None, stores: tuple[str, ...], annotations: Path | None,
    as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Train a head on the rows of one or more stores, and evaluate it.

    \b
    vidloc train-head sapnet --store feats.zarr --dataset epic --annotations epic-annotations/ --out runs/sap
    vidloc train-head sapnet --dataset epic --help      all flags of the head and of the dataset
    vidloc train-head --from runs/sap --out runs/again  the same once more

    A run that was stopped goes on at its last epoch when the same command is given again.
    """
    if ctx.invoked_subcommand is not None:
        if source is not None or out is not None or stores or annotations is not None or as_json:
            raise click.UsageError("write the flags after the name of the head; before it they belong to --from.")
        return
    if source is None:
        click.echo(ctx.get_help())
        return
    if out is None:
        raise click.UsageError("--from RUN needs --out FOLDER for the new run.")
    from dataclasses import replace

    from vidloc.pipelines.train import repeat_plan

    plan = repeat_plan(source)
    if stores:
        plan = replace(plan, stores=stores, digests={})
    if annotations is not None:
        plan = replace(plan, annotations=annotations, annotations_sha256={})
    _train(ctx, plan, out, as_json=as_json)


@click.command(short_help="Write a run's predictions for a split or a store.")
@click.argument("run", type=_PATH)
@click.option(
    "--store", "stores", multiple=True, metavar="PATH", help="Where the rows lie now [default: as in training]."
)
@STORAGE_OPTION
@click.option("--split", default="", help="Split to predict [default: the run's evaluation split].")
@click.option("--out", type=_PATH, help="File to write [default: in the run's folder].")
@click.option("--json", "as_json", is_flag=True, help="Print the account as JSON.")
@click.pass_context
def predict(
    ctx: click.Context, run: Path, stores: tuple[str, ...], split: str, out: Path | None,
    as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Write a run's predictions for a split, one JSON object per line, with an account beside it.

    \b
    vidloc predict runs/sap --split test_s1
    vidloc predict runs/sap --store other.zarr --out predictions.jsonl
    """
    from vidloc.pipelines.predict import predict as run_predict
    from vidloc.pipelines.run_record import predictions_path, read_run

    account = run_predict(run, split=split, stores=stores, out=out, notice=_notice)
    if as_json:
        echo_json(account.model_dump(mode="json"))
    else:
        place = out or predictions_path(run, account.split, read_run(run))
        console().print(
            f"Predicted {account.record.num_used} of {account.record.num_annotations} annotations of split "
            f"{account.split!r}: {place}"
        )
    ctx.exit(EXIT_FAILURES if account.record.lacking else 0)


@click.command(short_help="Score a run or a predictions.jsonl with the official metrics.")
@click.argument("path", type=_PATH, required=False)
@click.option("--split", default="", help="Split to score [default: the run's evaluation split].")
@click.option(
    "--prior",
    type=click.Choice(["none", "joint", "noun_given_verb"]),
    default="none",
    show_default=True,
    help="How training counts of (verb, noun) pairs weigh actions.",
)
@click.option("--dataset", metavar="NAME[:option=value,...]", help="Corpus, for predictions without an account.")
@click.option("--annotations", type=_PATH, help="Annotations, where they have moved or there is no account.")
@click.option(
    "--task",
    type=click.Choice(["detection", "frame-detection", "classification", "av-event", "av-matching"]),
    help="Score two files instead of a run: --predictions against --truth.",
)
@click.option("--predictions", type=_PATH, help="With --task: JSON lines item_id, start_s, end_s, label, score.")
@click.option("--truth", type=_PATH, help="With --task: JSON lines item_id, start_s, end_s, label.")
@click.option(
    "--thresholds",
    default="",
    metavar="N,...",
    help="With --task: of temporal IoU, or of distance [default: the usual].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as one JSON document.")
@click.pass_context
def evaluate(
    ctx: click.Context, path: Path | None, split: str, prior: Any, dataset: str | None, annotations: Path | None,
    task: str | None, predictions: Path | None, truth: Path | None, thresholds: str,
    as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Score a run, or a file of predictions, beside chance and the most frequent class.

    \b
    vidloc evaluate runs/sap
    vidloc evaluate runs/sap --prior joint --json
    vidloc evaluate predictions.jsonl --dataset segments --annotations my.csv
    vidloc evaluate --task frame-detection --predictions p.jsonl --truth t.jsonl

    It reads predictions and annotations alone: neither the store nor the weights.
    """
    from vidloc.commands.scores import print_metrics, print_scores
    from vidloc.pipelines.evaluate import LabelSource
    from vidloc.pipelines.evaluate import evaluate as run_evaluate

    if task is not None:
        if predictions is None or truth is None or path is not None:
            raise click.UsageError("--task scores two files: give --predictions FILE and --truth FILE, and no run.")
        from vidloc.pipelines.score_files import score_files

        metrics = score_files(task, predictions, truth, _thresholds(thresholds))
        if as_json:
            echo_json(metrics)
        else:
            print_metrics(metrics, predictions.name)
        return
    if path is None or predictions is not None or truth is not None or thresholds:
        raise click.UsageError("give a run or a file of predictions, or --task with --predictions and --truth.")
    name, options = _dataset(dataset)
    scores = run_evaluate(path, split=split, prior=prior, labels=LabelSource(name, options, annotations))
    if as_json:
        echo_json(scores.as_json())
    else:
        print_scores(scores)
    ctx.exit(EXIT_FAILURES if scores.num_lacking else 0)


@click.command(short_help="Write a benchmark's submission file from a run.")
@click.argument("run", type=_PATH)
@click.option(
    "--split", default="test", show_default=True, help="Split to submit; EPIC-KITCHENS-55 has two parts of it."
)
@click.option("--out", type=_PATH, required=True, help="File to write, a zip.")
@click.option(
    "--store", "stores", multiple=True, metavar="PATH", help="Where the rows lie now [default: as in training]."
)
@STORAGE_OPTION
@click.option(
    "--prior",
    type=click.Choice(["none", "joint", "noun_given_verb"]),
    default="none",
    show_default=True,
    help="Weigh actions by training pairs, and write them.",
)
@click.option(
    "--sls", type=int, nargs=3, default=None, metavar="PT TL TD", help="Levels of supervision, 0-5 (EPIC-KITCHENS-100)."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def submit(
    run: Path, split: str, out: Path, stores: tuple[str, ...], prior: Any, sls: tuple[int, int, int] | None,
    as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Write a benchmark's submission file from a run; the splits are predicted first where that is not done.

    \b
    vidloc submit runs/sap --split test --prior joint --out submission.zip
    vidloc submit runs/sap100 --split test --sls 2 3 3 --out submission.zip
    """
    from vidloc.pipelines.submit import submit as run_submit

    report = run_submit(run, out, split=split, stores=stores, prior=prior, sls=sls, notice=_notice)
    if as_json:
        echo_json({"path": report.path, "benchmark": report.benchmark, "splits": report.splits, "prior": report.prior})
        return
    parts = ", ".join(f"{count} segments of {name}" for name, count in report.splits.items())
    actions = f"actions weighed by the prior {report.prior}" if report.prior != "none" else "no actions"
    console().print(f"Wrote {report.path} for {report.benchmark}: {parts}; {actions}.")


def _head_command(name: str, dataset: str | None) -> click.Command:
    """`train-head NAME`: common flags, the head's options, and the dataset's."""
    head = registry.load("heads", name).target
    dataset_name, dataset_text_options = _dataset(dataset)
    dataset_flags: list[click.Option] = []
    if dataset_name:
        dataset_class = registry.load("datasets", dataset_name).target
        dataset_flags = option_flags(dataset_class.Options)
    head_flags = option_flags(head.Options)
    common = _common_flags()
    _refuse_clashes(name, dataset_name, common, head_flags, dataset_flags)
    head_names, dataset_names = ({str(flag.name) for flag in flags} for flags in (head_flags, dataset_flags))

    @click.pass_context
    def run(ctx: click.Context, /, **flags: Any) -> None:
        values = given(flags)
        options = {**_read_options(flags["options"]), **{k: v for k, v in values.items() if k in head_names}}
        _train(
            ctx,
            _plan(
                name,
                flags,
                options=options,
                dataset=dataset_name,
                dataset_options={**dataset_text_options, **{k: v for k, v in values.items() if k in dataset_names}},
            ),
            flags["out"],
            as_json=flags["as_json"],
        )

    roles = "; ".join(f"{role}: {' or '.join(need.kinds)}" for role, need in head.needs.items())
    summary = (sys.modules[head.__module__].__doc__ or head.__doc__ or "").strip().split("\n\n")[0]
    labels = _EXAMPLES.get(head.task, "epic --annotations epic-annotations/")
    example = f"vidloc train-head {name} --store feats.zarr --dataset {labels} --out runs/one"
    hint = "" if dataset_name else "\n\nFlags of a dataset are listed once it is named: --dataset NAME --help."
    return click.Command(
        name,
        params=[*common, *dataset_flags, *head_flags],
        callback=run,
        help=f"{summary}\n\n\b\n{example}\n\nRoles and the kinds of stream that fill them: {roles}.{hint}",
        short_help=summary,
        context_settings={"max_content_width": 110},
    )


def _common_flags() -> list[click.Option]:
    return [
        click.Option(
            ["--store", "stores"], multiple=True, required=True, metavar="PATH", help="Store with rows; repeatable."
        ),
        storage_flag(),
        click.Option(["--dataset", "dataset"], required=True, metavar="NAME", help="Corpus ('vidloc list datasets')."),
        click.Option(["--annotations"], type=_PATH, help="The corpus's annotation files."),
        click.Option(["--out"], type=_PATH, required=True, help="Folder of the run; new, or that of a stopped run."),
        click.Option(
            ["--stream", "streams"], multiple=True, metavar="ROLE=STREAM", help="Stream that fills a role; repeatable."
        ),
        click.Option(["--train-split"], default="", help="Split to learn from [default: the dataset's]."),
        click.Option(["--eval-split"], default="", help="Split to evaluate on at the end [default: the dataset's]."),
        click.Option(["--options"], type=_PATH, help="JSON file of the head's options; a flag wins over it."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the result as one JSON document."),
    ]


def _refuse_clashes(head: str, dataset: str, *groups: Sequence[click.Option]) -> None:
    """Two flags of one name would shadow each other silently."""
    seen: set[str] = set()
    for flag in (flag for group in groups for flag in group):
        if flag.name in seen:
            where = f"head {head!r}" + (f" and dataset {dataset!r}" if dataset else "")
            raise OptionError(f"{where}: the option {flag.name!r} exists twice, or is a flag of every head. Rename it.")
        seen.add(str(flag.name))


def _plan(
    head: str, flags: Mapping[str, Any], *, options: Mapping[str, Any], dataset: str, dataset_options: Mapping[str, Any]
) -> TrainPlan:
    from vidloc.pipelines.setting import TrainPlan

    return TrainPlan(
        head=head,
        stores=flags["stores"],
        dataset=dataset,
        annotations=flags["annotations"],
        dataset_options=dataset_options,
        options=options,
        streams=parse_pairs(flags["streams"], flag="--stream"),
        train_split=flags["train_split"],
        eval_split=flags["eval_split"],
    )


def _train(ctx: click.Context, plan: TrainPlan, out: Path, *, as_json: bool) -> None:
    from vidloc.commands.scores import EpochLine, print_scores
    from vidloc.pipelines.train import train

    command = shlex.join(["vidloc", *without_secrets(sys.argv[1:])])
    try:
        with EpochLine(console(stderr=True)) as line:
            report = train(plan, out, command=command, notice=_notice, on_epoch=line.show)
    except KeyboardInterrupt:
        click.echo("Stopped. The same command goes on after the last epoch that was completed.", err=True)
        ctx.exit(128 + signal.SIGINT)
    if as_json:
        echo_json(_report_json(report))
    else:
        record = report.record
        console().print(
            f"Trained {record.spec.head} ({record.num_parameters} parameters) on {record.splits['train'].num_used} "
            f"samples of split {record.spec.train_split!r}, on {record.device}, in {record.duration_s:.1f} s. "
            f"Kept: {record.chosen}."
        )
        if report.scores is not None:
            print_scores(report.scores)
        elif report.evaluated is not None:
            console().print(
                f"The labels of split {report.evaluated.split!r} are withheld: predictions are written only."
            )
        console().print(f"Run: {out}. Score it again with: vidloc evaluate {shlex.quote(str(out))}")
    ctx.exit(EXIT_FAILURES if report.num_lacking else 0)


def _report_json(report: TrainReport) -> dict[str, Any]:
    return {
        "out": str(report.out),
        "run": report.record.model_dump(mode="json"),
        "scores": report.scores.as_json() if report.scores is not None else None,
    }


def _notice(text: str) -> None:
    click.echo(f"Note: {text}", err=True)


def _dataset(text: str | None) -> tuple[str, dict[str, str]]:
    """`NAME[:option=value,...]`, the grammar of `--encoder`."""
    if not text:
        return "", {}
    plan = parse_encoder(text)
    return plan.name, dict(plan.options)


def _thresholds(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        values = (-1.0,)
    if not all(0 < value <= 1 for value in values):
        raise OptionError(f"--thresholds {text!r}: expected numbers above 0 and at most 1, such as 0.3,0.5,0.7.")
    return values


def _peek(args: Sequence[str], flag: str) -> str | None:
    """The value of a flag among arguments that are not parsed yet."""
    for place, text in enumerate(args):
        if text == flag and place + 1 < len(args):
            return args[place + 1]
        if text.startswith(f"{flag}="):
            return text.removeprefix(f"{flag}=")
    return None


def _read_options(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OptionError(f"--options {path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise OptionError(f"--options {path} must be one JSON object of option names and values.")
    return value
