"""SlowFast R50 8x8: a slow and a fast pathway over one clip (Feichtenhofer et al., ICCV 2019), by pytorchvideo.

32 frames over 64/30 s; the slow pathway sees eight of them. The row is the pooled output of both pathways, slow first
(2048 + 256), averaged over positions: the input of the classifier. At a crop of 224 pixels there is one position, at
256 there are four.

Checkpoints under pytorchvideo's and under PySlowFast's names load; classifiers, such as the two heads of the
EPIC-KITCHENS-100 checkpoint, are left aside. That one learned with `window_s=16/15`.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from vidloc.core.records import Source
from vidloc.extract.pytorchvideo_nets import ClipEncoder, blocks_of

NAMES = ("slowfast_r50",)

# Eight points evenly spread over the 32 fast frames and truncated: not every fourth one.
SLOW_INDICES = (0, 4, 8, 13, 17, 22, 26, 31)

_STEM = re.compile(r"s1\.pathway(?P<pathway>\d)_stem\.(?P<layer>conv|bn)\.")
_FUSION = re.compile(r"s(?P<stage>\d)_fuse\.(?P<layer>conv_f2s|bn)\.")
_RESIDUAL = re.compile(
    r"s(?P<stage>\d)\.pathway(?P<pathway>\d)_res(?P<block>\d+)\.(?P<branch>branch1|branch2\.[abc])(?P<norm>_bn)?\."
)


class SlowFast(ClipEncoder):
    """SlowFast features, 2304 numbers per clip."""

    num_frames = 32
    num_features = 2304
    source = Source(
        paper="Feichtenhofer, Fan, Malik, He. SlowFast Networks for Video Recognition. ICCV 2019.",
        code="https://github.com/facebookresearch/pytorchvideo",
        commit="release 0.1.5",
        licence="Apache-2.0 (code); no separate licence is stated for the published weights",
    )
    tap = "both pathways after their pools, slow (2048) before fast (256), mean over positions"

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """Both pathways, each pooled over all frames and 7 x 7 positions, joined."""
        # The network overwrites the list it is given, and its last block before the head joins it to one tensor.
        maps: Any = [clips[:, :, list(SLOW_INDICES)], clips]
        for block in blocks_of(self.network)[:-1]:
            maps = block(maps)
        joined: torch.Tensor = maps
        return joined

    @staticmethod
    def renamed(name: str) -> str:
        """A PySlowFast name turned into pytorchvideo's; others stay."""
        if name.startswith("head.projection"):
            return name.replace("head.projection", "blocks.6.proj", 1)
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
