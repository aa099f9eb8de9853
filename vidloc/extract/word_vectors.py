"""What the encoders of word vectors (`glove`, `word2vec`) have in common: sentences to words, words to rows."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import WeightsError
from vidloc.extract import weights
from vidloc.extract.base import Encoder, EncoderOptions, Sample, StreamTemplate, TextInput
from vidloc.extract.sentences import SENTENCE_FIELDS, sentence_rows
from vidloc.extract.word_file import WordFile

Words = Literal["alphanumeric", "apostrophes"]
Found = tuple[int, NDArray[np.float32]]

_PATTERNS: Mapping[Words, re.Pattern[str]] = {
    "alphanumeric": re.compile(r"[^\W_]+"),
    "apostrophes": re.compile(r"[\w']+"),
}
_UNTRAINED_DIM = 300
_WORDS_KEPT = 1 << 16  # looked-up words at hand, 80 MB


class WordVectorOptions(EncoderOptions):
    """Options of word vectors."""

    weights: str = Field(
        "", description="File of word vectors (text or word2vec's binary), or 'random:SEED' for made-up ones."
    )
    words: Words = Field(
        "alphanumeric",
        description="What a word is: alphanumeric (letters and digits; man's gives man and s, as MCN reads DiDeMo) or "
        "apostrophes (letters, digits, _ and ', as HowTo100M reads narrations).",
    )
    case: Literal["auto", "lower", "keep"] = Field(
        "auto", description="Lower-case sentences first, or keep them; auto: lower where no word of the file is cased."
    )
    unknown: Literal["drop", "zero"] = Field(
        "drop", description="Words that the file lacks: left out (and counted), or zeros in their place (as in MCN)."
    )


class WordVectors(Encoder):
    """One vector per known word of a sentence.

    Class attributes:
        source: paper, code and licence of the published files.
        where: where the published files are, for the message when none is given.
    """

    Options: ClassVar[type[EncoderOptions]] = WordVectorOptions
    source: ClassVar[Source]
    where: ClassVar[str]

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, WordVectorOptions):
            raise TypeError(f"{name} takes WordVectorOptions, got {type(options).__name__}.")
        self.options: WordVectorOptions = options
        self.check_weights(options, name=name)
        checkpoint = weights.resolve(options.weights, name)
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self._file = None if checkpoint.path is None else WordFile(checkpoint.path)
        self._seed = checkpoint.seed or 0
        cased = self._file is not None and self._file.cased
        self._lower = options.case == "lower" or (options.case == "auto" and not cased)
        self._find = lru_cache(maxsize=_WORDS_KEPT)(self._untrained if self._file is None else self._file.find)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        if not options.weights:
            raise WeightsError(
                f"encoder {name!r} needs a file of word vectors: --encoder {name}:weights=FILE\n"
                f"  published ones: {cls.where}\n"
                f"  to try with made-up ones: --encoder {name}:weights=random:0"
            )
        weights.check_available(name, options.weights)

    @property
    def dim(self) -> int:
        """Numbers per word."""
        return _UNTRAINED_DIM if self._file is None else self._file.dim

    @property
    def input(self) -> TextInput:
        """Sentences."""
        return TextInput()

    def stream(self) -> StreamTemplate:
        """A vector and a number per word, and how many words were not known."""
        vocabulary = "made up, every word is known" if self._file is None else f"{self._file.num_words} words"
        return StreamTemplate(
            kind="text",
            fields={
                "features": FieldSpec(row_shape=("words", self.dim), dtype=self.options.dtype),
                "token_ids": FieldSpec(row_shape=("words",), dtype="int32"),
                "unknown": FieldSpec(row_shape=(), dtype="int32"),
                **SENTENCE_FIELDS,
            },
            source=self.source,
            preprocessing={
                "words": f"{_PATTERNS[self.options.words].pattern}, {'lower-cased' if self._lower else 'case kept'}",
                "vocabulary": vocabulary,
                "tokens": "words of the sentence, known or not; 'unknown' counts those without a vector",
                "token_ids": "place of the word in the file, from 0; -1 where it has none",
                "normalised": False,
            },
        )

    def preferred_batch(self) -> int:
        """Sentences per call."""
        return 256

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Vectors of words, float32, as the file has them, with the sentences as they were given."""
        found = [[self._find(word) for word in self.words_of(str(sample.data))] for sample in samples]
        unknown = np.array([sum(entry is None for entry in row) for row in found], dtype=np.int32)
        tokens = np.array([len(row) for row in found], dtype=np.int32)
        absent = (-1, np.zeros(self.dim, dtype=np.float32)) if self.options.unknown == "zero" else None
        kept = [[entry or absent for entry in row if entry or absent] for row in found]
        return Rows.joined(
            Rows.ragged(
                "words",
                features=[self._stacked([entry[1] for entry in row if entry]) for row in kept],
                token_ids=[np.array([entry[0] for entry in row if entry], dtype=np.int32) for row in kept],
            ),
            Rows.dense(unknown=unknown),
            sentence_rows(samples, tokens),
        )

    def words_of(self, sentence: str) -> list[str]:
        """The words of a sentence, as they are looked up."""
        return _PATTERNS[self.options.words].findall(sentence.lower() if self._lower else sentence)

    def _stacked(self, vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.array(vectors, dtype=np.float32).reshape(-1, self.dim)

    def _untrained(self, word: str) -> Found | None:
        number = zlib.crc32(word.encode())
        vector = np.random.default_rng([self._seed, number]).standard_normal(self.dim, dtype=np.float32)
        return number >> 1, vector
