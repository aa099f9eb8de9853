"""YAMNet with its real weights: front end, embeddings and classes of real clips against the published model's."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.io import wavfile

from vidloc.core.timeline import center_grid
from vidloc.errors import MediaError, OptionError, WeightsError
from vidloc.extract.base import AudioInput, Sample
from vidloc.extract.logmel import hann_window, log_mel, mel_matrix
from vidloc.extract.sound import AudioPass
from vidloc.extract.yamnet import LOG_OFFSET, MobileNetV1, YAMNet, audioset_names, plain_state

PATCH = 15_600
WINDOW_S = Fraction(39, 40)
# The references are rounded to float16 (half a step of numbers below 4); their scores are those of the 8-bit program.
EMBEDDING_TOLERANCE, SCORE_TOLERANCE = 1e-3, 0.07
CLIP_16KHZ = "ZYc410CE4Rg_0_10000_25fps_256side_16khz"


@pytest.fixture(scope="module")
def checkpoint(shared):
    return shared / "data" / "weights" / "yamnet_audioset_int8.safetensors"


@pytest.fixture(scope="module")
def tensors(checkpoint):
    return load_file(checkpoint)


@pytest.fixture(scope="module")
def encoder(checkpoint, build_encoder):
    return build_encoder("yamnet", weights=checkpoint, scores=True)


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "data" / "features" / "yamnet_reference"

    def load(clip):
        return {
            "features": np.load(folder / f"{clip}.embedding.npy").astype(np.float64),
            "scores": np.load(folder / f"{clip}.scores.npy").astype(np.float64),
        }

    return load


@pytest.fixture(scope="module")
def video(shared):
    return lambda clip: next((shared / "data" / "videos").glob(f"{clip}.*"))


def samples_of(patches):
    return [Sample((k * WINDOW_S, (k + 1) * WINDOW_S), patch, np.empty(0)) for k, patch in enumerate(patches)]


def as_the_reference_was_decoded(path):
    """Patches by FFmpeg's resampler, which in floats mixes stereo 3 dB louder than the mean, short ends padded."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=16_000)
    with av.open(str(path)) as container:
        pieces = [made.to_ndarray()[0] for frame in container.decode(audio=0) for made in resampler.resample(frame)]
        pieces += [made.to_ndarray()[0] for made in resampler.resample(None)]
    sound = np.concatenate(pieces)
    count = max(len(sound) // PATCH, 1)
    return np.pad(sound, (0, max(PATCH - len(sound), 0)))[: count * PATCH].reshape(count, PATCH)


def as_vidloc_decodes(path, gain=1.0):
    wants = {"sound": (AudioInput(PATCH, 16_000), center_grid(WINDOW_S, WINDOW_S))}
    return [sample.data * np.float32(gain) for _, _, sample in AudioPass(path, wants)]


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_what_is_shown_of_a_sample_is_what_the_network_is_fed(encoder):
    (sample,) = samples_of(np.random.default_rng(0).uniform(-0.5, 0.5, (1, PATCH)).astype(np.float32))
    patch = encoder.as_seen(sample).values.astype(np.float32)
    assert np.array_equal(encoder.rows_of(patch[None])["features"], encoder.encode([sample]).fields["features"])


class TestFrontEnd:
    def test_its_constants_are_those_that_come_with_the_weights(self, tensors):
        assert np.abs(tensors["frontend.hann_window"].numpy() - hann_window()).max() < 3e-7
        assert np.abs(tensors["frontend.mel_weights"].numpy() - mel_matrix().T).max() < 1e-7
        assert np.unique(tensors["frontend.log_offset"].numpy()) == pytest.approx(LOG_OFFSET, rel=1e-6)

    @pytest.mark.parametrize("clip", ["BjCEufrlXm4", "applausing", "women_long_jump"])
    def test_patches_equal_those_of_the_published_model(self, shared, clip):
        folder = shared / "data" / "features" / "yamnet_reference"
        rate, sound = wavfile.read(folder / f"{clip}.16k.wav")
        assert (rate, sound.dtype) == (16_000, np.int16)
        ours = log_mel(sound.reshape(-1, PATCH) / 32768, offset=LOG_OFFSET)
        theirs = np.load(folder / f"{clip}.log_mel_96x64.npy")
        assert ours.shape == theirs.shape == (10, 96, 64)
        # The published one computes in float32, which shows in bands that are nearly silent.
        assert np.abs(ours - theirs).max() < 2e-3
        assert np.abs(ours - theirs).mean() < 1e-6


class TestRealClips:
    @pytest.mark.parametrize(
        "clip", ["BjCEufrlXm4", "applausing", "fire2", "bento", "remuxed_small_bunny_1080p_60fps", "nasa_13013"]
    )
    def test_the_same_samples_give_the_reference(self, encoder, reference, video, clip):
        expected = reference(clip)
        rows = encoder.encode(samples_of(as_the_reference_was_decoded(video(clip)))).fields
        assert rows["features"].shape == expected["features"].shape
        assert np.abs(rows["features"] - expected["features"]).max() < EMBEDDING_TOLERANCE
        assert np.abs(rows["scores"] - expected["scores"]).max() < SCORE_TOLERANCE

    @pytest.mark.parametrize("clip", [CLIP_16KHZ, "cockatoo"])
    def test_a_mono_clip_at_16_khz_gives_the_reference_through_our_decoding(self, encoder, reference, video, clip):
        expected = reference(clip)
        rows = encoder.encode(samples_of(as_vidloc_decodes(video(clip)))).fields
        assert np.abs(rows["features"] - expected["features"]).max() < EMBEDDING_TOLERANCE
        assert np.abs(rows["scores"] - expected["scores"]).max() < SCORE_TOLERANCE

    @pytest.mark.parametrize(
        ("clip", "gain"),
        [
            *[("golfdb_test_video", 1), ("v_ZNVhz7ctTq0", 1), ("bento", 1)],
            *[("BjCEufrlXm4", 2**0.5), ("charades", 2**0.5), ("chaplin", 2**0.5), ("smpte-2997", 2**0.5)],
        ],
    )
    def test_another_resampler_changes_little(self, encoder, reference, video, clip, gain):
        expected = reference(clip)["features"]
        sounds = as_vidloc_decodes(video(clip), gain)[: len(expected)]
        assert cosines(encoder.encode(samples_of(sounds)).fields["features"], expected).min() > 0.998

    @pytest.mark.parametrize(
        ("clip", "heard", "at_least"),
        [
            ("BjCEufrlXm4", "Dog", 0.68),
            ("applausing", "Applause", 0.5),
            ("chaplin", "Music", 0.5),
            ("nasa_13013", "Speech", 0.5),
            ("04_coffee", "Silence", 0.5),
        ],
    )
    def test_what_it_hears_has_its_name(self, encoder, video, clip, heard, at_least):
        names = encoder.stream().vocabulary
        scores = encoder.encode(samples_of(as_vidloc_decodes(video(clip)))).fields["scores"].mean(axis=0)
        assert scores[names.index(heard)] > at_least
        assert heard in [names[k] for k in np.argsort(scores)[-3:]]


class TestRows:
    def test_a_batch_equals_its_members(self, encoder, video):
        samples = samples_of(as_vidloc_decodes(video(CLIP_16KHZ))[:5])
        together = encoder.encode(samples).fields
        for k, sample in enumerate(samples):
            alone = encoder.encode([sample]).fields
            for name, rows in alone.items():
                assert np.abs(together[name][k] - rows[0]).max() <= 1e-5 * np.abs(rows).max()

    def test_input_and_stream(self, encoder, checkpoint, build_encoder):
        assert encoder.input == AudioInput(PATCH, 16_000)
        template = encoder.stream()
        assert template.kind == "audio"
        assert {name: spec.row_shape for name, spec in template.fields.items()} == {
            "features": (1024,),
            "scores": (521,),
        }
        assert template.vocabulary == audioset_names()
        assert template.preprocessing["scores"] == "after the sigmoid"
        plain = build_encoder("yamnet", weights=checkpoint).stream()
        assert list(plain.fields) == ["features"]
        assert plain.vocabulary == ()

    def test_class_names_are_those_of_the_release(self, shared):
        text = (shared / "data" / "weights" / "yamnet_521_labels.txt").read_text(encoding="utf-8")
        assert audioset_names() == tuple(text.splitlines())
        assert (len(audioset_names()), audioset_names()[0], audioset_names()[494]) == (521, "Speech", "Silence")

    def test_samples_of_another_length_or_not_finite_are_refused(self, encoder):
        with pytest.raises(MediaError, match=r"YAMNet takes 15600 samples per row, got \(16000,\)"):
            encoder.encode(samples_of([np.zeros(16_000, np.float32)]))
        with pytest.raises(MediaError, match="not finite"):
            encoder.encode(samples_of([np.full(PATCH, np.inf, np.float32)]))


class TestWeights:
    def test_plain_weights_give_the_same_network(self, encoder, tensors, build_encoder, tmp_path):
        plain = plain_state(tensors, where="file")
        assert len(plain) == 2 * 28
        torch.save({"state_dict": plain}, tmp_path / "float.pth")
        again = build_encoder("yamnet", weights=tmp_path / "float.pth")
        pairs = zip(again.network.parameters(), encoder.network.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        layer = tensors["block13.pw.weight_int8"][7, 5, 0, 0] * tensors["block13.pw.weight_scale"][7]
        assert again.network.block13.pw.weight[7, 5, 0, 0] == layer

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fc.weight_scale": None}, r"fc\.weight_int8 .* needs fc\.weight_scale .* found nothing"),
            ({"fc.weight_scale": torch.ones(3)}, r"one number per output channel, found shape \(3,\)"),
            ({"conv0.bias": None}, r"does not fit MobileNetV1: missing: conv0\.bias"),
            ({"block14.pw.bias": torch.ones(1)}, r"not known to the network: block14\.pw\.bias"),
            ({"frontend.log_offset": torch.full((64,), 0.01)}, r"another front end \(frontend\.log_offset"),
            ({"frontend.mel_weights": torch.zeros(40, 257)}, r"frontend\.mel_weights of shape \(40, 257\)"),
            ({"frontend.hop": torch.ones(1)}, r"another front end \(frontend\.hop"),
        ],
    )
    def test_a_checkpoint_that_does_not_fit_is_refused_by_name(self, tensors, build_encoder, tmp_path, change, message):
        changed = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
        save_file(changed, tmp_path / "changed.safetensors")
        with pytest.raises(WeightsError, match=message):
            build_encoder("yamnet", weights=tmp_path / "changed.safetensors")

    def test_without_weights_the_message_says_which_file(self, build_encoder):
        for attempt in (lambda: build_encoder("yamnet"), lambda: YAMNet.check_weights(YAMNet.Options(), name="yamnet")):
            with pytest.raises(WeightsError, match=r"yamnet_audioset_int8\.safetensors.*yamnet:weights=PATH"):
                attempt()

    def test_own_classes_have_own_names(self, build_encoder, tmp_path):
        torch.save(MobileNetV1(2).state_dict(), tmp_path / "two.pth")
        (tmp_path / "names.txt").write_text("chop\nstir\n")
        options = {"weights": tmp_path / "two.pth", "scores": True}
        own = build_encoder("yamnet", **options, classes=tmp_path / "names.txt").stream()
        assert (own.vocabulary, own.fields["scores"].row_shape) == (("chop", "stir"), (2,))
        assert build_encoder("yamnet", **options).stream().vocabulary == ()
        (tmp_path / "names.txt").write_text("chop\n")
        with pytest.raises(OptionError, match=r"names\.txt names 1 classes, the weights have 2"):
            build_encoder("yamnet", **options, classes=tmp_path / "names.txt")
        with pytest.raises(OptionError, match="add scores=true"):
            YAMNet.check_weights(YAMNet.Options(weights="random:0", classes="names.txt"), name="yamnet")
