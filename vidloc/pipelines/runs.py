"""The folder of one training: its record, its metrics, its checkpoints, its weights.

    runs/sap/run.json              options after defaults, streams with digests, versions, how it ended
    runs/sap/metrics.csv           one line per epoch;  tensorboard/  the same as events
    runs/sap/checkpoints/          the last epoch, and the best one where it is asked for
    runs/sap/weights.safetensors   the weights that predict
    runs/sap/kept/                 what the head keeps of its training for `vidloc report`, where it keeps something
    runs/sap/predictions.jsonl     of the evaluation split, with an account in predictions.info.json

Every file is written whole and put in place by one rename. A run that was killed goes on at its last checkpoint.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidloc.errors import OptionError
from vidloc.heads.training import Checkpoint
from vidloc.pipelines.run_record import (
    METRICS_FILE,
    RUN_FILE,
    WEIGHTS_FILE,
    RunRecord,
    read_metrics,
    read_run,
    write_text,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

KEPT_FOLDER = "kept"

EpochNotice = Callable[[int, int, Mapping[str, float]], None]  # epoch, of how many, numbers


class RunFolder:
    """A run folder open for training; the recorder that heads are given.

    Args:
        num_epochs: epochs that the training will have.
        on_epoch: told of each epoch's numbers.
    """

    def __init__(self, path: Path, *, num_epochs: int = 1, on_epoch: EpochNotice = lambda *_: None) -> None:
        self.path = path
        self._num_epochs = num_epochs
        self.resumed_epoch = 0
        self.chosen: tuple[int, str] = (0, "")
        self._on_epoch = on_epoch
        self._rows: dict[int, dict[str, float]] = {}
        self._events: SummaryWriter | None = None

    def start(self, record: RunRecord) -> RunRecord:
        """Take the folder for a run, or go on with the same one that was interrupted.

        Returns:
            The record in force: the first start's, when it goes on.

        Raises:
            OptionError: the folder holds something else, a finished run, or another run.
        """
        refuse_used(self.path)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            return self._taken_up(record)
        self.path.mkdir(parents=True, exist_ok=True)
        self.save(record)
        return record

    def save(self, record: RunRecord) -> None:
        """Write run.json."""
        write_text(self.path / RUN_FILE, record.model_dump_json(indent=2) + "\n")

    def resume(self) -> Checkpoint | None:
        """The last checkpoint, if there is one; metrics of later epochs are dropped."""
        last = max(self._checkpoints.glob("epoch-*[0-9]"), default=None)
        if last is None:
            return None
        state = json.loads((last / "state.json").read_text(encoding="utf-8"))
        self.resumed_epoch = state["epoch"]
        self._rows = {k: v for k, v in read_metrics(self.path / METRICS_FILE).items() if k <= state["epoch"]}
        best = state["best_score"]
        return Checkpoint(
            epoch=state["epoch"],
            weights=load_file(last / "weights.safetensors"),
            optimizer=torch.load(last / "optimizer.pt", map_location="cpu", weights_only=True),
            best_epoch=state["best_epoch"],
            best_score=float("-inf") if best is None else best,
        )

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Keep one epoch's numbers: csv, TensorBoard, notice."""
        self._rows[epoch] = dict(values)
        _write_metrics(self.path / METRICS_FILE, self._rows)
        events = self._event_writer(epoch)
        for name, value in values.items():
            events.add_scalar(name, value, epoch)
        events.flush()
        self._on_epoch(epoch, self._num_epochs, values)

    def checkpoint(self, state: Checkpoint) -> None:
        """Keep this epoch in place of the last; also as the best where it is.

        Folders appear whole, by one rename, and older ones go only then: a kill at any moment leaves a last epoch, and
        the best one that it speaks of.
        """
        weights = _weights_writer(state.weights)
        if state.best_epoch == state.epoch:
            _write_folder(self._checkpoints / f"best-{state.epoch:06d}", {"weights.safetensors": weights})
        facts = {
            "epoch": state.epoch,
            "best_epoch": state.best_epoch,
            "best_score": state.best_score if state.best_epoch else None,
        }
        files: dict[str, Callable[[Path], Any]] = {
            "weights.safetensors": weights,
            "optimizer.pt": lambda path: torch.save(dict(state.optimizer), path),
            "state.json": lambda path: path.write_text(json.dumps(facts), encoding="utf-8"),
        }
        _write_folder(self._checkpoints / f"epoch-{state.epoch:06d}", files)
        keep = {f"epoch-{state.epoch:06d}", f"best-{state.best_epoch:06d}"}
        for folder in self._checkpoints.iterdir():
            if folder.name not in keep:
                shutil.rmtree(folder)

    def best(self) -> Mapping[str, Tensor]:
        """Weights of the best epoch so far."""
        return load_file(max(self._checkpoints.glob("best-*[0-9]")) / "weights.safetensors")

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors by item beside the weights."""
        folder = self.path / KEPT_FOLDER
        folder.mkdir(exist_ok=True)
        temporary = folder / f"{name}.tmp"
        _weights_writer(tensors)(temporary)
        temporary.replace(folder / f"{name}.safetensors")

    def chose(self, epoch: int, reason: str) -> None:
        """Remember which epoch was kept, for run.json."""
        self.chosen = (epoch, reason)

    def finish(self, record: RunRecord, weights: Mapping[str, Tensor]) -> RunRecord:
        """Write the weights, then say that the run is finished; checkpoints are no longer needed."""
        temporary = self.path / f"{WEIGHTS_FILE}.tmp"
        _weights_writer(weights)(temporary)
        temporary.replace(self.path / WEIGHTS_FILE)
        epoch, reason = self.chosen
        record = record.model_copy(update={"status": "finished", "epoch": epoch, "chosen": reason})
        self.save(record)
        shutil.rmtree(self._checkpoints, ignore_errors=True)
        self.close()
        return record

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _taken_up(self, record: RunRecord) -> RunRecord:
        known = read_run(self.path)
        if changes := _changes(known, record):
            raise OptionError(
                f"--out {self.path} holds an interrupted run with other settings: {'; '.join(changes)}. "
                "Repeat its settings to go on with it, or choose a new folder."
            )
        return known

    def _event_writer(self, epoch: int) -> SummaryWriter:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=epoch)
        return self._events


def refuse_used(path: Path) -> None:
    """Refuse a folder that no training can use, before the rows are read.

    Raises:
        OptionError: the folder is a file, or holds something else or a finished run.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / RUN_FILE).is_file():
        raise OptionError(f"--out {path} is not empty and holds no run. Choose a new folder.")
    known = read_run(path)
    if known.status == "finished":
        raise OptionError(
            f"--out {path} holds a finished run of {known.spec.head}. Choose a new folder or delete it; to score it: "
            f"vidloc evaluate {path}"
        )


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a finished run.

    Raises:
        OptionError: the run is not finished.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise OptionError(f"{folder} has no {WEIGHTS_FILE}: the run is not finished. Start it again to let it go on.")
    return load_file(path)


