"""A contact sheet: a header, and below it blocks of labelled pictures, side by side as far as they fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidloc.pipelines.previews.panels import Panel, small_font

MAX_WIDTH_PX = 1600
_MIN_WIDTH_PX = 900
_MARGIN, _GAP, _BLOCK_GAP = 16, 6, 20
_LINE_PX, _CAPTION_PX = 18, 15
_INK, _FAINT, _EDGE, _WARNING = "#111111", "#555555", "#cccccc", "#b00020"

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
Place = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Block:
    """Panels that belong together, below their title."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, eq=False)
class Sheet:
    """A drawn sheet.

    Attributes:
        places: left, top, right and bottom (half-open, pixels) of each panel's picture, block by block.
    """

    image: Image.Image
    places: list[list[Place]]


@dataclass
class _Page:
    """What is to be drawn, before the size of the sheet is known."""

    texts: list[tuple[int, int, str, Font, str]] = field(default_factory=list)
    pictures: list[tuple[int, int, Panel]] = field(default_factory=list)
    right: int = _MIN_WIDTH_PX - _MARGIN

    def write(self, x: int, y: int, lines: Sequence[str], font: Font, colour: str = _INK) -> int:
        """Add lines of text; returns where the next one would begin."""
        for text in lines:
            self.texts.append((x, y, text, font, colour))
            self.right = max(self.right, x + round(font.getlength(text)))
            y += _LINE_PX
        return y

    def show(self, x: int, y: int, panel: Panel) -> Place:
        """Add a picture with its caption."""
        height, width = panel.picture.shape[:2]
        self.pictures.append((x, y, panel))
        self.texts.append((x, y + height + 1, panel.caption, small_font(), _FAINT))
        self.right = max(self.right, x + width)
        return (x, y, x + width, y + height)

    def drawn(self, bottom: int) -> Image.Image:
        """The whole sheet."""
        image = Image.new("RGB", (self.right + _MARGIN, bottom + _MARGIN), "white")
        draw = ImageDraw.Draw(image)
        for x, y, panel in self.pictures:
            height, width = panel.picture.shape[:2]
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_EDGE)  # light pictures end somewhere too
            image.paste(Image.fromarray(np.ascontiguousarray(panel.picture)), (x, y))
        for x, y, text, font, colour in self.texts:
            draw.text((x, y), text, fill=colour, font=font)
        return image


def contact_sheet(title: str, header: Sequence[str], blocks: Sequence[Block], *, warning: str = "") -> Sheet:
    """Lay out and draw a sheet; it is wider than `MAX_WIDTH_PX` only where a single picture is.

    Args:
        header: paragraphs, wrapped to the sheet's width.
        warning: a further one, in a colour that is not missed.
    """
    page, medium = _Page(), ImageFont.load_default(14)
    y = page.write(_MARGIN, _MARGIN, [title], ImageFont.load_default(18)) + _GAP
    room = MAX_WIDTH_PX - 2 * _MARGIN
    cell_width = max((_cell_width(panel) for block in blocks for panel in block.panels), default=room)
    columns = max(1, (room + _GAP) // (cell_width + _GAP))
    most = max((len(block.panels) for block in blocks), default=0)
    # As many lines as it takes, and these of equal length.
    columns = math.ceil(most / max(1, math.ceil(most / columns)))
    block_width = columns * (cell_width + _GAP) - _GAP if columns else room
    abreast = max(1, (room + _BLOCK_GAP) // (block_width + _BLOCK_GAP))
    taken = min(abreast, len(blocks)) * (block_width + _BLOCK_GAP) - _BLOCK_GAP
    text_width = max(min(taken, room), _MIN_WIDTH_PX - 2 * _MARGIN)
    for paragraph in header:
        y = page.write(_MARGIN, y, wrapped(paragraph, medium, text_width), medium, _FAINT)
    y = page.write(_MARGIN, y, wrapped(warning, medium, text_width), medium, _WARNING) + _GAP
    places: list[list[Place]] = []
    for first in range(0, len(blocks), abreast):
        bottom = y
        for k, block in enumerate(blocks[first : first + abreast]):
            x = _MARGIN + k * (block_width + _BLOCK_GAP)
            begin = page.write(x, y, wrapped(block.title, medium, block_width), medium)
            found, end = _place_panels(page, block.panels, x, begin, columns, cell_width)
            places.append(found)
            bottom = max(bottom, end)
        y = bottom + _GAP
    return Sheet(page.drawn(y), places)


def _cell_width(panel: Panel) -> int:
    return max(int(panel.picture.shape[1]), round(small_font().getlength(panel.caption)))


def _place_panels(
    page: _Page, panels: Sequence[Panel], x: int, y: int, columns: int, cell_width: int
) -> tuple[list[Place], int]:
    places = []
    for first in range(0, len(panels), max(columns, 1)):
        line = panels[first : first + columns]
        places += [page.show(x + k * (cell_width + _GAP), y, panel) for k, panel in enumerate(line)]
        captioned = any(panel.caption for panel in line)
        y += max(panel.picture.shape[0] for panel in line) + _GAP + (_CAPTION_PX if captioned else 0)
    return places, y


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Text in lines of at most `width` pixels; a word that is longer is broken."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]
