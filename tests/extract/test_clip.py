"""CLIP's towers: the library's own forward on the same pixels and sentences, from a folder and nothing else."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_clip
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTokenizer

from vidloc.errors import WeightsError
from vidloc.extract.base import Sample
from vidloc.extract.clip_image import ClipImage, ClipImageOptions
from vidloc.testing import deterministic_fill
from vidloc.testing.checks import check, check_encoder

SPAN = (Fraction(0), Fraction(1))
SENTENCES = ("open the door", "stir", "Open, open!")


def frame(name, height=52, width=88):
    return Sample(SPAN, deterministic_fill.frames(name, 1, height, width)[0], np.zeros(1))


def said(*sentences):
    return [Sample(SPAN, sentence, np.zeros(0), key=f"k{k}") for k, sentence in enumerate(sentences)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny-clip")


@pytest.fixture(scope="module")
def model(folder):
    return write_clip(folder)


@pytest.fixture(scope="module")
def pictures(model, folder, build_encoder):
    return build_encoder("clip_image", weights=folder)


@pytest.fixture(scope="module")
def sentences(model, folder, build_encoder):
    return build_encoder("clip_text", weights=folder)


class TestPictures:
    def test_rows_equal_the_library_and_its_processor_alone_or_together(self, model, pictures):
        samples = [frame("a"), frame("b"), frame("c", 88, 52)]
        together = pictures.encode(samples).fields["features"]
        for sample, row in zip(samples, together, strict=True):
            pixels = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)(sample.data, return_tensors="pt")
            with torch.inference_mode():
                expected = model.get_image_features(**pixels).pooler_output[0].numpy()
            alone = pictures.encode([sample]).fields["features"][0]
            assert np.abs(row - expected).max() <= 1e-5
            assert np.abs(alone - expected).max() <= 1e-5
        assert np.abs(together[0] - together[1]).max() > 0.01

    def test_stream_states_preparation_and_the_text_side(self, pictures):
        template = pictures.stream()
        assert template.fields["features"].row_shape == (16,)
        facts = template.preprocessing
        assert facts["resize"] == "shortest edge 32, bicubic, antialiased"
        assert facts["crop"] == "centre height 32 width 32"
        assert facts["normalisation"] == (
            "minus 0.48145466, 0.4578275, 0.40821073, over 0.26862954, 0.26130258, 0.27577711"
        )
        assert (facts["activation"], facts["normalised"]) == ("quick_gelu", False)
        assert facts["text_encoder"] == "clip_text"
        assert len(facts["settings_sha256"]) == 64

    def test_the_activation_is_the_configurations(self, pictures, tmp_path, build_encoder):
        write_clip(tmp_path, hidden_act="gelu")
        exact = build_encoder("clip_image", weights=tmp_path)
        rows = [encoder.encode([frame("a")]).fields["features"] for encoder in (pictures, exact)]
        assert exact.stream().preprocessing["activation"] == "gelu"
        assert np.abs(rows[0] - rows[1]).max() > 1e-4


class TestSentences:
    def test_rows_equal_the_library_alone_or_together(self, model, sentences, folder):
        rows = sentences.encode(said(*SENTENCES))
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        for k, sentence in enumerate(SENTENCES):
            tokens = tokenizer(sentence, return_tensors="pt")
            with torch.inference_mode():
                expected = model.get_text_features(**tokens).pooler_output[0].numpy()
            alone = sentences.encode(said(sentence))
            assert np.abs(rows.fields["features"][k] - expected).max() <= 1e-5
            assert np.abs(alone.fields["features"][0] - expected).max() <= 1e-5
            assert rows.entries("token_ids")[k].tolist() == tokens["input_ids"][0].tolist()
        assert np.abs(np.diff(rows.fields["features"], axis=0)).max(axis=1).min() > 1e-3

    def test_long_sentences_are_cut_and_counted_whole(self, sentences):
        rows = sentences.encode(said("open " * 20, "open " * 30, "open"))
        assert rows.fields["tokens"].tolist() == [42, 62, 4]
        assert [len(ids) for ids in rows.entries("token_ids")] == [16, 16, 4]
        assert np.array_equal(*rows.fields["features"][:2])

    def test_rows_are_not_normalised_and_have_their_sentence(self, sentences):
        rows = sentences.encode(said(*SENTENCES))
        assert rows.strings("text") == list(SENTENCES)
        assert rows.strings("key") == ["k0", "k1", "k2"]
        assert np.abs(np.linalg.norm(rows.fields["features"], axis=1) - 1).min() > 0.05
        assert sentences.stream().preprocessing["normalised"] is False


@pytest.mark.parametrize("name", ["clip_image", "clip_text"])
def test_the_contract_holds_with_weights_from_a_folder(name, model, folder):
    report = check_encoder(name, {"weights": str(folder)})
    assert [outcome.sentence for outcome in report.outcomes if not outcome.passed] == []


@pytest.mark.parametrize("name", ["clip_image", "clip_text"])
def test_untrained_weights_follow_from_the_seed(name, monkeypatch, build_encoder):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = CLIPConfig(text_config=tower, vision_config=tower | {"patch_size": 56})
    monkeypatch.setattr("vidloc.extract.clip_model.CLIPConfig", lambda: small)
    assert [outcome.sentence for outcome in check(name).outcomes if not outcome.passed] == []
    samples = [frame("a")] if name == "clip_image" else said("open the door")
    rows = [build_encoder(name, weights=f"random:{seed}").encode(samples).fields["features"] for seed in (1, 1, 2)]
    assert np.array_equal(rows[0], rows[1])
    assert not np.allclose(rows[0], rows[2])


def test_the_licence_is_that_of_the_weights(model, folder, tmp_path, build_encoder, pictures):
    assert pictures.stream().source.licence == "not stated in the model's folder"
    shutil.copytree(folder, tmp_path / "own")
    (tmp_path / "own" / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")
    assert build_encoder("clip_text", weights=tmp_path / "own").stream().source.licence.startswith("mit (stated in")


def test_both_towers_state_the_same_weights(pictures, sentences, folder):
    assert pictures.weights_sha256 == sentences.weights_sha256
    assert pictures.weights_name == f"{folder.name}/model.safetensors"


class TestWhatIsRefused:
    def test_a_tower_cut_short_or_a_strange_tensor(self, model, folder, tmp_path, build_encoder):
        state = load_file(folder / "model.safetensors")
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        save_file(state | {"extra.weight": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=r"not known to the network: extra\.weight"):
            build_encoder("clip_text", weights=tmp_path)
        del state["visual_projection.weight"]
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=r"missing: visual_projection\.weight"):
            build_encoder("clip_image", weights=tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(WeightsError, match="does not load"):
            build_encoder("clip_image", weights=tmp_path)

    def test_another_model(self, tmp_path, build_encoder):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(WeightsError, match="holds a model of type 'vit', not 'clip'"):
            build_encoder("clip_image", weights=tmp_path)

    def test_what_is_not_here_is_said_with_the_line_that_gets_it(self, monkeypatch, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(WeightsError, match=r"hf download openai/clip-vit-base-patch32\n.*clip_image:weights="):
            ClipImage.check_weights(ClipImageOptions(), name="clip_image")
        with pytest.raises(WeightsError, match=r"'\./nowhere' is no folder"):
            ClipImage.check_weights(ClipImageOptions(weights="./nowhere"), name="clip_image")
        (tmp_path / "empty").mkdir()
        with pytest.raises(WeightsError, match=r"no config\.json or modules\.json"):
            ClipImage.check_weights(ClipImageOptions(weights=str(tmp_path / "empty")), name="clip_image")
