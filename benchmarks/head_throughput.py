"""Samples per second that a head is fed: rows in memory, against a DataLoader that reads one .npy per video.

Both serve the same samples in the same form, which is checked: the clip rows of each segment averaged (as sapnet takes
them), all of them packed, one segment's after the other's (as two_branch does), or padded to the longest of the batch
(as heads do that look along time). Interleaved: each round measures the one, then the others. The rows are read once
before, which is timed apart.

The goal is judged in every setting against plain `np.load`. With segments of 0.5 s to minutes most of a padded batch is
zeros, and handing those out is what is left of the bank's time there.

    python benchmarks/head_throughput.py
    python benchmarks/head_throughput.py --device cuda --workers 8
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Span, TimeGrid, center_grid
from vidloc.heads.bank import Bank
from vidloc.heads.base import Batch, RowBatch, Sample, StreamNeed
from vidloc.heads.sampling import SegmentRows
from vidloc.heads.training import pick_device
from vidloc.pipelines.streams import StoreRows, match_streams
from vidloc.stores.base import StreamSpec, create_store, open_store

GRID = center_grid(2, Fraction(1, 2))
GOAL = 10.0
FORMS = ("averaged", "packed", "padded")


class NpyPerVideo(Dataset):
    """What labs do: one file per video, opened for each sample."""

    def __init__(self, folder: Path, samples: list[Sample], rule: SegmentRows, grid: TimeGrid, *, mapped: bool) -> None:
        self.folder, self.samples, self.rule, self.grid, self.mode = (
            folder,
            samples,
            rule,
            grid,
            "r" if mapped else None,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> torch.Tensor:
        sample = self.samples[place]
        rows = np.load(self.folder / f"{sample.item_id}.npy", mmap_mode=self.mode)
        kept = rows[self.rule.index(self.grid, len(rows), sample.span)].astype(np.float32)
        return torch.from_numpy(kept if self.rule.pool is None else kept.mean(axis=0, keepdims=True))


def padded(parts: list[torch.Tensor]) -> torch.Tensor:
    return pad_sequence(parts, batch_first=True)


def served(rows: RowBatch, form: str) -> torch.Tensor:
    """What a head takes of a batch."""
    return rows.features if form == "padded" else rows.packed


def make_rows(folder: Path, *, videos: int, rows: int, width: int, segments: int) -> list[Sample]:
    """The same rows as a store and as files; segments as long as EPIC's, 0.5 s to some tens of seconds."""
    random = np.random.default_rng(0)
    spec = StreamSpec(name="clip", kind="clip", fields={"features": FieldSpec(row_shape=(width,), dtype="float16")})
    with create_store(folder / "feats.zarr") as writer:
        writer.add_stream(spec)
        for k in range(videos):
            features = random.normal(size=(rows, width)).astype(np.float16)
            np.save(folder / f"video{k:03d}.npy", features)
            writer.write("clip", f"video{k:03d}", Rows.dense(features=features), GRID)
            writer.commit(f"video{k:03d}")
    lengths = np.clip(random.lognormal(0.66, 1.0, segments), 0.5, rows / 4)
    starts = random.random(segments) * (rows / 2 - lengths)
    return [
        Sample(f"video{random.integers(videos):03d}", Span(float(s), float(s + n)))
        for s, n in zip(starts, lengths, strict=True)
    ]


def serve(batches: object, form: str, device: torch.device) -> float:
    """Seconds until every batch has arrived on the device."""
    begun = time.perf_counter()
    for batch in batches:  # type: ignore[attr-defined]
        features = served(batch.rows["visual"], form) if isinstance(batch, Batch) else batch.to(device)
        features.sum()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def measure(
    folder: Path,
    samples: list[Sample],
    form: str,
    *,
    device: torch.device,
    workers: int,
    batch: int,
    rounds: int,
) -> list[dict]:
    rule = SegmentRows("center", "mean" if form == "averaged" else None)
    with open_store(folder / "feats.zarr") as store:
        reader = StoreRows(match_streams({"visual": StreamNeed(("clip",))}, [store], chosen={}, recipe={}))
        begun = time.perf_counter()
        bank = Bank(samples, {"visual": rule}, reader, device=device)
        loading = time.perf_counter() - begun
    loaders = {
        f"np.load, {n} workers" if not mapped else f"np.load mapped, {n} workers": DataLoader(
            NpyPerVideo(folder, samples, rule, GRID, mapped=mapped), batch_size=batch,
            collate_fn=padded if form == "padded" else torch.cat,
            num_workers=n, persistent_workers=n > 0,
        )
        for mapped in (False, True)
        for n in sorted({0, workers})
    }  # fmt: skip
    for name, loader in loaders.items():
        theirs, ours = next(iter(loader)), served(next(bank.batches(batch)).rows["visual"], form).cpu()
        assert torch.allclose(theirs, ours, atol=1e-6), name
    serve(bank.batches(batch), form, device)
    taken: dict[str, list[float]] = {name: [] for name in loaders}
    own: list[float] = []
    for k in range(rounds):
        own.append(serve(bank.batches(batch, seed=(0, k)), form, device))
        for name, loader in loaders.items():
            taken[name].append(serve(loader, form, device))
    ours_s = statistics.median(own)
    return [
        {
            "rows of a segment": form,
            "against": name,
            "bank_samples_per_s": len(samples) / ours_s,
            "loader_samples_per_s": len(samples) / statistics.median(seconds),
            "ratio": statistics.median(b / a for a, b in zip(own, seconds, strict=True)),
            "reading_once_s": loading,
        }
        for name, seconds in taken.items()
    ]


@click.command()
@click.option("--videos", default=40, show_default=True)
@click.option("--rows", default=2000, show_default=True, help="Rows per video; 2000 at 2 rows/s are 17 minutes.")
@click.option("--width", default=2304, show_default=True)
@click.option("--segments", default=2000, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Worker processes of the DataLoader, beside none.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    *,
    videos: int,
    rows: int,
    width: int,
    segments: int,
    batch: int,
    rounds: int,
    workers: int,
    device: str,
    as_json: bool,
) -> None:
    """Print the ratios."""
    place = pick_device(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = make_rows(folder, videos=videos, rows=rows, width=width, segments=segments)
        results = [
            result
            for form in FORMS
            for result in measure(folder, samples, form, device=place, workers=workers, batch=batch, rounds=rounds)
        ]
    if as_json:
        machine = {"processor": platform.processor(), "torch": torch.__version__, "device": str(place)}
        click.echo(json.dumps({"machine": machine, "goal": GOAL, "results": results}, indent=2))
    else:
        table = Table("rows of a segment", "against", "bank samples/s", "loader samples/s", "ratio", "reading once")
        for r in results:
            table.add_row(
                r["rows of a segment"], r["against"], f"{r['bank_samples_per_s']:,.0f}",
                f"{r['loader_samples_per_s']:,.0f}", f"{r['ratio']:.1f}", f"{r['reading_once_s']:.2f} s",
            )  # fmt: skip
        Console().print(table)
        Console().print(f"{len(samples)} segments of {videos} videos x {rows} rows x {width} float16, goal {GOAL:g}x")


if __name__ == "__main__":
    main()
