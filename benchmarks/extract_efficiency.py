"""Pipeline efficiency: clips per second of `vidloc extract` over those of the bare encoder on clips already in memory.

Same process, same weights, interleaved: each round measures the one, then the other. 1.0 would mean that opening,
decoding, resizing, batching and writing cost nothing beside the network. `--families` goes through all encoders of
pictures and sound, one of each file, with small videos.

    python benchmarks/extract_efficiency.py
    python benchmarks/extract_efficiency.py --families --seconds 4 --rounds 1
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
from vidloc.core.registry import entries
from vidloc.errors import VidlocError
from vidloc.extract.base import Encoder, Sample
from vidloc.pipelines.extract import DEFAULT_STRIDE_S, Selection, extract
from vidloc.pipelines.extraction.decoding import Arrived, decode_items
from vidloc.pipelines.extraction.devices import choose_device
from vidloc.pipelines.extraction.encoders import StreamEncoder, build_encoders
from vidloc.pipelines.extraction.plan import ItemWork


def clips_in_memory(target: StreamEncoder, path: Path) -> list[Sample]:
    work = ItemWork(path.name, path, (target.stream,))
    return [event.sample for event in decode_items([work], {target.stream: target}) if isinstance(event, Arrived)]


def families() -> list[str]:
    """One encoder of each file that reads pictures or sound, with random weights."""
    by_file: dict[str, str] = {}
    for name, entry in entries("encoders").items():
        by_file.setdefault(entry.origin, name)
    return [f"{name}:weights=random:0" for name in sorted(by_file.values())]


def built(encoder_text: str, device: str) -> list[StreamEncoder]:
    return build_encoders([parse_encoder(encoder_text)], stride_s=DEFAULT_STRIDE_S, device=choose_device(device))


def can_run(encoder_text: str, device: str) -> bool:
    try:
        (target,) = build_encoders(
            [parse_encoder(encoder_text)], stride_s=DEFAULT_STRIDE_S, device=choose_device(device)
        )
    except VidlocError as error:
        click.echo(f"{encoder_text} is left out: {error}")
        return False
    return target.grid is not None


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
    (target,) = built(encoder_text, device)
    encoder, clips = target.encoder, clips_in_memory(target, path)
    bare_rate(encoder, clips[:2])
    whole, bare, decode = [], [], []
    for k in range(rounds):
        report = extract(
            folder / f"{plan.stream}-{form.height}-{k}.zarr", [plan], Selection(videos=videos), device=device
        )
        assert not report.failures, report.failures
        whole.append(report.clips_per_s)
        decode.append((report.timing.decode_s + report.timing.prepare_s) / len(clips))
        bare.append(bare_rate(encoder, clips))
    ratios = [one / other for one, other in zip(whole, bare, strict=True)]
    return {
        "encoder": encoder_text,
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
@click.option("--families", "all_families", is_flag=True, help="One encoder of each file, on the small video.")
@click.option("--device", default="auto", show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="Length of each video; two clips per second.")
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write results with the machine's description."
)
def main(
    encoder: str,
    *,
    all_families: bool,
    device: str,
    seconds: float,
    rounds: int,
    json_path: Path | None,
) -> None:
    """Measure and print a table of ratios."""
    rows = []
    encoders = [name for name in families() if can_run(name, device)] if all_families else [encoder]
    click.echo(f"on {choose_device(device)}, {rounds} rounds, interleaved")
    click.echo(
        f"{'encoder':32} {'video':16} {'clips':>5} {'extract clips/s':>16} {'bare clips/s':>13} {'ratio (range)':>22}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in encoders:
            for form in (SMALL,) if all_families else (SMALL, LARGE):
                row = measure(form, name, device, seconds, rounds, Path(folder))
                rows.append(row)
                click.echo(
                    f"{name:32} {row['video']:16} {row['clips']:5} {row['extract_clips_per_s']:16.3f} "
                    f"{row['bare_clips_per_s']:13.3f} {spread(row['ratios']):>22}"
                )
    if json_path is not None:
        save(json_path, command=" ".join(sys.argv), rows=rows)


if __name__ == "__main__":
    main()
