"""Checkpoints: where they are kept, how they get there, and how they are loaded without running their code.

A `weights` option is a path, `random:SEED`, or empty for the published checkpoint, which `vidloc weights fetch NAME`
has put into the cache folder (`$VIDLOC_CACHE/weights`, else `~/.cache/vidloc/weights`). Nothing is ever downloaded on
the way: a missing file ends the run before any work, with the line that gets it.

A file must have the hash that `vidloc/extract/published.py` states. Where none is published, the one seen at the first
download is pinned (`vidloc/extract/pins.py`), and from then on the file must keep it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidloc.errors import MisfitError, OptionError, WeightsError
from vidloc.extract.pins import PINS_NAME, pin, read_pins
from vidloc.extract.published import PUBLISHED, Published, published

if TYPE_CHECKING:  # `vidloc weights list` answers without loading torch
    import torch
    from torch import nn

    from vidloc.extract.download import Progress

RANDOM_PREFIX = "random:"
_WRAPPERS = ("model_state", "state_dict", "model")
_NAMES_SHOWN = 6


@dataclass(frozen=True)
class Checkpoint:
    """Weights that are at hand.

    Attributes:
        path: the file, `None` for untrained weights.
        name: file name, or `random:SEED`.
        sha256: SHA-256 of the file, or `random:SEED`.
        seed: seed of untrained weights, `None` for a file.
    """

    path: Path | None
    name: str
    sha256: str
    seed: int | None = None


def cache_folder() -> Path:
    """Folder of fetched checkpoints; it need not exist."""
    root = os.environ.get("VIDLOC_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "vidloc") / "weights"


def check_available(name: str, weights: str, *, option: str = "weights") -> None:
    """Make sure that a `weights` option can be met, by a look at the disk alone.

    Args:
        name: name of a published checkpoint, used where `weights` is empty.
        weights: path, `random:SEED` or empty.
        option: what the option is called, for messages.

    Raises:
        WeightsError: the file is missing; the message has the line that gets it.
        OptionError: the seed is not a whole number.
    """
    if weights.startswith(RANDOM_PREFIX):
        _seed(weights, option)
    elif weights:
        _existing(Path(weights).expanduser(), option)
    else:
        _fetched(name, option)


def resolve(weights: str, name: str, *, option: str = "weights") -> Checkpoint:
    """The checkpoint that a `weights` option stands for, with its SHA-256 taken and compared.

    Args:
        weights: path, `random:SEED`, or empty for the published one.
        name: name of the published checkpoint.
        option: what the option is called, for messages.

    Raises:
        WeightsError: the file is missing, or the cached file is not the published one.
        OptionError: the seed is not a whole number.
    """
    if weights.startswith(RANDOM_PREFIX):
        seed = _seed(weights, option)
        return Checkpoint(None, f"{RANDOM_PREFIX}{seed}", f"{RANDOM_PREFIX}{seed}", seed)
    if weights:
        path = _existing(Path(weights).expanduser(), option)
        return Checkpoint(path, path.name, sha256_of(path))
    path = _fetched(name, option)
    return Checkpoint(path, path.name, judged(path, PUBLISHED[name]))


def known_hash(entry: Published) -> str:
    """The SHA-256 (or its beginning) that the cached file must have; empty where none is known yet."""
    pinned = read_pins(cache_folder()).get(entry.name)
    return entry.sha256 or (pinned.sha256 if pinned else "")


def judged(path: Path, entry: Published) -> str:
    """The SHA-256 of a file, once it is sure that it is the published one, as far as anything is known of that.

    Raises:
        WeightsError: it has another hash than the publisher states, or than it had when it was first seen.
    """
    found = sha256_of(path)
    if not found.startswith(entry.sha256):
        raise WeightsError(
            f"{path} has SHA-256 {found}, expected {entry.sha256}: the file is damaged or another one. "
            f"{_again(path, entry)}"
        )
    if entry.git_blob and (blob := git_blob_of(path)) != entry.git_blob:
        raise WeightsError(
            f"{path} is not the published file: git would call it {blob}, expected {entry.git_blob}. "
            f"{_again(path, entry)}"
        )
    pinned = read_pins(cache_folder()).get(entry.name)
    if pinned and not entry.sha256 and found != pinned.sha256:
        raise WeightsError(
            f"{path} has SHA-256 {found}, expected {pinned.sha256}, which it had when it was first seen "
            f"({pinned.seen}, {pinned.url}). {_again(path, entry)} If its publisher has put another file there and you "
            f"want that one, take {entry.name!r} out of {cache_folder() / PINS_NAME} first."
        )
    return found


def fetch(name: str, *, progress: Progress | None = None) -> Checkpoint:
    """Download a published checkpoint into the cache folder, unless it is there, and check its hash.

    Args:
        progress: told how much has come.

    Raises:
        UnknownNameError: no such checkpoint.
        WeightsError: it cannot be fetched, only got by hand; the download failed; or the file is not the published one.
    """
    from vidloc.extract.download import download

    entry = published(name)
    target = cache_folder() / entry.file_name
    if entry.by_hand and not target.is_file():
        raise WeightsError(by_hand(entry))
    download(
        entry.url,
        target,
        judge=lambda part: judged(part, entry),
        resume_unknown=bool(known_hash(entry) or entry.git_blob),
        progress=progress,
    )
    return accept(entry)


def accept(entry: Published) -> Checkpoint:
    """Judge the cached file of a checkpoint, and pin it where nothing was known of its hash.

    Raises:
        WeightsError: it is missing, or is not the published file.
    """
    path = _fetched(entry.name)
    found = judged(path, entry)
    if not known_hash(entry):
        pin(
            cache_folder(),
            entry.name,
            file=entry.file_name,
            sha256=found,
            num_bytes=path.stat().st_size,
            url=entry.url,
        )
    return Checkpoint(path, path.name, found)


def by_hand(entry: Published) -> str:
    """How to get a checkpoint that has no address to fetch it from."""
    return (
        f"{entry.name} cannot be fetched: {entry.by_hand} ({entry.url}). Put it here as "
        f"{cache_folder() / entry.file_name}, then run: vidloc weights check {entry.name}"
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_blob_of(path: Path) -> str:
    """The id that git gives a file's content, in hex."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Build a network inside: its initial weights follow from `seed` alone, and the caller's generators do not move."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reset the generators of all GPUs.
        torch.default_generator.manual_seed(seed)
        yield


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a checkpoint file, as a plain new dict on the CPU.

    Reads safetensors, and PyTorch files as far as they hold plain data (`weights_only`); takes them bare or from under
    `model_state`, `state_dict` or `model`; removes one leading `module.` where every name has it.

    Raises:
        WeightsError: the file does not load as plain data, or holds no dict of tensors.
    """
    import torch

    content = _read_safely(path)
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping):
            content = inner
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no dict of named tensors (found {type(content).__name__}).")
    strange = [str(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))]
    if strange:
        raise WeightsError(
            f"{path}: {_some(strange)} are not tensors. A checkpoint is a dict of tensors, bare or under one of "
            f"{', '.join(_WRAPPERS)}."
        )
    prefixed = all(name.startswith("module.") for name in content)
    # A plain dict: a state dict's version metadata would change how strictly a network checks its names.
    return {name.removeprefix("module.") if prefixed else name: tensor for name, tensor in content.items()}


def load_into(network: nn.Module, state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Copy tensors into a network; every name must have its place and every place its name.

    Args:
        where: the file, for the message.

    Raises:
        MisfitError: names or shapes disagree; they are listed.
    """
    missing, unknown, mismatched = _loaded_loosely(network, state)
    if missing or unknown or mismatched:
        raise misfit(network, where=where, missing=missing, unknown=unknown, mismatched=mismatched)


