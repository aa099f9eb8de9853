"""Models of transformers by `hf:`: the library's own forward and processor on the same pixels and sound."""

from __future__ import annotations

import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
import transformers
from made_videos import write_video
from tiny_models import built, save, write_bert, write_clip

from vidloc.core import registry
from vidloc.errors import OptionError, ProvenanceError, UnknownNameError, WeightsError
from vidloc.extract.base import AudioInput, ClipInput, FrameInput, Sample
from vidloc.extract.pictures import sized
from vidloc.pipelines.extract import Selection, extract
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.pipelines.query_encoding import encoder_of
from vidloc.stores.base import open_store
from vidloc.testing import deterministic_fill
from vidloc.testing.checks import check, check_encoder

LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PICTURES = LAYERS | {"image_size": 32, "patch_size": 8}
LABELS = {"id2label": {0: "chop", 1: "stir", 2: "pour"}, "label2id": {"chop": 0, "stir": 1, "pour": 2}}
SIDES = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SPAN = (Fraction(0), Fraction(1))


def videomae(folder):
    transformers.VideoMAEVideoProcessor(**SIDES).save_pretrained(folder)
    config = transformers.VideoMAEConfig(num_frames=4, **PICTURES, **LABELS)
    return save(built(transformers.VideoMAEForVideoClassification, config), folder)


def timesformer(folder):
    # As its repositories have it: another model's picture processor.
    transformers.VideoMAEImageProcessor(**SIDES).save_pretrained(folder)
    config = transformers.TimesformerConfig(num_frames=4, **PICTURES)
    return save(built(transformers.TimesformerModel, config), folder)


def vivit(folder):
    transformers.VivitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    config = transformers.VivitConfig(num_frames=4, tubelet_size=[2, 8, 8], **LAYERS, image_size=32)
    return save(built(transformers.VivitModel, config), folder)


def resnet(folder):
    transformers.BitImageProcessor(**SIDES).save_pretrained(folder)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return save(built(transformers.ResNetModel, config), folder)


def siglip(folder):
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    config = transformers.SiglipConfig(text_config=LAYERS | {"vocab_size": 30}, vision_config=PICTURES)
    return save(built(transformers.SiglipModel, config), folder)


def vit(folder):
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return save(built(transformers.ViTForImageClassification, transformers.ViTConfig(**PICTURES, **LABELS)), folder)


def dinov2(folder):
    transformers.BitImageProcessor(**SIDES).save_pretrained(folder)
    return save(built(transformers.Dinov2Model, transformers.Dinov2Config(**PICTURES)), folder)


def ast(folder):
    transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(folder)
    config = transformers.ASTConfig(max_length=64, num_mel_bins=32, **LAYERS, patch_size=16, **LABELS)
    return save(built(transformers.ASTForAudioClassification, config), folder)


def clap(folder, *, fusion=False):
    truncation = "fusion" if fusion else "rand_trunc"
    transformers.ClapFeatureExtractor(
        feature_size=32, sampling_rate=8000, max_length_s=1, hop_length=160, fft_window_size=512, truncation=truncation,
        frequency_max=4000,
    ).save_pretrained(folder)  # fmt: skip
    audio = {
        "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2], "num_mel_bins": 32,
        "spec_size": 64, "window_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "enable_fusion": fusion,
        "projection_dim": 8, "patch_size": 4, "patch_stride": (4, 4),
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=LAYERS | {"vocab_size": 30}, audio_config=audio, projection_dim=8)
    return save(built(transformers.ClapModel, config), folder)


