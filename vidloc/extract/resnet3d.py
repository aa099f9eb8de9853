"""ResNet-50 over clips, one pathway (pytorchvideo): inflated (I3D), slow, frame by frame (C2D), and R(2+1)D.

- `i3d_r50`: 8 frames, kernels over time in most stages (Carreira and Zisserman, CVPR 2017). Not to be mistaken for the
  Inception I3D, `i3d`, whose rows have 1024 numbers;
- `slow_r50`: 8 frames, the slow pathway of SlowFast alone (Feichtenhofer et al., ICCV 2019);
- `c2d_r50`: 8 frames, no kernel over time, only pools (Wang et al., CVPR 2018);
- `r2plus1d_r50`: 16 frames, convolutions over time and space apart (Tran et al., CVPR 2018). torchvision's networks of
  that name are `r2plus1d_18` and others.

All spread their frames over 64/30 s. The row is the pooled map averaged over its positions: the input of the
classifier, 2048 numbers.

Checkpoints under pytorchvideo's names and, but for R(2+1)D, which it lacks, under PySlowFast's load, those of several
tasks too (see `slowfast.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from vidloc.extract.base import EncoderOptions
from vidloc.extract.pyslowfast import Layout
from vidloc.extract.pytorchvideo_nets import PytorchVideoNet, source_of

NAMES = ("i3d_r50", "slow_r50", "c2d_r50", "r2plus1d_r50")


@dataclass(frozen=True)
class _Member:
    num_frames: int
    layout: Layout
    paper: str


_PLAIN = Layout((0, 1, 2, 3, 4), head=5)
_POOLED = Layout((0, 1, 3, 4, 5), head=6)  # with a pool after the first stage, a block of its own

_MEMBERS: Mapping[str, _Member] = {
    "i3d_r50": _Member(
        8,
        _POOLED,
        "Carreira, Zisserman. Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset. CVPR 2017.",
    ),
    "slow_r50": _Member(
        8, _PLAIN, "Feichtenhofer, Fan, Malik, He. SlowFast Networks for Video Recognition. ICCV 2019."
    ),
    "c2d_r50": _Member(8, _POOLED, "Wang, Girshick, Gupta, He. Non-local Neural Networks. CVPR 2018."),
    "r2plus1d_r50": _Member(
        16,
        _PLAIN,
        "Tran, Wang, Torresani, Ray, LeCun, Paluri. A Closer Look at Spatiotemporal Convolutions for Action "
        "Recognition. CVPR 2018.",
    ),
}


class ResNet3D(PytorchVideoNet):
    """Features of a single-pathway ResNet, 2048 numbers per clip."""

    num_features = 2048
    tap = "pool of the head, mean over positions"

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        member = _MEMBERS[name]
        self.num_frames = member.num_frames
        self.layout = member.layout
        self.source = source_of(member.paper)
        super().__init__(options, name=name, device=device)


ENCODER = ResNet3D