def misfit(
    network: nn.Module,
    *,
    where: str,
    missing: Sequence[str] = (),
    unknown: Sequence[str] = (),
    mismatched: Sequence[str] = (),
) -> MisfitError:
    """The error that says which names of a checkpoint are not those of a network."""
    told = [f"missing: {_some(missing)}."] if missing else []
    told += [f"not known to the network: {_some(unknown)}."] if unknown else []
    told += [f"{_some(mismatched)}."] if mismatched else []
    return MisfitError(
        f"{where} does not fit {type(network).__name__}: {' '.join(told)} Is it another network's checkpoint? All "
        "names, and which relative it fits: vidloc weights check FILE --encoder NAME",
        missing=missing,
        unknown=unknown,
        mismatched=mismatched,
    )


def _loaded_loosely(
    network: nn.Module, state: Mapping[str, torch.Tensor]
) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    # Missing, unknown and misshapen names. Loaded loosely and then judged, so that renames which modules make
    # themselves (torchvision's RPN, FPN) count as fitting; norm counters, which files older than PyTorch 0.4 lack, are
    # filled in.
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    others = {name: tensor.shape for name, tensor in state.items() if tensor.shape != own.get(name, tensor.shape)}
    mismatched = [
        f"size mismatch for {name}: {list(shape)}, the network has {list(own[name])}" for name, shape in others.items()
    ]
    try:
        result = network.load_state_dict({n: tensor for n, tensor in state.items() if n not in others}, strict=False)
    except RuntimeError as error:  # shapes of names that a module changed; the first line only names the class
        return (), (), [*mismatched, *(line.strip() for line in str(error).splitlines()[1:])]
    return [name for name in result.missing_keys if name not in others], result.unexpected_keys, mismatched


