"""Objects: the best boxes of a frame with their vectors, by torchvision's Faster R-CNN R50-FPN.

A row is any number of regions, best first: box, score, class, and the 1024 numbers of the box head (Ren et al., NeurIPS
2015; Anderson et al., CVPR 2018 for the use of such vectors). Which vector goes with which
box differs in the literature, so `box_feature` says it:

- `repooled`: the regressed box, and a vector pooled anew from it, so that both describe one region;
- `refined_box_proposal_feature`: the regressed box, and the vector of the proposal it came from (LXMERT);
- `proposal`: the proposal, and its vector (bottom-up attention).

Boxes are x1 y1 x2 y2 over width and height: half-open continuous coordinates, the whole frame is 0 0 1 1.

Checkpoints may know other classes than COCO's; `classes=FILE` names them, without the background. With `boxes=PATH`
nothing is detected: boxes, scores and labels come from a file (see `given_boxes.py`), and vectors are pooled from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, JsonValue, model_validator
from torchvision.models.detection import (
    FasterRCNN,
    FasterRCNN_ResNet50_FPN_Weights,
    fasterrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from vidloc.core.records import Source
from vidloc.core.rows import Rows
from vidloc.errors import MediaError, OptionError
from vidloc.extract import weights
from vidloc.extract.base import Encoder, EncoderOptions, FrameInput, Sample, StreamTemplate, arithmetic, placed
from vidloc.extract.class_names import read_class_names
from vidloc.extract.folding import fold_batch_norms
from vidloc.extract.given_boxes import GivenBoxes, GivenBoxesOptions
from vidloc.extract.regions import (
    NmsScope,
    Regions,
    SelectionRule,
    displayed_size_of,
    region_fields,
    region_rows,
    select,
)

NUM_FEATURES = 1024
VOCABULARY: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
_BACKGROUND = VOCABULARY[0]
_CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"
_LONGER_SIDE_PX = 1333
_CHECKPOINTS = {"v1": "fasterrcnn", "v2": "fasterrcnn_v2"}

Version = Literal["v1", "v2"]
BoxFeature = Literal["repooled", "refined_box_proposal_feature", "proposal"]


class FasterRCNNOptions(GivenBoxesOptions):
    """Options of Faster R-CNN."""

    version: Version = Field("v1", description="Network: v1 (COCO AP 37.0) or v2 (46.7, twice as slow).")
    box_feature: BoxFeature = Field(
        "repooled", description="Which box is stored and which vector goes with it; repooled: both are of one region."
    )
    score_min: float = Field(0.2, ge=0, le=1, description="Class probability that a box must exceed.")
    nms: float = Field(0.5, gt=0, le=1, description="Overlap (IoU) with a better box above which a box is dropped.")
    nms_scope: NmsScope = Field(
        "agnostic", description="Whether a better box of any class counts (agnostic), or of its own class only (class)."
    )
    min_boxes: int = Field(0, ge=0, description="Boxes to keep per frame even when they score below score_min.")
    max_boxes: int = Field(10, ge=1, description="Boxes to keep per frame at most, the best ones.")
    classes: str = Field(
        "",
        exclude=True,
        description="File that names the classes from number 1 on (csv or one name per line), for weights that know "
        "others than COCO's; with boxes=PATH, from number 0 on, what the given labels number.",
    )
    min_size: int = Field(
        800, ge=96, le=_LONGER_SIDE_PX, description="Shorter side in pixels at which the network sees a frame."
    )

    @model_validator(mode="after")
    def _min_within_max(self) -> Self:
        if self.min_boxes > self.max_boxes:
            raise ValueError(f"min_boxes {self.min_boxes} is more than max_boxes {self.max_boxes}")
        if self.boxes and self.box_feature != "repooled":
            raise ValueError(f"box_feature={self.box_feature} is for detected boxes; those given are pooled (repooled)")
        return self


@dataclass(frozen=True, eq=False)
class _Seen:
    # What the network makes of a batch: its maps by level, and per frame the size (height, width) it was resized to.
    images: Any
    maps: dict[str, torch.Tensor]
    sizes: list[tuple[int, int]]


class FasterRCNNEncoder(Encoder):
    """Regions of frames, 1024 numbers each."""

    Options: ClassVar[type[EncoderOptions]] = FasterRCNNOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, FasterRCNNOptions):
            raise TypeError(f"{name} takes FasterRCNNOptions, got {type(options).__name__}.")
        self.options: FasterRCNNOptions = options
        names = read_class_names(Path(options.classes).expanduser()) if options.classes else ()
        checkpoint = weights.resolve(options.weights, _CHECKPOINTS[options.version])
        state = None if checkpoint.path is None else weights.read_state(checkpoint.path)
        num_classes = self._classes_of(state, names)
        self._vocabulary = names if options.boxes else _vocabulary(names, num_classes, options)
        self._given = options.given_boxes()
        # Where the file lay says nothing of the rows; its content does.
        self._source_of_boxes: dict[str, JsonValue] = (
            {"background": 0}
            if self._given is None
            else {"given_boxes_sha256": self._given.sha256(), "selection": "none, boxes are given"}
        )
        with weights.seeded(checkpoint.seed or 0):
            network = build(options.version, min_size=options.min_size, num_classes=num_classes)
        if state is not None:
            weights.load_into(network, state, where=str(checkpoint.path))
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self.network = placed(fold_batch_norms(network.eval()), device, torch.channels_last)
        self._rule = SelectionRule(
            options.score_min, options.nms, options.nms_scope, options.min_boxes, options.max_boxes
        )

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        if not isinstance(options, FasterRCNNOptions):
            raise TypeError(f"{name} takes FasterRCNNOptions, got {type(options).__name__}.")
        if options.classes:
            read_class_names(Path(options.classes).expanduser())
        options.check_boxes()
        weights.check_available(_CHECKPOINTS[options.version], options.weights)

    @property
    def input(self) -> FrameInput:
        """The whole frame; the network resizes it itself."""
        return FrameInput()

    def stream(self) -> StreamTemplate:
        """Four ragged fields along one axis, `regions`, and two plain ones."""
        return StreamTemplate(
            kind="objects",
            fields=region_fields(NUM_FEATURES, self.options.dtype),
            source=Source(
                paper="Ren et al. Faster R-CNN. NeurIPS 2015; Lin et al. Feature Pyramid Networks. CVPR 2017.",
                code="https://github.com/pytorch/vision",
                commit="release 0.26",
                licence="BSD-3-Clause (code); no separate licence is stated for the published weights",
                differs="selection of boxes is an option; batch norms are folded into convolutions",
            ),
            preprocessing={
                "colour": "RGB in [0, 1], normalised by torchvision with ImageNet's mean and deviation",
                "resize": f"shorter side {self.options.min_size}, longer at most {_LONGER_SIDE_PX}, bilinear",
                "antialias": False,
                "boxes": "normalised xyxy, half-open, continuous pixel coordinates; the whole frame is 0 0 1 1",
                "box_feature": self.options.box_feature,
                "tap": "output of the box head",
                **self._source_of_boxes,
            },
            vocabulary=self._vocabulary,
        )

    def preferred_batch(self) -> int:
        """Frames per call."""
        return 8 if self.device.type == "cuda" else 1

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Regions of each frame, best first; a frame may have none."""
        frames = [np.asarray(sample.data) for sample in samples]
        found: dict[int, dict[str, NDArray[Any]]] = {}
        with arithmetic(self.device, self.options.precision):
            # Frames of one batch are padded to one size, which the network can see: only equal sizes share a batch.
            for members in _by_shape(frames):
                if self._given is None:
                    regions = self._detected([frames[k] for k in members])
                else:
                    regions = self._filled([frames[k] for k in members], [samples[k] for k in members], self._given)
                found |= dict(zip(members, regions, strict=True))
        return region_rows([found[k] for k in range(len(samples))], samples)

    def features_of(self, frame: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of given boxes, pooled as `repooled` pools its own.

        Args:
            frame: `(height, width, 3)` RGB.
            boxes: `(n, 4)`, x1 y1 x2 y2 over width and height; n may be 0.

        Returns:
            `(n, 1024)` float32.

        Raises:
            MediaError: a box that is empty or leaves the frame.
        """
        given = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        if not ((given >= 0) & (given <= 1)).all() or not (given[:, 2:] > given[:, :2]).all():
            raise MediaError("boxes are x1 y1 x2 y2 over width and height, within [0, 1], x2 > x1 and y2 > y1.")
        with arithmetic(self.device, self.options.precision):
            seen = self._seen([frame])
            vectors: NDArray[np.float32] = self._pooled(seen, [torch.from_numpy(given).to(self.device)]).cpu().numpy()
        return vectors

    def _filled(
        self, frames: Sequence[NDArray[np.uint8]], samples: Sequence[Sample], given: GivenBoxes
    ) -> list[dict[str, NDArray[Any]]]:
        # What is known of the boxes comes from the file, only the vectors from the network.
        known = [given.at(sample.item_id, float(sample.pts_s[0]), displayed_size_of(sample)) for sample in samples]
        boxes = [torch.from_numpy(found.boxes).to(self.device) for found in known]
        vectors = torch.split(self._pooled(self._seen(frames), boxes), [len(b) for b in boxes])
        return [
            {"boxes": k.boxes, "scores": k.scores, "labels": k.labels, "features": v.cpu().numpy()}
            for k, v in zip(known, vectors, strict=True)
        ]

    def _classes_of(self, state: Mapping[str, torch.Tensor] | None, names: tuple[str, ...]) -> int:
        # A checkpoint without a classifier is refused by name when it is loaded.
        last = None if state is None else state.get(_CLASSIFIER)
        if last is not None:
            return len(last)
        return len(names) + 1 if names and not self.options.boxes else len(VOCABULARY)

    def _seen(self, frames: Sequence[NDArray[np.uint8]]) -> _Seen:
        pictures = [torch.from_numpy(f).to(self.device).permute(2, 0, 1).float() / 255.0 for f in frames]
        images, _ = self.network.transform(pictures)
        tensor = images.tensors.contiguous(memory_format=torch.channels_last)
        return _Seen(images, self.network.backbone(tensor), images.image_sizes)

    def _pooled(self, seen: _Seen, boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        # Vectors of normalised boxes; going through the stored numbers makes `features_of` agree to the bit.
        pixels = [b * b.new_tensor([w, h, w, h]) for b, (h, w) in zip(boxes, seen.sizes, strict=True)]
        return self._vectors(seen, pixels).float()

    def _vectors(self, seen: _Seen, pixels: list[torch.Tensor]) -> torch.Tensor:
        heads = self.network.roi_heads
        vectors: torch.Tensor = heads.box_head(heads.box_roi_pool(seen.maps, pixels, seen.sizes))
        return vectors

    def _detected(self, frames: Sequence[NDArray[np.uint8]]) -> list[dict[str, NDArray[Any]]]:
        seen = self._seen(frames)
        proposals, _ = self.network.rpn(seen.images, seen.maps)
        counts = [len(p) for p in proposals]
        vectors = self._vectors(seen, proposals)
        logits, deltas = self.network.roi_heads.box_predictor(vectors)
        scores = torch.softmax(logits.float(), dim=-1)[:, 1:]
        if self.options.box_feature == "proposal":
            candidates = torch.cat(proposals)[:, None].expand(-1, scores.shape[1], -1)
        else:
            candidates = self.network.roi_heads.box_coder.decode(deltas.float(), proposals)[:, 1:]
        kept = [
            select(frame_boxes, frame_scores, size, self._rule)
            for frame_boxes, frame_scores, size in zip(
                torch.split(candidates, counts), torch.split(scores, counts), seen.sizes, strict=True
            )
        ]
        boxes = [_normalised(regions.boxes, size) for regions, size in zip(kept, seen.sizes, strict=True)]
        if self.options.box_feature == "repooled":
            features = torch.split(self._pooled(seen, boxes), [len(b) for b in boxes])
        else:
            by_frame = zip(torch.split(vectors, counts), kept, strict=True)
            features = tuple(of_proposals[regions.proposals] for of_proposals, regions in by_frame)
        return [_arrays(*parts) for parts in zip(kept, boxes, features, strict=True)]


def build(version: Version, *, min_size: int = 800, num_classes: int = len(VOCABULARY)) -> FasterRCNN:
    """A network with untrained weights whose names are those of torchvision's checkpoint of that version.

    `num_classes` counts the background.

    The checkpoint of v1 was made for frozen norms without an epsilon, which torchvision sets only when it downloads it
    itself; otherwise it would build ordinary norms, and load nothing.
    """
    if version == "v2":
        network: FasterRCNN = fasterrcnn_resnet50_fpn_v2(
            weights=None,
            weights_backbone=None,
            num_classes=num_classes,
            min_size=min_size,
            max_size=_LONGER_SIDE_PX,
        )
        return network
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    network = FasterRCNN(backbone, num_classes=num_classes, min_size=min_size, max_size=_LONGER_SIDE_PX)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return network


def _vocabulary(names: tuple[str, ...], num_classes: int, options: FasterRCNNOptions) -> tuple[str, ...]:
    if not names:
        # As many classes as COCO has here are COCO's.
        return VOCABULARY if num_classes == len(VOCABULARY) else ()
    if len(names) != num_classes - 1:
        raise OptionError(
            f"encoder 'fasterrcnn': {options.classes} names {len(names)} classes, the weights have {num_classes - 1} "
            "and the background, which the file leaves out."
        )
    return (_BACKGROUND, *names)


def _normalised(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    height, width = size
    return (boxes.float() / boxes.new_tensor([width, height, width, height]).float()).clamp(0.0, 1.0)


def _arrays(regions: Regions, boxes: torch.Tensor, features: torch.Tensor) -> dict[str, NDArray[Any]]:
    return {
        "boxes": boxes.cpu().numpy(),
        "scores": regions.scores.cpu().numpy(),
        "labels": regions.labels.to(torch.int32).cpu().numpy(),
        "features": features.float().cpu().numpy(),
    }


def _by_shape(frames: Sequence[NDArray[np.uint8]]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, frame in enumerate(frames):
        groups.setdefault(frame.shape, []).append(k)
    return list(groups.values())


ENCODER = FasterRCNNEncoder
