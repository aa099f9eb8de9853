"""SF-Net: segments found by a head that saw one labelled frame of each (Ma et al., ECCV 2020, arXiv 2003.06845).

Two streams, RGB and optical flow, of equal shape: for every row a classification over the classes and background
(column 0), and one actionness from two convolutions along time. Their logits are fused by learned scales

    S = m_rgb * S_rgb + m_flow * S_flow          (one scale for each output, from 1)
    A = w_rgb * A_rgb + w_flow * A_flow          (one scale each, from 0)

and for the three outputs the losses of `single_frame_losses` are added: labelled frames with mined background, the
video as a whole, actionness. After `expand_at` of all epochs labels are grown beside the labelled rows
(`single_frame_mining`) and training starts anew from them. A class of an item is kept by its best rows; its runs of
rows whose class score plus `actionness_weight` times the actionness lie above their mean become segments.

`single_frame_network` has the layers, `single_frame_options` every choice, `single_frame_segments` what becomes a
segment; here is how they are trained.

Code and paper differ in places. The defaults take what is sound of either, `--as-released` takes the code (commit
a82bc04b) as it is, and each place has a switch of its own. What the paper counts in rows (`radius`, `crop`,
`crop_even`, `min_rows`) it counts at its own stride; at another one these numbers are converted, which is said, or
refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidloc.core.lanes import Bars, Curves, Lane, class_curves
from vidloc.core.records import Prediction, Source
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.base import Batch, Kept, Sample
from vidloc.heads.row_counts import RowCounts, conversion, converted
from vidloc.heads.single_frame_clips import Clips, drawn_clips
from vidloc.heads.single_frame_labels import (
    Counts,
    item_random,
    label_bars,
    label_table,
    point_counts,
    row_stride,
    segment_counts,
    simulated_counts,
)
from vidloc.heads.single_frame_losses import actionness_loss, frame_loss, top_means, video_loss
from vidloc.heads.single_frame_mining import grown
from vidloc.heads.single_frame_network import SingleFrameNetwork, sum_of
from vidloc.heads.single_frame_options import SFNetOptions
from vidloc.heads.single_frame_segments import segments_of
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

_LABELS = "frame_labels"  # under which the labels of the training are kept
_SECOND_START = 500_009  # number of the random stream for weights drawn anew, beyond any epoch's


class SFNet(SingleFrameNetwork):
    """Classification and actionness of rows in one or two streams; the names of its layers are those of the release."""

    task = "detection"
    unit = "item"
    Options = SFNetOptions
    source = Source(
        paper="Ma et al., SF-Net: Single-Frame Supervision for Temporal Action Localization, ECCV 2020",
        code="https://github.com/Flowerfan/SF-Net",
        commit="a82bc04bd65cc4426cfd0c7665f236b93c37a78c",
        differs="Hardest negatives of actionness, expansion as in the paper, padding masked; --as-released undoes it. "
        "No weakly supervised mode. The last epoch is kept, not the best on the test videos.",
    )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of whole items with the labels of annotators."""
        features, mask, borders = self.inputs(batch)
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
        features, mask, borders = self.inputs(batch)
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
        features, mask, borders = self.inputs(batch)
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
        """Segments of one item; see `single_frame_segments.segments_of`."""
        options = self.options
        least = 1 if options.output == "frames" else self._row_counts(row_stride(borders)).min_rows
        found = segments_of(item_id, scores, action, borders, classes=self.classes, options=options, min_rows=least)
        return list(found)

    def video_scores(self, batch: Batch) -> Tensor:
        """`(batch, classes)` score of each class for the whole item, for classification mAP.

        The softmax of the pooled logits, summed over the streams and their fusion, without background.
        """
        features, mask, _ = self.inputs(batch)
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
            features, mask, _ = self.inputs(batch)
            own = nn.utils.rnn.pad_sequence([targets[s.item_id] for s in batch.samples], batch_first=True)
            yield Clips(features, mask, own)

    def _grow(self, bank: Bank, human: Mapping[str, Counts], radius: int) -> tuple[dict[str, Counts], dict[str, float]]:
        """Labels of all items grown from the annotators', with what became of them."""
        options, result = self.options, dict[str, Counts]()
        right = num_known = 0
        self.eval()
        with torch.inference_mode():
            for batch in bank.batches(options.batch):
                features, mask, borders = self.inputs(batch)
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
            for sample, edges in zip(batch.samples, self.inputs(batch)[2], strict=True):
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

    def _begin_anew(self) -> None:
        with seeded(self.options.seed, _SECOND_START, device=self.device):
            self.initialise()


HEAD = SFNet


def _targets(counts: Counts, device: torch.device) -> Tensor:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return torch.from_numpy(shares.astype(np.float32)).to(device)