def _read_safely(path: Path) -> Any:
    import safetensors
    import safetensors.torch
    import torch

    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            # Pickles that torch did not write are told apart below, in plain words.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds Python objects besides tensors, which vidloc does not unpickle since that can run any code. "
            f"If they are NumPy arrays (Caffe2, Detectron): vidloc weights convert {path} OUT.safetensors. Else, if "
            "you trust its source, load it once with torch.load(..., weights_only=False) and save its tensors with "
            "safetensors.torch.save_file."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, safetensors.SafetensorError) as error:
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise WeightsError(f"{path} does not load as a checkpoint (PyTorch or safetensors): {reason}") from error


def _existing(path: Path, option: str) -> Path:
    if not path.is_file():
        raise WeightsError(
            f"there is no checkpoint {str(path)!r}. Give the path of a file, {option}=random:0 for untrained weights, "
            f"or leave {option} out for the published ones."
        )
    return path


def _fetched(name: str, option: str = "weights") -> Path:
    if name not in PUBLISHED:
        raise WeightsError(
            f"no checkpoint is published for {name!r}. Give one with {option}=PATH, or try without: {option}=random:0"
        )
    entry = PUBLISHED[name]
    path = cache_folder() / entry.file_name
    if not path.is_file() and entry.by_hand:
        raise WeightsError(f"the weights of {name} are not at {path}. {by_hand(entry)}")
    untrained = f"--encoder {name}:weights=random:0" if option == "weights" else f"{option}=random:0"
    if not path.is_file():
        raise WeightsError(
            f"the weights of {name} are not at {path}. Get them: vidloc weights fetch {name}\n"
            f"  without network here: fetch {entry.url} elsewhere and put it at that path\n"
            f"  to try with untrained weights: {untrained}"
        )
    return path


def _seed(weights: str, option: str) -> int:
    text = weights.removeprefix(RANDOM_PREFIX)
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise OptionError(f"{option}={weights!r}: random: is followed by a seed, a whole number such as random:0.")
    return int(text)


def _again(path: Path, entry: Published) -> str:
    # A part that was just fetched is removed by whoever fetched it.
    if path.name != entry.file_name:
        return "Nothing of it is kept."
    return f"Delete it and {'get it again' if entry.by_hand else f'run: vidloc weights fetch {entry.name}'}."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
