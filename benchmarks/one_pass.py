"""One pass with four encoders against four passes with one each: what decoding every video once is worth.

Same process, interleaved. The gain is the decoding that is not repeated, so it grows with the size of the video and
with the speed of the networks.

    python benchmarks/one_pass.py
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import click
from made_clips import LARGE, SMALL, Format, save, spread, video_list, write_video

from vidloc.pipelines.extract import ExtractReport, Selection, extract
from vidloc.pipelines.extraction.devices import choose_device
from vidloc.stores.base import open_store

ENCODERS = (
    "slowfast_r50:weights=random:0",
    "i3d_r50:weights=random:0",
    "vggish:weights=random:0",
    "fasterrcnn:weights=random:0,min_size=160",
)


def checked(report: ExtractReport) -> ExtractReport:
    assert not report.failures, report.lines()
    return report


def measure(form: Format, encoders: tuple[str, ...], device: str, seconds: float, rounds: int, folder: Path) -> dict:
    videos = video_list(folder, [write_video(folder / f"{form.height}.mp4", form, seconds)])
    selection = Selection(videos=videos)
    together, apart, decode_together, decode_apart = [], [], [], []
    for k in range(rounds):
        one, four = folder / f"{form.height}-{k}-one.zarr", folder / f"{form.height}-{k}-four.zarr"
        report = checked(extract(one, encoders, selection, device=device))
        reports = [checked(extract(four, [encoder], selection, device=device)) for encoder in encoders]
        together.append(report.timing.wall_s)
        decode_together.append(report.timing.decode_s + report.timing.prepare_s)
        apart.append(sum(r.timing.wall_s for r in reports))
        decode_apart.append(sum(r.timing.decode_s + r.timing.prepare_s for r in reports))
        with open_store(one) as first, open_store(four) as second:
            assert first.digest() == second.digest(), "the rows must not depend on who else is fed"
    ratios = [four / one for one, four in zip(together, apart, strict=True)]
    return {
        "video": form.name,
        "one_pass_s": statistics.median(together),
        "four_passes_s": statistics.median(apart),
        "one_pass_decode_s": statistics.median(decode_together),
        "four_passes_decode_s": statistics.median(decode_apart),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


@click.command()
@click.option("--encoder", "encoders", multiple=True, default=ENCODERS, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--seconds", default=4.0, show_default=True, help="Length of each video; two rows per second and encoder."
)
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write results with the machine's description."
)
def main(encoders: tuple[str, ...], device: str, seconds: float, rounds: int, json_path: Path | None) -> None:
    """Measure and print a table of ratios."""
    rows = []
    click.echo(f"{len(encoders)} encoders on {choose_device(device)}, {rounds} rounds, interleaved")
    click.echo(f"{'video':18} {'one pass':>10} {'four passes':>12} {'of it decoding':>22} {'four / one (range)':>22}")
    with tempfile.TemporaryDirectory() as folder:
        for form in (SMALL, LARGE):
            row = measure(form, encoders, device, seconds, rounds, Path(folder))
            rows.append(row)
            decoding = f"{row['one_pass_decode_s']:.1f} s, {row['four_passes_decode_s']:.1f} s"
            click.echo(
                f"{row['video']:18} {row['one_pass_s']:8.1f} s {row['four_passes_s']:10.1f} s {decoding:>22} "
                f"{spread(row['ratios']):>22}"
            )
    if json_path is not None:
        save(json_path, command=" ".join(sys.argv), rows=rows)


if __name__ == "__main__":
    main()
