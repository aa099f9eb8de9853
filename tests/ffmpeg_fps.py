"""Which frames ffmpeg's own `fps` filter puts out: the oracle of the rule by which frames are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest


def through_ffmpeg(times: Sequence[Fraction], end: Fraction, fps: int) -> list[int]:
    """Indices of the frames that the filter puts out, told by what is drawn on them."""
    av = pytest.importorskip("av")
    base = Fraction(1, math.lcm(*(t.denominator for t in [*times, end])))
    graph = av.filter.Graph()
    source = graph.add_buffer(width=16, height=16, format="gray16le", time_base=base)
    limiter = graph.add("fps", f"fps={fps}")
    sink = graph.add("buffersink")
    source.link_to(limiter)
    limiter.link_to(sink)
    graph.configure()
    seen: list[int] = []

    def drain() -> None:
        while True:
            try:
                seen.append(int(sink.pull().to_ndarray()[0, 0]))
            except (av.BlockingIOError, av.EOFError):
                return

    for k, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16), k, np.uint16), format="gray16le")
        frame.pts, frame.time_base = int(time / base), base
        following = times[k + 1] if k + 1 < len(times) else end
        frame.duration = int((following - time) / base)
        source.push(frame)
        drain()
    source.push(None)
    drain()
    return seen
