"""Image, video and sound models of transformers: which kind a folder holds, its network, and the row it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers.models.auto import modeling_auto

from vidloc.errors import OptionError, WeightsError
from vidloc.extract import model_folder, weights

Modality = Literal["image", "video", "audio"]
Pool = Literal["auto", "pooler", "mean", "first"]

# By the classes that transformers itself registers as classifiers of each.
_KINDS: Mapping[Modality, Mapping[str, Any]] = {
    "video": modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
    "audio": modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "image": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
}
_CLASSIFIERS: Mapping[Modality, Any] = {
    "video": transformers.AutoModelForVideoClassification,
    "audio": transformers.AutoModelForAudioClassification,
    "image": transformers.AutoModelForImageClassification,
}


@dataclass(frozen=True)
class _Tower:
    # The side of a model of two that sees or hears, and the output that both sides share a space in.
    modality: Modality
    kind: Any
    output: str
    config: str


_TOWERS = {
    "clip": _Tower("image", transformers.CLIPVisionModelWithProjection, "image_embeds", "vision_config"),
    "siglip": _Tower("image", transformers.SiglipVisionModel, "pooler_output", "vision_config"),
    "clap": _Tower("audio", transformers.ClapAudioModelWithProjection, "audio_embeds", "audio_config"),
}
# What models do without: a pooler that a classifier's checkpoint has not, and a vector used in training alone.
_MAY_LACK = ("pooler.", "masked_spec_embed")


def modality_of(config: Any, folder: Path) -> Modality:
    """What a model of a configuration is fed.

    Raises:
        WeightsError: none of pictures, clips and sound, or a model that also writes text.
    """
    if config.model_type in _TOWERS:
        return _TOWERS[config.model_type].modality
    found = next((modality for modality, kinds in _KINDS.items() if config.model_type in kinds), None)
    if found is None or getattr(config, "is_encoder_decoder", False):
        raise WeightsError(
            f"{folder} holds a model of type {config.model_type!r}, which is no encoder of pictures, clips or sound. "
            "Sentences have encoders of their own: text, bert, clip_text."
        )
    return found


class Network:
    """A network, and how its output becomes a row.

    Args:
        folder: of the model.
        modality: what it is fed.
        scores: build the classifier as well.
        seed: of untrained weights; `None` loads the folder's.

    Raises:
        WeightsError: the folder does not load, lacks tensors, or has no trained classifier though scores are wanted.
    """

    def __init__(self, folder: Path, config: Any, modality: Modality, *, scores: bool, seed: int | None) -> None:
        self.tower = _TOWERS.get(config.model_type)
        if scores and (self.tower is not None or not _classifies(config)):
            raise WeightsError(
                f"{folder} is no classifier (architectures: {', '.join(config.architectures or ['none'])}); leave "
                "scores=true out."
            )
        kind = _CLASSIFIERS[modality] if scores else transformers.AutoModel if self.tower is None else self.tower.kind
        missing: list[str] = []
        self.left_aside: list[str] = []
        if seed is None:
            self.network, report = model_folder.load(kind, folder, may_lack=_MAY_LACK)
            missing, self.left_aside = report["missing"], report["left_aside"]
        else:
            with weights.seeded(seed):
                self.network = _untrained(kind, config, self.tower)
        self.has_pooler = not any("pooler." in name for name in missing)
        self._body: Any = None
        if scores:
            self._body = getattr(self.network, self.network.base_model_prefix)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> tuple[Any, torch.Tensor | None]:
        """The body's output, and scores before the softmax where they are wanted."""
        if self._body is None:
            return self.network(**inputs), None
        caught: list[Any] = []
        hook = self._body.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
        try:
            scores: torch.Tensor = self.network(**inputs).logits
        finally:
            hook.remove()
        return caught[0], scores

    def tap(self, output: Any, pool: Pool) -> str:
        """Name of the output that becomes the row.

        Raises:
            OptionError: the model has no such output.
        """
        names = [self.tower.output] if self.tower is not None else []
        names += ["pooler_output"] if self.has_pooler else []
        pooled = next((name for name in names if getattr(output, name, None) is not None), None)
        if pool in ("auto", "pooler") and pooled is not None:
            return pooled
        if pool == "pooler":
            raise OptionError("the model has no trained pooled output; use pool=mean, or pool=first.")
        states = getattr(output, "last_hidden_state", None)
        if states is None or states.ndim not in (3, 4) or (pool == "first" and states.ndim != 3):
            raise OptionError(f"the model has no token states, so pool={pool} has no meaning; use pool=auto.")
        return "first of last_hidden_state" if pool == "first" else "mean of last_hidden_state"


def row_of(output: Any, tap: str) -> torch.Tensor:
    """`(batch, numbers)` of a model's output, by the name that `Network.tap` gave."""
    if not tap.endswith(" of last_hidden_state"):
        pooled: torch.Tensor = getattr(output, tap).flatten(1)
        return pooled
    states: torch.Tensor = output.last_hidden_state
    if tap.startswith("first"):
        return states[:, 0]
    # Tokens (batch, tokens, numbers), or the maps of a convolutional network (batch, numbers, height, width).
    return states.mean(1) if states.ndim == 3 else states.mean((2, 3))


def class_names(config: Any) -> tuple[str, ...]:
    """Names of a classifier's classes, class 0 first."""
    return tuple(str(config.id2label[number]) for number in range(config.num_labels))


def _classifies(config: Any) -> bool:
    return any(name.endswith("Classification") for name in config.architectures or ())


def _untrained(kind: Any, config: Any, tower: _Tower | None) -> Any:
    if tower is None or kind is not tower.kind:
        return kind.from_config(config, trust_remote_code=False)
    return kind(getattr(config, tower.config))
