"""What classifiers of clips have in common as encoders: features from before the classifier, and its scores on wish.

A row's `features` are the network's last pooled map averaged over its positions; with `scores=true` a second field
`scores` holds the classifier's outputs before the softmax, averaged likewise (in float16, probabilities of unlikely
classes would all be 0). The stream's vocabulary then names the classes.

Some checkpoints classify by several tasks (EPIC-KITCHENS-100: verb and noun). Their scores are fields of their own,
`scores_verb` and `scores_noun`, and the names of their classes are in the stream's preprocessing, as `classes`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, JsonValue
from torch import nn

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError
from vidloc.extract import weights
from vidloc.extract.base import (
    ClipInput,
    Encoder,
    EncoderOptions,
    FrameInput,
    Sample,
    StreamTemplate,
    arithmetic,
    placed,
)
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
        "bring the names of what they learned, mostly Kinetics-400.",
    )

    def class_files(self) -> Mapping[str, str]:
        """Files of class names by the field of scores that they name; empty text where there is none."""
        return {"scores": self.classes}


class TwoTaskOptions(ClassifierOptions):
    """Options of classifiers whose weights may know verbs and nouns apart."""

    classes_verb: str = Field(
        "",
        exclude=True,
        description="File of verb names (EPIC's csv, or one name per line), for scores of weights that classify verbs "
        "and nouns.",
    )
    classes_noun: str = Field("", exclude=True, description="The same of nouns.")

    def class_files(self) -> Mapping[str, str]:
        """See the base class."""
        return {**super().class_files(), "scores_verb": self.classes_verb, "scores_noun": self.classes_noun}


class ClipClassifier(Encoder):
    """A network whose pooled map, averaged over its positions, is the row.

    Class attributes:
        num_features: numbers per row; families whose members differ set it on the instance.
        classifier: name of the weight of the last layer, whose first axis has one entry per class; families whose
            members differ set it on the instance before this class's constructor runs.
        source: paper, code and licence; families whose members differ set it on the instance.
        tap: where the row is taken, in words.
        published_classes: names of the classes that the published weights learned; empty where none are published.
        untrained_classes: how many classes untrained weights have.
        memory_format: how its tensors lie in memory; 2-D networks have another.

    Instances have `num_classes`: how many classes each field of scores has, in the order of the classifier's rows.
    """

    Options: ClassVar[type[EncoderOptions]] = ClassifierOptions
    num_features: int
    classifier: str
    source: Source
    tap: ClassVar[str]
    published_classes: ClassVar[tuple[str, ...]] = KINETICS_400
    untrained_classes: ClassVar[int] = len(KINETICS_400)
    memory_format: ClassVar[torch.memory_format] = torch.channels_last_3d

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not (isinstance(options, ClassifierOptions) and isinstance(options, self.Options)):
            raise TypeError(f"{name} takes {self.Options.__name__}, got {type(options).__name__}.")
        self.options: ClassifierOptions = options
        self.name = name
        self._class_names = self._names_of(options)
        checkpoint = weights.resolve(options.weights, self.published_name(options, name))
        published = {} if checkpoint.path is None else weights.read_state(checkpoint.path)
        tasks = self.tasks(published)
        state = None if checkpoint.path is None else self.renamed(published)
        self.num_classes = {f"scores_{task}": count for task, count in tasks.items()} or self._classes_of(state)
        self._check_names()
        with weights.seeded(checkpoint.seed or 0):
            network = self.build(sum(self.num_classes.values()))
        if state is not None:
            weights.load_into(network, state, where=str(checkpoint.path))
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self.network = placed(fold_batch_norms(network.eval()), device, self.memory_format)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        weights.check_available(cls.published_name(options, name), options.weights)
        if isinstance(options, ClassifierOptions):
            cls._names_of(options)

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

    def tasks(self, state: State) -> Mapping[str, int]:
        """Classes by task of a checkpoint, as published, with a classifier for each; empty where it has one for all.

        Such families' `renamed` joins the classifiers into one, its rows in this order.
        """
        return {}

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
    def input(self) -> ClipInput | FrameInput:
        """Frames of one window, or a single one."""
        return self.preparation.input

    def stream(self) -> StreamTemplate:
        """One vector per row, and one score per class where they are wanted."""
        widths = {"features": self.num_features} | (self.num_classes if self.options.scores else {})
        return StreamTemplate(
            kind="clip",
            fields={name: FieldSpec(row_shape=(n,), dtype=self.options.dtype) for name, n in widths.items()},
            source=self.source,
            preprocessing={**self.preparation.described(), "tap": self.tap} | self._scores_described(),
            vocabulary=self._class_names.get("scores", ()),
        )

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of clips, float32."""
        with arithmetic(self.device, self.options.precision):
            maps = self.pooled(self.preparation.clips(samples, self.device))
            rows = {"features": _averaged(maps)}
            if self.options.scores:
                scores = torch.split(_averaged(self.classified(maps)), list(self.num_classes.values()), dim=1)
                rows |= zip(self.num_classes, scores, strict=True)
        return Rows.dense(**{name: np.ascontiguousarray(row.cpu().numpy()) for name, row in rows.items()})

    def _classes_of(self, state: State | None) -> dict[str, int]:
        last = (state or {}).get(self.classifier)
        # A checkpoint without it is refused by name when it is loaded.
        return {"scores": self.untrained_classes if last is None else len(last)}

    @classmethod
    def _names_of(cls, options: ClassifierOptions) -> dict[str, tuple[str, ...]]:
        # By field of scores; fields whose classes nobody names are left out.
        published = () if options.weights else cls.published_classes
        names = {
            field: score_names(file, scores=options.scores, published=published if field == "scores" else ())
            for field, file in options.class_files().items()
        }
        return {field: known for field, known in names.items() if known}

    def _check_names(self) -> None:
        files = self.options.class_files()
        for field, names in self._class_names.items():
            if field not in self.num_classes:
                raise OptionError(
                    f"encoder {self.name!r}: {files[field]} names classes of the field {field!r}, these weights have "
                    f"{' and '.join(self.num_classes)}. Options that name their classes: "
                    f"{', '.join(other.replace('scores', 'classes') for other in self.num_classes)}."
                )
            check_number(names, self.num_classes[field], encoder=self.name, classes=files[field])

    def _scores_described(self) -> dict[str, JsonValue]:
        if not self.options.scores:
            return {}
        by_task: dict[str, JsonValue] = {
            field: list(names) for field, names in self._class_names.items() if field != "scores"
        }
        described: dict[str, JsonValue] = {"scores": "before the softmax, mean over positions"}
        return described | ({"classes": by_task} if by_task else {})


def joined(layers: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Classifiers of several tasks as one, their rows one after another; `None` where they do not fit together."""
    if not layers or not all(layer.ndim for layer in layers) or len({layer.shape[1:] for layer in layers}) > 1:
        return None
    return torch.cat(list(layers))


def _averaged(maps: torch.Tensor) -> torch.Tensor:
    return maps.float().reshape(*maps.shape[:2], -1).mean(2)
