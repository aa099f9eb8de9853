"""LFB: verb and noun of a segment from a clip of it and a long-term feature bank, the rows far around it.

Wu, Feichtenhofer, Fan, He, Kraehenbuehl, Girshick, "Long-Term Feature Banks for Detailed Video Understanding", CVPR
2019 (arXiv 1812.05038), and the authors' code (commit 941b7130). Two models side by side, for verb and for noun, each
with a clip S and the rows L of a window around it (`bank_window`):

    logits = W drop([S, FBO(S, L)]) + b,   FBO one of nl, avg, max (`bank_operators`), or none

The verb's bank are clips, one a second; the noun's the most confident regions of one frame a second. A bank may come
from another stream than the clips, and of another network: it is computed once over whole videos. That network must not
have seen the videos evaluated on. `bank=short` is the paper's control (STO), the same operator on the clip's own row.

In training the clip is taken at a frame drawn anew from the segment, in testing at its middle; of the rows in the
segment S is the nearest one. Windows are in seconds. Where a bank has more rows per second than `bank_rate_hz` it is
thinned, where it has fewer that is refused. The two models share nothing: each has its rate, decay and schedule, and
the verb's weights rest from `verb_until` on. The paper's momentum, rescaled where the rate drops, is torch's as it is.

Actions are ranked by both models' probabilities, with a prior by `vidloc evaluate --prior`: the paper speaks of
`joint`, its code computes `noun_given_verb`. That ranks pairs of the 100 best nouns, where the authors ranked all.

Where it differs: the networks are frozen, so that S is a stored row; segments are drawn without replacement from one
pass to the next. By the paper Max is best on EPIC-KITCHENS, NL on its other corpora.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from vidloc.core.lanes import Curves, Lane
from vidloc.core.records import Prediction, Source
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.bank_operators import NonLocalOperator, average, maximum, normal_linear
from vidloc.heads.bank_window import CLOCK_HZ, BankWindow, WindowRows, nearest_row, segment_frames
from vidloc.heads.base import Batch, Head, Kept, SegmentOptions, Share, StreamNeed, numbers
from vidloc.heads.layers import label_losses
from vidloc.heads.recognition import check_verb_noun, recognised
from vidloc.heads.sampling import RowsAround, Sampling, SegmentRows
from vidloc.heads.training import FitData

_TASKS = ("verb", "noun")
_BANKS = {task: f"{task}_bank" for task in _TASKS}
_SPARSER = 1.25  # how much farther apart than the rate says rows may be; thinned ones are less so, in a quarter of gaps


class LFBOptions(SegmentOptions):
    """Options of LFB; defaults of the authors' configuration for EPIC-KITCHENS."""

    fbo: Literal["nl", "avg", "max", "none"] = Field(
        "nl", description="Feature bank operator: attention, mean, maximum, or none, the clip alone."
    )
    bank: Literal["long", "short"] = Field(
        "long", description="What it reads: the rows around the clip, or the clip's own row (STO, the control)."
    )
    mode: Literal["batch", "causal"] = Field("batch", description="Windows that look both ways, or only back.")
    noun_bank: Literal["objects", "clips"] = Field("objects", description="What the noun's bank holds.")
    verb_window_s: float = Field(40.0, gt=0, description="Window of the verb's bank, in seconds.")
    noun_window_s: float = Field(12.0, gt=0, description="Window of the noun's bank, in seconds.")
    bank_rate_hz: float = Field(
        1.0, gt=0, description="Rows per second of a bank; denser streams are thinned, sparser ones refused."
    )
    max_per_frame: int = Field(10, ge=1, description="Most confident regions kept of each frame of a bank.")
    mask_padding: bool = Field(
        default=False, description="Leave out what a window lacks; in the release it counts as zeros."
    )
    nl_layers: int = Field(2, ge=1, description="Blocks of the operator nl; the paper has 1 to 3.")
    latent: int = Field(512, ge=1, description="Width that clip and bank are reduced to (nl).")
    ln_affine: bool = Field(default=False, description="Scale and shift after the norm of a block, as ports have (nl).")
    pre_act: bool = Field(
        default=True, description="Norm and ReLU before a block's last layer; else norm after it, ReLU after the sum."
    )
    fbo_dropout: float = Field(0.2, ge=0, lt=1, description="Dropout on both inputs and the output of blocks (nl).")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout before the classifiers.")
    centers: Literal["drawn", "middle"] = Field(
        "drawn", description="Where a training clip lies: at a frame drawn from the segment, or at its middle."
    )
    batch: int = Field(16, ge=1, description="Samples per step.")
    epochs: int = Field(50, ge=1, description="Epochs, of --steps steps each.")
    steps: int = Field(1000, ge=1, description="Steps of an epoch.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of the verb's model at the start.")
    noun_lr: float = Field(3e-4, gt=0, description="Learning rate of the noun's model at the start.")
    weight_decay: float = Field(1e-6, ge=0, description="L2 penalty on the weights of the verb's model.")
    noun_weight_decay: float = Field(1e-5, ge=0, description="L2 penalty on the weights of the noun's model.")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (0.56, 0.64), description="Shares of all epochs after which the verb's learning rate drops (28 and 32 of 50)."
    )
    noun_lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (0.8, 0.9), description="Shares of all epochs after which the noun's learning rate drops."
    )
    verb_until: float = Field(
        0.72,
        gt=0,
        le=1,
        description="Share of all epochs after which the verb's model is no longer trained (36 of 50).",
    )


