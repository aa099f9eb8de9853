"""SAPNet: symbiotic attention with privileged information for verb and noun of a segment.

Wang, Wu, Zhu, Yang, "Symbiotic Attention with Privileged Information for Egocentric Action Recognition", AAAI 2020
(arXiv 2002.03137); equations as in the authors' extension, "Symbiotic Attention for Egocentric Action Recognition with
Object-centric Alignment", TPAMI 2020. No code was published.

One branch, written for the noun (the verb branch exchanges both and has its own weights), with clip features f_n, f_v
and K detected regions O_i, all sampled frames together:

    object-centric features   X_i  = ReLU(A_g f_n + A_o O_i + b_a)
    cross-stream gating       Xc_i = sigmoid(W_g f_v + b_g) * X_i
    action-attended relation  a    = softmax_i((W_q f_v) . (W_k Xc_i)),   f_a = sum_i a_i Xc_i
    classifier                W_c f_a + b_c

The gate has the width of its own branch's clip feature, (C_n x C_v), so that both streams may differ in width. A sample
without any detection is given one region of zeros. Names of the ablations are those of the paper's table.

Where it differs: the branch networks are frozen, and the local alignment of the extension (SAOA: RoIAlign on the verb
network's feature map) is left out, as it needs stored feature maps. Attention width (a quarter of the clip width),
dropout, training schedule and the `self` relation are not fixed by the papers and are chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vidloc.core.records import Prediction, Source
from vidloc.errors import OptionError
from vidloc.heads.base import Batch, Head, SegmentOptions, StreamNeed
from vidloc.heads.layers import (
    Standardize,
    label_losses,
    masked_max,
    masked_mean,
    masked_softmax,
    packed_mean,
    with_one_slot,
)
from vidloc.heads.recognition import check_verb_noun, recognised
from vidloc.heads.sampling import FramesAround, Pool, Sampling, SegmentRows
from vidloc.heads.training import FitData

Variant = Literal[
    "full", "cnn_baseline", "noun_plus_verb", "avg_pooling", "max_pooling", "no_csg_arm", "no_gating",
    "no_cross_stream", "no_csg", "no_arm",
]  # fmt: skip
_OBJECTS_ONLY = ("avg_pooling", "max_pooling")
_CLIPS_ONLY = ("cnn_baseline", "noun_plus_verb")
_GATED = ("full", "noun_plus_verb", "no_cross_stream", "no_arm")
_ATTENDED = ("full", "no_gating", "no_cross_stream", "no_csg")


class SAPNetOptions(SegmentOptions):
    """Options of SAPNet."""

    variant: Variant = Field("full", description="The whole model, or an ablation of the paper's table.")
    relation: Literal["none", "self"] = Field("none", description="Relations among the objects before attention.")
    attention_width: int = Field(0, ge=0, description="Width of query and key; 0 = a quarter of the clip feature's.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout before the classifiers.")
    pool: Pool = Field("mean", description="How the rows of a segment become one clip feature.")
    standardize: bool = Field(
        default=False, description="Standardise every input by the training rows (not in the paper)."
    )
    object_window_s: float = Field(6.0, gt=0, description="Window around the segment's centre to take frames from.")
    object_rate_hz: float = Field(2.0, gt=0, description="Frames per second in that window.")
    objects_per_frame: int = Field(5, ge=1, description="Most confident detections kept of each frame.")


@dataclass(frozen=True, eq=False)
class BranchOutput:
    """What one branch computes.

    Attributes:
        logits: `(batch, classes)`.
        attended: `(batch, width)`, the vector before dropout and classifier.
        aligned: `(batch, slots, width)` X, or `None` where the variant has none.
        gated: `(batch, slots, width)` Xc, likewise.
        attention: `(batch, slots)`, likewise.
    """

    logits: Tensor
    attended: Tensor
    aligned: Tensor | None = None
    gated: Tensor | None = None
    attention: Tensor | None = None


class Branch(nn.Module):
    """Verb or noun branch; a variant has only the layers it uses.

    Args:
        own: width of this branch's clip feature.
        other: width of the other branch's.
        objects: width of a region's feature.
    """

    def __init__(self, options: SAPNetOptions, *, own: int, other: int, objects: int, num_classes: int) -> None:
        super().__init__()
        variant = options.variant
        self.variant = variant
        guide = own if variant == "no_cross_stream" else other
        width = options.attention_width or max(own // 4, 1)
        if variant not in (*_OBJECTS_ONLY, *_CLIPS_ONLY):
            self.align_clip = nn.Linear(own, own)
            self.align_object = nn.Linear(objects, own, bias=False)
        if variant in _GATED or variant == "no_gating":
            self.gate = nn.Linear(guide, own)
        self.relates = options.relation == "self" and variant in _ATTENDED
        if self.relates:
            self.relation_query = nn.Linear(own, width, bias=False)
            self.relation_key = nn.Linear(own, width, bias=False)
        if variant in _ATTENDED:
            self.query = nn.Linear(guide, width, bias=False)
            self.key = nn.Linear(own, width, bias=False)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(objects if variant in _OBJECTS_ONLY else own, num_classes)

    def forward(self, own: Tensor, other: Tensor, objects: Tensor, mask: Tensor) -> BranchOutput:
        """Scores of the classes.

        Args:
            own, other: `(batch, width)` clip features; not read by variants without them.
            objects: `(batch, slots, width)`.
            mask: `(batch, slots)` true for detections.
        """
        if self.variant in _CLIPS_ONLY:
            gate = torch.sigmoid(self.gate(other)) if self.variant == "noun_plus_verb" else 1.0
            return self._classified(gate * own)
        objects, mask = with_one_slot(objects, mask)
        if self.variant in _OBJECTS_ONLY:
            pool = masked_mean if self.variant == "avg_pooling" else masked_max
            return self._classified(pool(objects, mask))
        guide = own if self.variant == "no_cross_stream" else other
        aligned = torch.relu(self.align_clip(own).unsqueeze(1) + self.align_object(objects))
        gated = self._gated(aligned, guide)
        if self.relates:
            gated = gated + self._relations(gated, mask) @ gated
        if self.variant not in _ATTENDED:
            return self._classified(masked_mean(gated, mask), aligned, gated)
        scores = torch.einsum("bw,bkw->bk", self.query(guide), self.key(gated))
        attention = masked_softmax(scores, mask)
        return self._classified(torch.einsum("bk,bkc->bc", attention, gated), aligned, gated, attention)

    def _gated(self, aligned: Tensor, guide: Tensor) -> Tensor:
        if self.variant not in (*_GATED, "no_gating"):
            return aligned
        gate: Tensor = self.gate(guide).unsqueeze(1)
        return aligned + gate if self.variant == "no_gating" else torch.sigmoid(gate) * aligned

    def _relations(self, gated: Tensor, mask: Tensor) -> Tensor:
        query, key = self.relation_query(gated), self.relation_key(gated)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        return masked_softmax(scores, mask.unsqueeze(1).expand_as(scores))

    def _classified(
        self,
        attended: Tensor,
        aligned: Tensor | None = None,
        gated: Tensor | None = None,
        attention: Tensor | None = None,
    ) -> BranchOutput:
        return BranchOutput(self.classifier(self.dropout(attended)), attended, aligned, gated, attention)


class SAPNet(Head):
    """Two branches that attend to the same detected objects, each guided by the other."""

    task = "recognition"
    unit = "segment"
    needs: ClassVar[Mapping[str, StreamNeed]] = {
        "verb": StreamNeed(("clip",)),
        "noun": StreamNeed(("clip",)),
        "objects": StreamNeed(("objects",)),
    }
    Options = SAPNetOptions
    source = Source(
        paper="Wang et al., AAAI 2020, arXiv 2002.03137; Wang et al., TPAMI 2020",
        differs="Frozen branch networks; no local alignment (SAOA); dropout, schedule and attention width are chosen.",
    )

    options: SAPNetOptions

    def __init__(self, options: SAPNetOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        check_verb_noun("sapnet", labels)
        verb, noun, objects = (dims.get(role, 1) for role in ("verb", "noun", "objects"))
        if options.relation == "self" and options.variant not in _ATTENDED:
            raise OptionError(
                f"relation=self acts on what attention reads, and variant {options.variant!r} has no attention; "
                f"use relation=none or a variant of: {', '.join(_ATTENDED)}."
            )
        self.verb = Branch(options, own=verb, other=noun, objects=objects, num_classes=len(labels["verb"]))
        self.noun = Branch(options, own=noun, other=verb, objects=objects, num_classes=len(labels["noun"]))
        self.standard = nn.ModuleDict(
            {role: Standardize(dims[role]) for role in self.needs_for(options)} if options.standardize else {}
        )

    @classmethod
    def needs_for(cls, options: SAPNetOptions) -> Mapping[str, StreamNeed]:
        """Without clips for the pooled-object baselines, without objects for the clip baselines."""
        unused = {"objects"} if options.variant in _CLIPS_ONLY else set()
        unused |= {"verb", "noun"} if options.variant in _OBJECTS_ONLY else set()
        return {role: need for role, need in cls.needs.items() if role not in unused}

    @classmethod
    def sampling(cls, options: SAPNetOptions) -> Mapping[str, Sampling]:
        """Clip rows of the segment joined into one vector; objects of frames around its centre."""
        clips = SegmentRows(options.rows, options.pool)
        frames = FramesAround(options.object_window_s, options.object_rate_hz, options.objects_per_frame)
        return {role: frames if role == "objects" else clips for role in cls.needs_for(options)}

    def prepare(self, data: FitData) -> None:
        """Take means and deviations of the training rows."""
        for role, standard in self.standard.items():
            if isinstance(standard, Standardize):
                standard.take(*data.train.moments(role))

    def branches(self, batch: Batch) -> dict[str, BranchOutput]:
        """Both branches' outputs by task."""
        clips = {role: packed_mean(rows.packed, rows.counts) for role, rows in batch.rows.items()}
        if "objects" in batch.regions:
            objects, mask = batch.regions["objects"].features, batch.regions["objects"].mask
        else:
            objects, mask = self.verb.classifier.weight.new_zeros(len(batch), 1, 1), None
        clips = {role: self._standardized(role, clip) for role, clip in clips.items()}
        objects = self._standardized("objects", objects)
        if mask is None:
            mask = torch.zeros(objects.shape[:2], dtype=torch.bool, device=objects.device)
        verb = clips.get("verb", objects.new_zeros(len(batch), 1))
        noun = clips.get("noun", objects.new_zeros(len(batch), 1))
        return {"verb": self.verb(verb, noun, objects, mask), "noun": self.noun(noun, verb, objects, mask)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of verb plus that of noun, equal weights."""
        losses = label_losses({task: out.logits for task, out in self.branches(batch).items()}, batch.labels)
        return {"total": losses["verb"] + losses["noun"], **losses}

    def predict(self, batch: Batch) -> list[Prediction]:
        """Logits of both tasks for each segment."""
        return recognised(batch, {task: out.logits for task, out in self.branches(batch).items()})

    def _standardized(self, role: str, values: Tensor) -> Tensor:
        if role in self.standard:
            values = self.standard[role](values)
        return values


HEAD = SAPNet