def load_kept(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What the head of a run kept for reports, by name and item; nothing where it kept nothing."""
    return {path.stem: load_file(path) for path in sorted((folder / KEPT_FOLDER).glob("*.safetensors"))}


def _changes(known: RunRecord, asked: RunRecord) -> list[str]:
    """What differs between two runs, in words; run.json of one that goes on must be true of all its epochs."""
    before, after = known.spec.model_dump(mode="json"), asked.spec.model_dump(mode="json")
    found = []
    for name in before:
        if isinstance(before[name], dict):
            keys = sorted({*before[name], *after[name]})
            found += [
                f"{key} was {before[name].get(key)!r}, now {after[name].get(key)!r}"
                for key in keys
                if before[name].get(key) != after[name].get(key)
            ]
        elif before[name] != after[name]:
            found.append(f"{name} was {before[name]!r}, now {after[name]!r}")
    if known.annotations_sha256 != asked.annotations_sha256:
        found.append("the annotation files have changed")
    found += [
        f"the rows of role {role} have changed"
        for role, stream in known.streams.items()
        if role in asked.streams and stream.digest != asked.streams[role].digest
    ]
    return found


def _write_folder(target: Path, files: Mapping[str, Callable[[Path], Any]]) -> None:
    """Write a folder under another name and put it in place by one rename."""
    fresh = target.with_name(target.name + ".tmp")
    for stale in (fresh, target):
        shutil.rmtree(stale, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, write in files.items():
        write(fresh / name)
    fresh.rename(target)


def _weights_writer(weights: Mapping[str, Tensor]) -> Callable[[Path], None]:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return lambda path: save_file(tensors, path)


def _write_metrics(path: Path, rows: Mapping[int, Mapping[str, float]]) -> None:
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *names])
    for epoch in sorted(rows):
        writer.writerow([epoch, *(rows[epoch].get(name, "") for name in names)])
    write_text(path, text.getvalue())
