"""Sentences in the space of MIL-NCE's clips (Miech et al., CVPR 2020): the text side of the checkpoint of `s3d_milnce`.

Words are looked up in the publisher's list, mapped one by one, and the largest of each number over the first 16 known
words is mapped once more: 512 numbers (specs/encoders.md section 7). Empty places count as a word of their own, so
that even a sentence without a known word has a vector; `tokens` tells how many were known.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import WeightsError
from vidloc.extract import weights
from vidloc.extract.base import Encoder, EncoderOptions, Sample, StreamTemplate, TextInput, arithmetic, placed
from vidloc.extract.gated_s3d import (
    MAX_WORDS,
    NUM_EMBEDDINGS,
    NUM_JOINT,
    WordsToJoint,
    numbered,
    word_numbers,
    words_of,
)
from vidloc.extract.sentences import SENTENCE_FIELDS, sentence_rows

_PUBLISHED, _PUBLISHED_WORDS = "s3d_milnce", "s3d_milnce_words"
_TEXT_SIDE = "text_module."


class MilNceTextOptions(EncoderOptions):
    """Options of MIL-NCE's sentences."""

    # Not among the recorded options: where the list lies says nothing of the rows; its hash is recorded instead.
    words: str = Field(
        "",
        exclude=True,
        description="NumPy file with the list of words that the weights learned; empty for the published one "
        "(untrained weights number words by a hash instead).",
    )


class MilNceText(Encoder):
    """Sentence vectors of 512 numbers, with the sentence, the annotation's id and the words' numbers beside them."""

    Options: ClassVar[type[EncoderOptions]] = MilNceTextOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, MilNceTextOptions):
            raise TypeError(f"{name} takes MilNceTextOptions, got {type(options).__name__}.")
        self.options: MilNceTextOptions = options
        checkpoint = weights.resolve(options.weights, _PUBLISHED)
        with weights.seeded(checkpoint.seed or 0):
            network = WordsToJoint()
        if checkpoint.path is not None:
            whole = weights.read_state(checkpoint.path)
            state = {
                name.removeprefix(_TEXT_SIDE): tensor for name, tensor in whole.items() if name.startswith(_TEXT_SIDE)
            }
            weights.load_into(network, state, where=str(checkpoint.path))
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self._dictionary: Mapping[str, int] | None = None
        self._words_sha256 = "none: words are numbered by a hash, the weights are untrained"
        if not _without_words(options):
            listed = weights.resolve(options.words, _PUBLISHED_WORDS)
            if listed.path is None:
                raise WeightsError(f"words={options.words!r} is not the file of a NumPy list of words.")
            self._dictionary, self._words_sha256 = _read_dictionary(listed.path), listed.sha256
        self.network = placed(network, device, torch.contiguous_format)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:  # noqa: ARG003  (the names are fixed)
        """See the base class."""
        weights.check_available(_PUBLISHED, options.weights)
        if isinstance(options, MilNceTextOptions) and not _without_words(options):
            weights.check_available(_PUBLISHED_WORDS, options.words)

    @property
    def input(self) -> TextInput:
        """Sentences."""
        return TextInput()

    def stream(self) -> StreamTemplate:
        """One vector per sentence."""
        return StreamTemplate(
            kind="text",
            fields={
                "features": FieldSpec(row_shape=(NUM_JOINT,), dtype=self.options.dtype),
                **SENTENCE_FIELDS,
                "token_ids": FieldSpec(row_shape=(MAX_WORDS,), dtype="int32"),
            },
            source=Source(
                paper="Miech, Alayrac, Smaira, Laptev, Sivic, Zisserman. End-to-End Learning of Visual Representations "
                "from Uncurated Instructional Videos. CVPR 2020.",
                code="https://github.com/antoine77340/S3D_HowTo100M",
                commit="b8cd0bb",
                licence="Apache-2.0",
            ),
            preprocessing={
                "words": "lower-case runs of letters, digits, _ and '; unknown ones left out, the first 16 kept",
                "words_sha256": self._words_sha256,
                "tokens": "words kept",
                "normalised": False,
            },
        )

    def preferred_batch(self) -> int:
        """Sentences per call."""
        return 256

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Vectors, not normalised, with the sentences as they were given."""
        sentences = [str(sample.data) for sample in samples]
        numbers = [self._numbers(sentence) for sentence in sentences]
        padded = np.zeros((len(numbers), MAX_WORDS), dtype=np.int32)
        for row, known in zip(padded, numbers, strict=True):
            row[: len(known)] = known
        with arithmetic(self.device, self.options.precision):
            vectors = self.network(torch.from_numpy(padded).to(self.device)).float()
        return Rows.joined(
            Rows.dense(
                features=np.ascontiguousarray(vectors.cpu().numpy()),
                token_ids=padded,
            ),
            sentence_rows(samples, np.array([len(known) for known in numbers], dtype=np.int32)),
        )

    def _numbers(self, sentence: str) -> list[int]:
        if self._dictionary is None:
            return [zlib.crc32(word.encode()) % (NUM_EMBEDDINGS - 1) + 1 for word in words_of(sentence)][:MAX_WORDS]
        return word_numbers(sentence, self._dictionary)


def _without_words(options: MilNceTextOptions) -> bool:
    return options.weights.startswith(weights.RANDOM_PREFIX) and not options.words


def _read_dictionary(path: Path) -> dict[str, int]:
    try:
        words = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WeightsError(f"{path} does not load as a NumPy list of words: {error}") from error
    if words.dtype.kind != "U" or words.ndim != 1:
        raise WeightsError(f"{path} holds {words.dtype} of shape {words.shape}, expected a list of words.")
    if len(words) >= NUM_EMBEDDINGS:
        raise WeightsError(f"{path} lists {len(words)} words; the weights have {NUM_EMBEDDINGS - 1}.")
    return numbered(words.tolist())


ENCODER = MilNceText
