"""A folder of .pt files, one per item: a tensor `(rows, width)`, or a dict of tensors (Ego4D).

Sample: SlowFast features of Ego4D (`<uid>.pt`, a tensor of 2304 channels; --fps 30 --window 32f --stride 16f).
Time rule: as npy, row k begins at `start + k * stride`. Ego4D's last row was moved back so as to end with the video;
on a grid it comes out later than it is by less than a stride. Files are read with `weights_only`: tensors and plain
containers. Needs torch (vidloc[heads]).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from vidloc.core.records import Source
from vidloc.errors import OptionError, StoreError, did_you_mean
from vidloc.stores.imports.base import StreamOptions
from vidloc.stores.imports.npy import Npy


class Pt(Npy):
    """Reader of folders of tensors."""

    source: ClassVar[Source] = Source(
        paper="Grauman et al., Ego4D, CVPR 2022, for the sample", code="https://github.com/facebookresearch/Ego4d"
    )
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".pth")

    def _array(self, path: Path, stream: StreamOptions) -> NDArray[Any]:
        found = _load(path)
        if isinstance(found, dict):
            found = _chosen(found, path, stream.key)
        if not hasattr(found, "untyped_storage"):
            raise StoreError(f"{path} holds a {type(found).__name__}, not a tensor.")
        tensor = found.detach()
        # A view may claim any shape over a few bytes.
        if tensor.numel() * tensor.element_size() > path.stat().st_size:
            raise StoreError(f"{path} has a tensor of shape {tuple(tensor.shape)}, of which the bytes are not there.")
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such type
            tensor = tensor.float()
        array: NDArray[Any] = tensor.numpy()
        return array


def _load(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise OptionError("layout 'pt' needs the package 'torch'. pip install 'vidloc[heads]'") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (it raises whatever a damaged file makes it raise)
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{path} is no file of tensors that can be read ({reason}).") from None


def _chosen(found: dict[Any, Any], path: Path, key: str) -> Any:
    names = {str(name): value for name, value in found.items()}
    if not key and len(names) == 1:
        return next(iter(names.values()))
    if key not in names:
        asked = f"has no tensor {key!r}" if key else "holds several tensors: name one by --stream NAME:key=..."
        raise StoreError(f"{path} {asked}. {did_you_mean(key, names)}")
    return names[key]


LAYOUT = Pt
