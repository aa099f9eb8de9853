"""CLIP's sentences (Radford et al., ICML 2021), in the space that they share with pictures, by transformers.

The row is the state at the end token through the text projection (ViT-B/32: 512 numbers), not normalised; the encoder
`clip_image` makes the vectors that it is compared with. Beside it are the sentence, the annotation's id and the token
ids. Sentences longer than the model's positions (77, both marks included) are cut; `tokens` counts the whole sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from transformers import CLIPTextModelWithProjection

from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract import clip_model
from vidloc.extract.base import Encoder, EncoderOptions, Sample, StreamTemplate, TextInput, arithmetic, placed
from vidloc.extract.sentences import SENTENCE_FIELDS, TOKEN_IDS, hashed_tokeniser, sentence_rows, tokeniser_of


class ClipTextOptions(EncoderOptions):
    """Options of CLIP's sentences."""

    weights: str = Field("", description=clip_model.WEIGHTS_HELP)


class ClipText(Encoder):
    """Projected vectors of sentences."""

    Options: ClassVar[type[EncoderOptions]] = ClipTextOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        self.model = clip_model.resolve(options.weights, encoder=name)
        self.weights_name, self.weights_sha256 = self.model.name, self.model.sha256
        network: Any
        if self.model.folder is None:
            network = clip_model.untrained_tower(CLIPTextModelWithProjection, self.model.seed)
        else:
            network = clip_model.load_tower(CLIPTextModelWithProjection, self.model.folder)
        self._max_tokens = int(network.config.max_position_embeddings)
        if self.model.folder is None:
            first, last = clip_model.MARKS
            self._tokenised = hashed_tokeniser(first=first, last=last, max_tokens=self._max_tokens)
            self._pad = last
        else:
            self._tokenised, self._pad = tokeniser_of(self.model.folder, max_tokens=self._max_tokens)
        self.network: Any = placed(network, device, torch.contiguous_format)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        clip_model.check_available(options.weights, encoder=name)

    @property
    def input(self) -> TextInput:
        """Sentences."""
        return TextInput()

    def stream(self) -> StreamTemplate:
        """One vector per sentence."""
        return StreamTemplate(
            kind="text",
            fields={
                "features": FieldSpec(row_shape=(self.network.config.projection_dim,), dtype=self.options.dtype),
                **SENTENCE_FIELDS,
                "token_ids": TOKEN_IDS,
            },
            source=self.model.source(clip_model.SOURCE),
            preprocessing={
                **self.model.described(),
                "max_tokens": self._max_tokens,
                "tokens": "of the whole sentence, with both marks; beyond max_tokens it is cut",
                "activation": self.network.config.hidden_act,
                "tap": "state at the end token through the text projection",
                "normalised": False,
            },
        )

    def preferred_batch(self) -> int:
        """Sentences per call."""
        return 256 if self.device.type == "cuda" else 32

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Vectors, not normalised, with the sentences as they were given."""
        tokens = self._tokenised([str(sample.data) for sample in samples])
        ids, mask = (torch.from_numpy(array).to(self.device) for array in tokens.padded(self._pad))
        with arithmetic(self.device, self.options.precision):
            vectors = self.network(input_ids=ids, attention_mask=mask).text_embeds.float()
        return Rows.joined(
            Rows.dense(features=np.ascontiguousarray(vectors.cpu().numpy())),
            Rows.ragged("tokens", token_ids=tokens.ids),
            sentence_rows(samples, tokens.counts),
        )


ENCODER = ClipText
