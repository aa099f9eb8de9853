"""SlowFast 8x8: a slow and a fast pathway over one clip (Feichtenhofer et al., ICCV 2019), by pytorchvideo.

`slowfast_r50` and `slowfast_r101` have 50 and 101 layers. 32 frames over 64/30 s; the slow pathway sees eight of them.
The row is the pooled output of both pathways, slow first (2048 + 256), averaged over positions: the input of the
classifier. At a crop of 224 pixels there is one position, at 256 there are four.

Checkpoints under pytorchvideo's and under PySlowFast's names load, and those of Caffe2 once `vidloc weights convert`
has made safetensors of them; without `scores=true` classifiers are left aside,
such as the two of the EPIC-KITCHENS-100 checkpoint. That one learned with `window_s=16/15`.
"""

from __future__ import annotations

import re

import torch

from vidloc.errors import WeightsError
from vidloc.extract.caffe2_names import pyslowfast_name
from vidloc.extract.clip_classifier import State
from vidloc.extract.pytorchvideo_nets import PytorchVideoNet, source_of

NAMES = ("slowfast_r50", "slowfast_r101")

# Eight points evenly spread over the 32 fast frames and truncated: not every fourth one.
SLOW_INDICES = (0, 4, 8, 13, 17, 22, 26, 31)

_CLASSIFIER = "blocks.6.proj"
_STEM = re.compile(r"s1\.pathway(?P<pathway>\d)_stem\.(?P<layer>conv|bn)\.")
_FUSION = re.compile(r"s(?P<stage>\d)_fuse\.(?P<layer>conv_f2s|bn)\.")
_RESIDUAL = re.compile(
    r"s(?P<stage>\d)\.pathway(?P<pathway>\d)_res(?P<block>\d+)\.(?P<branch>branch1|branch2\.[abc])(?P<norm>_bn)?\."
)


class SlowFast(PytorchVideoNet):
    """SlowFast features, 2304 numbers per clip."""

    num_frames = 32
    num_features = 2304
    classifier = f"{_CLASSIFIER}.weight"
    source = source_of("Feichtenhofer, Fan, Malik, He. SlowFast Networks for Video Recognition. ICCV 2019.")
    tap = "both pathways after their pools, slow (2048) before fast (256), mean over positions"

    def fed(self, clips: torch.Tensor) -> list[torch.Tensor]:
        """Slow frames and fast ones, in a new list, since the network overwrites the one it is given."""
        return [clips[:, :, list(SLOW_INDICES)], clips]

    def renamed(self, state: State) -> State:
        """Names of any of the libraries.

        Raises:
            WeightsError: scores are wanted of a checkpoint with several classifiers.
        """
        state = {pyslowfast_name(name): tensor for name, tensor in state.items()}
        tasks = sorted({name.split(".")[1] for name in state if name.startswith("head.projection_")})
        if self.options.scores and tasks:
            raise WeightsError(
                f"encoder {self.name!r}: scores=true needs a checkpoint with one classifier, this one has "
                f"{', '.join(tasks)}. Leave scores out: the features are the same."
            )
        return super().renamed({pytorchvideo_name(name): tensor for name, tensor in state.items()})


def pytorchvideo_name(name: str) -> str:
    """A PySlowFast name turned into pytorchvideo's; others stay."""
    if name.startswith("head.projection"):
        return name.replace("head.projection", _CLASSIFIER, 1)
    if stem := _STEM.match(name):
        prefix = f"blocks.0.multipathway_blocks.{stem['pathway']}.{'conv' if stem['layer'] == 'conv' else 'norm'}."
        return prefix + name[stem.end() :]
    if fusion := _FUSION.match(name):
        layer = "norm" if fusion["layer"] == "bn" else "conv_fast_to_slow"
        return f"blocks.{int(fusion['stage']) - 1}.multipathway_fusion.{layer}." + name[fusion.end() :]
    if residual := _RESIDUAL.match(name):
        kind = "norm" if residual["norm"] else "conv"
        branch = residual["branch"]
        layer = f"branch1_{kind}" if branch == "branch1" else f"branch2.{kind}_{branch[-1]}"
        place = f"blocks.{int(residual['stage']) - 1}.multipathway_blocks.{residual['pathway']}"
        return f"{place}.res_blocks.{residual['block']}.{layer}." + name[residual.end() :]
    return name


ENCODER = SlowFast
