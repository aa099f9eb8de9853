"""What encoders of sentences have in common: the fields beside their vectors, and sentences as token ids."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import WeightsError
from vidloc.extract.base import Sample
from vidloc.extract.model_folder import ModelFolder, loading

SENTENCE_FIELDS: Mapping[str, FieldSpec] = {
    "text": FieldSpec(row_shape=("text_bytes",), dtype="uint8"),
    "key": FieldSpec(row_shape=("key_bytes",), dtype="uint8"),
    "tokens": FieldSpec(row_shape=(), dtype="int32"),
}
TOKEN_IDS = FieldSpec(row_shape=("tokens",), dtype="int32")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class Tokenised:
    """Token ids of sentences.

    Attributes:
        ids: per sentence `(n,)` int32, marks at both ends included, cut at the limit.
        counts: `(sentences,)` int32, tokens of the whole sentences.
    """

    ids: Sequence[NDArray[np.int32]]
    counts: NDArray[np.int32]

    def padded(self, pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids side by side, filled up with `pad`, and a mask of the real ones; both `(sentences, longest)`."""
        longest = max(len(ids) for ids in self.ids)
        filled = np.full((len(self.ids), longest), pad, dtype=np.int64)
        mask = np.zeros_like(filled)
        for row, ids in enumerate(self.ids):
            filled[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        return filled, mask


Tokeniser = Callable[[Sequence[str]], Tokenised]


def tokeniser_of(folder: ModelFolder, *, max_tokens: int) -> tuple[Tokeniser, int]:
    """The tokenizer of a model's folder, and the id that fills up short sentences.

    Raises:
        WeightsError: there is none.
    """
    from transformers import AutoTokenizer

    with loading(folder.path):
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder.path), local_files_only=True, trust_remote_code=False, use_fast=True
        )
    if tokenizer.pad_token_id is None:
        raise WeightsError(f"the tokenizer of {folder.path} has no token to fill up sentences with (pad_token).")

    return partial(tokenised, tokenizer, max_tokens=max_tokens), int(tokenizer.pad_token_id)


def tokenised(tokenizer: Any, sentences: Sequence[str], *, max_tokens: int | None) -> Tokenised:
    """Sentences by a tokenizer of transformers, cut after `max_tokens` (`None`: at its own limit)."""
    whole = tokenizer(list(sentences), truncation=False, verbose=False)["input_ids"]
    cut = tokenizer(list(sentences), truncation=True, max_length=max_tokens)["input_ids"]
    return _together(cut, whole)


def hashed_tokeniser(*, first: int, last: int, max_tokens: int) -> Tokeniser:
    """For untrained weights without a vocabulary: words are numbered by a hash, between a first and a last mark.

    Args:
        first: id of the first mark; words have those below it.
        last: id of the last mark.
    """

    def numbered(sentences: Sequence[str]) -> Tokenised:
        words = [_WORD.findall(sentence.lower()) for sentence in sentences]
        numbers = [[zlib.crc32(word.encode()) % first for word in found] for found in words]
        whole = [[first, *found, last] for found in numbers]
        return _together([[first, *found[: max_tokens - 2], last] for found in numbers], whole)

    return numbered


def sentence_rows(samples: Sequence[Sample], tokens: NDArray[np.int32]) -> Rows:
    """The fields of `SENTENCE_FIELDS`: the sentences as they were given, the annotations' ids, and token counts."""
    return Rows.joined(
        Rows.dense(tokens=tokens),
        Rows.texts("bytes", text=[str(s.data) for s in samples], key=[s.key or "" for s in samples]),
    )


def _together(cut: Sequence[Sequence[int]], whole: Sequence[Sequence[int]]) -> Tokenised:
    counts = np.array([len(ids) for ids in whole], dtype=np.int32)
    return Tokenised([np.array(ids, dtype=np.int32) for ids in cut], counts)
