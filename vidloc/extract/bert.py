"""BERT's token states (Devlin et al., NAACL 2019), or the first token's, by any transformers text model's folder.

A row is a sentence: one vector per token (bert-base: 768 numbers, last layer), the marks at both ends among them, and
beside each its id. `states=cls` keeps the first token's alone; `states=both` has that one as well, as `cls_state`.
Sentences of any length share a batch; the filling is masked and dropped, so that it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from transformers import AutoModel, BertConfig, BertModel

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import WeightsError
from vidloc.extract import model_folder, weights
from vidloc.extract.base import Encoder, EncoderOptions, Sample, StreamTemplate, TextInput, arithmetic, placed
from vidloc.extract.sentences import SENTENCE_FIELDS, TOKEN_IDS, hashed_tokeniser, sentence_rows, tokeniser_of

PUBLISHED = "google-bert/bert-base-uncased"
_SOURCE = Source(
    paper="Devlin, Chang, Lee, Toutanova. BERT: Pre-training of Deep Bidirectional Transformers for Language "
    "Understanding. NAACL 2019.",
    code="https://github.com/google-research/bert",
    licence="Apache-2.0 (code)",
)
# Its ids of the first and last token, for untrained weights; words are numbered below them.
_MARKS = (101, 102)


class BertOptions(EncoderOptions):
    """Options of BERT."""

    weights: str = Field(
        "",
        description="Folder of a transformers text model, its name in the local Hugging Face cache, or 'random:SEED' "
        f"for untrained weights; empty for {PUBLISHED} in that cache (hf download {PUBLISHED}).",
    )
    states: Literal["tokens", "cls", "both"] = Field(
        "tokens",
        description="tokens: the states of all tokens; cls: the first token's alone, one vector per row; both: all, "
        "and the first one again as the field 'cls_state'.",
    )
    max_tokens: int | None = Field(
        None, ge=3, description="Tokens after which a sentence is cut; none for the model's own limit (BERT: 512)."
    )


class Bert(Encoder):
    """States of a sentence's tokens, with their ids, the sentence, and the annotation's id beside them."""

    Options: ClassVar[type[EncoderOptions]] = BertOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, BertOptions):
            raise TypeError(f"{name} takes BertOptions, got {type(options).__name__}.")
        self.options: BertOptions = options
        self.model = model_folder.resolve(options.weights, published=PUBLISHED, encoder=name)
        self.weights_name, self.weights_sha256 = self.model.name, self.model.sha256
        network: Any
        if self.model.folder is None:
            with weights.seeded(self.model.seed):
                network = BertModel(BertConfig(), add_pooling_layer=False)
            self._max_tokens = _limit(options, network.config)
            first, last = _MARKS
            self._tokenised = hashed_tokeniser(first=first, last=last, max_tokens=self._max_tokens)
            self._pad = 0
        else:
            network, _ = model_folder.load(AutoModel, self.model.folder.path, may_lack=("pooler.",))
            if network.main_input_name != "input_ids" or network.config.is_encoder_decoder:
                raise WeightsError(f"{self.model.folder.path} holds {type(network).__name__}, no encoder of texts.")
            self._max_tokens = _limit(options, network.config)
            self._tokenised, self._pad = tokeniser_of(self.model.folder, max_tokens=self._max_tokens)
        self.network: Any = placed(network, device, torch.contiguous_format)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        model_folder.check_available(options.weights, published=PUBLISHED, encoder=name)

    @property
    def input(self) -> TextInput:
        """Sentences."""
        return TextInput()

    def stream(self) -> StreamTemplate:
        """A vector and an id per token, or one vector per sentence."""
        width, dtype = int(self.network.config.hidden_size), self.options.dtype
        dense, ragged = (FieldSpec(row_shape=shape, dtype=dtype) for shape in ((width,), ("tokens", width)))
        fields = {
            "tokens": {"features": ragged, "token_ids": TOKEN_IDS},
            "cls": {"features": dense, "token_ids": TOKEN_IDS},
            "both": {"features": ragged, "token_ids": TOKEN_IDS, "cls_state": dense},
        }[self.options.states]
        return StreamTemplate(
            kind="text",
            fields={**fields, **SENTENCE_FIELDS},
            source=self.model.source(_SOURCE),
            preprocessing={
                **self.model.described(),
                "network": type(self.network).__name__,
                "max_tokens": self._max_tokens,
                "tokens": "of the whole sentence, with the model's own marks; beyond max_tokens it is cut",
                "tap": "last layer",
                "normalised": False,
            },
        )

    def preferred_batch(self) -> int:
        """Sentences per call."""
        return 64 if self.device.type == "cuda" else 8

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """States of the tokens, float32, with the sentences as they were given."""
        tokens = self._tokenised([str(sample.data) for sample in samples])
        ids, mask = (torch.from_numpy(array).to(self.device) for array in tokens.padded(self._pad))
        with arithmetic(self.device, self.options.precision):
            states = self.network(input_ids=ids, attention_mask=mask).last_hidden_state.float().cpu().numpy()
        parts = [sentence_rows(samples, tokens.counts)]
        ragged: dict[str, list[NDArray[Any]]] = {"token_ids": list(tokens.ids)}
        if self.options.states != "cls":
            ragged["features"] = [row[: len(own)] for row, own in zip(states, tokens.ids, strict=True)]
        if self.options.states != "tokens":
            first = np.ascontiguousarray(states[:, 0])
            parts.append(Rows.dense(**{"features" if self.options.states == "cls" else "cls_state": first}))
        return Rows.joined(*parts, Rows.ragged("tokens", **ragged))


def _limit(options: BertOptions, config: Any) -> int:
    # RoBERTa and its kin number positions from behind the id that fills up: two of them are no places for tokens.
    reserved = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    own = int(config.max_position_embeddings) - reserved
    return own if options.max_tokens is None else min(options.max_tokens, own)


ENCODER = Bert
