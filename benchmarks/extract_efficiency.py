"""Pipeline efficiency: clips per second of `vidloc extract` over those of the bare encoder on clips already in memory.

Same process, same weights, interleaved: each round measures the one, then the other. 1.0 would mean that opening,
decoding, resizing, batching and writing cost nothing beside the network. `--families` goes through all encoders of
pictures and sound, one of each file, with options that make its real network as cheap as it gets, and with as many
clips of a small video as the bare encoder does in `--budget` seconds.

    python benchmarks/extract_efficiency.py
    python benchmarks/extract_efficiency.py --families --json families.json
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from made_clips import LARGE, SMALL, Format, save, spread, video_list, write_video

from vidloc.core.grammar import parse_encoder
from vidloc.core.registry import entries
from vidloc.errors import VidlocError
from vidloc.extract.base import Encoder, Sample
from vidloc.pipelines.extract import DEFAULT_STRIDE_S, Selection, extract
from vidloc.pipelines.extraction.decoding import Arrived, decode_items
from vidloc.pipelines.extraction.devices import choose_device
from vidloc.pipelines.extraction.encoders import StreamEncoder, build_encoders
from vidloc.pipelines.extraction.item_work import ItemWork

# Of encoders whose published settings take seconds per clip: the smallest frames that their networks are made for, and
# flow by a RAFT that refines once, since TV-L1 takes seconds for each pair of frames.
_QUICK_FLOW = "flow=raft_small,flow_weights=random:0,flow_updates=1,"
CHEAPEST: Mapping[str, str] = {
    "resnet50": "",
    "slowfast_r50": "crop_px=224,",
    "c2d_r50": "crop_px=224,",
    "lfb_r50": "crop_px=224,",
    "fasterrcnn": "min_size=320,",
    "i3d_flow": f"num_frames=9,{_QUICK_FLOW}",
    "tsn_flow_bninception": f"frame=crop,{_QUICK_FLOW}",
}
FEWEST_CLIPS, MOST_CLIPS = 3, 120


def clips_in_memory(target: StreamEncoder, path: Path) -> list[Sample]:
    work = ItemWork(path.name, path, (target.stream,))
    return [event.sample for event in decode_items([work], {target.stream: target}) if isinstance(event, Arrived)]


def families() -> list[str]:
    """One encoder of each file, with random weights; those that are given a model's folder are left out."""
    by_file: dict[str, str] = {}
    for name, entry in entries("encoders").items():
        if name in CHEAPEST:
            by_file[entry.origin] = name
        elif not name.endswith(":"):
            by_file.setdefault(entry.origin, name)
    # Numbers of untrained residual networks are larger than float16 holds.
    return [f"{name}:{CHEAPEST.get(name, '')}dtype=float32,weights=random:0" for name in sorted(by_file.values())]


def built(encoder_text: str, device: str) -> StreamEncoder:
    (target,) = build_encoders([parse_encoder(encoder_text)], stride_s=DEFAULT_STRIDE_S, device=choose_device(device))
    return target


def can_run(encoder_text: str, device: str) -> bool:
    try:
        target = built(encoder_text, device)
    except VidlocError as error:
        click.echo(f"{encoder_text} is left out: {str(error).splitlines()[0]}")
        return False
    return target.rows is not None


def rate_of(encoder: Encoder, clips: list[Sample]) -> float:
    batch = encoder.preferred_batch()
    begun = time.perf_counter()
    for start in range(0, len(clips), batch):
        encoder.encode(clips[start : start + batch])
    return len(clips) / (time.perf_counter() - begun)


def bare_rate(encoder_text: str, clips: list[Sample], device: str) -> float:
    """Of an encoder that was called before, though never on these clips, whose flow it would remember."""
    target = built(encoder_text, device)
    rate_of(target.encoder, [unlike(clip) for clip in clips[:2]])
    return rate_of(target.encoder, clips)


def unlike(clip: Sample) -> Sample:
    """The same clip as a negative."""
    data = np.asarray(clip.data)
    return replace(clip, data=255 - data if data.dtype == np.uint8 else -data)


def seconds_for(encoder_text: str, device: str, budget_s: float, folder: Path) -> float:
    """Length of a video whose clips keep the bare encoder busy for so long."""
    target = built(encoder_text, device)
    path = write_video(folder / "probe.mp4", SMALL, FEWEST_CLIPS * float(DEFAULT_STRIDE_S))
    clips = clips_in_memory(target, path)
    rate_of(target.encoder, [unlike(clips[0])])
    count = math.ceil(budget_s * rate_of(target.encoder, clips))
    return min(max(count, FEWEST_CLIPS), MOST_CLIPS) * float(DEFAULT_STRIDE_S)


def measure(form: Format, encoder_text: str, device: str, seconds: float, rounds: int, folder: Path) -> dict:
    path = write_video(folder / f"{form.height}.mp4", form, seconds)
    videos = video_list(folder, [path])
    plan = parse_encoder(encoder_text)
    target = built(encoder_text, device)
    clips = clips_in_memory(target, path)
    whole, bare, decode = [], [], []
    for k in range(rounds):
        report = extract(
            folder / f"{plan.stream}-{form.height}-{k}.zarr", [plan], Selection(videos=videos), device=device
        )
        assert not report.failures, report.failures
        whole.append(report.clips_per_s)
        decode.append((report.timing.decode_s + report.timing.prepare_s) / len(clips))
        bare.append(bare_rate(encoder_text, clips, device))
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
@click.option("--budget", default=8.0, show_default=True, help="With --families: seconds of each bare measurement.")
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
    budget: float,
    rounds: int,
    json_path: Path | None,
) -> None:
    """Measure and print a table of ratios."""
    rows = []
    encoders = [name for name in families() if can_run(name, device)] if all_families else [encoder]
    click.echo(f"on {choose_device(device)}, {rounds} rounds, interleaved")
    click.echo(
        f"{'encoder':22} {'video':16} {'clips':>5} {'extract clips/s':>16} {'bare clips/s':>13} {'ratio (range)':>22}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in encoders:
            length = seconds_for(name, device, budget, Path(folder)) if all_families else seconds
            for form in (SMALL,) if all_families else (SMALL, LARGE):
                row = measure(form, name, device, length, rounds, Path(folder))
                rows.append(row)
                click.echo(
                    f"{name.partition(':')[0]:22} {row['video']:16} {row['clips']:5} "
                    f"{row['extract_clips_per_s']:16.3f} {row['bare_clips_per_s']:13.3f} {spread(row['ratios']):>22}"
                )
    if json_path is not None:
        save(json_path, command=" ".join(sys.argv), rows=rows)


if __name__ == "__main__":
    main()
