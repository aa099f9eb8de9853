"""What CLIP's two towers have in common: the published model, loading one tower of it, and what is recorded."""

from __future__ import annotations

from typing import Any

from transformers import CLIPConfig

from vidloc.core.records import Source
from vidloc.errors import WeightsError
from vidloc.extract import model_folder, weights
from vidloc.extract.model_folder import ModelFolder, ModelWeights

PUBLISHED = "openai/clip-vit-base-patch32"
# Ids of the first and last token in the vocabulary of every CLIP: words have those below.
MARKS = (49406, 49407)
WEIGHTS_HELP = (
    "Folder of a CLIP model, its name in the local Hugging Face cache, or 'random:SEED' for untrained weights; "
    f"empty for {PUBLISHED} in that cache (hf download {PUBLISHED})."
)
SOURCE = Source(
    paper="Radford et al. Learning Transferable Visual Models From Natural Language Supervision. ICML 2021.",
    code="https://github.com/openai/CLIP",
    licence="MIT (code)",
)
# What the file holds of the other tower, and the temperature of the loss.
_OTHER_PARTS = ("text_", "vision_", "visual_", "logit_scale")


def resolve(option: str, *, encoder: str) -> ModelWeights:
    """See `model_folder.resolve`."""
    return model_folder.resolve(option, published=PUBLISHED, encoder=encoder)


def check_available(option: str, *, encoder: str) -> None:
    """See `model_folder.check_available`."""
    model_folder.check_available(option, published=PUBLISHED, encoder=encoder)


def load_tower(kind: Any, folder: ModelFolder) -> Any:
    """One tower of a CLIP model, with its projection.

    Args:
        kind: class of the tower in transformers.

    Raises:
        MisfitError: the file lacks tensors or holds strange ones; they are named.
        WeightsError: it is of another model, or does not load.
    """
    found = model_folder.read_config(folder.path).model_type
    if found != "clip":
        raise WeightsError(
            f"{folder.path} holds a model of type {found!r}, not 'clip'. Give the folder of a CLIP model."
        )
    network, report = model_folder.load(kind, folder.path)
    strange = [name for name in report["left_aside"] if not name.startswith(_OTHER_PARTS)]
    if strange:
        raise weights.misfit(network, where=str(folder.path), unknown=strange)
    return network


def untrained_tower(kind: Any, seed: int) -> Any:
    """One tower of an untrained ViT-B/32."""
    with weights.seeded(seed):
        return kind(getattr(CLIPConfig(), kind.config_class.base_config_key))
