"""Documents stay true: commands shown in them parse, docs/cli.md is what --help says, and Python blocks run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from vidloc.cli import vidloc

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """Every `vidloc ...` line of the shell blocks of a page, continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh|shell)\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r"&&|;", line.split(" #")[0])]
    return [part for part in parts if part.startswith("vidloc ")]


SHOWN = [(page.name, command) for page in PAGES for command in commands(page.read_text(encoding="utf-8"))]


def test_readme_shows_commands() -> None:
    assert len([page for page, _ in SHOWN if page == "README.md"]) >= 5


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_shown_command_parses(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files that the command names need not exist: only names, flags and their types are of interest here.
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)
    group: click.Command = vidloc
    arguments = shlex.split(command)[1:]
    context = group.make_context("vidloc", arguments, resilient_parsing=False)
    while isinstance(group, click.Group):
        _, child, arguments = group.resolve_command(context, [*context._protected_args, *context.args])
        assert child is not None
        context = child.make_context(child.name, arguments, parent=context)
        group = child


def test_cli_reference_is_fresh() -> None:
    subprocess.run([sys.executable, REPOSITORY / "docs" / "make_cli.py", "--check"], check=True, cwd=REPOSITORY)


def test_readme_python_runs_on_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(REPOSITORY / "tests" / "archives" / "v1" / "feats.zarr", tmp_path / "feats.zarr")
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), flags=re.DOTALL)
    # The archive's only clip stream has another name.
    exec(compile(block.replace("slowfast_r50", "clip"), "README.md", "exec"), {})
    assert capsys.readouterr().out == "(5, 4) [-0.81666667  1.31666667] random:3\n"
