"""A folder of .npy files, one per video, an array `(width, rows)` of a row per frame (MS-TCN).

Sample: `features/S1_Cheese_C1.npy` of GTEA (50 Salads and Breakfast alike), I3D of 21 frames around each frame (RGB,
then flow: 2048 channels).
Time rule: row k covers the 21 frames from k - 10 on, of the video's own frames. The rate is not in the files: 15
frames per second for GTEA and Breakfast, 30 for 50 Salads.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from vidloc.core.records import Source
from vidloc.stores.imports.npy import Npy, NpyOptions


class MsTcnOptions(NpyOptions):
    """Options of MS-TCN's arrays: those of npy, with what the layout fixes."""

    transpose: bool = Field(default=True, description="Arrays are (width, rows).")
    window: str = Field("21f", description="What one row covers, in frames (16f) or seconds (0.96s).")
    stride: str = Field("1f", description="From the start of one row to that of the next, in frames or seconds.")
    start: str = Field("-10f", description="Start of the first row, in frames or seconds.")


class MsTcn(Npy):
    """Reader of MS-TCN's arrays."""

    Options = MsTcnOptions
    source: ClassVar[Source] = Source(
        paper="Abu Farha and Gall, MS-TCN, CVPR 2019", code="https://github.com/yabufarha/ms-tcn"
    )


LAYOUT = MsTcn
