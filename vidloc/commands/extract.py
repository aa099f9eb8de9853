"""`vidloc extract`: run encoders over videos, into a feature store."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

from vidloc.cli import EXIT_ERROR, EXIT_FAILURES, console, echo_json
from vidloc.commands.sbatch import DEFAULT_PARTS, job_script
from vidloc.core.grammar import EncoderPlan, parse_encoder, parse_part
from vidloc.core.windows import Tail
from vidloc.pipelines.extract import DEFAULT_STRIDE_S, ExtractPlan, ExtractReport, Selection, plan_extraction
from vidloc.pipelines.extract import extract as run_extraction
from vidloc.pipelines.extraction.encoders import read_encoder_file
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.pipelines.extraction.progress import ConsoleProgress
from vidloc.pipelines.extraction.recipes import find_recipe, recipe_of_dataset, with_options
from vidloc.pipelines.extraction.segment_views import Views, parse_views
from vidloc.pipelines.preview import DEFAULT_ROWS, MOST_ROWS, preview

_PATH = click.Path(path_type=Path)


@click.command(short_help="Run encoders over videos, into a feature store.")
@click.option("--store", type=_PATH, help="Store to append to; made if absent (.zarr or .h5).")
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="[STREAM=]NAME[:option=value,...]",
    help="Encoder to run; repeat for several. 'vidloc list encoders NAME' shows its options.",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="Encoders and layouts of a published feature set ('vidloc list recipes'), or 'dataset' for those that heads "
    "on --dataset expect. An --encoder of one of its streams adds options to it.",
)
@click.option("--plan-file", type=_PATH, help="Further encoders, one per line as after --encoder; # begins a comment.")
@click.option(
    "--dataset",
    metavar="NAME[:option=value,...]",
    help="Corpus whose layout and annotations are read ('vidloc list datasets').",
)
@click.option("--root", type=_PATH, help="Folder of the corpus's videos.")
@click.option("--annotations", type=_PATH, help="The corpus's annotations; text encoders read their sentences.")
@click.option(
    "--videos",
    type=_PATH,
    help="A csv with the columns item_id,path (or path alone), in place of --root; folders and tar archives of "
    "numbered pictures need a column fps, and released flow pictures are named by flow_path and flow_fps.",
)
@click.option("--split", help="Only the items of this split of the annotations.")
@click.option(
    "--items", "patterns", multiple=True, metavar="PATTERN", help="Only these ids, or those like P01_*; repeatable."
)
@click.option(
    "--part",
    metavar="K/N",
    help="Only the K-th of N shares of the items, from 1: one per job of an array. Give each job its own store and "
    "join them with 'vidloc store merge'.",
)
@click.option(
    "--stride",
    default=str(DEFAULT_STRIDE_S),
    show_default=True,
    metavar="SECONDS",
    help="Between neighbouring rows, for all encoders: 0.5, 1/2, 1001/30000.",
)
@click.option(
    "--align",
    type=click.Choice(("centre", "start")),
    help="Rows on centres that all encoders share (the default), or from the start of the video, for all encoders.",
)
@click.option(
    "--tail",
    type=click.Choice(get_args(Tail)),
    help="With --align start, windows that reach beyond the end: drop (the default), pad those centred before it, "
    "cover (pad all that begin before it), or backpad (move back).",
)
@click.option(
    "--windows",
    type=click.Choice(("grid", "segments")),
    default="grid",
    show_default=True,
    help="What rows answer: windows over the whole item, or each annotated segment by its views (see --views).",
)
@click.option(
    "--views",
    metavar="CLIPSxCROPS",
    help="With --windows segments: clips along each segment, and crops of each clip: 1, 3, flips or ten-crop.  "
    "[default: 10x3]",
)
@click.option(
    "--devices",
    "--device",
    "devices",
    default="auto",
    show_default=True,
    metavar="DEVICE[,...]",
    help="auto, cpu, cuda or cuda:NUMBER; several get a worker process each: 4 (the first four GPUs), cuda:0,cuda:2, "
    "or cpu:3 (three workers on the CPU). A device named twice gets two workers.",
)
@click.option(
    "--allow-failures",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Exit 0 although up to N items failed or are partial.",
)
@click.option(
    "--plan", "plan_only", is_flag=True, help="Say what would be done, and stop; exit 1 if weights are missing."
)
@click.option(
    "--print-sbatch",
    is_flag=True,
    help="Print a script that runs this command as a job array on a Slurm cluster and merges the parts, and stop.",
)
@click.option(
    "--parts",
    type=click.IntRange(1, 9999),
    metavar="N",
    help=f"Jobs of the array that --print-sbatch is about.  [default: {DEFAULT_PARTS}]",
)
@click.option(
    "--preview",
    "excerpts",
    multiple=True,
    metavar="ITEM[@START-END]",
    help="Write no store, but a PNG contact sheet per encoder: what it is fed of this item, or of these seconds of it; "
    "repeatable.",
)
@click.option(
    "--preview-rows",
    type=click.IntRange(1, MOST_ROWS),
    default=DEFAULT_ROWS,
    show_default=True,
    metavar="N",
    help="Rows of each sheet at most, spread evenly.",
)
@click.option(
    "--preview-out",
    type=_PATH,
    default=Path("previews"),
    show_default=True,
    metavar="DIR",
    help="Folder of the sheets.",
)
@click.option("--report", type=_PATH, help="Also write the report, as JSON, to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the report (plan, list of sheets) as one JSON document.")
@click.pass_context
def extract(ctx: click.Context, /, **flags: Any) -> None:
    """Run encoders over videos, into a feature store. Each video is decoded once for all encoders.

    \b
    vidloc extract --dataset epic --root EPIC/ --annotations epic-annotations/ --store feats.zarr \\
        --encoder slowfast_r50 --encoder vggish --encoder fasterrcnn --encoder text
    vidloc extract --dataset folder --root my_videos/ --store feats.h5 --encoder i3d_r50:weights=random:0

    Videos may be kept as numbered pictures (frame_0000000001.jpg), in folders or tar archives that are not unpacked:
    the released frames of EPIC-KITCHENS are found below --root, others are named by --videos. So is its released flow,
    for encoders with flow=released.

    The same command resumes: what the store holds is skipped, items that failed are tried again, and a further
    --encoder does its own rows only. Two checkpoints of one network are two streams:
    --encoder verb=slowfast_r50:weights=v.pyth --encoder noun=slowfast_r50:weights=n.pyth.

    Every encoder of pictures or sound takes the words align, stride, window, start, tail, rate, step and spare
    among its options, over those of the run; lengths are seconds, or frames of the rate (16f). Rows as in published
    sets:

    \b
    --encoder i3d:align=start,rate=native,stride=4f            16 frames of the file's own, every 4, whole windows
    --encoder slowfast_r50:align=start,rate=30,window=32f,stride=16f,tail=backpad
    --encoder vggish:align=start,stride=1,tail=pad             one row per second

    --recipe ego4d_slowfast --encoder slowfast_r101:weights=FILE    such a line, looked up

    --windows segments makes one row per annotated segment, (views, ...), keyed by the annotation's id and beside other
    streams of the item: --windows segments --views 10x3 --encoder clips=slowfast_r50 --dataset epic --annotations ...

    A video too short for one window has no row with tail=drop; it is listed as absent, which is no failure.

    What an encoder sees, as pictures in previews/, before a long run; no --store is needed, and none is touched:

    \b
    vidloc extract --dataset folder --root my_videos/ --encoder vggish --preview kitchen@12.0-14.5

    Exit codes: 0 all done (an item may lack a track), 1 an error before or while writing, 2 wrong usage, 3 some items
    failed or are partial (listed at the end), 130 or 143 stopped by Ctrl-C or SIGTERM, with everything so far kept.
    """
    report_file = _writable(flags["report"]) if flags["report"] else None
    encoders = _encoders(flags["encoders"], flags["plan_file"], flags["recipe"], flags["dataset"])
    _check_purpose(flags)
    if flags["print_sbatch"]:
        click.echo(job_script(ctx, parts=flags["parts"] or DEFAULT_PARTS), nl=False)
        return
    if flags["parts"] is not None:
        raise click.UsageError("--parts goes with --print-sbatch; one job's share is --part K/N.")
    selection = Selection(
        dataset=open_dataset(flags["dataset"]) if flags["dataset"] else None,
        root=flags["root"],
        annotations=flags["annotations"],
        videos=flags["videos"],
        split=flags["split"],
        patterns=flags["patterns"],
        part=parse_part(flags["part"]) if flags["part"] else None,
    )
    run = {
        "stride_s": _seconds(flags["stride"]),
        "layout": {word: flags[word] for word in ("align", "tail") if flags[word]},
        "views": _views(flags),
        "device": flags["devices"],
    }
    if flags["excerpts"]:
        _preview(ctx, flags, encoders, selection, **run)
    if flags["plan_only"]:
        plan = plan_extraction(flags["store"], encoders, selection, **run)
        _print(plan, as_json=flags["as_json"])
        ctx.exit(EXIT_ERROR if plan.missing_weights else 0)
    try:
        with ConsoleProgress(console(stderr=True)) as progress:
            report = run_extraction(flags["store"], encoders, selection, progress=progress, **run)
    except KeyboardInterrupt:
        ctx.exit(128 + signal.SIGINT)
    _print(report, as_json=flags["as_json"])
    if report_file is not None:
        _write_report(report_file, report)
    ctx.exit(_exit_code(report, flags["allow_failures"]))


def _check_purpose(flags: Mapping[str, Any]) -> None:
    if flags["excerpts"]:
        if flags["plan_only"] or flags["report"] or flags["print_sbatch"]:
            raise click.UsageError("--preview only draws; leave out --plan, --report and --print-sbatch.")
    elif flags["store"] is None:
        raise click.UsageError("name the store to append to: --store feats.zarr (or .h5); only --preview needs none.")


def _preview(
    ctx: click.Context, flags: Mapping[str, Any], encoders: list[EncoderPlan], selection: Selection, **run: Any
) -> NoReturn:
    files = preview(
        encoders,
        selection,
        flags["excerpts"],
        out=flags["preview_out"],
        num_rows=flags["preview_rows"],
        **run,
    )
    if flags["as_json"]:
        echo_json({"sheets": [file.as_json() for file in files]})
    else:
        click.echo("\n".join(file.line() for file in files))
    failed = [file for file in files if file.status in ("failed", "partial")]
    ctx.exit(EXIT_FAILURES if len(failed) > flags["allow_failures"] else 0)


def _encoders(
    texts: tuple[str, ...], plan_file: Path | None, recipe: str | None, dataset: str | None
) -> list[EncoderPlan]:
    plans = [parse_encoder(text) for text in texts]
    if plan_file is not None:
        plans += read_encoder_file(plan_file)
    corpus = parse_encoder(dataset).name if dataset else None
    if recipe is not None:
        return with_options(find_recipe(recipe, dataset=corpus), plans)
    if not plans:
        raise click.UsageError(_proposal(corpus))
    return plans


def _proposal(dataset: str | None) -> str:
    found = recipe_of_dataset(dataset) if dataset else None
    if found is None:
        return (
            "name at least one --encoder, a --plan-file or a --recipe ('vidloc list encoders', 'vidloc list recipes')."
        )
    lines = "".join(f"\n  --encoder {text}" for text in found.encoders)
    return (
        f"name at least one --encoder. Heads on {dataset} expect these, for which --recipe {found.name} is short "
        f"({found.summary.rstrip('.')}):{lines}"
    )


def _views(flags: Mapping[str, Any]) -> Views | None:
    if flags["windows"] == "grid":
        if flags["views"]:
            raise click.UsageError("--views goes with --windows segments.")
        return None
    if flags["align"] or flags["tail"]:
        raise click.UsageError("--align and --tail go with --windows grid.")
    return parse_views(flags["views"] or "10x3")


def _seconds(text: str) -> Fraction:
    try:
        seconds = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(
            f"{text!r} is no number of seconds such as 0.5 or 1/2.", param_hint="--stride"
        ) from error
    if seconds <= 0:
        raise click.BadParameter(f"must be more than 0 s, got {text}.", param_hint="--stride")
    return seconds


def _writable(path: Path) -> Path:
    # Found out now and not after hours of work.
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise click.BadParameter(f"{str(path)!r} is not a file in an existing folder.", param_hint="--report")
    return path


def _write_report(path: Path, report: ExtractReport) -> None:
    try:
        path.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise click.FileError(str(path), hint=f"{error.strerror}. The store is complete without it.") from error


def _exit_code(report: ExtractReport, allowed: int) -> int:
    if report.interrupted_by is not None:
        return 128 + report.interrupted_by
    return EXIT_FAILURES if len(report.failures) > allowed else 0


def _print(result: ExtractPlan | ExtractReport, *, as_json: bool) -> None:
    if as_json:
        echo_json(result.as_json())
    else:
        click.echo("\n".join(result.lines()))
