"""What classifiers of clips have in common as encoders: features from before the classifier, and its scores on wish.

A row's `features` are the network's last pooled map averaged over its positions; with `scores=true` a second field
`scores` holds the classifier's outputs before the softmax, averaged likewise (in float16, probabilities of unlikely
classes would all be 0). The stream's vocabulary then names the classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract import weights
from vidloc.extract.base import ClipInput, Encoder, EncoderOptions, Sample, StreamTemplate, arithmetic, placed
from vidloc.extract.class_names import KINETICS_400, check_number, score_names
from vidloc.extract.folding import fold_batch_norms
from vidloc.extract.preparation import ClipPreparation

State = Mapping[str, torch.Tensor]


class ClassifierOptions(EncoderOptions):
    """Options of clip classifiers."""

    scores: bool = Field(
        default=False, description="Also store the scores of all classes (before the softmax), as the field 'scores'."
    )
    # Not among the recorded options: the names themselves are recorded, as the stream's vocabulary.
    classes: str = Field(
        "",
        exclude=True,
        description="File with one class name per line, for scores of your own weights; the published ones "
        "bring the names of Kinetics-400.",
    )


class ClipClassifier(Encoder):
    """A network whose pooled map, averaged over its positions, is the row.

    Class attributes:
        num_features: numbers per row.
        classifier: name of the weight of the last layer, whose first axis has one entry per class; families whose
            members differ set it on the instance before this class's constructor runs.
        source: paper, code and licence; families whose members differ set it on the instance.
        tap: where the row is taken, in words.
    """

    Options: ClassVar[type[EncoderOptions]] = ClassifierOptions
    num_features: ClassVar[int]
    classifier: str
    source: Source
    tap: ClassVar[str]

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not (isinstance(options, ClassifierOptions) and isinstance(options, self.Options)):
            raise TypeError(f"{name} takes {self.Options.__name__}, got {type(options).__name__}.")
        self.options: ClassifierOptions = options
        self.name = name
        self._vocabulary = _class_names(options)
        checkpoint = weights.resolve(options.weights, self.published_name(options, name))
        state = None if checkpoint.path is None else self.renamed(weights.read_state(checkpoint.path))
        self.num_classes = self._classes_of(state)
        with weights.seeded(checkpoint.seed or 0):
            network = self.build(self.num_classes)
        if state is not None:
            weights.load_into(network, state, where=str(checkpoint.path))
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self.network = placed(fold_batch_norms(network.eval()), device, torch.channels_last_3d)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        weights.check_available(cls.published_name(options, name), options.weights)
        if isinstance(options, ClassifierOptions):
            _class_names(options)

    @classmethod
    def published_name(cls, options: EncoderOptions, name: str) -> str:  # noqa: ARG003  (for families that override it)
        """Name of the published checkpoint that empty `weights` stand for."""
        return name

    @abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """The network, untrained."""

    def renamed(self, state: State) -> State:
        """The tensors to load, under the network's own names; families published under several names override it."""
        return state

    @abstractmethod
    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """The last pooled map `(batch, num_features, ...)` of clips `(batch, channels, num_frames, height, width)`."""

    @abstractmethod
    def classified(self, pooled: torch.Tensor) -> torch.Tensor:
        """Scores `(batch, num_classes, ...)` of that map, before any softmax."""

    @property
    @abstractmethod
    def preparation(self) -> ClipPreparation:
        """How its frames are chosen and prepared."""

    @property
    def input(self) -> ClipInput:
        """Frames of one window."""
        return self.preparation.input

    def stream(self) -> StreamTemplate:
        """One vector per row, and one score per class where they are wanted."""
        widths = {"features": self.num_features} | ({"scores": self.num_classes} if self.options.scores else {})
        return StreamTemplate(
            kind="clip",
            fields={name: FieldSpec(row_shape=(n,), dtype=self.options.dtype) for name, n in widths.items()},
            source=self.source,
            preprocessing={**self.preparation.described(), "tap": self.tap}
            | ({"scores": "before the softmax, mean over positions"} if self.options.scores else {}),
            vocabulary=self._vocabulary,
        )

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of clips, float32."""
        with arithmetic(self.device, self.options.precision):
            maps = self.pooled(self.preparation.clips(samples, self.device))
            rows = {"features": _averaged(maps)}
            if self.options.scores:
                rows["scores"] = _averaged(self.classified(maps))
        return Rows.dense(**{name: np.ascontiguousarray(row.cpu().numpy()) for name, row in rows.items()})

    def _classes_of(self, state: State | None) -> int:
        last = (state or {}).get(self.classifier)
        # A checkpoint without it is refused by name when it is loaded.
        count = len(KINETICS_400) if last is None else len(last)
        check_number(self._vocabulary, count, encoder=self.name, classes=self.options.classes)
        return count


def _class_names(options: ClassifierOptions) -> tuple[str, ...]:
    return score_names(options.classes, scores=options.scores, published=() if options.weights else KINETICS_400)


def _averaged(maps: torch.Tensor) -> torch.Tensor:
    return maps.float().reshape(*maps.shape[:2], -1).mean(2)
