"""VGGish: front end, network and postprocessor by worked numbers; edge cases, protocols, checkpoints."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch import nn

from vidloc.errors import MediaError, OptionError, WeightsError
from vidloc.extract import logmel, vggish, waveform
from vidloc.extract.base import Sample
from vidloc.extract.logmel import examples, examples_per_second, hann_window, log_mel, mel_matrix
from vidloc.extract.vggish import VGG, Pca

RATE = 16_000
SILENCE = np.log(0.01)
KEYS = {
    "features.0": (64, 1, 3, 3),
    "features.3": (128, 64, 3, 3),
    "features.6": (256, 128, 3, 3),
    "features.8": (256, 256, 3, 3),
    "features.11": (512, 256, 3, 3),
    "features.13": (512, 512, 3, 3),
    "embeddings.0": (4096, 12288),
    "embeddings.2": (4096, 4096),
    "embeddings.4": (128, 4096),
}


def tone(frequency_hz, seconds=1.0, rate=RATE):
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples)


@pytest.fixture(scope="module")
def encoder(build_encoder):
    return build_encoder("vggish", weights="random:1")


@pytest.fixture(scope="module")
def pca(shared):
    return Pca.load(shared / "data" / "vggish" / "vggish_pca_params.npz")


def test_what_is_shown_of_a_sample_is_what_the_network_is_fed(encoder):
    sample = Sample((Fraction(0), Fraction(39, 40)), noise(15_600).astype(np.float32), np.empty(0))
    seen = encoder.as_seen(sample)
    with torch.inference_mode():
        row = encoder.network(torch.from_numpy(seen.values.astype(np.float32))[None, None])
    assert np.array_equal(row.numpy(), encoder.encode([sample]).fields["features"])
    # A band is loudest for a tone of its own frequency.
    band_hz = seen.band_hz[20:60:10]
    loudest = [log_mel(tone(frequency_hz)).mean(axis=0).argmax() for frequency_hz in band_hz]
    assert loudest == [20, 30, 40, 50]


class TestFrontEnd:
    def test_1_mel_matrix(self):
        matrix = mel_matrix()
        assert matrix.shape == (257, 64)
        assert np.count_nonzero(matrix) == 461
        assert matrix.sum() == pytest.approx(230.9135991608, rel=1e-11)
        assert matrix.max() == pytest.approx(0.9961910175, rel=1e-9)
        assert (matrix.sum(axis=0) > 0).all()
        assert np.flatnonzero(matrix[:, 0]).tolist() == [5]
        assert matrix[5, 0] == pytest.approx(0.94769046, abs=1e-8)
        assert np.flatnonzero(matrix[:, 1]).tolist() == [5, 6]
        assert matrix[5:7, 1] == pytest.approx([0.05230954, 0.93310635], abs=1e-8)
        assert np.flatnonzero(matrix[:, 63]).tolist() == list(range(223, 240))
        assert matrix[:, 63].argmax() == 231
        assert matrix[231, 63] == pytest.approx(0.98782727, abs=1e-8)

    def test_2_window(self):
        window = hann_window()
        assert window.shape == (400,)
        assert window[1] == pytest.approx(6.16837592e-05, rel=1e-8)
        assert window[200] == 1
        assert window.sum() == pytest.approx(200, rel=1e-12)

    def test_3_tone(self):
        frames = log_mel(tone(1000))[:96]
        assert examples(tone(1000), RATE).log_mel.shape == (1, 96, 64)
        assert np.abs(frames[0] - frames[95]).max() < 1e-8
        expected = [-0.82933884, 2.00053192, 4.11805193, 4.08198159, 1.57010880, -1.26488251]
        assert frames[0, 17:23] == pytest.approx(expected, abs=1e-8)
        assert (frames.argmax(axis=1) == 19).all()
        assert frames.sum() == pytest.approx(-22469.98853, abs=1e-5)

    def test_4_impulse(self):
        samples = np.zeros(RATE)
        samples[8000] = 1
        frames = log_mel(samples)[:96]
        assert np.flatnonzero((frames > SILENCE + 1e-9).any(axis=1)).tolist() == [48, 49]
        assert frames[49, :3] == pytest.approx([-0.14249248, -0.10389821, -0.06257111], abs=1e-8)
        assert np.unravel_index(frames.argmax(), frames.shape) == (49, 63)
        assert frames.max() == pytest.approx(2.09187515, abs=1e-8)

    def test_5_constant_and_silence(self):
        frames = log_mel(np.full(RATE, 0.5))[:96]
        assert frames.max() == pytest.approx(-1.30975742, abs=1e-8)
        assert frames.min() == pytest.approx(-4.60377756, abs=1e-8)
        assert examples(np.zeros(RATE), RATE).log_mel == pytest.approx(-4.605170186, abs=1e-6)

    @pytest.mark.parametrize(
        ("num_samples", "count"),
        [
            *[(0, 0), (1, 0), (239, 0), (240, 0), (399, 0), (400, 0), (15_599, 0)],
            *[(15_600, 1), (16_000, 1), (30_959, 1), (30_960, 2), (160_000, 10)],
        ],
    )
    def test_6_number_of_examples(self, encoder, num_samples, count):
        cut = examples(noise(num_samples), RATE)
        assert cut.log_mel.shape == (count, 96, 64)
        assert cut.log_mel.dtype == np.float32
        assert cut.start_s.tolist() == pytest.approx([0.96 * k for k in range(count)])
        if count < 2:
            assert encoder.embed(cut).shape == (count, 128)

    def test_7_channels_integers_and_loudness(self):
        stereo = np.stack([noise(RATE, 1), noise(RATE, 2)], axis=1)
        mono = examples(stereo.mean(axis=1), RATE).log_mel
        assert np.array_equal(examples(stereo, RATE).log_mel, mono)
        pcm = (stereo[:, 0] * 32767).astype(np.int16)
        assert np.array_equal(examples(pcm, RATE).log_mel, examples(pcm / 32768.0, RATE).log_mel)
        assert np.array_equal(examples(torch.from_numpy(pcm), RATE).log_mel, examples(pcm, RATE).log_mel)
        shift = log_mel(2 * stereo[:, 0]) - log_mel(stereo[:, 0])
        assert np.ptp(shift) > 1e-3

    def test_a_long_track_is_cut_where_its_pieces_are(self):
        samples = noise(40_000)
        second = examples(samples[15_360:], RATE).log_mel[0]
        assert np.array_equal(examples(samples, RATE).log_mel[1], second)

    def test_a_short_clip_is_padded_only_when_asked(self):
        cut = examples(tone(440, 0.5), RATE, pad_short=True)
        assert cut.log_mel.shape == (1, 96, 64)
        assert cut.padded.tolist() == [True]
        assert cut.log_mel[0, -1] == pytest.approx(SILENCE, abs=1e-6)
        assert not examples(tone(440, 1.0), RATE, pad_short=True).padded.any()
        assert len(examples(np.zeros(0), RATE, pad_short=True).log_mel) == 0


class TestWaveform:
    @pytest.mark.parametrize(
        ("rate", "num_samples"), [(22_050, 101_664), (44_100, 44_100), (48_000, 48_001), (8_000, 999)]
    )
    def test_resampled_length_is_rounded_down(self, rate, num_samples):
        assert len(waveform.mono_16khz(np.zeros(num_samples), rate)) == num_samples * RATE // rate

    @pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
    def test_a_tone_at_another_rate_gives_the_same_bands(self, rate):
        there = examples(tone(1000, 1.0, rate), rate).log_mel[0]
        here = examples(tone(1000), RATE).log_mel[0]
        # Away from the ends, where the resampler rings, and from near-silent bands.
        loud = here[5:-5] > -1
        assert np.abs(there - here)[5:-5][loud].max() < 1e-3

    @pytest.mark.parametrize(
        ("samples", "message"),
        [
            (np.array([0.0, np.nan]), "not finite"),
            (np.array([0.0, np.inf], np.float32), "not finite"),
            (np.zeros(4, np.int32), "float or int16, got int32"),
            (np.zeros((1, 2, 3)), r"\(1, 2, 3\)"),
        ],
    )
    def test_impossible_samples_are_refused(self, samples, message):
        with pytest.raises(MediaError, match=message):
            examples(samples, RATE)

    def test_wav_files_of_every_kind_are_read_with_all_their_bits(self, tmp_path):
        expected = np.round(tone(440, 0.1) * 2**7) / 2**7
        kinds = {
            "uint8": (expected * 128 + 128).astype(np.uint8),
            "int16": (expected * 2**15).astype(np.int16),
            "int32": (expected * 2**31).astype(np.int32),
            "float32": expected.astype(np.float32),
        }
        for name, samples in kinds.items():
            wavfile.write(tmp_path / f"{name}.wav", RATE, samples)
            found, rate = waveform.read_wav(tmp_path / f"{name}.wav")
            assert rate == RATE
            assert np.array_equal(found, expected), name

    def test_a_file_that_is_no_wav_is_refused(self, tmp_path):
        (tmp_path / "a.wav").write_bytes(b"ID3 this is something else")
        with pytest.raises(MediaError, match=r"a\.wav cannot be read as a WAV file"):
            waveform.read_wav(tmp_path / "a.wav")
        with pytest.raises(MediaError, match="No such file"):
            waveform.read_wav(tmp_path / "gone.wav")


class TestNetwork:
    def test_8_names_and_shapes_of_the_release(self, build_encoder, tmp_path):
        state = {}
        for name, shape in KEYS.items():
            state |= {f"{name}.weight": torch.zeros(shape), f"{name}.bias": torch.zeros(shape[0])}
        network = VGG()
        assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == {
            k: tuple(v.shape) for k, v in state.items()
        }
        assert len(state) == 18
        assert sum(p.numel() for p in network.parameters()) == 72_141_184

    def test_9_zero_weights_give_the_last_bias(self, build_encoder, tmp_path):
        bias = torch.linspace(-1, 1, 128)
        state = {k: torch.zeros_like(v) for k, v in VGG().state_dict().items()} | {"embeddings.4.bias": bias}
        # The port, saved whole, has its post-processor's parameters beside its own.
        whole = state | {"pproc.pca_eigen_vectors": torch.zeros(128, 128), "pproc.pca_means": torch.zeros(128, 1)}
        torch.save(whole, tmp_path / "whole.pth")
        torch.save(state, tmp_path / "bare.pth")
        cut = examples(noise(16_000), RATE)
        rectified = build_encoder("vggish", weights=tmp_path / "bare.pth").embed(cut)
        assert np.array_equal(rectified[0], bias.clamp(min=0).numpy())
        plain = build_encoder("vggish", weights=tmp_path / "whole.pth", final_relu="false").embed(cut)
        assert np.array_equal(plain[0], bias.numpy())

    def test_10_flatten_order_is_time_band_channel(self, encoder):
        network = VGG()
        network.features.load_state_dict(encoder.network.features.state_dict())
        batch = torch.randn(1, 1, 96, 64, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            maps = network.features(batch)
            assert maps.shape == (1, 512, 6, 4)
            first, hidden = network.embeddings[0], []
            first.register_forward_hook(lambda module, given, made: hidden.append(float(made[0, 0])))
            places = [(0, 0, 0), (7, 5, 1), (511, 2, 3), (130, 0, 2)]
            for channel, time, band in places:
                first.weight.zero_()
                first.bias.zero_()
                first.weight[0, (time * 4 + band) * 512 + channel] = 1
                network(batch)
            assert hidden == [float(maps[0, c, t, b]) for c, t, b in places]

    def test_11_none_and_one(self, encoder):
        for count in (0, 1):
            with torch.inference_mode():
                assert encoder.network(torch.zeros(count, 1, 96, 64)).shape == (count, 128)

    def test_a_row_is_the_example_of_its_samples_whatever_its_batch(self, encoder):
        sounds = [noise(15_600, k).astype(np.float32) * (k + 1) / 3 for k in range(3)]
        span = (Fraction(0), Fraction(39, 40))
        samples = [Sample(span, sound, np.zeros(0)) for sound in sounds]
        together = encoder.encode(samples).fields["features"]
        alone = np.concatenate([encoder.embed(examples(sound, RATE)) for sound in sounds])
        assert together.dtype == np.float32
        assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()
        assert np.abs(together[0] - together[2]).max() > 0.05 * np.abs(alone).max()

    def test_samples_of_another_length_or_not_finite_are_refused(self, encoder):
        span = (Fraction(0), Fraction(1))
        with pytest.raises(MediaError, match=r"takes 15600 samples per row, got \(16000,\)"):
            encoder.encode([Sample(span, np.zeros(16_000, np.float32), np.zeros(0))])
        with pytest.raises(MediaError, match="not finite"):
            encoder.encode([Sample(span, np.full(15_600, np.nan, np.float32), np.zeros(0))])

    def test_input_and_stream(self, encoder):
        assert (encoder.input.num_samples, encoder.input.sample_rate_hz) == (15_600, RATE)
        template = encoder.stream()
        assert template.kind == "audio"
        assert template.fields["features"].row_shape == (128,)
        assert template.preprocessing["postprocess"] == "none"
        assert "pca" not in encoder.options.model_dump()


class TestPostProcessing:
    @pytest.mark.parametrize(
        ("embedding", "rounded", "rounded_sum", "truncated", "truncated_sum"),
        [
            (0.0, [157, 40, 143, 115, 177, 83, 97, 115], 16885, [156, 39, 143, 114, 177, 83, 96, 115], 16830),
            (1.0, [255, 0, 255, 112, 255, 0, 47, 0], 17666, None, 17635),
            (0.5, [216, 0, 229, 113, 255, 0, 72, 30], 17578, None, 17529),
        ],
    )
    def test_12_13_14_constant_embeddings(self, pca, embedding, rounded, rounded_sum, truncated, truncated_sum):
        given = np.full((1, 128), embedding)
        up, down = (pca.quantise(given, truncate=truncate)[0] for truncate in (False, True))
        assert up[:8].tolist() == rounded
        assert (up.sum(), down.sum()) == (rounded_sum, truncated_sum)
        if truncated is not None:
            assert down[:8].tolist() == truncated
            expected = [156.823, 39.635, 143.316, 114.558, 177.306, 83.456, 96.882, 115.157]
            assert pca.project(given)[0, :8] == pytest.approx(expected, abs=5e-4)

    def test_15_the_means_lie_in_the_middle(self, pca):
        assert pca.project(pca.means[np.newaxis]) == pytest.approx(127.5, abs=1e-9)

    def test_16_rounding_and_truncation_differ_by_one_at_most(self, pca, shared):
        with np.load(shared / "data" / "ave" / "background_audio_features.npz", allow_pickle=False) as file:
            embeddings = file["features"].reshape(-1, 128)
        differences = pca.quantise(embeddings, truncate=False) - pca.quantise(embeddings, truncate=True)
        assert set(np.unique(differences)) == {0, 1}
        assert differences.mean() == pytest.approx(0.41, abs=0.005)

    def test_quantised_rows_are_exact_in_float16(self, build_encoder, shared):
        path = shared / "data" / "vggish" / "vggish_pca_params.npz"
        encoder = build_encoder("vggish", weights="random:1", postprocess="pca_truncate", pca=path, final_relu="false")
        rows = encoder.embed(examples(noise(16_000), RATE))
        assert rows.dtype == np.float32
        assert np.array_equal(rows.astype(np.float16), rows)
        assert np.array_equal(rows, np.trunc(rows))
        assert 0 <= rows.min() <= rows.max() <= 255
        sha256 = "4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d"
        assert encoder.stream().preprocessing["pca_sha256"] == sha256

    def test_pca_parameters_that_lack_or_are_not_used(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
        options = vggish.VGGishOptions(weights="random:0", postprocess="pca_round")
        with pytest.raises(WeightsError, match="vidloc weights fetch vggish_pca"):
            vggish.VGGish.check_weights(options, name="vggish")
        with pytest.raises(OptionError, match="pca is given but postprocess is none"):
            vggish.VGGishOptions.parse({"pca": "a.npz"}, where="encoder 'vggish'")
        np.savez(tmp_path / "other.npz", pca_means=np.zeros(128))
        with pytest.raises(WeightsError, match=r"does not hold pca_eigen_vectors \(128, 128\)"):
            Pca.load(tmp_path / "other.npz")
        np.savez(tmp_path / "small.npz", pca_means=np.zeros(64), pca_eigen_vectors=np.zeros((64, 64)))
        with pytest.raises(WeightsError, match=r"shapes \(64, 64\) and \(64,\)"):
            Pca.load(tmp_path / "small.npz")


class TestPerSecond:
    def test_ten_seconds_give_ten_rows_by_either_protocol_at_other_times(self):
        sound = tone(700, 10) * np.linspace(0, 1, 160_000)
        by_second, continuous = examples_per_second(sound, RATE), examples(sound, RATE)
        assert by_second.start_s.tolist() == list(range(10))
        assert continuous.start_s[9] == pytest.approx(8.64)
        assert by_second.log_mel.shape == continuous.log_mel.shape == (10, 96, 64)
        assert np.array_equal(by_second.log_mel[0], continuous.log_mel[0])
        assert not np.array_equal(by_second.log_mel[9], continuous.log_mel[9])

    @pytest.mark.parametrize("rate", [16_000, 44_100])
    def test_each_row_knows_its_own_second_only(self, rate):
        sound = np.stack([tone(f, 1, rate) for f in (300, 600, 1200)])
        rows = examples_per_second(sound.reshape(-1), rate).log_mel
        for k in range(3):
            assert np.array_equal(rows[k], examples(sound[k], rate).log_mel[0])

    def test_a_last_second_cut_short_is_filled_and_marked(self):
        cut = examples_per_second(tone(440, 2.25), RATE)
        assert cut.padded.tolist() == [False, False, True]
        assert cut.log_mel[2, -1] == pytest.approx(SILENCE, abs=1e-6)
        assert len(examples_per_second(np.zeros((0, 2)), RATE).log_mel) == 0

    def test_real_background_rows_are_rectified_embeddings(self, shared):
        with np.load(shared / "data" / "ave" / "background_audio_features.npz", allow_pickle=False) as file:
            rows = file["features"]
        assert rows.shape == (178, 10, 128)
        assert rows.min() == 0
        assert rows.max() == pytest.approx(4.537, abs=5e-4)
        assert (rows == 0).mean() == pytest.approx(0.653, abs=5e-4)
        assert not rows[..., 65].any()


def test_the_release_has_no_norms_and_no_dropout(encoder):
    assert {type(m) for m in encoder.network.modules()} == {
        VGG,
        nn.Sequential,
        nn.Conv2d,
        nn.ReLU,
        nn.MaxPool2d,
        nn.Linear,
    }
    assert (logmel.EXAMPLE_SAMPLES, logmel.EXAMPLE_HOP) == (15_600, 15_360)
