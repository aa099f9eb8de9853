"""Annotations by the name of their dataset; needs neither torch nor a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidloc.core import registry
from vidloc.datasets.base import Annotations, Dataset
from vidloc.errors import AnnotationError


def read_labels(dataset: str, options: Mapping[str, Any], annotations: Path | None) -> tuple[Dataset, Annotations]:
    """The reader of a dataset and what it read.

    Raises:
        UnknownNameError: no such dataset.
        AnnotationError: nothing at that path, or files that cannot be read as annotations.
        OptionError: an option that the dataset does not have.
    """
    loaded = registry.load("datasets", dataset)
    reader: Dataset = loaded.target(
        loaded.target.Options.parse(options, where=f"dataset {dataset!r}"), name=loaded.name
    )
    if annotations is not None and not annotations.exists():
        raise AnnotationError(f"there is nothing at {annotations}. Give --annotations the place of the files.")
    return reader, reader.read(annotations)
