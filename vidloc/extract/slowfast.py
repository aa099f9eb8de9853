"""SlowFast 8x8: a slow and a fast pathway over one clip (Feichtenhofer et al., ICCV 2019), by pytorchvideo.

`slowfast_r50` and `slowfast_r101` have 50 and 101 layers. 32 frames over 64/30 s; the slow pathway sees eight of them.
The row is the pooled output of both pathways, slow first (2048 + 256), averaged over positions: the input of the
classifier. At a crop of 224 pixels there is one position, at 256 there are four.

Checkpoints under pytorchvideo's and under PySlowFast's names load, and those of Caffe2 once `vidloc weights convert`
has made safetensors of them. That of EPIC-KITCHENS-100 learned with `window_s=16/15` and has two classifiers: with
`scores=true` it gives `scores_verb` and `scores_noun`, and
`classes_verb=EPIC_100_verb_classes.csv,classes_noun=EPIC_100_noun_classes.csv` names their classes. Without scores,
classifiers are left aside.
"""

from __future__ import annotations

import torch

from vidloc.extract.pyslowfast import Layout
from vidloc.extract.pytorchvideo_nets import PytorchVideoNet, source_of

NAMES = ("slowfast_r50", "slowfast_r101")

# Eight points evenly spread over the 32 fast frames and truncated: not every fourth one.
SLOW_INDICES = (0, 4, 8, 13, 17, 22, 26, 31)


class SlowFast(PytorchVideoNet):
    """SlowFast features, 2304 numbers per clip."""

    num_frames = 32
    num_features = 2304
    layout = Layout((0, 1, 2, 3, 4), head=6, several=True)
    source = source_of("Feichtenhofer, Fan, Malik, He. SlowFast Networks for Video Recognition. ICCV 2019.")
    tap = "both pathways after their pools, slow (2048) before fast (256), mean over positions"

    def fed(self, clips: torch.Tensor) -> list[torch.Tensor]:
        """Slow frames and fast ones, in a new list, since the network overwrites the one it is given."""
        return [clips[:, :, list(SLOW_INDICES)], clips]


ENCODER = SlowFast
