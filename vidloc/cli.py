"""The `vidloc` command: parse, call one pipeline, print.

Subcommands live in `vidloc/commands/`, one file per group, and are imported only when called, so that `vidloc --help`
answers at once. Exit codes: 0 all done, 1 an error with one clear line, 2 wrong usage, 3 finished with failures.
"""

from __future__ import annotations

import importlib
import json
import keyword
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import click
from pydantic.fields import FieldInfo
from rich.console import Console

from vidloc import __version__
from vidloc.core.options import Options
from vidloc.errors import OptionError, VidlocError, did_you_mean

EXIT_ERROR, EXIT_USAGE, EXIT_FAILURES = 1, 2, 3

# name -> (module, one line of help). The command object in the module has the name of the command, `-` as `_`; words of
# Python, such as import, end in `_`.
_COMMANDS: dict[str, tuple[str, str]] = {
    "extract": ("extract", "Run encoders over videos, into a feature store."),
    "import": ("importing", "Read features of other files into a feature store."),
    "dataset": ("dataset", "Labels from annotation tools; a store checked against annotations."),
    "train-head": ("train", "Train a head on the rows of one or more stores."),
    "predict": ("train", "Write a run's predictions for a split or a store."),
    "evaluate": ("train", "Score a run or a predictions.jsonl with the official metrics."),
    "report": ("report", "Write a run as one HTML page: metrics, curves, classes, timelines."),
    "submit": ("train", "Write a benchmark's submission file from a run."),
    "store": ("store", "Look at, verify, merge and mend feature stores."),
    "index": ("search", "Build and inspect FAISS indexes over a stream."),
    "search": ("search", "Search a store by clip, row or text."),
    "list": ("listing", "List encoders, heads, datasets, imports and recipes, or describe one."),
    "weights": ("weights", "Fetch, check and convert checkpoints, and say where they are kept."),
    "check": ("check", "Run the shipped contract checks on a store, encoder or head."),
    "demo": ("demo", "Make a small labelled set of videos and run the whole way on it."),
}


_EXTRA_OF_PACKAGE = {
    **dict.fromkeys(("av", "filelock", "PIL", "soxr", "pytorchvideo", "torchvision", "torchaudio"), "extract"),
    **dict.fromkeys(("torch", "sklearn", "safetensors", "tensorboard"), "heads"),
    **dict.fromkeys(("sentence_transformers", "transformers"), "text"),
    **dict.fromkeys(("bokeh", "jinja2", "markupsafe"), "report"),
    **dict.fromkeys(("dask", "distributed"), "dask"),
    "cv2": "flow",
    "faiss": "search",
    "pyarrow": "parquet",
    "lmdb": "lmdb",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when that subcommand is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of work, extraction first."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; `None` for unknown names."""
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = importlib.import_module(f"vidloc.commands.{_COMMANDS[cmd_name][0]}")
        except ModuleNotFoundError as error:
            raise _missing_package(cmd_name, error) from error
        attribute = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")
        command: click.Command = getattr(module, attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with a hint at the nearest name."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}. {did_you_mean(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="vidloc %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def vidloc(ctx: click.Context, *, debug: bool) -> None:
    """Extract video features once, keep them in a store, train heads and search on the rows.

    \b
    vidloc extract --dataset epic --root EPIC/ --annotations epic-annotations/ --store feats.zarr \\
        --encoder slowfast_r50 --encoder vggish --encoder fasterrcnn
    vidloc train-head sapnet --store feats.zarr --dataset epic --annotations epic-annotations/ --out runs/sap
    vidloc evaluate runs/sap

    Exit codes: 0 all done, 1 an error, 2 wrong usage, 3 finished, but some items failed.
    """
    ctx.obj = {"debug": debug}


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; errors made on purpose become one clear message on stderr, without a traceback."""
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        vidloc.main(args=arguments, prog_name="vidloc", standalone_mode=True)
    except VidlocError as error:
        if "--debug" in arguments[:1]:
            raise
        say_error(error)
    sys.exit(EXIT_ERROR)


def say_error(error: BaseException) -> None:
    """Print an error and its notes (where it happened) on stderr."""
    click.echo(f"Error: {error}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(f"  {note}", err=True)


def console(*, stderr: bool = False) -> Console:
    """The console that commands print to; plain text where the output is not a terminal."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def echo_json(value: Any) -> None:
    """Print a value as JSON for scripts."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def option_flags(options: type[Options], *, skip: Sequence[str] = ()) -> list[click.Option]:
    """One flag per field: name, type, default, range and help come from the model.

    A flag left out is not passed on (`None`), so that `--options file.json` and the model's defaults stay in force.
    """
    return [_flag(name, info) for name, info in options.model_fields.items() if name not in skip]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags a user typed: those that are not `None` or empty."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def _flag(name: str, info: FieldInfo) -> click.Option:
    default = info.get_default(call_default_factory=True)
    described = f"{info.description or ''} [default: {_shown(default)}]{_range(info)}"
    dashed = f"--{name.replace('_', '-')}"
    if info.annotation is bool:
        return click.Option([f"{dashed}/--no-{name.replace('_', '-')}", name], default=None, help=described)
    return click.Option([dashed, name], type=_click_type(info.annotation), default=None, help=described)


def _click_type(annotation: Any) -> click.ParamType[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _click_type(inner[0]) if len(inner) == 1 else click.STRING
    if origin is Literal:
        return click.Choice([str(choice) for choice in typing.get_args(annotation)])
    # The model converts and checks; click's own types only name the value in --help.
    named: dict[Any, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT}
    return named.get(annotation, click.STRING)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if value == "":
        return "empty"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "yes" if value is True else "no" if value is False else str(value)


def _range(info: FieldInfo) -> str:
    words = {"Ge": ("ge", "at least"), "Gt": ("gt", "above"), "Le": ("le", "at most"), "Lt": ("lt", "below")}
    limits = []
    for limit in info.metadata:
        attribute, word = words.get(type(limit).__name__, ("", ""))
        if attribute:
            limits.append(f"{word} {getattr(limit, attribute)}")
    return f" [{', '.join(limits)}]" if limits else ""


def _missing_package(command: str, error: ModuleNotFoundError) -> VidlocError:
    package = (error.name or "").split(".")[0]
    if package == "vidloc":
        raise error
    extra = _EXTRA_OF_PACKAGE.get(package, "all")
    return OptionError(
        f"'vidloc {command}' needs the package {package!r}, which is not installed. pip install 'vidloc[{extra}]'"
    )


if __name__ == "__main__":
    main()
