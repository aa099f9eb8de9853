"""`vidloc extract ... --print-sbatch`: the same command as a job array for Slurm, a store per part, and their merge."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from click.core import ParameterSource

DEFAULT_PARTS = 8
_TASK = '"$SLURM_ARRAY_TASK_ID"'
# Each task says these in words of its own.
_LEFT_OUT = {"store", "report", "part", "parts", "print_sbatch"}

_SCRIPT = """\
#!/bin/bash
# {command}: {parts} parts as an array of jobs, and the merge of their stores.
# Save this text as {name}.sbatch, fill in the line of resources, and submit all of it from here by
#
#     bash {name}.sbatch
#
# Two minutes before the time limit a task finishes the item at hand and is queued again; the same command goes on from
# there. A part with failed items exits 3 and holds the merge back: look at its log, then run the merge by hand, or
# submit again with --allow-failures.
#SBATCH --job-name={name}
#SBATCH --array=1-{parts}
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output={name}.%A_%a.log
##SBATCH --gres=gpu:1 --cpus-per-task=8 --mem=32G --time=12:00:00

case "${{SLURM_ARRAY_TASK_ID:-submit}}" in
submit)
    parts=$(sbatch --parsable "$0") || exit
    exec sbatch --array=0 --dependency="afterok:${{parts%%;*}}" --kill-on-invalid-dep=yes "$0"
    ;;
0)
    exec vidloc store merge {merge}
    ;;
esac

requeue=
trap 'cut=1 requeue=1; kill -TERM "$work"' USR1
trap 'cut=1; kill -TERM "$work"' TERM
vidloc extract {extract} &
work=$!
cut=1
while [ -n "$cut" ]; do
    cut=
    wait "$work"  # a signal cuts it short
    code=$?
done
if [ -n "$requeue" ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
"""


def job_script(ctx: click.Context, *, parts: int) -> str:
    """The script for the command line that is being run.

    Args:
        ctx: of `vidloc extract`; its flags are repeated as they were typed.
        parts: how many tasks share the items.

    Raises:
        click.UsageError: a flag that an array of jobs cannot take.
    """
    for name, flag in (("part", "--part"), ("plan_only", "--plan")):
        if ctx.params[name]:
            raise click.UsageError(f"{flag} does not go with --print-sbatch, which divides the items by --parts.")
    store, report = ctx.params["store"], ctx.params["report"]
    stores = [_of_part(store, str(k), parts) for k in range(1, parts + 1)]
    flags = ["--store", _of_part(store, _TASK, parts), "--part", f"{_TASK}/{parts}"]
    if report is not None:
        flags += ["--report", _of_part(report, _TASK, parts)]
    return _SCRIPT.format(
        command=" ".join(ctx.command_path.split()),
        parts=parts,
        name=re.sub(r"[^A-Za-z0-9_.-]", "_", store.stem),
        merge=" ".join([shlex.quote(str(store)), *stores]),
        extract=" ".join([*flags, *_typed(ctx)]),
    )


def _of_part(path: Path, number: str, parts: int) -> str:
    """A file of one part beside that of the whole, as a word of the shell; `number` may be a variable."""
    before, after = path.with_name(f"{path.stem}.part"), f"of{parts}{path.suffix}"
    return f"{shlex.quote(str(before))}{number}{shlex.quote(after)}"


def _typed(ctx: click.Context) -> Iterator[str]:
    """All other flags that were typed, as words of the shell."""
    for option in ctx.command.params:
        name = option.name or ""
        if name in _LEFT_OUT or ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[name]
        if isinstance(value, bool):
            yield from option.opts[:1] if value else option.secondary_opts[:1]
            continue
        for each in value if option.multiple else (value,):
            yield f"{option.opts[0]} {shlex.quote(str(each))}"
