"""What training and prediction open before they begin: head, annotations, stores, and the streams of each role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vidloc.core import registry
from vidloc.datasets.base import Annotations, Dataset
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.base import BaseHeadOptions, Head
from vidloc.heads.training import pick_device, seeded
from vidloc.pipelines.labels import read_labels
from vidloc.pipelines.run_record import SplitRecord, StreamRecord
from vidloc.pipelines.samples import SplitSamples, split_samples
from vidloc.pipelines.streams import Match, StoreRows, match_streams, rematch
from vidloc.stores.base import open_store

Notice = Callable[[str], None]


@dataclass(frozen=True)
class TrainPlan:
    """What is asked of a training; options may be partial, defaults fill them.

    Attributes:
        head: name or path of a head.
        stores: paths of the stores that hold its streams.
        dataset, dataset_options, annotations: what to learn from.
        options: the head's options.
        streams: stream by role, where asked for.
        train_split, eval_split: empty for the dataset's own.
        digests: digest of the rows by role that must be met, when a run is repeated.
        annotations_sha256: likewise for annotation files.
    """

    head: str
    stores: tuple[str, ...]
    dataset: str
    annotations: Path | None = None
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    streams: Mapping[str, str] = field(default_factory=dict)
    train_split: str = ""
    eval_split: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    annotations_sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """Everything opened and matched."""

    loaded: registry.Loaded
    options: BaseHeadOptions
    device: torch.device
    dataset: Dataset
    annotations: Annotations
    match: Match
    reader: StoreRows

    @property
    def head_class(self) -> type[Head]:
        """The head's class."""
        head: type[Head] = self.loaded.target
        return head

    def build(self) -> Head:
        """The head with fresh weights, on its device; the seed alone decides them."""
        with seeded(self.options.seed, device=self.device):
            head = self.head_class(self.options, self.match.dims, self.annotations.classes)
        return head.to(self.device)

    def samples(self, split: str) -> SplitSamples:
        """Samples of a split that have rows in every role."""
        sampling = self.head_class.sampling(self.options)
        return split_samples(self.head_class, self.annotations, split, sampling, self.reader)

    def durations(self, found: SplitSamples) -> dict[str, float]:
        """Duration of the items of samples, where their store knows it."""
        store, _ = next(iter(self.match.streams.values()))
        durations = {sample.item_id: store.info(sample.item_id).duration_s for sample in found.samples}
        return {item: seconds for item, seconds in durations.items() if seconds is not None}

    def bank(self, found: SplitSamples, notice: Notice) -> Bank:
        """The rows of a split's samples, in memory where they fit."""
        return Bank(
            found.samples,
            self.head_class.sampling(self.options),
            self.reader,
            tasks=tuple(self.annotations.classes) if self.head_class.unit == "segment" else (),
            device=self.device,
            memory_bytes=int(self.options.memory_gb * 1e9),
            notice=notice,
        )


def open_setting(
    plan: TrainPlan, stack: ExitStack, notice: Notice, *, trained_on: Mapping[str, StreamRecord] | None = None
) -> Setting:
    """Load the head, read the annotations, open the stores and match streams with roles.

    Args:
        stack: closes the stores.
        trained_on: streams of a finished run, whose origin the rows must share.

    Raises:
        OptionError: no store, an option out of range, or a role that no stream fits.
        VidlocError: annotations or a store that cannot be read.
    """
    if not plan.stores:
        raise OptionError("rows are needed: give --store PATH.")
    loaded = registry.load("heads", plan.head)
    options = loaded.target.Options.parse(plan.options, where=f"head {plan.head!r}")
    device = pick_device(options.device)
    dataset, annotations = read_labels(plan.dataset, plan.dataset_options, plan.annotations)
    stores = [stack.enter_context(open_store(path)) for path in plan.stores]
    needs = loaded.target.needs_for(options)
    if trained_on is None:
        match = match_streams(needs, stores, chosen=plan.streams, recipe=dataset.recipe)
    else:
        match = rematch(trained_on, needs, stores)
    for note in (*annotations.notes, *match.notes):
        notice(note)
    return Setting(loaded, options, device, dataset, annotations, match, StoreRows(match))


def say_account(record: SplitRecord, notice: Notice) -> None:
    """Say how many annotations have rows, and how far the rows look beyond the segments."""
    if record.lacking:
        first = record.lacking[0]
        notice(
            f"split {record.split!r}: {len(record.lacking)} of {record.num_annotations} annotations lack rows and take "
            f"no part; the first is {first.id!r}: {first.reason}. All are listed in the run's files."
        )
    roles_of: dict[tuple[float, float], list[str]] = {}
    for role, reach in record.leak.items():
        roles_of.setdefault((reach.mean_s, reach.max_s), []).append(role)
    for (mean_s, max_s), roles in roles_of.items():
        notice(
            f"split {record.split!r}, {'roles' if len(roles) > 1 else 'role'} {' and '.join(roles)}: rows look beyond "
            f"the ends of their segments by {mean_s:.2f} s on average, {max_s:.2f} s at most."
        )
