"""TwoBranch: the EPIC-KITCHENS baseline, a linear verb classifier and a linear noun classifier on snippet features.

Damen et al., "Scaling Egocentric Vision", ECCV 2018, with TSN's average consensus (Wang et al., ECCV 2016):

    logits_task = mean over the segment's rows of  W_task dropout(f_row) + b_task

The mean is taken of logits, not of probabilities. Schedule and initialisation follow the EPIC-KITCHENS-100 TSN
configuration: normal weights of deviation 0.001, dropout 0.7, sgd without Nesterov, weight decay 5e-4, batch 128,
rate 0.01 divided by 10 after a quarter and half of 80 epochs, gradients of length 20 at most, biases at twice the
rate and without decay, and the mean of both cross-entropies as loss.

Where it differs: the networks below are frozen, and all rows of a segment are read in training and in testing, in place
of 8 and 25 sampled snippets. Verb and noun may read different streams, so there are two layers instead of one matrix.

For corpora that number their actions (EGTEA Gaze+), `action` adds the classifier of TSN's single label, one class per
action. It is linear on both roles, which is late fusion where these are two streams:

    logits_action = sum over both roles of  mean over the segment's rows of  U_role dropout(f_row)   + c
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from vidloc.core.records import Prediction, Source
from vidloc.errors import OptionError
from vidloc.heads.base import Batch, Head, SegmentOptions, Share, StreamNeed, numbers
from vidloc.heads.layers import Standardize, label_losses, packed_mean
from vidloc.heads.recognition import check_verb_noun, recognised
from vidloc.heads.training import FitData

_TASKS = ("verb", "noun")


class TwoBranchOptions(SegmentOptions):
    """Options of the two-branch baseline; defaults of the published configuration."""

    batch: int = Field(128, ge=1, description="Samples per step.")
    epochs: int = Field(80, ge=1, description="Passes over the training samples.")
    nesterov: bool = Field(default=False, description="Nesterov's form of momentum (sgd).")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty on the weights (biases have none).")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (0.25, 0.5), description="Shares of all epochs after which the learning rate drops."
    )
    clip_norm: float = Field(20.0, ge=0, description="Longest gradient; longer ones are scaled down. 0 = off.")
    dropout: float = Field(0.7, ge=0, lt=1, description="Dropout on every row before the classifiers.")
    standardize: bool = Field(
        default=False, description="Standardise every input by the training rows (not in the paper)."
    )
    action: bool = Field(
        default=False,
        description="Also learn the action as one class from both roles, where the corpus numbers its actions (EGTEA).",
    )


class TwoBranch(Head):
    """Linear layers on rows, logits averaged over the segment."""

    task = "recognition"
    unit = "segment"
    needs: ClassVar[Mapping[str, StreamNeed]] = {task: StreamNeed(("clip",)) for task in _TASKS}
    Options = TwoBranchOptions
    source = Source(
        paper="Damen et al., Scaling Egocentric Vision, ECCV 2018; Wang et al., Temporal Segment Networks, ECCV 2016",
        code="https://github.com/epic-kitchens/C1-Action-Recognition-TSN-TRN-TSM",
        differs="Frozen networks; all rows of a segment instead of 8 or 25 snippets; one layer per task.",
    )

    options: TwoBranchOptions

    def __init__(self, options: TwoBranchOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        check_verb_noun("two_branch", labels)
        self.dropout = nn.Dropout(options.dropout)
        self.classifiers = nn.ModuleDict({task: nn.Linear(dims[task], len(labels[task])) for task in _TASKS})
        self.action = nn.ModuleDict(_action_layers(dims, labels) if options.action else {})
        for layer in (*self.classifiers.values(), *self.action.values()):
            nn.init.normal_(layer.weight, std=0.001)  # type: ignore[arg-type]
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.standard = nn.ModuleDict({task: Standardize(dims[task]) for task in _TASKS} if options.standardize else {})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weights as the options say; biases at twice the rate, without decay."""
        named = list(self.named_parameters())
        weights = [p for name, p in named if not name.endswith("bias")]
        biases = [p for name, p in named if name.endswith("bias")]
        return [{"params": weights}, {"params": biases, "lr": 2 * self.options.lr, "weight_decay": 0.0}]

    def prepare(self, data: FitData) -> None:
        """Take means and deviations of the training rows."""
        for task, standard in self.standard.items():
            if isinstance(standard, Standardize):
                standard.take(*data.train.moments(task))

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """`(batch, classes)` by task."""
        scores, of_actions = {}, []
        for task, rows in batch.rows.items():
            features = self.standard[task](rows.packed) if task in self.standard else rows.packed
            # The mean of linear functions is the function of the mean, at one product a segment in place of one a row.
            mean = packed_mean(self.dropout(features), rows.counts)
            scores[task] = self.classifiers[task](mean)
            if task in self.action:
                of_actions.append(self.action[task](mean))
        if of_actions:
            scores["action"] = torch.stack(of_actions).sum(dim=0)
        return scores

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean of the tasks' cross-entropies."""
        losses = label_losses(self.logits(batch), batch.labels)
        return {"total": torch.stack(list(losses.values())).mean(), **losses}

    def predict(self, batch: Batch) -> list[Prediction]:
        """Logits of all tasks for each segment."""
        return recognised(batch, self.logits(batch))


HEAD = TwoBranch


def _action_layers(dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> dict[str, nn.Module]:
    """The action's layer for each role; one bias is enough."""
    if not labels.get("action"):
        raise OptionError(
            f"two_branch with --action needs classes of a task 'action', and the annotations have {', '.join(labels)}. "
            "Leave it out, or use a dataset that numbers its actions, such as --dataset egtea."
        )
    return {task: nn.Linear(dims[task], len(labels["action"]), bias=task == _TASKS[0]) for task in _TASKS}
