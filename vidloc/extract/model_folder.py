"""Folders of Hugging Face models: where they lie, the hash of their weights, and loading that leaves no gap.

A model is the path of a folder (config.json, weights, settings of its tokenizer or processor), or its name on the hub,
which is only looked for in the local cache that `hf download NAME` fills. Nothing here asks the network, runs code
that comes with a model, or unpickles more than tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import JsonValue
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from vidloc.core.records import Source
from vidloc.errors import OptionError, VidlocError, WeightsError
from vidloc.extract import weights

# In the order in which transformers looks for them: one file or its shards, safetensors before PyTorch.
_WEIGHT_PATTERNS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
)
# What decides a row besides the weights. Descriptions, licences and copies for other libraries do not.
_DEFINING_FILES = (
    "modules.json",
    "config.json",
    "*/config.json",
    "sentence_bert_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError)


@dataclass(frozen=True)
class ModelFolder:
    """A model that is at hand.

    Attributes:
        path: the folder.
        name: its last part, or the name on the hub with the beginning of the commit.
        commit: of the hub's repository, whole; empty for a folder.
    """

    path: Path
    name: str
    commit: str = ""

    @property
    def weights_name(self) -> str:
        """The model and its (first) file of weights."""
        return f"{self.name}/{weights_of(self.path)[0].name}"

    @property
    def weights_sha256(self) -> str:
        """Hash of all its weights."""
        return joint_sha256(weights_of(self.path))

    @property
    def settings_sha256(self) -> str:
        """Hash of what else decides a row: configuration, tokenizer, preprocessing."""
        return joint_sha256(sorted({path for pattern in _DEFINING_FILES for path in self.path.glob(pattern)}))

    @property
    def licence(self) -> str:
        """What the model's card (README.md) states."""
        card = self.path / "README.md"
        stated = huggingface_hub.metadata_load(card) if card.is_file() else None
        licence = (stated or {}).get("license")
        return f"{licence} (stated in the model's card)" if licence else "not stated in the model's folder"


@dataclass(frozen=True)
class ModelWeights:
    """What the `weights` option of a model's encoder stands for.

    Attributes:
        folder: `None` for untrained weights.
        name: name of model and file, or `random:SEED`.
        sha256: hash of the files, or `random:SEED`.
        seed: of untrained weights.
    """

    folder: ModelFolder | None
    name: str
    sha256: str
    seed: int = 0

    def described(self) -> dict[str, JsonValue]:
        """The facts of it for a stream's provenance, beside the hash of the weights."""
        settings = "none: the weights are untrained" if self.folder is None else self.folder.settings_sha256
        return {"settings_sha256": settings}

    def source(self, architecture: Source) -> Source:
        """Whose work rows are: of an architecture, under the licence of these weights."""
        return architecture if self.folder is None else architecture.model_copy(update={"licence": self.folder.licence})


def resolve(option: str, *, published: str, encoder: str) -> ModelWeights:
    """The model that a `weights` option stands for, its hash taken.

    Args:
        option: a folder, a name in the local cache of the hub, `random:SEED`, or empty for the published model.
        published: the published model's name on the hub.
        encoder: name of the encoder, for the message.

    Raises:
        WeightsError: no such model here, or it has no weights.
        OptionError: the seed is not a whole number.
    """
    if option.startswith(weights.RANDOM_PREFIX):
        untrained = weights.resolve(option, published)
        return ModelWeights(None, untrained.name, untrained.sha256, untrained.seed or 0)
    folder = find(option or published, usage=f"--encoder {encoder}:weights=FOLDER")
    return ModelWeights(folder, folder.weights_name, folder.weights_sha256)


def check_available(option: str, *, published: str, encoder: str) -> None:
    """Make sure that `resolve` will find the model, without reading its weights.

    Raises:
        WeightsError, OptionError: as `resolve`.
    """
    if option.startswith(weights.RANDOM_PREFIX):
        weights.check_available(published, option)
    else:
        weights_of(find(option or published, usage=f"--encoder {encoder}:weights=FOLDER").path)


