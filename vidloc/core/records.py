"""Small frozen records that travel between the layers: facts of an item, annotations, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vidloc.core.timeline import Span

Kind = Literal["clip", "audio", "objects", "text"]
Status = Literal["done", "partial", "absent", "failed"]
HeadTask = Literal["detection", "grounding", "event", "crossmodal", "recognition", "embedding"]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no infinities. Records may come from another lab's files."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(Record):
    """Where an idea, a piece of code or a set of weights comes from.

    Attributes:
        paper: citation of the paper that defines it.
        code: address of the reference code it was compared with, empty where none is public.
        commit: commit of that code.
        licence: licence of the code or weights, as published.
        differs: where ours departs from it, and why; empty if nowhere known.
    """

    paper: str = ""
    code: str = ""
    commit: str = ""
    licence: str = ""
    differs: str = ""


class ItemInfo(Record):
    """Facts of one item's source, stored once per item. Times are seconds; `None` means not known or no such track.

    Attributes:
        item_id: the corpus's own id.
        duration_s: end of the last frame (of the sound, where there is no picture), from the first frame.
        origin_s: presentation time of the first frame in the file; second 0 of every row is this moment.
        fps_nominal: frame rate the header states, as "num/den".
        fps_measured: frames per second found by decoding.
        num_frames: frames decoded.
        variable_rate: whether gaps between frames differ by more than a tenth of their median.
        rotation_deg: display rotation that was applied, counter-clockwise.
        width_px, height_px: picture size after rotation.
        sample_rate_hz: native rate of the sound track.
        source_name, source_bytes, source_sha256: file name, size, and sha256 of its first and last MiB; of a folder of
            pictures, what `vidloc.extract.facts.SourceMark` says.
        imported: of streams that were imported, sha256 by name of the files that the rows were read from.
    """

    item_id: str = Field(min_length=1, max_length=1024)
    duration_s: float | None = Field(None, ge=0)
    origin_s: float | None = None
    fps_nominal: str | None = None
    fps_measured: float | None = Field(None, ge=0)
    num_frames: int | None = Field(None, ge=0)
    variable_rate: bool | None = None
    rotation_deg: int | None = None
    width_px: int | None = Field(None, ge=0)
    height_px: int | None = Field(None, ge=0)
    sample_rate_hz: int | None = Field(None, ge=0)
    source_name: str | None = None
    source_bytes: int | None = Field(None, ge=0)
    source_sha256: str | None = None
    imported: Mapping[str, Mapping[str, str]] | None = None


class Segment(Record):
    """A span with class labels, as an annotation states it.

    Attributes:
        labels: class index by task, such as `{"verb": 2, "noun": 8}`; empty where the labels are withheld.
        id: the annotation's own id (EPIC: narration_id).
        group: what a metric needs to know of it beyond its class (EPIC: the participant).
    """

    item_id: str
    span: Span
    labels: Mapping[str, int] = Field(default_factory=dict)
    id: str = ""
    group: str = ""


class Point(Record):
    """One time with class labels: a single frame that an annotator marked while watching.

    Attributes:
        time_s: seconds from the first video frame.
        labels: class index by task, such as `{"label": 3}`.
    """

    item_id: str
    time_s: float = Field(ge=0)
    labels: Mapping[str, int]


class Narration(Record):
    """A sentence said of a span of an item; `id` is the annotation it belongs to."""

    item_id: str
    span: Span
    text: str
    id: str


class Prediction(Record):
    """What a head says of a span; one line of predictions.jsonl.

    Attributes:
        score: confidence; higher is surer.
        label: class by name, where the task has one label.
        query_id: the annotation or query that is answered.
        scores: one number per class by task (logits), for top-k, action priors and submissions.
        time_s: the one time that stands for the span, where single frames are predicted.
        direction: what was looked for where, in matching: `a2v` is a sound among pictures, `v2a` the reverse.
    """

    item_id: str
    span: Span
    score: float
    label: str | None = None
    query_id: str | None = None
    scores: Mapping[str, tuple[float, ...]] | None = None
    time_s: float | None = None
    direction: Literal["a2v", "v2a"] | None = None
