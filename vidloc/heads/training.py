"""The common training loop: one optimiser, a step schedule, a checkpoint after every epoch, an exact resume.

Order and dropout of an epoch depend on the seed and the epoch's number alone, so that a run that was killed and taken
up again at its last checkpoint ends with the numbers it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from vidloc.core.records import Prediction
from vidloc.errors import OptionError, VidlocError
from vidloc.heads.bank import Bank, Notice
from vidloc.heads.base import Head, HeadOptions


@dataclass(frozen=True)
class FitData:
    """What a head is trained on.

    Attributes:
        train: training samples.
        select: samples of the split by which the epoch is chosen; `None` unless asked for.
        score: one number for predictions on `select`; higher is better.
        notice: told what a person should know of the training, in a sentence.
    """

    train: Bank
    select: Bank | None = None
    score: Callable[[Sequence[Prediction]], float] | None = None
    notice: Notice = lambda _: None


@dataclass(frozen=True)
class Checkpoint:
    """State after an epoch.

    Attributes:
        epoch: epochs done.
        weights: the head's parameters and buffers.
        optimizer: state of the optimiser.
        best_epoch, best_score: the best epoch so far on the selection split; 0 while none.
    """

    epoch: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: float = -math.inf


class Recorder(Protocol):
    """What keeps a training's progress; pipelines make one for each run folder."""

    def resume(self) -> Checkpoint | None:
        """The last checkpoint of an interrupted run."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Numbers of one epoch, counted from 1."""

    def checkpoint(self, state: Checkpoint) -> None:
        """Keep this state in place of the last; kept as the best too where `best_epoch` is its epoch."""

    def best(self) -> Mapping[str, Tensor]:
        """Weights of the best epoch."""

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep what explains the training, a tensor by item, under a name; reports hand it back to `Head.lanes`."""

    def chose(self, epoch: int, reason: str) -> None:
        """Which epoch's weights the head ends with, and why, in words for people."""


def fit(head: Head, data: FitData, run: Recorder) -> None:
    """Train a head by gradients; it ends with the weights of the epoch that `select` names.

    Raises:
        OptionError: `select=best` without a split to look at.
        VidlocError: the loss is no longer finite.
    """
    options = head.options
    if not isinstance(options, HeadOptions):
        raise OptionError(f"{type(head).__name__} has no training options; it needs HeadOptions or a fit of its own.")
    require_selection(data, options)
    optimizer = make_optimizer(head, options)
    state = run.resume()
    if state is None:
        head.prepare(data)
        state = Checkpoint(0, {})
    else:
        head.load_state_dict(dict(state.weights))
        optimizer.load_state_dict(dict(state.optimizer))
    for epoch in range(state.epoch, options.epochs):
        with seeded(options.seed, epoch + 1, device=head.device):
            losses = ((head.loss(batch), len(batch)) for batch in head.epoch_batches(data.train, epoch))
            values = train_steps(head, losses, optimizer, options, epoch)
        state = after_epoch(head, data, optimizer, values, state, options)
        run.log(state.epoch, values)
        run.checkpoint(state)
    finish(head, options, run, state)
    head.eval()


def require_selection(data: FitData, options: HeadOptions) -> None:
    """Refuse to look for the best epoch without a split to look at.

    Raises:
        OptionError: `select=best` without one.
    """
    if options.select == "best" and (data.select is None or data.score is None):
        raise OptionError("--select best needs the split to look at: --select-split validation.")


def predict_all(head: Head, bank: Bank, *, batch: int) -> list[Prediction]:
    """Predictions for every sample of a bank, in evaluation mode and without gradients."""
    training = head.training
    head.eval()
    with torch.inference_mode():
        predictions = [prediction for part in bank.batches(batch) for prediction in head.predict(part)]
    head.train(training)
    return predictions


def learning_rate(options: HeadOptions, epoch: int, *, drops: Sequence[float] | None = None) -> float:
    """Rate of an epoch counted from 0: multiplied by `lr_factor` once for each drop that lies behind.

    Args:
        drops: shares of all epochs; `None` for those of the options.
    """
    shares = options.lr_drops if drops is None else drops
    return options.lr * options.lr_factor ** sum(_is_behind(share, options, epoch) for share in shares)


