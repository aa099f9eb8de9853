"""Annotation tables: csv files, plain or gzipped, read with the line at hand for every complaint."""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import io
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vidloc.core.timeline import Span
from vidloc.errors import AnnotationError

_TIMESTAMP = re.compile(r"(\d{1,3}):(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)", re.ASCII)
_RATE = re.compile(r"\d{1,9}(?:\.\d{1,15})?(?:/\d{1,9})?", re.ASCII)
_MAX_FPS = 1000
_WHOLE_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table; every reading method raises `AnnotationError` naming file, line and column."""

    path: Path
    line: int
    values: Mapping[str, str]

    def text(self, column: str) -> str:
        """A value that may not be empty."""
        value = self.values.get(column, "")
        if not value:
            raise self.problem(column, value, "a value")
        return value

    def integer(self, column: str, below: int | None = None) -> int:
        """A whole number of at least 0, and below `below` where that is given."""
        value = self.values[column].strip()
        if not _WHOLE_NUMBER.fullmatch(value) or (below is not None and int(value) >= below):
            raise self.problem(column, value, "a whole number" + (f" from 0 to {below - 1}" if below else ""))
        return int(value)

    def number(self, column: str) -> float:
        """A finite number."""
        try:
            value = float(self.values[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.problem(column, self.values[column], "a number")
        return value

    def rate(self, column: str) -> Fraction:
        """Frames per second, exact as written: `50`, `59.94`, `60000/1001`."""
        value = self.values[column].strip()
        try:
            rate = _as_fraction(value) if _RATE.fullmatch(value) else Fraction(0)
        except ZeroDivisionError:
            rate = Fraction(0)
        if not 0 < rate <= _MAX_FPS:
            raise self.problem(column, value, "frames per second such as 50, 59.94 or 60000/1001")
        return rate

    def timestamp(self, column: str) -> float:
        """`HH:MM:SS.ss` as seconds, rounded once."""
        match = _TIMESTAMP.fullmatch(self.values[column])
        if match is None:
            raise self.problem(column, self.values[column], "a time HH:MM:SS.ss")
        hours, minutes, seconds = match.groups()
        return float(int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds))

    def integers(self, column: str, below: int) -> tuple[int, ...]:
        """A Python list of whole numbers, at least one."""
        try:
            value = ast.literal_eval(self.values[column])
        except (ValueError, SyntaxError):
            value = None
        good = isinstance(value, list) and value and all(type(v) is int and 0 <= v < below for v in value)
        if not good:
            raise self.problem(column, self.values[column], f"a list of whole numbers from 0 to {below - 1}")
        return tuple(value)

    def span(self, start_s: float, end_s: float) -> Span:
        """A span that begins at 0 or later and is longer than nothing."""
        if not 0 <= start_s < end_s:
            raise AnnotationError(
                f"{self.path}, line {self.line}: the segment goes from {start_s} s to {end_s} s; it must start at 0 s "
                "or later and end after its start. Correct or remove the line."
            )
        return Span(start_s, end_s)

    def problem(self, column: str, found: str, expected: str) -> AnnotationError:
        """The error for an impossible value."""
        return AnnotationError(
            f"{self.path}, line {self.line}, column {column!r}: found {found[:80]!r}, expected {expected}."
        )


def _as_fraction(text: str) -> Fraction:
    number, _, divisor = text.partition("/")
    return Fraction(number) / int(divisor or 1)


@dataclass(frozen=True)
class Table:
    """A table as read.

    Attributes:
        columns: names in the header.
        sha256: of the file as it lies on disk, gzipped or not.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]
    sha256: str


def find_table(folder: Path, stem: str) -> Path | None:
    """`STEM.csv` or else `STEM.csv.gz` in a folder, `None` where neither exists."""
    candidates = (folder / f"{stem}.csv", folder / f"{stem}.csv.gz")
    return next((path for path in candidates if path.is_file()), None)


def read_table(path: Path, required: Sequence[str], *, header: Sequence[str] | None = None) -> Table:
    """Read a csv file; a name ending in `.gz` is decompressed.

    Args:
        required: columns it must have; others are kept too.
        header: column names of a file that has no header line.

    Raises:
        AnnotationError: the file is missing, no UTF-8 csv, lacks a column, or has a line of another length.
    """
    content, sha256 = read_text(path)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    rows: list[Row] = []
    try:
        columns = tuple(header) if header is not None else tuple(next(reader, ()))
        missing = [name for name in required if name not in columns]
        if missing:
            raise AnnotationError(
                f"{path} has no column {missing[0]!r}. Found: {', '.join(columns) or '(an empty file)'}. "
                f"Expected at least: {', '.join(required)}."
            )
        for values in reader:
            if not values:
                continue
            if len(values) != len(columns):
                raise AnnotationError(
                    f"{path}, line {reader.line_num}: {len(values)} values, but there are {len(columns)} columns "
                    f"({', '.join(columns)}). Put quotes around values with commas."
                )
            rows.append(Row(path, reader.line_num, dict(zip(columns, values, strict=True))))
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {reader.line_num}: {error}; expected a csv file.") from None
    return Table(path, columns, rows, sha256)


def read_json(path: Path) -> tuple[Any, str]:
    """The value of a JSON file and the sha256 of the file.

    Raises:
        AnnotationError: the file is missing or not JSON.
    """
    content, sha256 = read_text(path)
    try:
        return json.loads(content), sha256
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} is not JSON: {error}.") from None


def read_text(path: Path) -> tuple[str, str]:
    """UTF-8 text of a plain or gzipped file, and the sha256 of the file.

    Raises:
        AnnotationError: missing, unreadable, cut short, or not UTF-8.
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
        return content.decode("utf-8-sig"), hashlib.sha256(raw).hexdigest()
    except FileNotFoundError:
        raise AnnotationError(f"there is no annotation file {path}.") from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path} cannot be read: {error}.") from None


def file_sha256(path: Path) -> str:
    """The sha256 of a file that is not text.

    Raises:
        AnnotationError: missing or unreadable.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error}.") from None
