"""Pipeline efficiency: clips per second of `vidloc extract` over those of the bare encoder on clips already in memory.

Same process, same weights, interleaved: each round measures the one, then the other. 1.0 would mean that opening,
decoding, resizing, batching and writing cost nothing beside the network.

    python benchmarks/extract_efficiency.py
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
from made_clips import LARGE, SMALL, Format, save, spread, video_list, write_video

from vidloc.core.grammar import parse_encoder
from vidloc.core.timeline import center_grid
from vidloc.extract.base import Encoder, Sample
from vidloc.extract.frames import VideoPass
from vidloc.pipelines.extract import DEFAULT_STRIDE_S, Selection, extract
from vidloc.pipelines.extraction.devices import choose_device
from vidloc.pipelines.extraction.encoders import build_encoders


def clips_in_memory(encoder: Encoder, path: Path) -> list[Sample]:
    grid = center_grid(encoder.input.window_s, DEFAULT_STRIDE_S)
    return [sample for _, _, sample in VideoPass(path, {"clips": (encoder.input, grid)})]


def bare_rate(encoder: Encoder, clips: list[Sample]) -> float:
    batch = encoder.preferred_batch()
    begun = time.perf_counter()
    for start in range(0, len(clips), batch):
        encoder.encode(clips[start : start + batch])
    return len(clips) / (time.perf_counter() - begun)


def measure(form: Format, encoder_text: str, device: str, seconds: float, rounds: int, folder: Path) -> dict:
    path = write_video(folder / f"{form.height}.mp4", form, seconds)
    videos = video_list(folder, [path])
    plan = parse_encoder(encoder_text)
    encoder = build_encoders([plan], stride_s=DEFAULT_STRIDE_S, device=choose_device(device))[0].encoder
    clips = clips_in_memory(encoder, path)
    bare_rate(encoder, clips[:2])
    whole, bare, decode = [], [], []
    for k in range(rounds):
        report = extract(folder / f"{form.height}-{k}.zarr", [plan], Selection(videos=videos), device=device)
        assert not report.failures, report.failures
        whole.append(report.clips_per_s)
        decode.append((report.timing.decode_s + report.timing.prepare_s) / len(clips))
        bare.append(bare_rate(encoder, clips))
    ratios = [one / other for one, other in zip(whole, bare, strict=True)]
    return {
        "video": form.name,
        "clips": len(clips),
        "extract_clips_per_s": statistics.median(whole),
        "bare_clips_per_s": statistics.median(bare),
        "decode_s_per_clip": statistics.median(decode),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


@click.command()
@click.option("--encoder", default="slowfast_r50:weights=random:0", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="Length of each video; two clips per second.")
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write results with the machine's description."
)
def main(encoder: str, device: str, seconds: float, rounds: int, json_path: Path | None) -> None:
    """Measure and print a table of ratios."""
    rows = []
    click.echo(f"{encoder} on {choose_device(device)}, {rounds} rounds, interleaved")
    click.echo(f"{'video':18} {'clips':>5} {'extract clips/s':>16} {'bare clips/s':>13} {'ratio (range)':>22}")
    with tempfile.TemporaryDirectory() as folder:
        for form in (SMALL, LARGE):
            row = measure(form, encoder, device, seconds, rounds, Path(folder))
            rows.append(row)
            click.echo(
                f"{row['video']:18} {row['clips']:5} {row['extract_clips_per_s']:16.3f} "
                f"{row['bare_clips_per_s']:13.3f} {spread(row['ratios']):>22}"
            )
    if json_path is not None:
        save(json_path, command=" ".join(sys.argv), rows=rows)


if __name__ == "__main__":
    main()