def group_rate(group: Mapping[str, Any], options: HeadOptions, epoch: int) -> float:
    """Rate of one of the optimiser's groups of parameters in an epoch counted from 0; 0 where it has ended."""
    if "lr_until" in group and _is_behind(group["lr_until"], options, epoch):
        return 0.0
    return learning_rate(options, epoch, drops=group.get("lr_drops")) * float(group["scale"])


@contextmanager
def seeded(seed: int, step: int = 0, *, device: torch.device) -> Iterator[None]:
    """Random numbers that depend on `seed` and `step` alone; the caller's generators are as before afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed * 1_000_003 + step)
        yield


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU.

    Raises:
        OptionError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"device {name!r} is not one of auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device {name!r} was asked for, but torch finds no GPU here. Use --device cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {name!r} was asked for, but there are only {torch.cuda.device_count()} GPUs here.")
    return torch.device("cuda:0") if name == "cuda" else device


def make_optimizer(head: Head, options: HeadOptions) -> torch.optim.Optimizer:
    """A fresh optimiser over the head's groups of parameters, as the options name it."""
    groups = head.parameter_groups()
    for group in groups:
        # A group's own rate is a multiple of the base rate: the schedule scales both alike.
        group["scale"] = group.pop("lr", options.lr) / options.lr
    if options.optimizer == "adam":
        betas = (options.momentum, 0.999)
        return torch.optim.Adam(groups, lr=options.lr, betas=betas, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov and options.momentum > 0,
        weight_decay=options.weight_decay,
    )


def train_steps(
    head: Head,
    losses: Iterable[tuple[dict[str, Tensor], int]],
    optimizer: torch.optim.Optimizer,
    options: HeadOptions,
    epoch: int,
) -> dict[str, float]:
    """One epoch of gradient steps.

    Args:
        losses: what `Head.loss` gives of each batch, and the batch's size; a step is made before the next is asked.
        epoch: counted from 0.

    Returns:
        The learning rate and the mean losses over the samples.

    Raises:
        VidlocError: the loss is no longer finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = group_rate(group, options, epoch)
    head.train()
    # Sums stay on the device: reading one number per step would wait for the GPU each time.
    sums: dict[str, Tensor] = {}
    num_samples = 0
    for values, size in losses:
        optimizer.zero_grad(set_to_none=True)
        values["total"].backward()  # type: ignore[no-untyped-call]
        if options.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(head.parameters(), options.clip_norm)
        optimizer.step()
        num_samples += size
        for name, value in values.items():
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach() * size
    means = {f"loss_{name}" if name != "total" else "loss": float(value) / num_samples for name, value in sums.items()}
    if not all(math.isfinite(value) for value in means.values()):
        shown = ", ".join(f"{name} {value}" for name, value in means.items())
        raise VidlocError(f"the loss is not finite after epoch {epoch + 1} ({shown}); use a lower --lr or --clip-norm.")
    return {"lr": learning_rate(options, epoch), **means}


def after_epoch(
    head: Head,
    data: FitData,
    optimizer: torch.optim.Optimizer,
    values: dict[str, float],
    state: Checkpoint,
    options: HeadOptions,
) -> Checkpoint:
    """The state after an epoch, rated on the selection split where one is asked for; the rating joins `values`."""
    epoch, best_epoch, best_score = state.epoch + 1, state.best_epoch, state.best_score
    if options.select == "best" and data.select is not None and data.score is not None:
        values["select"] = data.score(predict_all(head, data.select, batch=options.batch))
        if values["select"] > best_score:
            best_epoch, best_score = epoch, values["select"]
    return Checkpoint(epoch, head.state_dict(), optimizer.state_dict(), best_epoch, best_score)


def finish(head: Head, options: HeadOptions, run: Recorder, state: Checkpoint) -> None:
    """Leave the head with the weights of the epoch that the options choose, and say which."""
    if options.select == "last":
        run.chose(state.epoch, "the last epoch; no split was looked at to choose it")
        return
    head.load_state_dict(dict(run.best()))
    run.chose(
        state.best_epoch,
        f"the best of {state.epoch} epochs on split {options.select_split!r} (score {state.best_score:.4f}), "
        "which is therefore not held out",
    )


def _is_behind(share: float, options: HeadOptions, epoch: int) -> bool:
    """Whether a share of all epochs has passed."""
    # 0.15 * 20 is a little above 3 in floating point, and must not become 4.
    return epoch >= math.ceil(share * options.epochs - 1e-9)
