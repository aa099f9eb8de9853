"""Principal components of a stream, fitted out of core by scikit-learn's IncrementalPCA, and rows projected on them.

The components are kept in a safetensors file: `mean` `(D,)`, `components` `(K, D)`, `explained_variance` and
`explained_variance_ratio` `(K,)`, all float64. A projected row is `(row - mean) @ components.T`, with `whiten` divided
by the square root of the variances. Fitting draws nothing at random: the same rows in the same order give the same
components, whatever the backend.

Ross et al., "Incremental learning for robust visual tracking", IJCV 2008, as scikit-learn implements it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.options import Options
from vidloc.errors import OptionError, WeightsError
from vidloc.stores.base import FeatureStore, StreamSpec, open_store
from vidloc.stores.deriving import DeriveReport, spec_of, write_derived
from vidloc.stores.digest import little_endian
from vidloc.stores.durable import replace_file
from vidloc.stores.operations import Progress
from vidloc.stores.row_operations import Parent, RowByRow, dense_field, vector_blocks

# Vectors of one step of the fit: at least this, and this many per component, which is what keeps its error small.
_BATCH_VECTORS = 4096
_BATCH_PER_COMPONENT = 5
_NAMES = ("components", "explained_variance", "explained_variance_ratio", "mean")

_Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Components:
    """What was fitted.

    Attributes:
        mean: `(D,)`.
        components: `(K, D)`, of length 1, those that explain most first.
        explained_variance, explained_variance_ratio: `(K,)`; the ratio is of the variance of all channels.
    """

    mean: _Numbers
    components: _Numbers
    explained_variance: _Numbers
    explained_variance_ratio: _Numbers

    def sha256(self) -> str:
        """Of all numbers, by name."""
        digest = sha256()
        for name in _NAMES:
            digest.update(f"{name} {getattr(self, name).shape}\n".encode())
            digest.update(little_endian(getattr(self, name)).data)
        return digest.hexdigest()


class PcaOptions(Options):
    """How rows are projected."""

    whiten: bool = Field(default=False, description="Divide each component by its standard deviation.")


class Pca(RowByRow):
    """Projection of vectors (of maps: at each position) on components that were fitted before."""

    Options = PcaOptions

    def __init__(self, options: PcaOptions, parents: Sequence[StreamSpec], components: Components) -> None:
        super().__init__(options, parents)
        shape = dense_field(parents[0], "pca").entry_shape
        if not shape or shape[-1] != len(components.mean):
            raise OptionError(
                f"pca: rows of {parents[0].name!r} are {list(shape)}, but the components were fitted to vectors of "
                f"{len(components.mean)} numbers."
            )
        self._components = components
        scale = np.sqrt(components.explained_variance) if options.whiten else np.ones(len(components.components))
        self._scale = np.where(scale > 0, scale, 1.0)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `Operation`."""
        return (*self.parents[0].fields["features"].entry_shape[:-1], len(self._components.components))

    @property
    def rule(self) -> str:
        """See `Operation`."""
        whitened = ", each divided by its standard deviation" if self.options.whiten else ""
        return f"projected on {len(self._components.components)} principal components{whitened}"

    @property
    def recorded(self) -> dict[str, Any]:
        """See `Operation`."""
        return {**super().recorded, "components_sha256": self._components.sha256()}

    def block(self, parent: Parent, rows: slice) -> _Numbers:
        """See `RowByRow`."""
        values = parent.features(rows).astype(np.float64) - self._components.mean
        return np.asarray((values @ self._components.components.T) / self._scale)


@dataclass(frozen=True, eq=False)
class PcaReport:
    """A stream of principal components: where they are kept, and what was made by them."""

    file: str
    components: Components
    derived: DeriveReport

    def as_json(self) -> dict[str, Any]:
        """Everything but the components themselves, for scripts."""
        return {
            "file": self.file,
            "components_sha256": self.components.sha256(),
            "explained_variance_ratio": self.components.explained_variance_ratio.tolist(),
            **asdict(self.derived),
        }


