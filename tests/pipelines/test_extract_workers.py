"""Several devices, each with a worker process: the same store as from one, dead workers, Ctrl-C; on the CPU twice."""

from __future__ import annotations

import multiprocessing.spawn
import os
import signal
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from made_videos import write_folder, write_video

from vidloc.errors import DeviceError, OptionError, WeightsError
from vidloc.extract.base import Sample
from vidloc.pipelines.extract import Selection, extract
from vidloc.pipelines.extraction import workers
from vidloc.pipelines.extraction.batching import Batcher
from vidloc.pipelines.extraction.devices import choose_devices
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.pipelines.extraction.progress import Silent
from vidloc.stores.base import open_store

DATA = Path(__file__).parent.parent / "data"
COLOUR, LOUDNESS = str(DATA / "mean_colour.py"), str(DATA / "loudness.py")


def of_folder(folder: Path) -> Selection:
    return Selection(dataset=open_dataset("folder"), root=folder)


def outcomes(report) -> list[tuple[str, str, str, int]]:
    return [(o.item_id, o.stream, o.status, o.num_rows) for o in report.outcomes]


def digest(path: Path) -> str:
    with open_store(path) as store:
        return store.digest()


class Said(Silent):
    """Keeps what was said and counted, and may send a signal once so many samples were fed."""

    def __init__(self, *, signal_after: int = 0) -> None:
        self.texts: list[str] = []
        self.num_rows = 0
        self.signal_after = signal_after

    def rows(self, count: int) -> None:
        earlier, self.num_rows = self.num_rows, self.num_rows + count
        if earlier < self.signal_after <= self.num_rows:
            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def quick_start(monkeypatch):
    """Workers forked from a process that has imported everything: for tests that start many of them."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["vidloc.pipelines.extraction.worker"])
    monkeypatch.setattr(workers, "START_METHOD", "forkserver")


@pytest.fixture(scope="module")
def mortal(tmp_path_factory) -> Path:
    """Takes its process along when it sees pictures of one width, or once when it sees those of another."""
    path = tmp_path_factory.mktemp("encoder") / "mortal.py"
    path.write_text(
        f'''
"""Mean colour, at the risk of one's life."""
import importlib.util, os, signal
from pathlib import Path
from pydantic import Field
from vidloc.errors import MisfitError
spec = importlib.util.spec_from_file_location("mean_colour_base", {COLOUR!r})
base = importlib.util.module_from_spec(spec)
spec.loader.exec_module(base)

class MortalOptions(base.MeanColourOptions):
    always: int = Field(0, description="Width of pictures that are deadly.")
    once: int = Field(0, description="Width of pictures that are deadly once.")
    marker: str = Field("", description="File that remembers it.")
    unborn: str = Field("", description="Not even loaded: 'killed' or 'refused'.")

