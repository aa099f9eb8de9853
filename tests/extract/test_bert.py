"""Token states: the library's own forward, whatever shares the batch, from a folder and nothing else."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny_models import built, save, write_bert
from transformers import AutoTokenizer, BertConfig, BertModel, ViTConfig, ViTModel

from vidloc.errors import WeightsError
from vidloc.extract.base import Sample
from vidloc.extract.bert import Bert, BertOptions
from vidloc.pipelines.checkpoint_fit import fit
from vidloc.testing.checks import check, check_encoder

SENTENCES = ("open the door", "door", "the door the door open the open door")


def said(*sentences):
    return [Sample((Fraction(0), Fraction(1)), text, np.zeros(0), key=f"k{k}") for k, text in enumerate(sentences)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny-bert")


@pytest.fixture(scope="module")
def model(folder):
    return write_bert(folder)


def states(model, folder, sentence):
    tokens = AutoTokenizer.from_pretrained(folder)(sentence, return_tensors="pt")
    with torch.inference_mode():
        return model(**tokens).last_hidden_state[0].numpy()


def test_states_equal_the_library_and_padding_changes_nothing(model, folder, build_encoder):
    encoder = build_encoder("bert", weights=folder)
    rows = encoder.encode(said(*SENTENCES))
    for sentence, found, ids in zip(SENTENCES, rows.entries("features"), rows.entries("token_ids"), strict=True):
        expected = states(model, folder, sentence)
        alone = encoder.encode(said(sentence))
        assert found.shape == (len(sentence.split()) + 2, 32)
        assert np.abs(found - expected).max() <= 1e-5
        assert np.abs(alone.fields["features"] - expected).max() <= 1e-5
        assert ids.tolist() == alone.fields["token_ids"].tolist()
    assert rows.entries("token_ids")[1].tolist() == [2, 7, 3]
    assert rows.fields["tokens"].tolist() == [5, 3, 10]
    assert rows.strings("text") == list(SENTENCES)
    assert rows.strings("key") == ["k0", "k1", "k2"]


def test_the_first_state_alone_or_beside_the_others(model, folder, build_encoder):
    first = np.stack([states(model, folder, sentence)[0] for sentence in SENTENCES])
    alone = build_encoder("bert", weights=folder, states="cls")
    both = build_encoder("bert", weights=folder, states="both").encode(said(*SENTENCES))
    assert alone.stream().fields["features"].row_shape == (32,)
    assert np.abs(alone.encode(said(*SENTENCES)).fields["features"] - first).max() <= 1e-5
    assert np.abs(both.fields["cls_state"] - first).max() <= 1e-5
    assert np.array_equal([entry[0] for entry in both.entries("features")], both.fields["cls_state"])


def test_long_sentences_are_cut_and_counted_whole(model, folder, build_encoder):
    rows = build_encoder("bert", weights=folder, max_tokens=4).encode(said(*SENTENCES))
    assert [len(entry) for entry in rows.entries("features")] == [4, 3, 4]
    assert rows.fields["tokens"].tolist() == [5, 3, 10]
    rows = build_encoder("bert", weights=folder, max_tokens=999).encode(said("door " * 40))
    assert len(rows.fields["features"]) == 24


def test_a_checkpoint_of_the_whole_pretraining_model_loads(tmp_path, build_encoder):
    """What is published as BERT: names below `bert.`, and the heads that it was trained with."""
    whole = write_bert(tmp_path, heads=True)
    encoder = build_encoder("bert", weights=tmp_path)
    found = encoder.encode(said("open the door")).fields["features"]
    assert np.abs(found - states(whole.bert, tmp_path, "open the door")).max() <= 1e-5


@pytest.mark.parametrize("name", ["bert", "text"])
def test_a_checkpoint_in_half_precision_is_calculated_in_float32(name, tmp_path, build_encoder):
    whole = write_bert(tmp_path)
    whole.half().save_pretrained(tmp_path)
    given = {"bert": {"weights": tmp_path, "states": "cls"}, "text": {"model": tmp_path}}[name]
    found = build_encoder(name, **given).encode(said("open the door")).fields["features"][0]
    expected = states(whole.float(), tmp_path, "open the door")
    assert np.abs(found - (expected[0] if name == "bert" else expected.mean(0))).max() <= 1e-5


@pytest.mark.parametrize("kind", ["tokens", "cls", "both"])
def test_the_contract_holds(kind, model, folder):
    report = check_encoder("bert", {"weights": str(folder), "states": kind})
    assert [outcome.sentence for outcome in report.outcomes if not outcome.passed] == []


def test_untrained_weights_follow_from_the_seed(monkeypatch, build_encoder):
    small = BertConfig(vocab_size=120, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    monkeypatch.setattr("vidloc.extract.bert.BertConfig", lambda: small)
    assert [outcome.sentence for outcome in check("bert").outcomes if not outcome.passed] == []
    rows = [build_encoder("bert", weights=f"random:{seed}").encode(said("open door")).fields for seed in (1, 1, 2)]
    assert np.array_equal(rows[0]["features"], rows[1]["features"])
    assert not np.allclose(rows[0]["features"], rows[2]["features"])
    assert rows[0]["token_ids"].tolist()[::3] == [101, 102]


def test_what_is_no_text_model_is_refused(tmp_path, build_encoder):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    save(built(ViTModel, ViTConfig(image_size=32, **small)), tmp_path)
    with pytest.raises(WeightsError, match="holds ViTModel, no encoder of texts"):
        build_encoder("bert", weights=tmp_path)
    write_bert(tmp_path / "short")
    model = built(BertModel, BertConfig(**small))
    del model.encoder.layer[0].output.dense
    (tmp_path / "short" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "short")
    with pytest.raises(WeightsError, match=r"missing: encoder\.layer\.0\.output\.dense"):
        build_encoder("bert", weights=tmp_path / "short")
    found = fit(tmp_path / "short", "bert")
    assert found.missing == ("encoder.layer.0.output.dense.bias", "encoder.layer.0.output.dense.weight")


def test_the_published_model_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"hf download google-bert/bert-base-uncased\n"):
        Bert.check_weights(BertOptions(), name="bert")
