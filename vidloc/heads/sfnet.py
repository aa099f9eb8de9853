"""SF-Net: segments found by a head that saw one labelled frame of each (Ma et al., ECCV 2020, arXiv 2003.06845).

Two streams, RGB and optical flow, of equal shape: for every row a classification over the classes and background
(column 0), and one actionness from two convolutions along time. Their logits are fused by learned scales

    S = m_rgb * S_rgb + m_flow * S_flow          (one scale for each output, from 1)
    A = w_rgb * A_rgb + w_flow * A_flow          (one scale each, from 0)

and for the three outputs the losses of `single_frame_losses` are added: labelled frames with mined background, the
video as a whole, actionness. After `expand_at` of all epochs labels are grown beside the labelled rows
(`single_frame_mining`) and training starts anew from them. A class of an item is kept by its best rows; its runs of
rows whose class score plus `actionness_weight` times the actionness lie above their mean become segments.

Code and paper differ in places. The defaults take what is sound of either, `--as-released` takes the code (commit
a82bc04b) as it is, and each place has a switch of its own. What the paper counts in rows (`radius`, `crop`,
`crop_even`, `min_rows`) it counts at its own stride; at another one these numbers are converted, which is said, or
refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from vidloc.core.lanes import Bars, Curves, Lane, class_curves
from vidloc.core.records import Prediction, Source
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.base import Batch, Head, HeadOptions, Kept, Sample, Share, StreamNeed, numbers
from vidloc.heads.layers import only_task
from vidloc.heads.row_counts import RowCounts, Way, conversion, converted
from vidloc.heads.single_frame_clips import Clips, drawn_clips
from vidloc.heads.single_frame_labels import (
    Counts,
    Supervision,
    item_random,
    label_bars,
    label_table,
    point_counts,
    row_borders,
    row_stride,
    segment_counts,
    simulated_counts,
)
from vidloc.heads.single_frame_losses import Negatives, actionness_loss, frame_loss, top_means, video_loss
from vidloc.heads.single_frame_mining import Rule, grown
from vidloc.heads.training import (
    Checkpoint,
    FitData,
    Recorder,
    after_epoch,
    finish,
    make_optimizer,
    require_selection,
    seeded,
    train_steps,
)

Variant = Literal["SF", "SFB", "SFBA", "SFBAE"]
RELEASED: Mapping[str, Any] = {
    "actionness_negatives": "last",
    "actionness_floor": 0.1,
    "actionness_log": "bounded",
    "expansion": "release",
    "mask_padding": False,
    "crop_to_end": False,
}
_LABELS = "frame_labels"  # under which the labels of the training are kept
_CLASS_POOL = 12  # at the end a class of an item scores the mean of a twelfth of its rows
_SECOND_START = 500_009  # number of the random stream for weights drawn anew, beyond any epoch's


class SFNetOptions(HeadOptions):
    """Options of SF-Net; defaults of the released settings but where the release is at fault."""

    variant: Variant = Field(
        "SFBAE", description="The whole model, or an ablation: single frames, background, actionness, expansion."
    )
    supervision: Supervision = Field(
        "points",
        description="The corpus's single frames; or made from its segments: all rows (full), one row at random, the "
        "centre, or where annotators pause.",
    )
    inputs: Literal["both", "joined", "rgb", "flow"] = Field(
        "both", description="Two streams, one stream whose first half is RGB and second half flow, or one stream alone."
    )
    label: str = Field("", description="Task whose classes are learnt; may be left out where there is only one.")
    batch: int = Field(32, ge=1, description="Items per step.")
    epochs: int = Field(8, ge=1, description="Epochs, of --steps steps each.")
    steps: int = Field(1000, ge=1, description="Steps of an epoch; each takes a batch of items drawn anew.")
    optimizer: Literal["sgd", "adam"] = Field("adam", description="Optimiser.")
    lr: float = Field(1e-4, gt=0, description="Learning rate at the start.")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (), description="Shares of all epochs after which the learning rate drops."
    )
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty on the weights, added to the gradient.")
    dropout: float = Field(0.7, ge=0, lt=1, description="Dropout before the classifier.")
    background_ratio: float = Field(7.0, ge=0, description="Background rows mined for each labelled row.")
    background_weight: Literal["outputs", "classes"] = Field(
        "outputs", description="The background's loss is divided by the classes with background (release), or without."
    )
    video_weight: float = Field(1.0, ge=0, description="Weight of the video's loss.")
    actionness_loss_weight: float = Field(1.0, ge=0, description="Weight of the actionness loss.")
    actionness_negatives: Negatives = Field(
        "hardest", description="Rows that show no action: those of highest actionness, or the last ones (release)."
    )
    actionness_floor: float = Field(
        0.0, ge=0, description="Leave the actionness loss out where it is not above this (release: 0.1)."
    )
    actionness_log: Literal["sigmoid", "bounded"] = Field(
        "sigmoid", description="log(1 - actionness), or log(1.001 - actionness) (release)."
    )
    rgb_actionness_input: Literal["rgb", "flow"] = Field(
        "rgb", description="What the RGB stream's actionness reads; flow in checkpoints from before 2022."
    )
    expand_at: Share = Field(0.25, description="Share of all epochs after which labels are grown once.")
    expansion: Rule = Field("paper", description="Which rows take over a label; see single_frame_mining.")
    expansion_score: Literal["logit", "softmax"] = Field("logit", description="Scores that expansion compares.")
    radius: int = Field(3, ge=0, description="Most rows that a label grows to either side.")
    ratio: float = Field(0.95, gt=0, description="Least score of a grown row, as a share of the labelled row's.")
    restart: bool = Field(default=True, description="Begin with fresh weights after labels have grown.")
    crop: int = Field(750, ge=1, description="Most rows of an item in odd steps and the first (GTEA, BEOID: 100).")
    crop_even: int = Field(2800, ge=1, description="Likewise in even steps (GTEA: 150, BEOID: 400).")
    crop_to_end: bool = Field(default=True, description="Crops may reach the last row; the release leaves it out.")
    mask_padding: bool = Field(
        default=True, description="Keep padding from the last row's actionness; the release does not."
    )
    paper_stride_s: float = Field(
        0.64, gt=0, description="Stride that radius, crops and --min-rows are meant for (GTEA: 1.0667, BEOID: 0.5333)."
    )
    row_counts: Way = Field("convert", description="At another stride: convert these numbers, keep them, or refuse.")
    actionness_weight: float = Field(2.0, ge=0, description="Weight of the actionness in a row's score.")
    class_divisor: float = Field(1.5, gt=0, description="Classes above the item's best one, divided by this, are kept.")
    mean_factor: float = Field(1.0, gt=0, description="Segments lie above the mean score of a class times this.")
    min_rows: int = Field(2, ge=1, description="Least rows of a segment.")
    output: Literal["segments", "frames"] = Field(
        "segments", description="Segments of at least --min-rows, or all of them, for their best frame (frame mAP)."
    )
    as_released: bool = Field(default=False, description="Every switch not given as in the released code.")

    @model_validator(mode="before")
    @classmethod
    def _released(cls, values: Any) -> Any:
        wanted = isinstance(values, Mapping) and str(values.get("as_released", "")).lower() in ("true", "yes", "1")
        return {**RELEASED, **values} if wanted else values


@dataclass(frozen=True, eq=False)
class Outputs:
    """Logits by stream and `fused`: of classes `(batch, rows, outputs)`, of actionness `(batch, rows)`."""

    classes: Mapping[str, Tensor]
    actionness: Mapping[str, Tensor]


class Convolutions(nn.Module):
    """Two convolutions along time over three rows each; see `mask_padding` for what they see beyond the last row."""

    def __init__(self, width: int, *, mask_padding: bool) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(nn.Sequential(nn.Conv1d(width, width, kernel_size=3, padding=1), nn.ReLU()) for _ in range(2))
        )
        self.mask_padding = mask_padding

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """`(batch, rows, width)` in, the same out."""
        hidden = features.transpose(1, 2)
        for layer in self.layer:
            # After the first layer a padded row holds its bias, which the second would mix into the last real row.
            hidden = layer(hidden)
            hidden = hidden * mask.unsqueeze(1) if self.mask_padding else hidden
        return hidden.transpose(1, 2)


class SFNet(Head):
    """Classification and actionness of rows in one or two streams; the names of its layers are those of the release."""

    task = "detection"
    unit = "item"
    needs: ClassVar[Mapping[str, StreamNeed]] = {
        "rgb": StreamNeed(("clip", "audio")),
        "flow": StreamNeed(("clip", "audio")),
        "joined": StreamNeed(("clip", "audio")),
    }
    Options = SFNetOptions
    source = Source(
        paper="Ma et al., SF-Net: Single-Frame Supervision for Temporal Action Localization, ECCV 2020",
        code="https://github.com/Flowerfan/SF-Net",
        commit="a82bc04bd65cc4426cfd0c7665f236b93c37a78c",
        differs="Hardest negatives of actionness, expansion as in the paper, padding masked; --as-released undoes it. "
        "No weakly supervised mode. The last epoch is kept, not the best on the test videos.",
    )

    options: SFNetOptions
    mul_r: nn.Parameter
    mul_f: nn.Parameter
    act_r: nn.Parameter
    act_f: nn.Parameter

    def __init__(self, options: SFNetOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.label_task = only_task("sfnet", options.label, labels)
        self.classes = self.labels[self.label_task]
        self.background = int(options.variant != "SF")
        self.has_actionness = options.variant in ("SFBA", "SFBAE")
        self.widths = _widths(options, dims)
        num_outputs = len(self.classes) + self.background
        for name, width in self.widths.items():
            layers = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)]
            self.add_module(f"{name}_cls_layer", nn.Sequential(*layers))
            self.add_module(f"{name}_classifier", nn.Linear(width, num_outputs))
            self.register_parameter(f"mul_{name[0]}", nn.Parameter(torch.empty(num_outputs)))
            if self.has_actionness:
                self.add_module(f"{name}_act_layer", Convolutions(width, mask_padding=options.mask_padding))
                self.add_module(f"{name}_action", nn.Linear(width, 1))
                self.register_parameter(f"act_{name[0]}", nn.Parameter(torch.empty(1)))
        self.dropout = nn.Dropout(options.dropout)
        self._initialise()

    @classmethod
    def needs_for(cls, options: SFNetOptions) -> Mapping[str, StreamNeed]:
        """The roles of the inputs chosen."""
        roles = ("rgb", "flow") if options.inputs == "both" else (options.inputs,)
        return {role: cls.needs[role] for role in roles}

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> Outputs:
        """Logits of every row.

        Args:
            features: `(batch, rows, width)` by stream.
            mask: `(batch, rows)` true for rows.
        """
        classes, actionness = {}, {}
        for name in self.widths:
            hidden = self.dropout(self.get_submodule(f"{name}_cls_layer")(features[name]))
            classes[name] = self.get_submodule(f"{name}_classifier")(hidden)
            if self.has_actionness:
                source = self.options.rgb_actionness_input if name == "rgb" else name
                hidden = self.get_submodule(f"{name}_act_layer")(features[source], mask)
                actionness[name] = self.get_submodule(f"{name}_action")(hidden).squeeze(-1)
        classes["fused"] = self._fused("mul", classes)
        if self.has_actionness:
            actionness["fused"] = self._fused("act", actionness)
        return Outputs(classes, actionness)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of whole items with the labels of annotators."""
        features, mask, borders = self._inputs(batch)
        targets = [_targets(self._counts(s, b), mask.device) for s, b in zip(batch.samples, borders, strict=True)]
        return self.clip_losses(Clips(features, mask, nn.utils.rnn.pad_sequence(targets, batch_first=True)))

    def clip_losses(self, clips: Clips) -> dict[str, Tensor]:
        """`frame`, `video` and `actionness`, each the sum over the streams and their fusion, and `total`."""
        options = self.options
        if clips.targets.shape[1] < clips.mask.shape[1]:
            missing = clips.mask.shape[1] - clips.targets.shape[1]
            clips = replace(clips, targets=nn.functional.pad(clips.targets, (0, 0, 0, missing)))
        outputs = self(clips.features, clips.mask)
        ratio, targets, mask = options.background_ratio, clips.targets, clips.mask
        weight = 1 / (len(self.classes) + int(options.background_weight == "outputs"))
        of_streams = outputs.classes.values()
        frame = sum_of(frame_loss(x, targets, mask, ratio=ratio, weight=weight) for x in of_streams)
        video = sum_of(video_loss(x, targets, mask) for x in of_streams)
        losses = {"total": frame + options.video_weight * video, "frame": frame, "video": video}
        if self.has_actionness:
            negatives, bounded = options.actionness_negatives, options.actionness_log == "bounded"
            actionness = sum_of(
                actionness_loss(x, targets, mask, ratio=ratio, negatives=negatives, bounded=bounded)
                for x in outputs.actionness.values()
            )
            if options.actionness_floor > 0:
                actionness = torch.where(actionness > options.actionness_floor, actionness, 0 * actionness)
            losses["actionness"] = actionness
            losses["total"] = losses["total"] + options.actionness_loss_weight * actionness
        return losses

    def predict(self, batch: Batch) -> list[Prediction]:
        """Segments of each item, class by class in order of time; `time_s` is where the row of highest score begins."""
        features, mask, borders = self._inputs(batch)
        outputs = self(features, mask)
        classes = outputs.classes["fused"][..., self.background :].double().cpu().numpy()
        fused = outputs.actionness.get("fused", torch.zeros(mask.shape)).double().cpu().numpy()
        found = []
        for k, (sample, own) in enumerate(zip(batch.samples, borders, strict=True)):
            scores, action = classes[k, : len(own) - 1], fused[k, : len(own) - 1]
            found.extend(self.segments(sample.item_id, scores, action, own))
        return found

    def lanes(self, batch: Batch, kept: Kept) -> list[tuple[Lane, ...]]:
        """Rows that were labelled and those that labels grew to, actionness, and the probability of each class."""
        features, mask, borders = self._inputs(batch)
        outputs = self(features, mask)
        probabilities = torch.softmax(outputs.classes["fused"].double(), dim=-1).cpu().numpy()
        names = ("background", *self.classes) if self.background else self.classes
        learnt, found = kept.get(_LABELS, {}), []
        for k, (sample, own) in enumerate(zip(batch.samples, borders, strict=True)):
            centers, lanes = (own[:-1] + own[1:]) / 2, list[Lane]()
            if sample.item_id in learnt:
                table = learnt[sample.item_id].cpu().numpy()
                lanes.append(Bars("labelled rows", label_bars(table, own, self.classes, grown=False)))
                lanes.append(Bars("grown rows", label_bars(table, own, self.classes, grown=True)))
            if self.has_actionness:
                action = torch.sigmoid(outputs.actionness["fused"][k, : len(centers)].double()).cpu().numpy()
                lanes.append(Curves("actionness", centers, {"actionness": action}))
            lanes.append(class_curves("class probability", centers, probabilities[k, : len(centers)], names))
            found.append(tuple(lanes))
        return found

    def segments(
        self, item_id: str, scores: NDArray[np.float64], action: NDArray[np.float64], borders: NDArray[np.float64]
    ) -> list[Prediction]:
        """Segments of one item.

        Args:
            scores: `(rows, classes)` logits without background.
            action: `(rows,)` logits of actionness.
            borders: `(rows + 1,)` seconds between rows.
        """
        options = self.options
        least = 1 if options.output == "frames" else self._row_counts(row_stride(borders)).min_rows
        kept = max(len(scores) // _CLASS_POOL, 1)
        of_item = np.sort(scores, axis=0)[::-1][:kept].mean(axis=0)
        found = []
        for k in np.flatnonzero((of_item > of_item.max() / options.class_divisor) & (of_item > 0)).tolist():
            rows = scores[:, k] + options.actionness_weight * action
            for start, stop in runs_above(rows, rows.mean() * options.mean_factor):
                if stop - start < least:
                    continue
                best = start + int(rows[start:stop].argmax())
                found.append(
                    Prediction(
                        item_id=item_id,
                        span=Span(max(float(borders[start]), 0.0), float(borders[stop])),
                        score=float(rows[best] + of_item[k]),
                        label=self.classes[k],
                        time_s=max(float(borders[best]), 0.0),
                    )
                )
        return found

    def video_scores(self, batch: Batch) -> Tensor:
        """`(batch, classes)` score of each class for the whole item, for classification mAP.

        The softmax of the pooled logits, summed over the streams and their fusion, without background.
        """
        features, mask, _ = self._inputs(batch)
        pooled = [top_means(logits, mask) for logits in self(features, mask).classes.values()]
        return sum_of(torch.softmax(logits, dim=-1) for logits in pooled)[:, self.background :]

    def fit(self, data: FitData, run: Recorder) -> None:
        """Train on crops; after `expand_at` of the epochs grow the labels and begin anew.

        Raises:
            OptionError: no labelled row, or rows of another stride that are refused.
            VidlocError: the loss is no longer finite.
        """
        options = self.options
        require_selection(data, options)
        human, counts = self._supervision(data)
        optimizer, mined = make_optimizer(self, options), dict[str, Tensor]()
        state = run.resume() or Checkpoint(0, {})
        if state.epoch:
            self.load_state_dict(dict(state.weights))
            optimizer.load_state_dict(state.optimizer["optimizer"])
            mined = dict(state.optimizer["mined"])
        expand_at = math.ceil(options.expand_at * options.epochs - 1e-9) if options.variant == "SFBAE" else -1
        for epoch in range(state.epoch, options.epochs):
            account: dict[str, float] = {}
            if epoch == expand_at:
                grown_labels, account = self._grow(data.train, human, counts.radius)
                mined = {item: torch.from_numpy(own) for item, own in grown_labels.items()}
                if options.restart:
                    self._begin_anew()
                    optimizer = make_optimizer(self, options)
            known = {item: own.numpy() for item, own in mined.items()} or human
            with seeded(options.seed, epoch + 1, device=self.device):
                steps = self._steps(data.train, known, counts, epoch)
                values = {**train_steps(self, steps, optimizer, options, epoch), **account}
            state = after_epoch(self, data, optimizer, values, state, options)
            run.log(state.epoch, values)
            run.checkpoint(replace(state, optimizer={"optimizer": state.optimizer, "mined": mined}))
        tables = {item: label_table(own, mined[item].numpy() if mined else own) for item, own in human.items()}
        run.keep(_LABELS, {item: torch.from_numpy(table) for item, table in tables.items()})
        finish(self, options, run, state)
        self.eval()

    def _steps(
        self, bank: Bank, known: Mapping[str, Counts], counts: RowCounts, epoch: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Losses of the batches of an epoch, one at a time."""
        targets = {item: _targets(own, self.device) for item, own in known.items()}
        for step in range(self.options.steps):
            number = epoch * self.options.steps + step
            length = counts.crop_even if number > 0 and number % 2 == 0 else counts.crop
            clips = drawn_clips(
                lambda k: self._clips(bank, targets, k),
                length,
                num_clips=self.options.batch,
                seed=(self.options.seed, number),
                to_end=self.options.crop_to_end,
            )
            yield self.clip_losses(clips), len(clips.mask)

    def _clips(self, bank: Bank, targets: Mapping[str, Tensor], seed: Sequence[int]) -> Iterator[Clips]:
        """All items, whole, in the order of a seed."""
        for batch in bank.batches(self.options.batch, seed=seed):
            features, mask, _ = self._inputs(batch)
            own = nn.utils.rnn.pad_sequence([targets[s.item_id] for s in batch.samples], batch_first=True)
            yield Clips(features, mask, own)

    def _grow(self, bank: Bank, human: Mapping[str, Counts], radius: int) -> tuple[dict[str, Counts], dict[str, float]]:
        """Labels of all items grown from the annotators', with what became of them."""
        options, result = self.options, dict[str, Counts]()
        right = num_known = 0
        self.eval()
        with torch.inference_mode():
            for batch in bank.batches(options.batch):
                features, mask, borders = self._inputs(batch)
                logits = self(features, mask).classes["fused"][..., self.background :]
                scores = (torch.softmax(logits, -1) if options.expansion_score == "softmax" else logits).double().cpu()
                for sample, own, edges in zip(batch.samples, scores.numpy(), borders, strict=True):
                    labels = human[sample.item_id]
                    result[sample.item_id] = grown(
                        own[: len(labels)], labels, radius=radius, ratio=options.ratio, rule=options.expansion
                    )
                    fresh = (result[sample.item_id] > 0) & (labels == 0)
                    if sample.segments:
                        right += int((fresh & (self._true_counts(sample, edges) > 0)).sum())
                        num_known += int(fresh.sum())
        added = sum(int(((own > 0) & (human[item] == 0)).sum()) for item, own in result.items())
        return result, {"mined_rows": added, **({"mined_precision": right / num_known} if num_known else {})}

    def _supervision(self, data: FitData) -> tuple[dict[str, Counts], RowCounts]:
        """Labels of annotators by item, and the numbers counted in rows at the stride of these rows."""
        human: dict[str, Counts] = {}
        strides: list[float] = []
        for batch in data.train.batches(self.options.batch):
            for sample, edges in zip(batch.samples, self._inputs(batch)[2], strict=True):
                human[sample.item_id] = self._counts(sample, edges)
                strides.append(row_stride(edges))
        if not any(own.any() for own in human.values()):
            raise OptionError(
                f"no row is labelled (--supervision {self.options.supervision}). Give single frames with --points "
                "FILE, or make them from the segments: --supervision random."
            )
        if without := sum(not own.any() for own in human.values()):
            data.notice(
                f"{without} of {len(human)} training items have no labelled row and only serve where labels grow."
            )
        stride = float(np.median(strides))
        counts = self._row_counts(stride)
        if counts != self._paper_counts:
            data.notice(conversion(self._paper_counts, counts, self.options.paper_stride_s, stride))
        return human, counts

    @property
    def _paper_counts(self) -> RowCounts:
        options = self.options
        return RowCounts(options.radius, options.crop, options.crop_even, options.min_rows)

    def _row_counts(self, stride_s: float) -> RowCounts:
        options = self.options
        return converted(self._paper_counts, options.paper_stride_s, stride_s, way=options.row_counts)

    def _counts(self, sample: Sample, borders: NDArray[np.float64]) -> Counts:
        """What a sample's supervision labels."""
        where, task, num = self.options.supervision, self.label_task, len(self.classes)
        if where == "points":
            return point_counts(sample.points, borders, task, num)
        if where == "full":
            return self._true_counts(sample, borders)
        random = item_random(self.options.seed, sample.item_id)
        return simulated_counts(sample.segments, borders, task, num, where=where, random=random)

    def _true_counts(self, sample: Sample, borders: NDArray[np.float64]) -> Counts:
        return segment_counts(sample.segments, borders, self.label_task, len(self.classes))

    def _inputs(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, list[NDArray[np.float64]]]:
        """Features by stream, which rows exist, and the borders of the rows of each item."""
        rows = list(batch.rows.values())
        first = rows[0]
        spans, masks = first.spans.cpu().numpy(), first.mask.cpu().numpy()
        for other in rows[1:]:
            if not (torch.equal(first.mask, other.mask) and torch.equal(first.spans, other.spans)):
                raise OptionError(
                    "the streams of rgb and flow have rows at different times. Extract both in one run, or use one of "
                    "them: --inputs rgb."
                )
        borders = [row_borders(windows[mask]) for windows, mask in zip(spans, masks, strict=True)]
        features = {role: part.features for role, part in batch.rows.items()}
        if "joined" in features:
            features = dict(zip(("rgb", "flow"), features["joined"].chunk(2, dim=-1), strict=True))
        return features, first.mask, borders

    def _fused(self, scale: str, scores: Mapping[str, Tensor]) -> Tensor:
        return sum_of(self.get_parameter(f"{scale}_{name[0]}") * scores[name] for name in self.widths)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters(recurse=False):
            nn.init.constant_(parameter, 1.0 if name.startswith("mul") else 0.0)

    def _begin_anew(self) -> None:
        with seeded(self.options.seed, _SECOND_START, device=self.device):
            self._initialise()


HEAD = SFNet


def sum_of(terms: Iterator[Tensor] | Sequence[Tensor]) -> Tensor:
    """Sum of at least one tensor."""
    first, *others = terms
    for term in others:
        first = first + term
    return first


def runs_above(values: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every longest run of values above a threshold."""
    above = np.concatenate([[False], values > threshold, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _targets(counts: Counts, device: torch.device) -> Tensor:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return torch.from_numpy(shares.astype(np.float32)).to(device)


def _widths(options: SFNetOptions, dims: Mapping[str, int]) -> dict[str, int]:
    """Width by stream."""
    if options.inputs == "joined":
        if dims["joined"] % 2:
            raise OptionError(
                f"--inputs joined needs rows of an even width, RGB and flow; these have {dims['joined']}."
            )
        return dict.fromkeys(("rgb", "flow"), dims["joined"] // 2)
    widths = {name: dims[name] for name in ("rgb", "flow") if name in dims}
    if options.rgb_actionness_input == "flow" and len({*widths.values()}) + (len(widths) < 2) > 1:
        raise OptionError("--rgb-actionness-input flow needs both streams, of one width.")
    return widths