class Mortal(base.MeanColour):
    Options = MortalOptions
    def __init__(self, options, **kwargs):
        if options.unborn == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if options.unborn == "refused":
            raise MisfitError("no such weights, it says", missing=["a"], unknown=[], mismatched=[])
        super().__init__(options, **kwargs)
    def encode(self, samples):
        width = samples[0].image_size[0]
        if width == self.options.always:
            os.kill(os.getpid(), signal.SIGKILL)
        if width == self.options.once and not Path(self.options.marker).exists():
            Path(self.options.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(samples)

ENCODER = Mortal
''',
        encoding="utf-8",
    )
    return path


def test_two_workers_make_the_store_that_one_makes(tmp_path):
    videos = write_folder(tmp_path / "videos", 5)
    write_video(videos / "long.mp4", seconds=40, fps=10)  # more rows than one piece holds
    (videos / "broken.mp4").write_bytes(b"no video")
    encoders = [f"colour={COLOUR}:num_frames=1,window_s=0.1", LOUDNESS]
    told = Said()
    one = extract(tmp_path / "one.zarr", encoders, of_folder(videos), stride_s=Fraction(1, 10), device="cpu")
    two = extract(
        tmp_path / "two.zarr", encoders, of_folder(videos), stride_s=Fraction(1, 10), device="cpu,cpu", progress=told
    )
    assert outcomes(two) == outcomes(one)
    assert (two.rows, two.failures, told.texts) == (one.rows, ["broken.mp4"], [])
    assert digest(tmp_path / "two.zarr") == digest(tmp_path / "one.zarr")
    assert told.num_rows == sum(two.rows.values())
    spent = two.as_json()["seconds"]
    assert all(spent[name] > 0 for name in ("decode", "preprocess", "write"))
    assert set(spent["encode"]) == {"colour", "loudness"}


def test_an_item_that_kills_workers_fails_after_two_and_all_others_are_done(tmp_path, mortal, quick_start):
    videos = write_folder(tmp_path / "videos", 4)
    write_video(videos / "a_deadly.mp4", size=(64, 32))
    write_video(videos / "a_once.mp4", size=(80, 32))
    encoder = f"colour={mortal}:always=64,once=80,marker={tmp_path / 'marker'}"
    told = Said()
    report = extract(tmp_path / "s.zarr", [encoder], of_folder(videos), device="cpu:2", progress=told)
    assert report.failures == ["a_deadly.mp4"]
    reason = report.with_status("failed")[0].reason
    assert "two workers died while they worked on it (on cpu: killed by SIGKILL, which is what happens" in reason
    assert [o.item_id for o in report.with_status("done")] == ["a_once.mp4", *(f"v{k:02d}.mp4" for k in range(4))]
    deaths = [text for text in told.texts if text.startswith("The worker on cpu died while")]
    assert len(deaths) == 3
    assert sum("a_deadly.mp4" in text for text in deaths) >= 2


@pytest.mark.parametrize(
    ("fate", "error", "message"),
    [
        ("killed", DeviceError, "no worker could be started. The worker on cpu died: killed by SIGKILL"),
        ("refused", WeightsError, "^no such weights, it says"),
    ],
)
def test_workers_that_cannot_load_end_the_run_before_any_work(tmp_path, mortal, quick_start, fate, error, message):
    videos = write_folder(tmp_path / "videos", 1)
    with pytest.raises(error, match=message):
        extract(tmp_path / "s.zarr", [f"{mortal}:unborn={fate}"], of_folder(videos), device="cpu,cpu")
    assert not (tmp_path / "s.zarr").exists()


def test_sigterm_finishes_what_is_at_hand_and_the_same_call_goes_on(tmp_path, quick_start):
    videos = write_folder(tmp_path / "videos", 12)
    arguments = [f"colour={COLOUR}:delay_s=0.1"], of_folder(videos)
    told = Said(signal_after=3)
    report = extract(tmp_path / "s.zarr", *arguments, device="cpu,cpu", progress=told)
    assert report.interrupted_by == signal.SIGTERM
    assert any(text.startswith("Stopping: ") for text in told.texts)
    done = len(report.outcomes)
    assert 1 <= done <= 8
    assert report.not_reached == 12 - done
    assert {o.status for o in report.outcomes} == {"done"}
    extract(tmp_path / "s.zarr", *arguments, device="cpu")
    extract(tmp_path / "whole.zarr", *arguments, device="cpu")
    assert digest(tmp_path / "s.zarr") == digest(tmp_path / "whole.zarr")


def test_workers_neither_see_signals_nor_run_the_program_that_started_them(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/a/program/that/must/not/be/imported.py", raising=False)
    with workers._starting():
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        prepared = multiprocessing.spawn.get_preparation_data("worker")
    assert {signal.SIGINT, signal.SIGTERM} <= blocked
    assert not any(key.startswith("init_main") for key in prepared)
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


class TestDevices:
    def test_grammar(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        cpu, first, third = torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:2")
        assert choose_devices("cpu") == (cpu,)
        assert choose_devices("cpu:3") == choose_devices("cpu,cpu,cpu") == (cpu, cpu, cpu)
        assert choose_devices("cuda:0,cuda:2") == (first, third)
        assert choose_devices("cuda:0,cuda:0,cpu:1") == (first, first, cpu)
        assert choose_devices("3") == (first, torch.device("cuda:1"), third)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("5", "5 GPUs were asked for, but torch sees 4 here. Workers on the CPU are asked for by cpu:N"),
            ("0", "0 GPUs were asked for"),
            ("cuda:0,cuda:4", "'cuda:4' was asked for, but torch sees 4"),
            ("cpu,", "'' is not auto, cpu, cuda"),
            ("cpux2", "'cpux2' is not auto"),
        ],
    )
    def test_what_is_no_device(self, monkeypatch, text, message):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        with pytest.raises(OptionError, match=message):
            choose_devices(text)


class TestLostDevice:
    """Errors of CUDA after which nothing works any more end the worker, and are not the fault of every later item."""

    class Target:
        stream = "colour"

        class encoder:  # noqa: N801
            device = torch.device("cuda", 1)

            @staticmethod
            def encode(samples):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

            @staticmethod
            def preferred_batch():
                return 1

    SAMPLE = Sample((0, 1), None, None)

    def test_a_device_that_no_longer_answers(self, monkeypatch):
        def broken(device):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(torch.cuda, "synchronize", broken)
        with pytest.raises(DeviceError, match="cuda:1 no longer answers after an error in stream 'colour': Runtime"):
            list(Batcher(self.Target).add("a", self.SAMPLE))

    def test_an_error_that_the_device_survives_is_the_items(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        (answer,) = Batcher(self.Target).add("a", self.SAMPLE)
        assert answer.error == "RuntimeError: CUDA error: an illegal memory access was encountered"
