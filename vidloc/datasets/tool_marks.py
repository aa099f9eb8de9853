"""What annotation tools have in common: marks on tiers of media files, spans or single moments with a label.

One file per format turns it into a `Document` (`elan_eaf`, `elan_text`, `via3`); what of it becomes labels is for a
pipeline to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vidloc.errors import AnnotationError


@dataclass(frozen=True)
class Mark:
    """One annotation.

    Attributes:
        where: its place, for messages.
        media: name of the media file, without its folders.
        tier: the tier (ELAN) or attribute (VIA) that it is on.
        start_s: seconds from the start of the media file.
        end_s: likewise; `None` where it is a moment.
    """

    where: str
    media: str
    tier: str
    label: str
    start_s: float
    end_s: float | None


@dataclass(frozen=True)
class LeftOut:
    """A mark that says nothing of any time or class, and why; `tier` is empty where it is on none."""

    where: str
    tier: str
    reason: str


@dataclass
class Document:
    """A file of an annotation tool.

    Attributes:
        media: names of the media files that it is about, annotated or not.
        tiers: all of its tiers, in order.
        left_out: annotations that are no mark.
        notes: what a user should know of it, one sentence each.
    """

    path: Path
    media: list[str]
    tiers: list[str]
    marks: list[Mark] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def media_name(written: str) -> str:
    r"""The file that a path or address ends in: `a.mp4` of `file:///C:/my%20videos/a.mp4` and of `C:\videos\a.mp4`."""
    path = unquote(urlsplit(written).path) if "://" in written else written
    return PurePosixPath(path.replace("\\", "/")).name


def text_of(where: str, mapping: Mapping[str, object], name: str) -> str:
    """A text that an object or element must have.

    Raises:
        AnnotationError: it lacks it.
    """
    value = mapping.get(name)
    if not isinstance(value, str) or not value:
        raise AnnotationError(f"{where}: expected a text {name!r}, found {value!r}.")
    return value
