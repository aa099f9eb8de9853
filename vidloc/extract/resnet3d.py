"""I3D-R50 8x8: a ResNet-50 inflated over time (Carreira and Zisserman, CVPR 2017), by pytorchvideo.

Eight frames over 64/30 s. The row is the pooled map averaged over its positions: the input of the classifier, 2048
numbers. Not to be mistaken for the Inception I3D, whose rows have 1024.
"""

from __future__ import annotations

import torch

from vidloc.core.records import Source
from vidloc.extract.pytorchvideo_nets import ClipEncoder, blocks_of

NAMES = ("i3d_r50",)


class ResNet3D(ClipEncoder):
    """Features of a single-pathway ResNet, 2048 numbers per clip."""

    num_frames = 8
    num_features = 2048
    source = Source(
        paper="Carreira, Zisserman. Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset. CVPR 2017.",
        code="https://github.com/facebookresearch/pytorchvideo",
        commit="release 0.1.5",
        licence="Apache-2.0 (code); no separate licence is stated for the published weights",
    )
    tap = "pool of the head, mean over positions"

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """The last map, pooled over all its times and 7 x 7 positions."""
        maps = clips
        *body, head = blocks_of(self.network)
        for block in body:
            maps = block(maps)
        pooled: torch.Tensor = head.pool(maps)
        return pooled


ENCODER = ResNet3D