def find(model: str, *, usage: str, revision: str = "") -> ModelFolder:
    """A model by the path of its folder, or by its name in the local cache of the hub.

    Args:
        usage: how an encoder is given a folder, for the message (`--encoder bert:weights=FOLDER`).
        revision: commit, tag or branch of the hub's repository; empty for the main branch.

    Raises:
        WeightsError: neither of the two; the message has the line that gets the model.
        OptionError: a revision of a folder, which has none, or that is no name of one.
    """
    if revision.startswith("/") or ".." in revision:
        raise OptionError(f"revision={revision!r} is no commit, tag or branch.")
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise OptionError(
                f"revision={revision} is of a model on the hub, but {str(folder)!r} is a folder. Leave it out, or name "
                "the model as ORG/MODEL."
            )
        if not ((folder / "config.json").is_file() or (folder / "modules.json").is_file()):
            raise WeightsError(
                f"{str(folder)!r} is not the folder of a transformers model: there is no config.json or modules.json."
            )
        return ModelFolder(folder, folder.resolve().name)
    try:
        snapshot = Path(huggingface_hub.snapshot_download(model, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError, ValueError):
        raise WeightsError(_how_to_get(model, revision, usage)) from None
    return ModelFolder(snapshot, f"{model}@{snapshot.name[:12]}", snapshot.name)


def weights_of(folder: Path, *, subfolders: bool = False) -> list[Path]:
    """The files of weights in a model's folder: one, or its shards.

    Args:
        subfolders: those of its layers as well, which sentence-transformers keeps in folders of their own.

    Raises:
        WeightsError: there are none.
    """
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if subfolders else []
    found: list[Path] = []
    for place in (folder, *below):
        kinds = (sorted(place.glob(pattern)) for pattern in _WEIGHT_PATTERNS)
        found += next((files for files in kinds if files), [])
    if not found:
        raise WeightsError(f"{folder} holds no weights (looked for {', '.join(_WEIGHT_PATTERNS)}).")
    return found


def joint_sha256(files: Sequence[Path]) -> str:
    """One file: its own hash, comparable with sha256sum. Several (shards): the hash of their hashes."""
    hashes = [weights.sha256_of(path) for path in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def read_config(folder: Path) -> Any:
    """The model's configuration.

    Raises:
        WeightsError: there is none that this version of transformers knows.
    """
    with loading(folder):
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def load(kind: Any, folder: Path, *, may_lack: tuple[str, ...] = ()) -> tuple[Any, dict[str, list[str]]]:
    """A network with the folder's weights, every tensor of it.

    transformers fills what a file lacks with random numbers and only logs it; here that is an error.

    Args:
        kind: class of transformers with `from_pretrained`.
        may_lack: beginnings of names that the caller does without.

    Returns:
        The network, and names by `missing` (only such that may be) and `left_aside` (in the file, not in the network).

    Raises:
        MisfitError: the folder lacks tensors; they are named.
        WeightsError: it does not load.
    """
    # Seeded since layers are filled with random numbers before the file's take their place. Left to itself,
    # transformers would calculate in the numbers of the file, and in half precision where it was saved so.
    with loading(folder), weights.seeded(0):
        network, report = kind.from_pretrained(
            str(folder),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    missing = sorted(report["missing_keys"])
    needed = [name for name in missing if not name.startswith(may_lack)] if may_lack else missing
    if needed:
        raise weights.misfit(network, where=str(folder), missing=needed)
    return network, {"missing": missing, "left_aside": sorted(report["unexpected_keys"])}


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turn what transformers raises about a folder into a `WeightsError`, and keep its bars and reports off stderr."""
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    except VidlocError:
        raise
    except _LOADING_ERRORS as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise WeightsError(f"{folder} does not load: {reason}") from error
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _how_to_get(model: str, revision: str, usage: str) -> str:
    looks_like_name = model.count("/") <= 1 and not model.startswith((".", "/", "~"))
    if not looks_like_name:
        return f"{model!r} is no folder. Give the folder of a transformers model: {usage}"
    download = f"hf download {model}" + (f" --revision {revision}" if revision else "")
    lacking = (
        f"revision {revision!r} of {model!r} is not in the local Hugging Face cache"
        if revision
        else f"{model!r} is neither a folder nor in the local Hugging Face cache"
    )
    return (
        f"{lacking}, and nothing is downloaded on the way. Get it: {download}\n"
        f"  without network here: on another machine {download} --local-dir FOLDER, and then {usage}"
    )