@dataclass(frozen=True, eq=False)
class BankAttention:
    """Where in time a model looked for one sample: the weights of its last block.

    Attributes:
        center_s: the clip's time, in seconds.
        spans: `(rows, 2)` float64 seconds, window of each row of the bank by rising time; regions of a frame share one.
        weights: `(rows,)` float32, with `padding` 1 in sum.
        padding: weight of what the window lacked; 0 with `mask_padding`.
    """

    center_s: float
    spans: Tensor
    weights: Tensor
    padding: float


class TaskModel(nn.Module):
    """The model of one task.

    Args:
        short, long: widths of the clip's row and of the bank's rows.
    """

    def __init__(self, options: LFBOptions, *, short: int, long: int, num_classes: int) -> None:
        super().__init__()
        self.fbo = options.fbo
        width = {"nl": options.latent, "avg": long, "max": long, "none": 0}[options.fbo]
        if options.fbo == "nl":
            self.operator = NonLocalOperator(
                short,
                long,
                width=options.latent,
                num_blocks=options.nl_layers,
                dropout=options.fbo_dropout,
                ln_affine=options.ln_affine,
                pre_act=options.pre_act,
            )
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = normal_linear(short + width, num_classes)

    def forward(self, short: Tensor, bank: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits `(batch, classes)`, and the attention `(batch, rows)` of the last block where there are blocks.

        Args:
            short: `(batch, short)`.
            bank: `(batch, rows, long)`; not looked at without an operator.
            mask: `(batch, rows)` true for rows; `None` where padding counts.
        """
        if self.fbo == "none":
            return self.classifier(self.dropout(short)), None
        if self.fbo == "nl":
            found, weights = self.operator(short, bank, mask)
        else:
            found, weights = (average if self.fbo == "avg" else maximum)(bank, mask), None
        return self.classifier(self.dropout(torch.cat([short, found], dim=1))), weights


class LFB(Head):
    """Two models, of verb and of noun, each with its own clip and bank."""

    task = "recognition"
    unit = "segment"
    needs: ClassVar[Mapping[str, StreamNeed]] = {
        "verb": StreamNeed(("clip",)),
        "noun": StreamNeed(("clip",)),
        "verb_bank": StreamNeed(("clip",)),
        "noun_bank": StreamNeed(("objects",), fields=()),
    }
    Options = LFBOptions
    source = Source(
        paper="Wu et al., Long-Term Feature Banks for Detailed Video Understanding, CVPR 2019, arXiv 1812.05038",
        code="https://github.com/facebookresearch/video-long-term-feature-banks",
        commit="941b71303ca6a60ea6561eb883a77fa1733bb615",
        licence="Apache-2.0",
        differs="Frozen networks: the clip is a stored row. Segments are drawn without replacement. Causal windows, "
        "masked padding and the control on the clip's own row are not in the release.",
    )

    options: LFBOptions

    def __init__(self, options: LFBOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        check_verb_noun("lfb", labels)
        self.models = nn.ModuleDict(
            {
                task: TaskModel(
                    options, short=dims[task], long=dims.get(_BANKS[task], dims[task]), num_classes=len(labels[task])
                )
                for task in _TASKS
            }
        )

    @classmethod
    def needs_for(cls, options: LFBOptions) -> Mapping[str, StreamNeed]:
        """Without banks where none is read; the noun's holds what the options say."""
        needs = {task: cls.needs[task] for task in _TASKS}
        if options.fbo == "none" or options.bank == "short":
            return needs
        return {
            **needs,
            "verb_bank": cls.needs["verb_bank"],
            "noun_bank": cls.needs["noun_bank"] if options.noun_bank == "objects" else StreamNeed(("clip",)),
        }

    @classmethod
    def sampling(cls, options: LFBOptions) -> Mapping[str, Sampling]:
        """Clips of the segment; of the banks whatever a window around a moment of it can hold."""
        found: dict[str, Sampling] = {}
        for role in cls.needs_for(options):
            if role in _TASKS:
                found[role] = SegmentRows(options.rows)
                continue
            window = bank_window(options, role)
            before, after = (window.seconds, 0.0) if window.causal else (window.seconds / 2, window.seconds / 2)
            found[role] = RowsAround(before, after, window.rate_hz, window.top or 1)
        return found

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Each model with its own rate, decay and schedule; scale and shift of norms without decay."""
        options, groups = self.options, []
        schedules: Mapping[str, Mapping[str, Any]] = {
            "verb": {"lr": options.lr, "lr_drops": options.lr_drops, "lr_until": options.verb_until},
            "noun": {"lr": options.noun_lr, "lr_drops": options.noun_lr_drops},
        }
        decays = {"verb": options.weight_decay, "noun": options.noun_weight_decay}
        for task, schedule in schedules.items():
            named = list(self.models[task].named_parameters())
            norms = [p for name, p in named if ".norm." in name]
            groups.append(
                {"params": [p for name, p in named if ".norm." not in name], "weight_decay": decays[task], **schedule}
            )
            groups += [{"params": norms, "weight_decay": 0.0, **schedule}] if norms else []
        return groups

    def epoch_batches(self, bank: Bank, epoch: int) -> Iterator[Batch]:
        """`steps` batches, of as many passes over the samples as that takes."""
        options = self.options
        passes = (bank.batches(options.batch, seed=(options.seed, epoch, k)) for k in count())
        return islice(chain.from_iterable(passes), options.steps)

    def prepare(self, data: FitData) -> None:
        """Refuse banks with fewer rows per second than their windows count on, and say which windows are empty.

        Raises:
            OptionError: a bank's rows are too far apart; the option that fits is named.
        """
        empty = dict.fromkeys(_banks_of(self.options), 0)
        gaps: dict[str, list[Tensor]] = {role: [] for role in empty}
        for batch in data.train.batches(self.options.batch) if empty else ():
            centers = self._middles(batch)
            for role in empty:
                rows = batch.rows[role]
                times = rows.spans.mean(dim=-1)
                steps = (times[:, 1:] - times[:, :-1])[rows.mask[:, 1:]]
                gaps[role].append(steps[steps > 0].cpu())  # regions of one frame are at one time
                found = bank_window(self.options, role).rows_in(rows, centers)
                empty[role] += int((~found.mask.any(dim=1)).sum())
        for role, steps_of in gaps.items():
            self._require_dense(role, torch.cat(steps_of))
            if empty[role]:
                data.notice(
                    f"role {role}: {empty[role]} of {len(data.train)} training samples have no row in the window "
                    "around them; theirs is all zeros."
                )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of verb plus that of noun; the models share no weights, so neither touches the other's."""
        outputs = self._outputs(batch, self._moments(batch))
        losses = label_losses({task: logits for task, (logits, _, _) in outputs.items()}, batch.labels)
        return {"total": losses["verb"] + losses["noun"], **losses}

    def predict(self, batch: Batch) -> list[Prediction]:
        """Logits of both tasks for each segment, by the clip at its middle."""
        outputs = self._outputs(batch, self._middles(batch))
        return recognised(batch, {task: logits for task, (logits, _, _) in outputs.items()})

    @torch.no_grad()
    def attention(self, batch: Batch) -> dict[str, list[BankAttention]]:
        """Where in time each task's last block looks, for each sample by the clip at its middle; call it after `eval`.

        Raises:
            OptionError: an operator without attention.
        """
        if self.options.fbo != "nl":
            raise OptionError(f"lfb with --fbo {self.options.fbo} has no attention; only the operator nl has.")
        centers = self._middles(batch)
        times = (centers.double() / CLOCK_HZ).tolist()
        found: dict[str, list[BankAttention]] = {}
        for task, (_, weights, rows) in self._outputs(batch, centers).items():
            if weights is None:
                continue
            own = zip(times, weights.cpu(), rows.mask.cpu(), rows.spans.cpu(), strict=True)
            found[task] = [
                BankAttention(time_s, spans[mask], row[mask], float(row[~mask].sum()))
                for time_s, row, mask, spans in own
            ]
        return found

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """Where in time each task's last block looks, of the operator `nl`; regions of one frame are added up."""
        del kept
        if self.options.fbo != "nl":
            return [()] * len(batch)
        found = self.attention(batch)
        return [tuple(_attention_lane(task, own[k]) for task, own in found.items()) for k in range(len(batch))]

    def _outputs(self, batch: Batch, centers: Tensor) -> dict[str, tuple[Tensor, Tensor | None, WindowRows]]:
        """Logits, attention and rows of the bank, by task.

        Args:
            centers: `(batch,)` int64 frames at which the clips lie.
        """
        found = {}
        for task in _TASKS:
            short = nearest_row(batch.rows[task], centers)
            role = _BANKS[task]
            rows = bank_window(self.options, role).rows_in(batch.rows[role], centers) if role in batch.rows else short
            mask = rows.mask if self.options.mask_padding else None
            logits, weights = self.models[task](short.features[:, 0], rows.features, mask)
            found[task] = (logits, weights, rows)
        return found

    def _moments(self, batch: Batch) -> Tensor:
        """`(batch,)` frames at which the clips lie: in training drawn from the segments, both ends included."""
        if not self.training or self.options.centers == "middle":
            return self._middles(batch)
        ends = segment_frames([sample.span for sample in batch.samples])
        lengths = ends[:, 1] - ends[:, 0] + 1
        return (ends[:, 0] + (torch.rand(len(ends), dtype=torch.float64) * lengths).floor().long()).to(self.device)

    def _middles(self, batch: Batch) -> Tensor:
        """`(batch,)` frames in the middle of the segments."""
        ends = segment_frames([sample.span for sample in batch.samples])
        return (ends.sum(dim=1) // 2).to(self.device)

    def _require_dense(self, role: str, gaps: Tensor) -> None:
        rate = self.options.bank_rate_hz
        apart = float(np.quantile(gaps.numpy(), 0.25)) if len(gaps) else 0.0
        if apart * rate > _SPARSER:
            raise OptionError(
                f"the rows of role {role} are {apart:.4g} s apart, and its window counts on {rate:g} per second. Give "
                f"--bank-rate-hz {1 / apart:.4g}, so that the window holds as many rows as there are."
            )


HEAD = LFB


def bank_window(options: LFBOptions, role: str) -> BankWindow:
    """The window of a bank by its role, `verb_bank` or `noun_bank`."""
    regions = role == _BANKS["noun"] and options.noun_bank == "objects"
    return BankWindow(
        seconds=options.verb_window_s if role == _BANKS["verb"] else options.noun_window_s,
        rate_hz=options.bank_rate_hz,
        top=options.max_per_frame if regions else 0,
        causal=options.mode == "causal",
    )


def _attention_lane(task: str, attention: BankAttention) -> Curves:
    times, frames = np.unique(attention.spans.double().mean(dim=1).numpy(), return_inverse=True)
    weights = np.bincount(frames, attention.weights.double().numpy(), minlength=len(times)).astype(np.float64)
    return Curves(f"attention to the {task} bank", times, {"attention": weights})


def _banks_of(options: LFBOptions) -> tuple[str, ...]:
    """Roles of the banks that these options read."""
    return tuple(role for role in _BANKS.values() if role in LFB.needs_for(options))
