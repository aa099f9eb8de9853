"""Samples into batches per encoder, rows back to their items: batches may cross videos, rows may not.

An encoder gets `preferred_batch()` samples at a time. Where that is more than one (GPUs), a batch is filled from
several short videos, so an item's rows come back some time after its last sample; whoever commits waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from vidloc.core.rows import Rows
from vidloc.errors import DeviceError
from vidloc.extract.base import Sample
from vidloc.pipelines.extraction.encoders import StreamEncoder
from vidloc.pipelines.extraction.report import reason_of
from vidloc.stores.fitting import fitted


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows that came back for one item, in the order of its samples.

    Attributes:
        spans: window of each sample that is answered.
        rows: one row per span; `None` where the encoder failed.
        error: why there are no rows.
        places: of each sample, see `Sample`.
    """

    stream: str
    item_id: str
    spans: tuple[tuple[Fraction, Fraction], ...]
    rows: Rows | None
    error: str = ""
    places: tuple[int, ...] = ()


class Batcher:
    """Pending samples of one stream."""

    def __init__(self, target: StreamEncoder) -> None:
        self.target = target
        self.encode_s = 0.0
        self._size = max(target.encoder.preferred_batch(), 1)
        self._pending: list[tuple[str, Sample]] = []

    def add(self, item_id: str, sample: Sample) -> Iterator[Encoded]:
        """Take a sample; yields what comes back once a batch is full."""
        self._pending.append((item_id, sample))
        if len(self._pending) >= self._size:
            yield from self.flush()

    def flush(self) -> Iterator[Encoded]:
        """Encode what is pending, full batch or not."""
        pending, self._pending = self._pending, []
        while pending:
            # `_size` may have shrunk since the samples were gathered.
            batch, pending = pending[: self._size], pending[self._size :]
            yield from self._encoded(batch)

    def forget(self, item_id: str) -> None:
        """Drop the pending samples of an item."""
        self._pending = [(item, sample) for item, sample in self._pending if item != item_id]

    def _encoded(self, batch: Sequence[tuple[str, Sample]]) -> Iterator[Encoded]:
        try:
            rows = self._rows([sample for _, sample in batch])
        except Exception as error:  # noqa: BLE001  (an encoder may raise anything; its item fails, the run goes on)
            if self.target.encoder.device.type == "cuda":
                self._check_device(error, len(batch))
            if len(batch) == 1:
                item, sample = batch[0]
                yield Encoded(self.target.stream, item, (sample.span,), None, reason_of(error))
                return
            half = len(batch) // 2
            yield from self._encoded(batch[:half])
            yield from self._encoded(batch[half:])
            return
        start = 0
        for item, samples in _by_item(batch):
            stop = start + len(samples)
            piece = rows if len(samples) == len(batch) else rows[start:stop]
            places = tuple(sample.place for sample in samples)
            yield Encoded(self.target.stream, item, tuple(s.span for s in samples), piece, places=places)
            start = stop

    def _rows(self, samples: list[Sample]) -> Rows:
        begun = time.perf_counter()
        try:
            rows = self.target.encoder.encode(samples)
        finally:
            self.encode_s += time.perf_counter() - begun
        if len(rows) != len(samples):
            raise ValueError(f"the encoder returned {len(rows)} rows for {len(samples)} samples")
        return fitted(self.target.of_sample, rows, where=f"stream {self.target.stream!r}")

    def _check_device(self, error: Exception, tried: int) -> None:
        """Take smaller batches where memory did not suffice; some other errors of CUDA leave it unusable for good.

        Raises:
            DeviceError: the device answers nothing any more, so that every later item would fail alike.
        """
        device = self.target.encoder.device
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
            self._size = max(tried // 2, 1)
            return
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as lost:
            raise DeviceError(
                f"{device} no longer answers after an error in stream {self.target.stream!r}: {reason_of(error)}. "
                "What was committed is safe: the same command goes on from there."
            ) from lost


def _by_item(batch: Sequence[tuple[str, Sample]]) -> Iterator[tuple[str, tuple[Sample, ...]]]:
    start = 0
    for stop in range(1, len(batch) + 1):
        if stop == len(batch) or batch[stop][0] != batch[start][0]:
            yield batch[start][0], tuple(sample for _, sample in batch[start:stop])
            start = stop
