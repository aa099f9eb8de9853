"""PSP: the class of every second of a clip, where sound and picture take over what they share and nothing else.

Zhou, Zheng, Zhong, Hao, Wang, "Positive Sample Propagation along the Audio-Visual Event Line", CVPR 2021; compared with
the authors' code (jasongief/PSP_CVPR_2021, commit ddd20f3b). Two linear layers of each stream, guided attention and a
BiLSTM for each as in `avel`, then, with rows a and v of width d of a clip of T, and each of v1, v2, a1, a2 a linear
layer, ReLU and dropout of its own modality:

    links         beta = ReLU(v2 a1^T / sqrt(d)),  T x T
    positive      each row of beta divided by its sum; entries <= tau set to 0; divided by its sum once more: gamma_va.
                  gamma_av is the same of beta^T
    propagation   v' = norm(ReLU(W_v (v + gamma_va a2))),   a' = norm(ReLU(W_a (a + gamma_av v1))), one norm for both
    scores        L2 ReLU(L1 (v' + a') / 2)
    loss          cross-entropy of every row's class + lambda times the mean square of s - y, where s_t is the positive
                  part of cos(v'_t, a'_t) divided by its sum over the clip, and y_t 1/n on the n rows of the event

With `supervision=weak`, for `--dataset ave --protocol weak`, there are neither layers before attention and after
propagation nor the second division; a row's scores are multiplied by sigmoid(ReLU(w . scores)) and averaged over time,
and their softmax is compared with the class of the clip. The authors compare it with the shares of the ten seconds
that event and background have, which tells how long an event lasts: `clip_label=shares` does so, learns from
`--protocol event`, and is to be reported apart from heads that see classes alone.

The authors choose the epoch by the test split; here it is the last unless `--select best` names a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vidloc.core.lanes import Lane
from vidloc.core.records import Prediction, Source
from vidloc.errors import OptionError
from vidloc.heads.audio_visual import (
    AUDIO,
    VISUAL,
    ClipHead,
    ClipTargets,
    GuidedAttention,
    GuidedBy,
    MaskedBiLSTM,
    PairedRows,
    class_lanes,
    clip_targets,
    event_classes,
    linear_layers,
    named_rows,
    paired_rows,
    row_loss,
    row_targets,
    xavier,
)
from vidloc.heads.avel import EventOptions, Supervision
from vidloc.heads.base import UNLABELLED, Batch, Kept, Share, numbers
from vidloc.heads.layers import masked_mean
from vidloc.heads.training import FitData

_HIDDEN = 128
_CLIP_ROWS = 10  # tau is a share of the links of a row, of which AVE's clips have ten
_TAU = {"full": 0.099, "weak": 0.095}
_LEAST_SUM = 1e-8


class PspOptions(EventOptions):
    """Options of PSP."""

    batch: int = Field(128, ge=1, description="Samples per step.")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (0.2, 0.4), description="Shares of all epochs after which the learning rate drops, such as 0.6,0.85."
    )
    lr_factor: float = Field(0.8, gt=0, le=1, description="What a drop multiplies the learning rate by.")
    attention: GuidedBy = Field("released", description="How the sound guides attention: as in the released code of "
        "Tian et al., or by their paper.")  # fmt: skip
    supervision: Supervision = Field(
        "full", description="Learn from the class of every second, or from that of the clip alone."
    )
    clip_label: Literal["class", "shares"] = Field(
        "class", description="What a clip is compared with (weak): its class, or the shares of event and background."
    )
    propagation: bool = Field(default=True, description="Propagate at all; without, the ablation of the paper.")
    tau: float | None = Field(
        None, ge=0, le=1, description="Links up to this share of a row's are cut, in clips of 10 rows; in others it is "
        "10 / rows times as much. none: 0.099, and 0.095 when weak.",
    )  # fmt: skip
    pair_weight: float = Field(
        100.0, ge=0, description="Lambda: weight of the likeness of sound and picture beside the classes (full)."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of what is propagated.")


class Propagation(nn.Module):
    """What each modality takes over from rows of the other that it is positively linked with.

    Args:
        width: of the rows of both.
        tau: share of a row's links up to which they are cut, in clips of ten rows.
        weak: leave out the layers after propagation and the second division.
        dropout: of branches and outputs.
    """

    def __init__(self, width: int, *, tau: float, weak: bool, dropout: float) -> None:
        super().__init__()
        self.tau, self.weak = tau, weak
        self.v1, self.v2, self.a1, self.a2 = (nn.Linear(width, width, bias=False) for _ in range(4))
        if not weak:
            self.visual_out, self.audio_out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        xavier(*linear_layers(self))

    def forward(self, audio: Tensor, visual: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, time, width)` of sound and of pictures, from the same and `(batch, time)` bool, the real rows."""
        v1, v2 = self._branch(self.v1, visual), self._branch(self.v2, visual)
        a1, a2 = self._branch(self.a1, audio), self._branch(self.a2, audio)
        links = torch.relu(v2 @ a1.transpose(1, 2) / v2.shape[-1] ** 0.5)
        links = links * (mask.unsqueeze(1) & mask.unsqueeze(2))
        tau = self.tau * _CLIP_ROWS / mask.sum(dim=1).view(-1, 1, 1)
        pictures = visual + self._positive(links, tau) @ a2
        sounds = audio + self._positive(links.transpose(1, 2), tau) @ v1
        if not self.weak:
            pictures, sounds = self._branch(self.visual_out, pictures), self._branch(self.audio_out, sounds)
        return self.norm(sounds), self.norm(pictures)

    def _branch(self, layer: nn.Module, rows: Tensor) -> Tensor:
        return self.dropout(torch.relu(layer(rows)))  # type: ignore[no-any-return]

    def _positive(self, links: Tensor, tau: Tensor) -> Tensor:
        shares = positive_links(links, tau)
        return shares if self.weak else shares / (shares.sum(dim=-1, keepdim=True) + _LEAST_SUM)


