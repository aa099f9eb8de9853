"""Where encoders run: one device, or several with a worker process each."""

from __future__ import annotations

import os
import re

import torch

from vidloc.errors import OptionError


def choose_device(text: str) -> torch.device:
    """`auto` (the first GPU, else the CPU), or a device by its torch name.

    Raises:
        OptionError: not a device, or one that this machine lacks.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise OptionError(f"device {text!r} is not auto, cpu, cuda or cuda:NUMBER.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {text!r} was asked for, but torch sees {torch.cuda.device_count()} GPUs here.")
    return device


def choose_devices(text: str) -> tuple[torch.device, ...]:
    """One device per worker: `N` (the first N GPUs), or devices with commas between; `cpu:N` is N times the CPU.

    A device that is named twice gets two workers.

    Raises:
        OptionError: not a device, or one that this machine lacks.
    """
    if text.isdecimal():
        return _first_gpus(int(text))
    devices: list[torch.device] = []
    for name in text.split(","):
        workers = re.fullmatch(r"cpu:([1-9]\d{0,2})", name)
        devices += [torch.device("cpu")] * int(workers[1]) if workers else [choose_device(name)]
    return tuple(devices)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_gpus(count: int) -> tuple[torch.device, ...]:
    found = torch.cuda.device_count()
    if not 1 <= count <= found:
        raise OptionError(
            f"{count} GPUs were asked for, but torch sees {found} here. Workers on the CPU are asked for by cpu:N."
        )
    return tuple(torch.device("cuda", number) for number in range(count))
