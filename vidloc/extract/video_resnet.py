"""What encoders on torchvision's `VideoResNet` share: its stages one by one, its classifier, where rows are tapped."""

from __future__ import annotations

import torch
from torchvision.models.video.resnet import VideoResNet

from vidloc.extract.clip_classifier import ClipClassifier


class VideoResNetEncoder(ClipClassifier):
    """Rows of the last map, averaged; a network says how it is built."""

    network: VideoResNet
    classifier = "fc.weight"
    tap = "mean over the last map, before fc"

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        maps = clips
        for name in ("stem", "layer1", "layer2", "layer3", "layer4", "avgpool"):
            maps = self.network.get_submodule(name)(maps)
        return maps

    def classified(self, pooled: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        scores: torch.Tensor = self.network.fc(pooled.flatten(1))
        return scores
