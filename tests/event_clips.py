"""Random clips of AVE's sizes with one event each: what heads of audio-visual events are fed in tests."""

from __future__ import annotations

import torch

from vidloc.core.records import Segment
from vidloc.core.timeline import Span
from vidloc.heads.base import Batch, RowBatch, Sample

DIMS = {"audio": 128, "visual": 512}
LABELS = {"event": (*(f"class {k}" for k in range(28)), "background")}


def rows_of(features, *, first_s=0.0, counts=None) -> RowBatch:
    batch, time = features.shape[:2]
    starts = torch.arange(time, dtype=torch.float64) + first_s
    spans = torch.stack([starts, starts + 1], dim=1).expand(batch, time, 2)
    mask = torch.arange(time) < torch.tensor(counts or [time] * batch).unsqueeze(1)
    return RowBatch(features, mask, spans)


def clips(*events, time=10, audio=128, visual=512, side=7, labels=None) -> Batch:
    torch.manual_seed(0)
    samples = tuple(
        Sample(f"v{k}", Span(*event), (Segment(item_id=f"v{k}", span=Span(*event), id=f"{k}"),))
        for k, event in enumerate(events)
    )
    rows = {
        "audio": rows_of(torch.randn(len(events), time, audio)),
        "visual": rows_of(torch.rand(len(events), time, side, side, visual)),
    }
    wanted = torch.tensor(labels if labels is not None else range(len(events)))
    return Batch(samples, rows, labels={"event": wanted})
