"""`vidloc extract --print-sbatch`: the script is run here, with small stand-ins for the commands of Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_videos import write_folder

from vidloc.cli import vidloc
from vidloc.pipelines.extract import Selection, extract
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.stores.base import open_store

COLOUR = f"colour={Path(__file__).parent / 'data' / 'mean_colour.py'}"
REPOSITORY = Path(__file__).parent.parent

# Runs the tasks of an array one after the other, as `sbatch --parsable --array=... SCRIPT` has them run somewhere.
SBATCH = """#!/bin/bash
echo "$@" >> "$CALLS"
script="${@: -1}"
tasks=$(sed -n 's/^#SBATCH --array=1-//p' "$script" | xargs seq)
for word in "$@"; do case "$word" in --array=0) tasks=0 ;; esac; done
for task in $tasks; do SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$script" >&2 || exit 1; done
echo "7;cluster"
"""


def printed(*arguments: object) -> str:
    result = CliRunner().invoke(vidloc, ["extract", *map(str, arguments), "--print-sbatch"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """The environment of a cluster: commands found first on its path, and the file in which calls are noted."""
    write_command(tmp_path / "bin" / "sbatch", SBATCH)
    write_command(tmp_path / "bin" / "scontrol", '#!/bin/bash\necho scontrol "$@" >> "$CALLS"\n')
    write_command(tmp_path / "bin" / "vidloc", f'#!/bin/bash\nexec {sys.executable} -m vidloc.cli "$@"\n')
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "PYTHONPATH": str(REPOSITORY),
    }


def write_command(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_the_whole_array_and_its_merge_give_the_store_of_one_run(cluster, tmp_path):
    videos = write_folder(tmp_path / "my videos", 3)
    common = ("--dataset", "folder", "--root", "my videos", "--encoder", COLOUR, "--items", "v0[0-9].mp4")
    script = printed("--store", "it's.zarr", *common, "--parts", 2, "--report", "report.json")
    (tmp_path / "it's.sbatch").write_text(script)
    assert subprocess.run(["bash", "-n", tmp_path / "it's.sbatch"], check=True).returncode == 0
    subprocess.run(["bash", "it's.sbatch"], cwd=tmp_path, env=cluster, check=True, capture_output=True)
    extract(tmp_path / "whole.zarr", [COLOUR], Selection(dataset=open_dataset("folder"), root=videos))
    with open_store(tmp_path / "it's.zarr") as merged, open_store(tmp_path / "whole.zarr") as whole:
        assert merged.digest() == whole.digest()
    assert (tmp_path / "it's.part1of2.zarr").is_dir()
    assert (tmp_path / "report.part2of2.json").is_file()
    assert (tmp_path / "calls").read_text().splitlines() == [
        "--parsable it's.sbatch",
        "--array=0 --dependency=afterok:7 --kill-on-invalid-dep=yes it's.sbatch",
    ]


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_task_that_is_stopped_ends_in_order_and_at_its_time_limit_is_queued_again(
    cluster, tmp_path, number, requeued
):
    # Stands for a vidloc that finishes its item: it takes a moment, and exits as vidloc does.
    write_command(
        tmp_path / "bin" / "vidloc",
        '#!/bin/bash\ntrap "sleep 0.3; echo finished; exit 143" TERM\necho at work\nwhile true; do sleep 0.05; done\n',
    )
    (tmp_path / "s.sbatch").write_text(printed("--store", "s.zarr", "--videos", "v.csv", "--encoder", COLOUR))
    task = cluster | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    process = subprocess.Popen(
        ["bash", "s.sbatch"], cwd=tmp_path, env=task, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "at work\n"
    time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert (output, process.returncode) == ("finished\n", 143)
    calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    assert calls == ("scontrol requeue 7_3\n" if requeued else "")


def test_flags_are_repeated_as_words_of_the_shell():
    script = printed(
        "--store", "feats.h5", "--annotations", "a b", "--root", "$HOME", "--dataset", "folder", "--devices", "cuda:0",
        "--stride", "1/2", "--items", "a'b", "--items", "c", "--json", "--allow-failures", "2", "--encoder", COLOUR,
    )  # fmt: skip
    assert "#SBATCH --array=1-8\n" in script
    assert "#SBATCH --requeue\n" in script
    (line,) = [line for line in script.splitlines() if line.startswith("vidloc extract")]
    task = '"$SLURM_ARRAY_TASK_ID"'
    assert line.startswith(f"vidloc extract --store feats.part{task}of8.h5 --part {task}/8 ")
    for words in ("--annotations 'a b'", "--root '$HOME'", "--items 'a'\"'\"'b' --items c", "--json", "--stride 1/2",
                  "--devices cuda:0", "--allow-failures 2"):  # fmt: skip
        assert f" {words} " in line
    assert "--print-sbatch" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--print-sbatch", "--part", "1/2"], "--part does not go with --print-sbatch"),
        (["--print-sbatch", "--plan"], "--plan does not go with --print-sbatch"),
        (["--print-sbatch", "--parts", "0"], "0 is not in the range"),
        (["--parts", "4"], "--parts goes with --print-sbatch"),
    ],
)
def test_what_an_array_cannot_take_is_wrong_usage(arguments, message):
    result = CliRunner().invoke(vidloc, ["extract", "--store", "s.zarr", "--encoder", COLOUR, *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
