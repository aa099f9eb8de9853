"""ELAN's export as tab-delimited text, as its dialog writes it.

Without a header the first column is the tier, the last one the annotation, and times are found by their form,
hh:mm:ss.ms: the first is the start, the second the end. With a header (one column per tier) columns of times end in
` - hh:mm:ss.ms`, ` - ss.msec` or ` - msec`, in any language, and come in the order start, end, duration; each of the
others is a tier. Lines that begin with # name the media files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidloc.datasets.tables import read_text
from vidloc.datasets.tool_marks import Document, LeftOut, Mark, media_name
from vidloc.errors import AnnotationError

_CLOCK = re.compile(r"(\d{1,3}):(\d{2}):(\d{2}\.\d{1,6})", re.ASCII)
_MEDIA = re.compile(r'"?#(?P<media>.*?)(?:\s+-- offset: *(?P<offset>-?\d+)\b.*)?"?\s*', re.ASCII)
_FORMS = ("hh:mm:ss.ms", "ss.msec", "msec")
_ADVICE = "Export it from ELAN with the columns begin time, end time and duration in the form hh:mm:ss.ms."


@dataclass(frozen=True)
class _Columns:
    """Where times and labels are.

    Attributes:
        tiers: tier by column; empty where a column names the tier.
    """

    start: int
    end: int
    form: str
    tiers: dict[int, str]


def read_elan_text(path: Path) -> Document:
    """The annotations of a tab-delimited export.

    Raises:
        AnnotationError: the file is missing, or its columns are not known.
    """
    text, _ = read_text(path)
    document = Document(path, [], [])
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    table = [(number, line.split("\t")) for number, line in lines if not line.startswith(("#", '"#'))]
    media = _media(document, [line for _, line in lines if line.startswith(("#", '"#'))])
    if not table:
        raise AnnotationError(f"{path} holds no annotation. {_ADVICE}")
    columns = _headed(path, table[0][1])
    rows = table[1:] if columns else table
    columns = columns or _unheaded(path, table[0][1])
    document.tiers.extend(columns.tiers.values())
    for number, cells in rows:
        where = f"{path}, line {number}"
        if len(cells) != len(table[0][1]):
            raise AnnotationError(
                f"{where}: {len(cells)} columns, but the first line has {len(table[0][1])}. {_ADVICE}"
            )
        start_s, end_s = (_seconds(where, cells[k], columns.form) for k in (columns.start, columns.end))
        for tier, label in _labels(cells, columns):
            if tier not in document.tiers:
                document.tiers.append(tier)
            if label:
                document.marks.append(Mark(where, media, tier, label, start_s, end_s))
            else:
                document.left_out.append(LeftOut(where, tier, "it has no text"))
    return document


def _media(document: Document, lines: Sequence[str]) -> str:
    """Name of the media file, and what is to be said of it."""
    path, found = (
        document.path,
        [match for line in lines if (match := _MEDIA.fullmatch(line)) and match["media"].strip()],
    )
    named = [media_name(match["media"].strip()) for match in found]
    names = [name for name in named if not name.lower().endswith(".eaf")]
    if not names:
        names = [path.stem]
        document.notes.append(f"{path.name} names no media file; its own name is taken for it.")
    if len(names) > 1:
        document.notes.append(
            f"{path.name} is about {len(names)} media files; labels are those of {names[0]}, not {names[1:]}."
        )
    if offsets := [int(match["offset"]) for match in found if match["offset"] and int(match["offset"])]:
        document.notes.append(
            f"{path.name} states an offset of {offsets[0]} ms, and not whether its times include it; where they do "
            f"not, use --shift {offsets[0] / 1000:g}."
        )
    document.media.append(names[0])
    return names[0]


def _headed(path: Path, cells: Sequence[str]) -> _Columns | None:
    """Columns by a header, `None` where the line is none."""
    named = [(cell.rpartition(" - ")[0], cell.rpartition(" - ")[2].strip()) for cell in cells]
    times = {k: name for k, name in enumerate(named) if name[1] in (*_FORMS, "hh:mm:ss:ff") and name[0]}
    if not times:
        return None
    kinds = list(dict.fromkeys(kind for kind, _ in times.values()))
    form = next((form for form in _FORMS if all((kind, form) in times.values() for kind in kinds[:2])), None)
    if form is None or len(kinds) < 2 or (len(kinds) == 2 and not kinds[1].lower().startswith("end")):
        raise AnnotationError(f"{path} has the times {', '.join(cells[k] for k in times)}. {_ADVICE}")
    start, end = (next(k for k, name in times.items() if name == (kind, form)) for kind in kinds[:2])
    return _Columns(start, end, form, {k: cell.strip() for k, cell in enumerate(cells) if k not in times})


def _unheaded(path: Path, cells: Sequence[str]) -> _Columns:
    found = [k for k, cell in enumerate(cells[1:-1], start=1) if _CLOCK.fullmatch(cell)]
    if len(found) < 2:
        raise AnnotationError(f"{path} has no header, and its first line fewer than two times hh:mm:ss.ms. {_ADVICE}")
    return _Columns(found[0], found[1], "hh:mm:ss.ms", {})


def _labels(cells: Sequence[str], columns: _Columns) -> Iterator[tuple[str, str]]:
    if not columns.tiers:
        yield cells[0].strip(), cells[-1].strip()
        return
    for k, tier in columns.tiers.items():
        if cells[k].strip():  # annotations of several tiers share a line; an empty cell is none
            yield tier, cells[k].strip()


def _seconds(where: str, text: str, form: str) -> float:
    try:
        if form == "hh:mm:ss.ms":
            match = _CLOCK.fullmatch(text.strip())
            if match is None:
                raise ValueError
            return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        return float(text) if form == "ss.msec" else int(text) / 1000
    except ValueError:
        raise AnnotationError(f"{where}: expected a time in the form {form}, found {text!r}.") from None
