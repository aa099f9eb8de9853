"""The front end of VGGish and YAMNet: log-mel examples of 96 frames by 64 bands, in float64.

Written out rather than taken from a library: torchaudio and librosa draw the triangles in Hz, centre the window inside
the FFT frame, pad the ends and take power spectra by default. Each of these changes the result.

Example k of the continuous protocol covers samples `[15360 k, 15360 k + 15600)`: 0.96 s apart, 0.975 s long.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vidloc.extract.base import Sample, Spectrogram
from vidloc.extract.waveform import SAMPLE_RATE_HZ, Waveform, as_float64, mono_16khz

WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, the next power of two
NUM_BANDS, LOW_HZ, HIGH_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.01  # VGGish's
NUM_FRAMES = 96
EXAMPLE_HOP = NUM_FRAMES * HOP
EXAMPLE_SAMPLES = (NUM_FRAMES - 1) * HOP + WINDOW


@dataclass(frozen=True, eq=False)
class Examples:
    """Network inputs cut from one waveform.

    Attributes:
        log_mel: `(num_examples, 96, 64)` float32, time before mel band.
        start_s: `(num_examples,)` start of each one in the waveform, seconds.
        padded: `(num_examples,)` whether zeros were appended to make up its length.
    """

    log_mel: NDArray[np.float32]
    start_s: NDArray[np.float64]
    padded: NDArray[np.bool_]


def examples(waveform: Waveform, sample_rate_hz: int, *, pad_short: bool = False) -> Examples:
    """All whole examples of a waveform, 0.96 s apart; a last incomplete one is dropped.

    Args:
        waveform: float or int16, `(samples,)` or `(samples, channels)`, NumPy or torch.
        pad_short: append zeros to a waveform too short for one example (but not empty), so that it gives one.

    Returns:
        No examples for a waveform below 15,600 samples at 16 kHz, unless padded.

    Raises:
        MediaError: samples that are not finite, or of another number type.
    """
    samples = mono_16khz(waveform, sample_rate_hz)
    padded = pad_short and 0 < samples.size < EXAMPLE_SAMPLES
    if padded:
        samples = np.pad(samples, (0, EXAMPLE_SAMPLES - samples.size))
    frames = log_mel(samples)
    count = len(frames) // NUM_FRAMES
    blocks = frames[: count * NUM_FRAMES].reshape(count, NUM_FRAMES, NUM_BANDS)
    starts = np.arange(count, dtype=np.float64) * EXAMPLE_HOP / SAMPLE_RATE_HZ
    return Examples(blocks.astype(np.float32), starts, np.full(count, padded))


def examples_per_second(waveform: Waveform, sample_rate_hz: int) -> Examples:
    """One example per second, each made from its own second of the native-rate waveform.

    The protocol of the AVE audio features: row s belongs to second s exactly. A last second that is not whole is
    filled up with zeros and marked.

    Raises:
        MediaError: see `examples`.
    """
    samples = as_float64(waveform)
    count = -(-len(samples) // sample_rate_hz)
    missing = count * sample_rate_hz - len(samples)
    whole = np.pad(samples, [(0, missing)] + [(0, 0)] * (samples.ndim - 1))
    slices = [examples(whole[s * sample_rate_hz : (s + 1) * sample_rate_hz], sample_rate_hz) for s in range(count)]
    log_mels = [piece.log_mel[:1] for piece in slices]
    padded = np.zeros(count, dtype=np.bool_)
    padded[count - 1 :] = missing > 0
    empty = np.zeros((0, NUM_FRAMES, NUM_BANDS), dtype=np.float32)
    return Examples(np.concatenate([empty, *log_mels]), np.arange(count, dtype=np.float64), padded)


def log_mel(samples: NDArray[np.floating], *, offset: float = LOG_OFFSET) -> NDArray[np.float64]:
    """Log-mel frames of 16 kHz samples, `(..., num_samples)` to `(..., num_frames, 64)`.

    Frame i starts at sample 160 i. No padding and no centring: fewer than 400 samples give no frame.

    Args:
        offset: added before the logarithm is taken.
    """
    if samples.shape[-1] < WINDOW:
        return np.zeros((*samples.shape[:-1], 0, NUM_BANDS))
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), WINDOW, axis=-1)[..., ::HOP, :]
    magnitude = np.abs(np.fft.rfft(frames * hann_window(), n=FFT))
    result: NDArray[np.float64] = np.log(magnitude @ mel_matrix() + offset)
    return result


def spectrogram(sample: Sample, *, offset: float = LOG_OFFSET) -> Spectrogram:
    """The log-mel frames of a sample of 16 kHz sound, with their axes."""
    centres_hz = 700.0 * np.expm1(_band_edges_mel()[1:-1] / 1127.0)
    values = log_mel(np.asarray(sample.data), offset=offset)
    return Spectrogram(values, HOP / SAMPLE_RATE_HZ, centres_hz, f"natural log of (mel + {offset:g})")


@cache
def hann_window() -> NDArray[np.float64]:
    """Periodic Hann window of 400 samples; its sum is 200."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


@cache
def mel_matrix() -> NDArray[np.float64]:
    """Weights from FFT bins to mel bands, `(257, 64)`: triangles that are straight in mel, without area norm."""
    edges = _band_edges_mel()
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = _mel(np.linspace(0.0, SAMPLE_RATE_HZ / 2, FFT // 2 + 1))[:, np.newaxis]
    weights = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    weights[0] = 0.0  # no constant part
    return weights


def _band_edges_mel() -> NDArray[np.float64]:
    return np.linspace(_mel(np.array(LOW_HZ)), _mel(np.array(HIGH_HZ)), NUM_BANDS + 2)


def _mel(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    mel: NDArray[np.float64] = 1127.0 * np.log1p(frequency_hz / 700.0)
    return mel
