"""VIA 3, the VGG Image Annotator, for videos: its project (JSON) and both of its csv exports.

A mark of a view has the times `z`, in seconds: two of a segment, one of a frame, on which a region (`xy`) may be drawn.
Its values by attribute, `av`, are options of it by their ids (checkboxes: several, joined by commas), or a text. The
csv export lists the same with attributes and columns in comments above; that of segments alone has names in place of
ids. Formats as in via-3.x.y (gitlab.com/vgg/via).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidloc.datasets.tables import read_json, read_text
from vidloc.datasets.tool_marks import Document, LeftOut, Mark, media_name, text_of
from vidloc.errors import AnnotationError

_TEXT, _CHECKBOX = 1, 2
_PARTS = ("attribute", "file", "view", "metadata")
_COLUMNS = ("metadata_id", "file_list", "temporal_coordinates", "metadata")
_SEGMENT_COLUMNS = ("metadata_id", "file_list", "temporal_segment_start", "temporal_segment_end", "metadata")


@dataclass(frozen=True)
class _Attribute:
    """Name of an attribute, and how its values are written."""

    name: str
    kind: int
    options: Mapping[str, Any]


def read_via_project(path: Path) -> Document:
    """The marks of a project of VIA 3.

    Raises:
        AnnotationError: the file is missing or no project of VIA 3.
    """
    value, _ = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(value.get(part), dict) for part in _PARTS):
        older = isinstance(value, dict) and any(name.startswith("_via_") for name in value)
        raise AnnotationError(
            f"{path} is {'a project of VIA 2, which is for pictures' if older else 'no project of VIA 3'}; expected "
            f"JSON with {', '.join(_PARTS)}, as 'Save Project' of VIA 3 writes it."
        )
    attributes = _attributes(path, value["attribute"])
    document = Document(path, [], [attribute.name for attribute in attributes.values()])
    media = {view: _file_of(document, value, view) for view in value["view"]}
    for mark, entry in value["metadata"].items():
        where = f"{path}, mark {mark!r}"
        if not isinstance(entry, dict) or not isinstance(entry.get("vid"), str) or entry["vid"] not in media:
            raise AnnotationError(f"{where}: it is of no view of the project.")
        _add(document, where, media[entry["vid"]], entry.get("z"), _named(where, entry.get("av"), attributes))
    return document


def read_via_csv(path: Path) -> Document:
    """The marks of a csv export of VIA 3.

    Raises:
        AnnotationError: the file is missing or not such an export.
    """
    text, _ = read_text(path)
    lines = text.splitlines()
    comments = [line for line in lines if line.startswith("#")]
    stated = dict(_comment(line) for line in comments if "=" in line)
    columns = [name.strip() for name in stated.get("CSV_HEADER", "").split(",")]
    by_names = set(_SEGMENT_COLUMNS) <= set(columns)
    if not by_names and not set(_COLUMNS) <= set(columns):
        raise AnnotationError(
            f"{path} is no csv export of VIA 3: expected a comment '# CSV_HEADER = {','.join(_COLUMNS)}' above the "
            "lines."
        )
    attributes = None if by_names else _attributes(path, _json(f"{path}, ATTRIBUTE", stated.get("ATTRIBUTE", "")))
    document = Document(path, [], [attribute.name for attribute in (attributes or {}).values()])
    reader = csv.reader(io.StringIO("\n".join(line for line in lines if not line.startswith("#"))), strict=True)
    try:
        for cells in reader:
            if cells:
                where = f"{path}, line {len(comments) + reader.line_num}"
                _add_line(document, where, dict(zip(columns, cells, strict=False)), attributes)
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {len(comments) + reader.line_num}: {error}; expected csv.") from None
    return document


def _add_line(
    document: Document, where: str, row: Mapping[str, str], attributes: Mapping[str, _Attribute] | None
) -> None:
    """The marks of a line; without attributes its values are by the names of these."""
    files = _json(f"{where}, file_list", row.get("file_list", ""))
    if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
        raise AnnotationError(f"{where}: file_list must be a list of names, found {files!r}.")
    media = _media(document, files)
    values = _json(f"{where}, metadata", row.get("metadata", ""))
    if attributes is not None:
        times = _json(f"{where}, temporal_coordinates", row.get("temporal_coordinates", ""))
        named = _named(where, values, attributes)
    else:
        times = [_json(where, row.get(name, "")) for name in ("temporal_segment_start", "temporal_segment_end")]
        if not isinstance(values, dict):
            raise AnnotationError(f"{where}: metadata must be an object, found {values!r}.")
        named = [(name, str(value).strip()) for name, value in values.items()]
        document.tiers.extend(name for name in values if name not in document.tiers)
    _add(document, where, media, times, named)


def _add(document: Document, where: str, media: str, times: Any, named: list[tuple[str, str]]) -> None:
    """The marks of one entry, one for each label, or what is amiss."""
    if not isinstance(times, list) or len(times) > 2 or not all(_is_seconds(value) for value in times):
        raise AnnotationError(f"{where}: expected no, one or two times in seconds, found {times!r}.")
    if not named:
        document.left_out.append(LeftOut(where, "", "it has no value of any attribute"))
    for tier, label in named:
        if not times:
            document.left_out.append(LeftOut(where, tier, "it is of the whole file, not of a time"))
        elif not label:
            document.left_out.append(LeftOut(where, tier, f"attribute {tier!r} has no value, or no option of its own"))
        else:
            end_s = float(times[1]) if len(times) == 2 else None
            document.marks.append(Mark(where, media, tier, label, float(times[0]), end_s))


def _named(where: str, values: Any, attributes: Mapping[str, _Attribute]) -> list[tuple[str, str]]:
    """Names of attributes and labels; the label is empty where a value is no option."""
    if not isinstance(values, dict):
        raise AnnotationError(f"{where}: values by attribute must be an object, found {values!r}.")
    found: list[tuple[str, str]] = []
    for attribute_id, value in values.items():
        if attribute_id not in attributes:
            raise AnnotationError(f"{where}: attribute {attribute_id!r} is not defined in the file.")
        attribute = attributes[attribute_id]
        found.extend((attribute.name, label) for label in _labels(attribute, str(value)))
    return found


def _labels(attribute: _Attribute, value: str) -> Iterator[str]:
    if attribute.kind == _TEXT:
        yield value.strip()
        return
    for option in value.split(",") if attribute.kind == _CHECKBOX else [value]:
        yield str(attribute.options.get(option, "")).strip()


def _attributes(path: Path, stated: Any) -> dict[str, _Attribute]:
    """Attributes by id."""
    if not isinstance(stated, dict):
        raise AnnotationError(f"{path}: attributes must be an object by their ids, found {stated!r}.")
    found: dict[str, _Attribute] = {}
    for own, entry in stated.items():
        where = f"{path}, attribute {own!r}"
        if not isinstance(entry, dict) or not isinstance(entry.get("options", {}), dict):
            raise AnnotationError(
                f"{where}: it states no options, so that the ids of its values mean nothing. "
                "Give the project itself (JSON) in place of this export."
            )
        found[own] = _Attribute(text_of(where, entry, "aname"), entry.get("type", _TEXT), entry.get("options", {}))
    return found


def _file_of(document: Document, project: Mapping[str, Any], view: str) -> str:
    """Name of the file of a view."""
    where = f"{document.path}, view {view!r}"
    entry = project["view"][view]
    ids = entry.get("fid_list") if isinstance(entry, dict) else None
    if not isinstance(ids, list) or not ids or not all(str(k) in project["file"] for k in ids):
        raise AnnotationError(f"{where}: expected a list fid_list of the project's files, found {ids!r}.")
    files = [project["file"][str(k)] for k in ids]
    return _media(document, [text_of(where, file if isinstance(file, dict) else {}, "fname") for file in files])


def _media(document: Document, files: list[str]) -> str:
    """Name of the first file of a view; the others are told."""
    name = media_name(files[0])
    if name not in document.media:
        document.media.append(name)
        if len(files) > 1:
            document.notes.append(
                f"{document.path.name} has a view of {len(files)} files; labels are those of {name}, not {files[1:]}."
            )
    return name


def _comment(line: str) -> tuple[str, str]:
    name, _, value = line.removeprefix("#").partition("=")
    return name.strip(), value.strip()


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise AnnotationError(f"{where}: expected JSON, found {text[:60]!r}.") from None


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
