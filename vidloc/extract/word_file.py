"""Files of word vectors, looked up without reading them into memory: GloVe's text, word2vec's text and binary.

- GloVe: a line per word, the word and its numbers. Words may hold spaces, so lines are split from the right.
- word2vec text: the same below a line with the number of words and of numbers per word.
- word2vec binary: that line, then per word its bytes, a space and little-endian float32 numbers.

Opening reads the file once and keeps 20 bytes per word: a hash, and where its numbers are (60 MB for the three million
of GoogleNews). Numbers are read when a word is asked for, and the word is compared again there.
"""

from __future__ import annotations

import hashlib
import mmap
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidloc.errors import WeightsError

_MAX_DIM = 1 << 14
_MAX_WORD_BYTES = 1 << 12
_LINES_TRIED = 64
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".7z")


class WordFile:
    """A file of word vectors.

    Attributes:
        dim: numbers per word.
        num_words: words in the file.
        cased: whether any word has a capital letter.

    Raises:
        WeightsError: the file is cut short, or no file of word vectors.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix in _PACKED:
            raise WeightsError(f"{path} is packed; unpack it first (gunzip, unzip), and give the file that comes out.")
        self._path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be read as word vectors: {error}") from error
        stated = self._header()
        self._begin = 0 if stated is None else self._bytes.find(b"\n") + 1
        self.dim = self._commonest_width() if stated is None else stated[1]
        self._binary = stated is not None and not self._is_text()
        self.cased = False
        self._index(None if stated is None else stated[0])

    def find(self, word: str) -> tuple[int, NDArray[np.float32]] | None:
        """A word's number in the file, counted from 0, and its vector `(dim,)`; `None` where it is not in the file.

        Of a word that stands there twice the first counts.

        Raises:
            WeightsError: its numbers are damaged.
        """
        wanted = word.encode()
        wanted_hash = _hash(wanted)
        at = int(np.searchsorted(self._hashes, wanted_hash))
        while at < self.num_words and self._hashes[at] == wanted_hash:
            found, vector = self._entry(int(self._starts[at]))
            if found == wanted:
                return int(self._numbers[at]), self._checked(vector, word)
            at += 1
        return None

    def _header(self) -> tuple[int, int] | None:
        fields = self._line(0).split()
        if len(fields) != 2 or not all(field.isdigit() for field in fields):
            return None
        count, dim = (int(field) for field in fields)
        # An entry is at least a letter, a space and a byte per number: refused before anything is made for them.
        if not 1 <= dim <= _MAX_DIM or count < 1 or count * (dim + 2) > len(self._bytes):
            raise WeightsError(
                f"{self._path} states {count} words of {dim} numbers, which its {len(self._bytes)} bytes cannot hold."
            )
        return count, dim

    def _commonest_width(self) -> int:
        # Of the first lines: those whose word holds spaces have more fields, damaged ones fewer.
        lines = [line for _, line in islice(self._lines(), _LINES_TRIED)]
        widths = Counter(line.count(b" ") for line in lines)
        dim = widths.most_common(1)[0][0] if widths else 0
        if not 1 <= dim <= _MAX_DIM or _numbers(lines[0].split(b" ")[-dim:]) is None:
            raise WeightsError(
                f"{self._path} is no file of word vectors: its first line is not a word and its numbers, nor the "
                "number of words and of numbers per word."
            )
        return dim

    def _is_text(self) -> bool:
        fields = self._line(self._begin).split(b" ")
        return len(fields) > self.dim and _numbers(fields[-self.dim :]) is not None

    def _line(self, start: int) -> bytes:
        end = self._bytes.find(b"\n", start, start + _MAX_WORD_BYTES + 32 * _MAX_DIM)
        return self._bytes[start : len(self._bytes) if end < 0 else end].rstrip(b"\r ")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        self._bytes.seek(self._begin)
        start = self._begin
        for line in iter(self._bytes.readline, b""):
            if stripped := line.rstrip(b"\r\n "):
                yield start, stripped
            start += len(line)

    def _index(self, stated: int | None) -> None:
        hashes, starts = array("Q"), array("Q")
        for start, word in self._binary_words(stated) if self._binary and stated is not None else self._text_words():
            hashes.append(_hash(word))
            starts.append(start)
            self.cased = self.cased or word.lower() != word
        if stated is not None and len(starts) != stated:
            raise WeightsError(f"{self._path} states {stated} words but holds {len(starts)}: the file is cut short.")
        unsorted = np.frombuffer(hashes, dtype=np.uint64)
        # Stable, so that the first of two equal words is found.
        self._numbers = np.argsort(unsorted, kind="stable").astype(np.uint32)
        self._hashes = unsorted[self._numbers]
        self._starts = np.frombuffer(starts, dtype=np.uint64)[self._numbers]
        self.num_words = len(starts)

    def _text_words(self) -> Iterator[tuple[int, bytes]]:
        for number, (start, line) in enumerate(self._lines(), 1):
            spaces = line.count(b" ")
            if spaces < self.dim:
                raise WeightsError(
                    f"{self._path}: word {number} has {spaces} numbers, expected {self.dim}. The file is cut short or "
                    "damaged."
                )
            yield start, line[: line.index(b" ")] if spaces == self.dim else line.rsplit(b" ", self.dim)[0]

    def _binary_words(self, count: int) -> Iterator[tuple[int, bytes]]:
        start = self._begin
        for number in range(1, count + 1):
            space = self._bytes.find(b" ", start, start + _MAX_WORD_BYTES)
            end = space + 1 + 4 * self.dim
            if space < 0 or end > len(self._bytes):
                raise WeightsError(f"{self._path} ends, or is damaged, at word {number} of {count}.")
            # The original program ends entries by a newline, GoogleNews's file has none.
            yield start, self._bytes[start:space].lstrip(b"\n")
            start = end

    def _entry(self, start: int) -> tuple[bytes, NDArray[np.float32] | None]:
        if self._binary:
            space = self._bytes.find(b" ", start, start + _MAX_WORD_BYTES)
            numbers = np.frombuffer(self._bytes[space + 1 : space + 1 + 4 * self.dim], dtype="<f4")
            return self._bytes[start:space].lstrip(b"\n"), numbers.astype(np.float32)
        word, *fields = self._line(start).rsplit(b" ", self.dim)
        return word, _numbers(fields)

    def _checked(self, vector: NDArray[np.float32] | None, word: str) -> NDArray[np.float32]:
        if vector is None or not np.isfinite(vector).all():
            raise WeightsError(f"{self._path}: the numbers of {word!r} are damaged.")
        return vector


def _hash(word: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")


def _numbers(fields: list[bytes]) -> NDArray[np.float32] | None:
    try:
        return np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        return None