def add_fitted(
    path: str | Path,
    stream: str,
    name: str,
    num_components: int,
    *,
    save: str | Path,
    whiten: bool = False,
    items: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> PcaReport:
    """Fit components to a stream, keep them in a file, and append the projected rows of all items as stream `name`.

    Args:
        save: the file; one that exists must hold the same components, as after a call that was stopped.
        items: fit to the rows of these only.
        out: store to append to; `None` appends to the one that is read.

    Raises:
        OptionError, StreamNotFoundError: as for `fit_components`.
        WeightsError: `save` exists and holds something else, or cannot be written.
        ProvenanceError: there is a stream `name` that was made otherwise.
    """
    with open_store(path) as store:
        spec = spec_of(store, stream)
        components = fit_components(store, spec, num_components, items=items, progress=progress)
        if not Path(save).exists():
            save_components(components, save)
        elif load_components(save).sha256() != components.sha256():
            raise WeightsError(f"{save} exists and holds other components; choose another file with --save.")
        operation = Pca(PcaOptions(whiten=whiten), [spec], components)
        return PcaReport(str(save), components, write_derived(store, name, "pca", operation, out or path, progress))


def add_projected(
    path: str | Path,
    stream: str,
    name: str,
    file: str | Path,
    *,
    whiten: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> PcaReport:
    """Append a stream's rows projected on components that were fitted before, such as to the training videos.

    Raises:
        OptionError: the components are of vectors of another length.
        WeightsError: the file is missing or damaged.
        ProvenanceError, StreamNotFoundError: as for `add_fitted`.
    """
    components = load_components(file)
    with open_store(path) as store:
        operation = Pca(PcaOptions(whiten=whiten), [spec_of(store, stream)], components)
        return PcaReport(str(file), components, write_derived(store, name, "pca", operation, out or path, progress))


def fit_components(
    store: FeatureStore,
    spec: StreamSpec,
    num_components: int,
    *,
    items: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Components:
    """Fit components to the vectors of a stream, a few thousand of them in memory at a time.

    Args:
        items: only rows of these; of all where `None`.
        progress: told how many vectors are through, and how many there are.

    Raises:
        OptionError: scikit-learn is not installed, or there are fewer vectors or channels than components.
    """
    width = dense_field(spec, "pca").entry_shape[-1:]
    if not width or num_components > width[0]:
        raise OptionError(
            f"pca: rows of {spec.name!r} have {width[0] if width else 1} channels, fewer than {num_components} "
            "components. Ask for fewer with --components."
        )
    entries = store.entries(spec.name)
    wanted = set(entries if items is None else items)
    chosen = [entry for item, entry in entries.items() if item in wanted]
    total = prod(spec.fields["features"].entry_shape[:-1]) * sum(entry.num_rows for entry in chosen)
    if total < num_components:
        raise OptionError(
            f"pca: {num_components} components need as many vectors, {spec.name!r} has {total} to fit to."
        )
    pca = _incremental_pca(num_components)
    done = 0
    for batch in _batches(
        vector_blocks(store, spec, items), max(_BATCH_VECTORS, _BATCH_PER_COMPONENT * num_components)
    ):
        pca.partial_fit(batch)
        done += len(batch)
        if progress is not None:
            progress(done, total)
    return Components(pca.mean_, pca.components_, pca.explained_variance_, pca.explained_variance_ratio_)


def save_components(components: Components, path: str | Path) -> None:
    """Write components as a safetensors file, in one step.

    Raises:
        WeightsError: it cannot be written.
    """
    data = _safetensors().save({name: np.ascontiguousarray(getattr(components, name)) for name in _NAMES})
    try:
        replace_file(Path(path), data)
    except OSError as error:
        raise WeightsError(f"components cannot be written to {path}: {error}.") from error


def load_components(path: str | Path) -> Components:
    """Read components that `save_components` wrote.

    Raises:
        WeightsError: the file is missing, no safetensors file, or holds other tensors.
    """
    safetensors = _safetensors()
    try:
        found = safetensors.load_file(path)
    except Exception as error:
        raise WeightsError(
            f"components cannot be read from {path}: {error}. 'vidloc store pca' writes them."
        ) from error
    if sorted(found) != sorted(_NAMES) or any(array.dtype != np.float64 for array in found.values()):
        raise WeightsError(f"{path} holds {', '.join(sorted(found))}, expected float64 {', '.join(_NAMES)}.")
    made = Components(**found)
    count, width = (*made.components.shape, 0, 0)[:2]
    shapes = [made.mean.shape, made.explained_variance.shape, made.explained_variance_ratio.shape]
    if made.components.ndim != 2 or shapes != [(width,), (count,), (count,)]:
        raise WeightsError(
            f"{path}: components of shape {made.components.shape} do not fit the other tensors, {shapes}."
        )
    if not all(np.isfinite(array).all() for array in found.values()):
        raise WeightsError(f"{path}: a number of the components is not finite.")
    return made


def _batches(blocks: Iterator[_Numbers], size: int) -> Iterator[_Numbers]:
    """The same vectors in pieces of `size`; the last one is larger, as too few cannot be fitted to."""
    waiting: list[_Numbers] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        while count >= 2 * size:
            joined = np.concatenate(waiting)
            yield joined[:size]
            waiting, count = [joined[size:]], count - size
    if waiting:
        yield np.concatenate(waiting)


def _incremental_pca(num_components: int) -> Any:
    try:
        from sklearn.decomposition import IncrementalPCA
    except ModuleNotFoundError as error:
        raise OptionError(
            "principal components need the package 'scikit-learn', which is not installed. pip install 'vidloc[heads]'"
        ) from error
    return IncrementalPCA(num_components)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise OptionError(
            "components are kept by the package 'safetensors', which is not installed. pip install 'vidloc[heads]'"
        ) from error
    return safetensors.numpy