def wav2vec2(folder):
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    layers = {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    config = transformers.Wav2Vec2Config(
        **LAYERS, **layers, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, vocab_size=12
    )
    return save(built(transformers.Wav2Vec2Model, config), folder)


def clips(folder, samples):
    # The library's way from whole frames, one clip at a time.
    processor = transformers.AutoVideoProcessor.from_pretrained(folder)
    return [processor(videos=[torch.from_numpy(s.data).permute(0, 3, 1, 2)], return_tensors="pt") for s in samples]


def pictures(folder, samples):
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return [processor(s.data, input_data_format="channels_last", return_tensors="pt") for s in samples]


def sounds(folder, samples):
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return [extractor(s.data, sampling_rate=extractor.sampling_rate, return_tensors="pt") for s in samples]


def clap_row(model, inputs):
    features = model.audio_model(input_features=inputs["input_features"], is_longer=torch.zeros(1, 1))
    return model.audio_projection(features.pooler_output)


# Per model: how it is made, what its library feeds it, the row as the library would make it, and where it is taken.
MODELS = {
    "videomae": (videomae, clips, lambda m, x: m.videomae(**x).last_hidden_state.mean(1), "mean of last_hidden_state"),
    "timesformer": (timesformer, clips, lambda m, x: m(**x).last_hidden_state.mean(1), "mean of last_hidden_state"),
    "vivit": (vivit, clips, lambda m, x: m(**x).pooler_output, "pooler_output"),
    "resnet": (resnet, pictures, lambda m, x: m(**x).pooler_output.flatten(1), "pooler_output"),
    "siglip": (siglip, pictures, lambda m, x: m.get_image_features(**x).pooler_output, "pooler_output"),
    "vit": (vit, pictures, lambda m, x: m.vit(**x).last_hidden_state.mean(1), "mean of last_hidden_state"),
    "dinov2": (dinov2, pictures, lambda m, x: m(**x).pooler_output, "pooler_output"),
    "clip": (write_clip, pictures, lambda m, x: m.get_image_features(**x).pooler_output, "image_embeds"),
    "ast": (ast, sounds, lambda m, x: m.audio_spectrogram_transformer(**x).pooler_output, "pooler_output"),
    "clap": (clap, sounds, clap_row, "audio_embeds"),
    "clap_fused": (lambda folder: clap(folder, fusion=True), sounds, clap_row, "audio_embeds"),
    "wav2vec2": (wav2vec2, sounds, lambda m, x: m(**x).last_hidden_state.mean(1), "mean of last_hidden_state"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and its folder, by name, made once."""
    known = {}

    def get(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            known[name] = MODELS[name][0](folder), folder
        return known[name]

    return get


def whole_samples(wanted):
    """Two samples as they are decoded: whole frames, whatever size the encoder asks for."""
    match wanted:
        case ClipInput():
            frames = [deterministic_fill.frames(name, wanted.num_frames, 60, 100) for name in ("a", "b")]
            return [Sample(SPAN, clip, np.zeros(wanted.num_frames)) for clip in frames]
        case AudioInput():
            noise = np.random.default_rng(0).normal(0, 0.1, (2, wanted.num_samples)).astype(np.float32)
            return [Sample(SPAN, sound, np.empty(0)) for sound in noise]
        case _:
            return [Sample(SPAN, deterministic_fill.frames(name, 1, 60, 100)[0], np.zeros(1)) for name in ("a", "b")]


def as_asked(wanted, samples):
    """The same as the pipeline hands them over."""
    if not isinstance(wanted, ClipInput | FrameInput):
        return samples
    if isinstance(wanted, FrameInput):
        return [Sample(s.span, sized(s.data, wanted.size), s.pts_s) for s in samples]
    return [Sample(s.span, np.stack([sized(frame, wanted.size) for frame in s.data]), s.pts_s) for s in samples]


@pytest.mark.parametrize("name", MODELS)
def test_rows_equal_the_library_and_its_processor_alone_or_together(name, made, build_encoder):
    model, folder = made(name)
    _, prepare, row_of, tap = MODELS[name]
    encoder = build_encoder(f"hf:{folder}")
    samples = whole_samples(encoder.input)
    ours = as_asked(encoder.input, samples)
    with torch.inference_mode():
        expected = np.concatenate([row_of(model, dict(inputs)).numpy() for inputs in prepare(folder, samples)])
    together = encoder.encode(ours).fields["features"]
    alone = np.concatenate([encoder.encode([sample]).fields["features"] for sample in ours])
    assert np.abs(together - expected).max() <= 1e-5
    assert np.abs(alone - expected).max() <= 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    template = encoder.stream()
    assert template.fields["features"].row_shape == expected.shape[1:]
    assert template.preprocessing["tap"] == tap
    assert template.kind == ("audio" if isinstance(encoder.input, AudioInput) else "clip")


@pytest.mark.parametrize("name", MODELS)
def test_the_contract_holds_with_the_folders_weights(name, made):
    report = check_encoder(f"hf:{made(name)[1]}", {"weights": ""})
    assert [outcome.sentence for outcome in report.outcomes if not outcome.passed] == []


def test_the_contract_holds_untrained_as_vidloc_check_asks(made):
    report = check(f"hf:{made('dinov2')[1]}")
    assert (report.what, report.passed) == ("encoder", True)


@pytest.mark.parametrize("name", ["videomae", "vit", "ast"])
def test_scores_are_the_classifiers_and_named(name, made, build_encoder):
    model, folder = made(name)
    encoder = build_encoder(f"hf:{folder}", scores=True)
    samples = whole_samples(encoder.input)
    rows = encoder.encode(as_asked(encoder.input, samples)).fields
    with torch.inference_mode():
        inputs = [dict(inputs) for inputs in MODELS[name][1](folder, samples)]
        expected = np.concatenate([model(**one).logits.numpy() for one in inputs])
    assert np.abs(rows["scores"] - expected).max() <= 1e-5
    plain = build_encoder(f"hf:{folder}").encode(as_asked(encoder.input, samples)).fields
    assert np.abs(rows["features"] - plain["features"]).max() <= 1e-6
    assert encoder.stream().vocabulary == ("chop", "stir", "pour")
    assert encoder.stream().fields["scores"].row_shape == (3,)


def test_windows_are_those_of_the_configuration(made, build_encoder):
    clip = build_encoder(f"hf:{made('videomae')[1]}").input
    assert (clip.num_frames, clip.window_s) == (4, Fraction(8, 15))
    assert (clip.size.short_side_px, clip.size.crop_px) == (32, 32)
    assert build_encoder(f"hf:{made('videomae')[1]}", fps=4).input.window_s == 1
    assert build_encoder(f"hf:{made('ast')[1]}").input == AudioInput(10_240, 16_000)
    assert build_encoder(f"hf:{made('clap')[1]}").input == AudioInput(8000, 8000)
    assert build_encoder(f"hf:{made('wav2vec2')[1]}", window_s="0.5").input == AudioInput(8000, 16_000)
    with pytest.raises(OptionError, match=r"window_s=2 is more than the 1 s that the model hears"):
        build_encoder(f"hf:{made('clap')[1]}", window_s=2)


class TestPool:
    def test_a_pooler_that_the_checkpoint_lacks_counts_as_absent(self, made, build_encoder):
        _, folder = made("vit")
        with pytest.raises(OptionError, match="no trained pooled output; use pool=mean"):
            build_encoder(f"hf:{folder}", pool="pooler")
        facts = build_encoder(f"hf:{folder}").stream().preprocessing
        assert facts["tap"] == "mean of last_hidden_state"
        assert facts["weights_left_aside"] == "classifier"

    def test_the_first_token_or_the_mean_on_wish(self, made, build_encoder):
        model, folder = made("dinov2")
        samples = whole_samples(FrameInput())[:1]
        with torch.inference_mode():
            states = model(**pictures(folder, samples)[0]).last_hidden_state[0]
        for pool, expected in (("first", states[0]), ("mean", states.mean(0))):
            found = build_encoder(f"hf:{folder}", pool=pool).encode(samples).fields["features"][0]
            assert np.abs(found - expected.numpy()).max() <= 1e-5


class TestProvenance:
    def test_a_store_keeps_the_models_name_hash_settings_and_licence(self, made, tmp_path, build_encoder):
        _, folder = made("dinov2")
        (shutil.copytree(folder, tmp_path / "dino") / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        found = registry.load("encoders", f"hf:{tmp_path / 'dino'}")
        assert (found.recorded, found.origin) == ("hf:dino", "vidloc.extract.hf")
        encoder = build_encoder(f"hf:{tmp_path / 'dino'}")
        assert encoder.weights_name == "dino/model.safetensors"
        assert len(encoder.weights_sha256) == 64
        template = encoder.stream()
        assert template.source.licence == "apache-2.0 (stated in the model's card)"
        assert template.source.paper == "Dinov2Model: see the model's card"
        assert len(template.preprocessing["settings_sha256"]) == 64
        assert "not stated" in build_encoder(f"hf:{folder}").stream().source.licence

    def test_a_name_of_the_hub_is_kept_whole(self):
        assert registry.load("encoders", "hf:org/model").recorded == "hf:org/model"


@pytest.fixture
def cached(made, tmp_path, monkeypatch):
    """A cache with a model of two commits that differ in their card alone: `main` is the newer, the tag `v1` the older.

    Returns the cache, and both commits by what names them.
    """
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    commits = {"v1": "a1" * 20, "main": "b2" * 20}
    for name, commit in commits.items():
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(made("dinov2")[1], repository / "snapshots" / commit)
    return repository, commits


class TestRevisions:
    def test_whatever_names_a_commit_the_commit_is_kept(self, cached, build_encoder):
        repository, commits = cached
        (repository / "snapshots" / commits["v1"] / "README.md").write_text("---\nlicense: mit\n---\n")
        for revision, commit in {"": "main", "main": "main", "v1": "v1", commits["v1"]: "v1"}.items():
            encoder = build_encoder("hf:org/model", revision=revision)
            assert encoder.options.revision == commits[commit]
            assert encoder.weights_name == f"org/model@{commits[commit][:12]}/model.safetensors"
            assert encoder.stream().source.licence.startswith("mit") == (commit == "v1")

    def test_a_store_goes_on_with_its_commit_alone(self, cached, tmp_path):
        _, commits = cached
        (tmp_path / "videos").mkdir()
        write_video(tmp_path / "videos" / "a.mp4", seconds=0.6, sound=False)
        selection = Selection(dataset=open_dataset("folder"), root=tmp_path / "videos")
        extract(tmp_path / "s.zarr", ["dino=hf:org/model:revision=v1"], selection, device="cpu")
        again = extract(tmp_path / "s.zarr", [f"dino=hf:org/model:revision={commits['v1']}"], selection, device="cpu")
        assert again.already_done == 1
        with pytest.raises(ProvenanceError, match=rf"revision': '{commits['v1']}'.* here, .*{commits['main']}.* now"):
            extract(tmp_path / "s.zarr", ["dino=hf:org/model"], selection, device="cpu")
        with open_store(tmp_path / "s.zarr") as store:
            spec = store.streams()["dino"]
        assert spec.options["revision"] == commits["v1"]
        # A query goes through the commit that made the stream, though `main` has moved on.
        assert encoder_of(spec, replacement=None, device="cpu").encoder.options.revision == commits["v1"]

    def test_what_is_no_revision_here_is_refused(self, cached, made, build_encoder):
        with pytest.raises(WeightsError, match=r"revision 'v2' of 'org/model' is not in .*--revision v2\n"):
            build_encoder("hf:org/model", revision="v2")
        with pytest.raises(OptionError, match=r"is a folder\. Leave it out, or name the model as ORG/MODEL"):
            build_encoder(f"hf:{made('dinov2')[1]}", revision="v1")
        for outside in ("../refs/v1", "/etc/hostname"):
            with pytest.raises(OptionError, match="is no commit, tag or branch"):
                build_encoder("hf:org/model", revision=outside)


class TestWhatIsSeen:
    """What a preview shows: the frames that go in, resized and cut, with their own levels."""

    @pytest.mark.parametrize("name", ["videomae", "timesformer", "vivit", "resnet", "siglip", "vit", "dinov2", "clip"])
    def test_it_is_the_models_input_before_it_is_normalised(self, name, made, build_encoder):
        encoder = build_encoder(f"hf:{made(name)[1]}")
        sample = as_asked(encoder.input, whole_samples(encoder.input))[0]
        seen, fed = encoder.as_seen(sample), encoder.inputs([sample])["pixel_values"][0].movedim(-3, -1)
        assert (seen.dtype, seen.shape) == (np.uint8, tuple(fed.shape))
        processor = encoder.processor
        mean, std = (torch.tensor(values) for values in (processor.image_mean, processor.image_std))
        scale = 1 if getattr(processor, "offset", False) else 0  # ViViT's levels are from -1 to 1 before that
        levels = ((fed * std + mean + scale) / processor.rescale_factor).numpy()
        assert np.abs(seen - levels).max() <= 0.51

    def test_of_sound_it_is_the_waveform(self, made, build_encoder):
        encoder = build_encoder(f"hf:{made('wav2vec2')[1]}")
        sample = whole_samples(encoder.input)[0]
        assert encoder.as_seen(sample) is sample.data

    def test_clip_image_shows_what_its_processor_cuts(self, made, build_encoder):
        sample = whole_samples(FrameInput())[0]
        named = build_encoder("clip_image", weights=made("clip")[1])
        np.testing.assert_array_equal(named.as_seen(sample), build_encoder(f"hf:{made('clip')[1]}").as_seen(sample))


class TestWhatIsRefused:
    def test_a_model_that_is_not_here_with_the_line_that_gets_it(self, monkeypatch, tmp_path, build_encoder):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(WeightsError, match=r"Get it: hf download org/model\n.*--encoder STREAM=hf:FOLDER"):
            build_encoder("hf:org/model")
        with pytest.raises(OptionError, match="hf: is followed by a model's folder"):
            build_encoder("hf:")
        with pytest.raises(UnknownNameError, match=r"no encoder called 'hf'\. Did you mean hf:"):
            build_encoder("hf")

    def test_models_of_text_scores_of_no_classifier_and_gaps(self, made, tmp_path, build_encoder):
        write_bert(tmp_path)
        with pytest.raises(WeightsError, match="type 'bert', which is no encoder of pictures, clips or sound"):
            build_encoder(f"hf:{tmp_path}")
        for name in ("dinov2", "clip"):
            with pytest.raises(WeightsError, match="is no classifier"):
                build_encoder(f"hf:{made(name)[1]}", scores=True)
        with pytest.raises(OptionError, match=r"weights='a\.pth' is not random:SEED"):
            build_encoder(f"hf:{made('vit')[1]}", weights="a.pth")
        folder = shutil.copytree(made("vit")[1], tmp_path / "gap")
        model = made("vit")[0]
        state = {name: tensor for name, tensor in model.state_dict().items() if "layernorm.weight" not in name}
        model.save_pretrained(folder, state_dict=state)
        with pytest.raises(WeightsError, match=r"missing: (vit\.)?layernorm\.weight"):
            build_encoder(f"hf:{folder}")

    def test_nobody_is_asked_on_the_network(self, made, tmp_path, monkeypatch, build_encoder):
        asked = []

        def refuse(*arguments, **_):
            asked.append(arguments)
            raise OSError("no network in this test")

        write_bert(tmp_path / "bert")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("socket.getaddrinfo", refuse)
        monkeypatch.setattr("socket.socket.connect", refuse)
        for name in MODELS:
            build_encoder(f"hf:{made(name)[1]}")
        build_encoder("bert", weights=tmp_path / "bert")
        build_encoder("clip_text", weights=made("clip")[1])
        build_encoder("text", model=tmp_path / "bert")
        with pytest.raises(WeightsError, match="hf download org/model"):
            build_encoder("hf:org/model")
        assert asked == []

    def test_code_that_comes_with_a_model_is_not_run(self, made, tmp_path, build_encoder):
        folder = shutil.copytree(made("vit")[1], tmp_path / "remote")
        (folder / "config.json").write_text('{"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config"}}')
        (folder / "evil.py").write_text("raise SystemExit('this was run')\n")
        with pytest.raises(WeightsError, match="does not load"):
            build_encoder(f"hf:{folder}")
