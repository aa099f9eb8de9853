"""Folders of small models in transformers' layout, with made-up weights that follow from the names of the tensors."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedModel,
)

from vidloc.extract import weights
from vidloc.testing.deterministic_fill import filled


def save(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Fill a model by its names and write it as a folder; returns it, ready to be called."""
    with torch.no_grad():
        model.load_state_dict(filled(model.state_dict()))
    model.save_pretrained(folder)
    return model.eval()


def built(kind: type[PreTrainedModel], config: object) -> PreTrainedModel:
    """A model without moving the global random generators."""
    with weights.seeded(0):
        return kind(config)


def write_clip(folder: Path, *, hidden_act: str = "quick_gelu") -> CLIPModel:
    """A CLIP of two layers whose tokenizer knows letters, `op` and `en`; pictures are 32 pixels wide."""
    letters = [*string.ascii_lowercase, *",.!?'"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "op", "en</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[("o", "p"), ("e", "n</w>")]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "hidden_act": hidden_act,
    }
    marks = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    text = tower | marks | {"vocab_size": len(words), "max_position_embeddings": 16}
    pictures = tower | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=pictures, projection_dim=16)
    return save(built(CLIPModel, config), folder)


def write_bert(folder: Path, *, heads: bool = False) -> PreTrainedModel:
    """A BERT of two layers that knows three words; with `heads`, as the whole model that is pretrained."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "open", "the", "door"]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    return save(built(BertForPreTraining if heads else BertModel, config), folder)
