"""From a decoded frame to the picture a network sees: colour, display rotation, resize, centre crop.

Pixel rules, the same for every encoder:

* Colour: converted to 8-bit RGB by libswscale with the matrix and range the frame states; deeper samples are scaled
  to 0-255, gray becomes three equal channels, an alpha channel is dropped.
* The display rotation (nearest quarter turn, counter-clockwise) is applied before anything else.
* Pixels are taken as stored: a sample aspect ratio other than 1 is not applied, interlaced frames are not
  de-interlaced. Published features were made that way.
* Resize: torch's bilinear filter on uint8 with rounding, as torchvision resizes such images; the longer side is
  truncated to an integer, unless both sides are given (some networks learned from stretched frames).
* Crop: in the centre the offset is rounded (half to even) and a picture smaller than the crop is padded with black,
  both as in torchvision.
* A frame whose size differs from the first one's (a stream may change midway) is first scaled to the first one's.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from torch.nn import functional

from vidloc.errors import MediaError
from vidloc.extract.base import FrameSize, Place
from vidloc.extract.media import displayed_size, one_line

Picture = NDArray[np.uint8]
# A strip of 1 x 2000 pixels brought to a short side of 256 would take 0.4 GB per frame.
_MAX_PIXELS = 1 << 26


class PictureMaker:
    """Turns frames of one track into RGB pictures; keeps one colour converter for all of them.

    Args:
        first: the first frame of the track, which decides size and rotation.

    Attributes:
        spent_s: seconds spent on converting and resizing its frames.
    """

    def __init__(self, first: Any) -> None:
        self.spent_s = 0.0
        self._converter = VideoReformatter()
        self._stored = (first.width, first.height)
        self.rotation_deg = int(first.rotation)
        self.width_px, self.height_px = displayed_size(first.width, first.height, self.rotation_deg)

    def rgb(self, frame: Any) -> Picture:
        """The frame as it is displayed, `(height, width, 3)`.

        Raises:
            MediaError: libswscale cannot convert frames of this kind.
        """
        width, height = self._stored
        try:
            # One thread: a frame is too small to gain from more, and starting them costs more than converting it.
            converted = self._converter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        except av.FFmpegError as error:
            raise MediaError(
                f"frames of pixel format {frame.format.name} and colour matrix {int(frame.colorspace)} cannot be "
                f"converted to RGB ({one_line(error)}). Re-encode the video, for example to H.264 in yuv420p."
            ) from error
        turns = round(self.rotation_deg / 90) % 4
        picture = converted.to_ndarray()
        return np.ascontiguousarray(np.rot90(picture, turns) if turns else picture)


class Shown:
    """One frame on its way to the encoders: converted when first needed, resized once per size, whatever is cropped.

    Attributes:
        tick: presentation time in units of the track's time base, counted from the first frame.
        image_size: decoded width and height after rotation.
    """

    def __init__(self, tick: int, frame: Any, maker: PictureMaker) -> None:
        self.tick = tick
        self.image_size = (maker.width_px, maker.height_px)
        self._frame = frame
        self._maker = maker
        self._rgb: Picture | None = None
        self._sized: dict[FrameSize, Picture] = {}

    def at(self, size: FrameSize) -> Picture:
        """The picture at one size; all views of it are cut from one resized picture."""
        if size not in self._sized:
            whole = replace(size, crop_px=None, place="centre", mirrored=False)
            of = self.at(whole) if size != whole else None
            begun = time.perf_counter()
            if of is not None:
                self._sized[size] = cut(of, size)
            else:
                if self._rgb is None:
                    self._rgb = self._maker.rgb(self._frame)
                self._sized[size] = sized(self._rgb, size)
            self._maker.spent_s += time.perf_counter() - begun
        return self._sized[size]


def sized(picture: Picture, size: FrameSize) -> Picture:
    """A picture `(height, width, 3)` resized and cropped; the same array where nothing is to be done.

    Raises:
        MediaError: the resized picture would be unreasonably large.
    """
    if size.stretch_px is not None:
        picture = _resized(picture, size.stretch_px, antialias=size.antialias)
    elif size.short_side_px is not None:
        height, width = picture.shape[:2]
        short = min(height, width)
        target = (height * size.short_side_px // short, width * size.short_side_px // short)
        picture = _resized(picture, target, antialias=size.antialias)
    return cut(picture, size)


def cut(picture: Picture, size: FrameSize) -> Picture:
    """The square of a resized picture, mirrored if that is asked for."""
    if size.crop_px is not None:
        picture = cropped(picture, size.crop_px, size.place)
    return np.ascontiguousarray(picture[:, ::-1]) if size.mirrored else picture


def cropped(picture: NDArray[Any], crop_px: int, place: Place = "centre") -> NDArray[Any]:
    """A square of an array `(height, width, channels)`, in an array of its own unless it is all of it.

    In the centre the offset is rounded (half to even); what is smaller than the square is padded with zeros.
    """
    height, width = picture.shape[:2]
    if (height, width) == (crop_px, crop_px):
        return picture
    lacks = [max(crop_px - n, 0) for n in (height, width)]
    if any(lacks):
        picture = np.pad(picture, [*((lack // 2, (lack + 1) // 2) for lack in lacks), (0, 0)])
        height, width = picture.shape[:2]
    top, left = _corner(height - crop_px, width - crop_px, place)
    # A copy, so that a waiting window keeps the crop alive and not the whole frame.
    return picture[top : top + crop_px, left : left + crop_px].copy()


def _resized(picture: Picture, target: tuple[int, int], *, antialias: bool) -> Picture:
    height, width = picture.shape[:2]
    if target == (height, width):
        return picture
    if target[0] * target[1] > _MAX_PIXELS:
        raise MediaError(
            f"a picture of {width}x{height} with its short side at {min(target)} would have {target[1]}x{target[0]} "
            "pixels. Crop the video, or leave it out."
        )
    # The batch axis comes before the permutation: only then do the strides say "channels last", for which torch has a
    # kernel of its own and answers in the same layout, three times as fast.
    image = torch.from_numpy(picture).unsqueeze(0).permute(0, 3, 1, 2)
    out = functional.interpolate(image, size=target, mode="bilinear", antialias=antialias)
    resized: Picture = np.ascontiguousarray(out.permute(0, 2, 3, 1)[0].numpy())
    return resized


def _corner(spare_rows: int, spare_columns: int, place: Place) -> tuple[int, int]:
    """Top and left of a square, from how many rows and columns lie outside it."""
    middle = round(spare_rows / 2), round(spare_columns / 2)
    if place == "centre":
        return middle
    if place in ("near", "far"):
        lengthwise = 0 if place == "near" else max(spare_rows, spare_columns)
        return (lengthwise, middle[1]) if spare_rows > spare_columns else (middle[0], lengthwise)
    vertical, horizontal = place.split("_")
    return spare_rows if vertical == "bottom" else 0, spare_columns if horizontal == "right" else 0
