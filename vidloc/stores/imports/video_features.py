"""A folder of `<video>_<feature>.npy` with `_timestamps_ms` and `_fps` beside them (video_features).

Sample: I3D of one video: `v_rgb.npy` and `v_flow.npy` `(rows, 1024)`, `v_timestamps_ms.npy` `(rows,)`, `v_fps.npy`
one number. Each stream names its feature: --stream i3d_rgb:key=rgb.
Time rule: a timestamp is the time of the last frame that was read for its row. I3D reads one frame more than the
window (flow lies between frames), so its windows end where the timestamps are (--last after); networks of single
frames have it in the window (--last inside). The first row begins with the video; where it would not, the item fails
and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from vidloc.core.records import Source
from vidloc.core.timeline import Spans
from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import TimelineKind
from vidloc.stores.imports.array_files import read_array
from vidloc.stores.imports.base import (
    Content,
    FolderOptions,
    ItemFacts,
    Layout,
    Listing,
    StreamOptions,
    dense,
)
from vidloc.stores.imports.names import Files, NamePattern, find_files
from vidloc.stores.imports.timing import frames_of, parse_fps

_TIMES, _RATE = "_timestamps_ms", "_fps"
_MAX_RATE = 1e6


class VideoFeaturesOptions(FolderOptions):
    """Options of video_features' folders."""

    window: str = Field("", description="Frames of one row: its stack size (64f for I3D), 1f for frame networks.")
    last: Literal["after", "inside"] = Field(
        "inside", description="Whether the frame of a timestamp is the first after the window (I3D) or its last one."
    )
    fps: str = Field("", description="Frames per second, for videos without a file _fps.npy.")


class VideoFeatures(Layout):
    """Reader of video_features' folders."""

    Options = VideoFeaturesOptions
    timeline: ClassVar[TimelineKind] = "spans"
    source: ClassVar[Source] = Source(code="https://github.com/v-iashin/video_features", licence="MIT (code)")
    options: VideoFeaturesOptions

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        if not self.options.window:
            raise OptionError(f"layout {name!r} does not say how many frames a row was made from: add --window (64f).")
        self._window = frames_of(self.options.window, layout=name)
        self._fps = parse_fps(self.options.fps)
        self._pattern = NamePattern(self.options.ids)

    @cached_property
    def _found(self) -> Files:
        return find_files(
            self.path, (".npy",), NamePattern(f"{{item}}{_TIMES}"), follow_links=self.options.follow_links
        )

    @cached_property
    def _stems(self) -> dict[str, Path]:
        named = ((self._pattern.read(stem), path) for stem, path in self._found.paths.items())
        return {name.item_id: path for name, path in named if name is not None}

    def items(self) -> Listing:
        """One item per file of timestamps; other files belong to one of them or are listed."""
        stems = tuple(f"{stem}_" for stem in self._found.paths)
        ignored = {name: reason for name, reason in self._found.ignored.items() if not name.startswith(stems)}
        return Listing(tuple(sorted(self._stems, key=str.encode)), ignored)

    def files(self, item_id: str) -> tuple[Path, ...]:
        """The timestamps, and the features of all streams."""
        times = self._stems[item_id]
        stem = times.name.removesuffix(f"{_TIMES}.npy")
        return tuple(sorted(path for path in times.parent.glob("*.npy") if path.name.startswith(f"{stem}_")))

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Rows with the spans that end with, or after, the frames of the timestamps."""
        if not stream.key:
            raise OptionError("say which feature a stream is: --stream NAME:key=rgb for files <video>_rgb.npy.")
        times = self._stems[item_id]
        path = times.with_name(times.name.replace(_TIMES, f"_{stream.key}"))
        rows = dense(read_array(path), stream, where=str(path))
        stamps = np.asarray(read_array(times), dtype=np.float64).reshape(-1) / 1000
        if len(stamps) != len(rows):
            raise StoreError(f"{times} has {len(stamps)} timestamps, {path} {len(rows)} rows.")
        gap = float(1 / self._rate(times, item_id))
        ends = stamps + (gap if self.options.last == "inside" else 0.0)
        starts = ends - self._window * gap
        if abs(starts[0]) > gap / 4:
            raise StoreError(
                f"{times}: the first row would begin at {starts[0]:.3f} s and not with the video. Check --window "
                f"({self.options.window}) and --last ({self.options.last})."
            )
        return Content(rows, Spans(np.stack([starts, ends], axis=1)))

    def _rate(self, times: Path, item_id: str) -> Fraction:
        rate = self.facts_of(item_id).fps or _stated(times.with_name(times.name.replace(_TIMES, _RATE))) or self._fps
        if rate is None:
            raise StoreError(f"{times} has no file {_RATE}.npy beside it; give --fps.")
        return rate


def _stated(path: Path) -> Fraction | None:
    if not path.is_file():
        return None
    rate = float(read_array(path).reshape(-1)[0])
    if not 0 < rate < _MAX_RATE:
        raise StoreError(f"{path} says {rate} frames per second.")
    return Fraction(rate).limit_denominator(1001)


LAYOUT = VideoFeatures