class Psp(ClipHead):
    """Guided attention, two BiLSTMs, propagation between them, and their mean."""

    task = "event"
    Options = PspOptions
    source = Source(
        paper="Zhou et al., Positive Sample Propagation along the Audio-Visual Event Line, CVPR 2021",
        code="https://github.com/jasongief/PSP_CVPR_2021",
        commit="ddd20f3b",
        differs="Weak training sees the class of a clip unless clip_label=shares; the epoch is not chosen by the test "
        "split; clips need not have ten rows. Layers of the release that nothing uses are left out.",
    )

    options: PspOptions

    def __init__(self, options: PspOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.label_task, self.events = event_classes("psp", labels)
        if options.clip_label == "shares" and options.supervision == "full":
            raise OptionError("--clip-label is of --supervision weak; full supervision learns the class of every row.")
        self.weak = options.supervision == "weak"
        heard = dims[AUDIO] if self.weak else _HIDDEN
        self.to_audio = nn.Identity() if self.weak else _two_layers(dims[AUDIO])
        self.to_visual = nn.Linear(dims[VISUAL], _HIDDEN) if self.weak else _two_layers(dims[VISUAL])
        self.attention = GuidedAttention(heard, dims[VISUAL], positions=options.positions, guided_by=options.attention)
        self.lstm_audio, self.lstm_video = MaskedBiLSTM(heard, _HIDDEN), MaskedBiLSTM(_HIDDEN, _HIDDEN)
        width = 2 * _HIDDEN
        if options.propagation:
            tau = _TAU[options.supervision] if options.tau is None else options.tau
            self.propagation = Propagation(width, tau=tau, weak=self.weak, dropout=options.dropout)
        self.L1, self.L2 = nn.Linear(width, 64, bias=False), nn.Linear(64, len(self.events) + 1, bias=False)
        if self.weak:
            self.weighting = nn.Linear(len(self.events) + 1, 1, bias=False)
        xavier(self.L1, self.L2, *linear_layers(self.attention))

    def prepare(self, data: FitData) -> None:
        """Refuse to learn shares from spans that do not tell them.

        Raises:
            OptionError: `clip_label=shares`, and all training spans are the same.
        """
        spans = {sample.span for sample in data.train.samples}
        if self.options.clip_label == "shares" and len(spans) == 1:
            raise OptionError(
                f"all training events span {next(iter(spans)).start_s:g} to {next(iter(spans)).end_s:g} s, so that "
                "shares say no more than classes. Learn them from --protocol event, or leave out --clip-label."
            )

    def outputs(self, pair: PairedRows) -> tuple[Tensor, Tensor, Tensor]:
        """`(batch, time, classes + 1)` scores, the last of background, and `(batch, time, 256)` sounds and pictures."""
        audio = self.to_audio(pair.audio)
        seen = self.to_visual(self.attention(audio, pair.visual))
        sounds, pictures = self.lstm_audio.over(audio, pair.mask), self.lstm_video.over(seen, pair.mask)
        if self.options.propagation:
            sounds, pictures = self.propagation(sounds, pictures, pair.mask)
        scores = self.L2(torch.relu(self.L1((sounds + pictures) / 2)))
        if self.weak:
            scores = scores * torch.sigmoid(torch.relu(self.weighting(scores)))
        return scores, sounds, pictures

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of the rows' classes and of how alike sound and picture are, or of the clip's class."""
        pair = paired_rows(batch, positions=self.options.positions)
        scores, sounds, pictures = self.outputs(pair)
        targets = clip_targets(batch, pair, self.label_task, len(self.events))
        if self.weak:
            return {"total": clip_loss(scores, self._clip_labels(batch, targets), pair.mask)}
        wanted = row_targets(pair.inside(batch.samples), batch.labels[self.label_task], len(self.events))
        named, alike = row_loss(scores, wanted, pair.mask), pair_loss(sounds, pictures, targets)
        return {"total": named + self.options.pair_weight * alike, "class": named, "pair": alike}

    def predict(self, batch: Batch) -> list[Prediction]:
        """The best class of every row, with its probability."""
        pair = paired_rows(batch, positions=self.options.positions)
        surest, classes = torch.softmax(self.outputs(pair)[0].double(), dim=-1).max(dim=-1)
        return named_rows(batch, pair, classes, surest, self.events)

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """The probability of each class and of background over the clip."""
        pair = paired_rows(batch, positions=self.options.positions)
        return class_lanes(pair, self.outputs(pair)[0], self.events)

    def _clip_labels(self, batch: Batch, targets: ClipTargets) -> Tensor:
        """`(batch, classes + 1)` what each clip is compared with; 0 throughout where its class is withheld."""
        labels, background = batch.labels[self.label_task], len(self.events)
        known = (labels != UNLABELLED).unsqueeze(1)
        if self.options.clip_label == "class":
            return F.one_hot(labels.clamp(min=0), background + 1) * known.float()
        rows = torch.where(targets.event, labels.unsqueeze(1), background)
        return masked_mean(F.one_hot(rows, background + 1).float(), targets.mask) * known


HEAD = Psp


def positive_links(links: Tensor, tau: Tensor) -> Tensor:
    """`(batch, time, time)` shares that links have of the sum of their row, 0 where not above tau.

    Args:
        links: `(batch, time, time)`, none negative.
        tau: `(batch, 1, 1)`.
    """
    shares = links / (links.sum(dim=-1, keepdim=True) + _LEAST_SUM)
    return torch.where(shares > tau, shares, 0)


def pair_loss(sounds: Tensor, pictures: Tensor, targets: ClipTargets) -> Tensor:
    """Mean square of what the likeness of sound and picture, as shares of the clip, departs from the event's rows.

    Args:
        sounds, pictures: `(batch, time, width)`.
    """
    alike = torch.relu(F.cosine_similarity(sounds, pictures, dim=-1)) * targets.mask
    alike = alike / (alike.sum(dim=1, keepdim=True) + _LEAST_SUM)
    wanted = targets.event / targets.event.sum(dim=1, keepdim=True).clamp(min=1)
    return ((alike - wanted).square() * targets.mask).sum() / targets.mask.sum().clamp(min=1)


def clip_loss(scores: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy, over all classes, of the softmax of scores averaged over time; 0 where no clip is known.

    Args:
        scores: `(batch, time, classes)`.
        wanted: `(batch, classes)` shares that sum to 1, or 0 throughout where nothing is known.
        mask: `(batch, time)` bool, the real rows.
    """
    known = wanted.sum(dim=1) > 0
    probabilities = torch.softmax(masked_mean(scores, mask), dim=-1)
    losses = F.binary_cross_entropy(probabilities, wanted, reduction="none").mean(dim=1)
    return (losses * known).sum() / known.sum().clamp(min=1)


def _two_layers(inputs: int) -> nn.Sequential:
    """Two linear layers with nothing between them, as in the release."""
    return nn.Sequential(nn.Linear(inputs, 2 * _HIDDEN, bias=False), nn.Linear(2 * _HIDDEN, _HIDDEN, bias=False))
