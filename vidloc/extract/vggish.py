"""VGGish: 128 numbers for 0.975 s of sound (Hershey et al., ICASSP 2017).

The network has the names of the PyTorch release `vggish-10086976.pth`, which loads unchanged. Its last map is flattened
in (time, band, channel) order; a channel-first flatten would load the same file and give wrong numbers.

Where it departs from that release: PCA and quantisation are off unless asked for, a whole number of examples (0 and 1
too) always gives `(n, 128)`, and WAV files keep all their bits.

On the shared grid a row is made from the 15,600 samples around its centre, zeros outside the track. The other two
protocols, 0.96 s blocks and whole seconds, are `VGGish.embed(examples(...))` and `embed(examples_per_second(...))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import MediaError, WeightsError
from vidloc.extract import weights
from vidloc.extract.base import (
    AudioInput,
    Encoder,
    EncoderOptions,
    Sample,
    Spectrogram,
    StreamTemplate,
    arithmetic,
    placed,
)
from vidloc.extract.logmel import EXAMPLE_SAMPLES, NUM_BANDS, NUM_FRAMES, Examples, log_mel, spectrogram
from vidloc.extract.waveform import SAMPLE_RATE_HZ

NUM_FEATURES = 128
_PLAN: tuple[tuple[int, ...], ...] = ((64,), (128,), (256, 256), (512, 512))  # convolutions before each pool
_PCA_CHECKPOINT = "vggish_pca"
# The port, saved whole, carries its post-processor along; ours is separate.
_PCA_ENTRIES = ("pproc.pca_eigen_vectors", "pproc.pca_means")

Quantiser = Literal["none", "pca_round", "pca_truncate"]


class VGGishOptions(EncoderOptions):
    """Options of VGGish."""

    final_relu: bool = Field(
        default=True,
        description="ReLU after the last layer, as in the PyTorch release and the AVE features; TF dropped it in 2020.",
    )
    postprocess: Quantiser = Field(
        "none",
        description="PCA and quantisation to 0..255, rounded as in the PyTorch port or truncated as in TensorFlow. "
        "AudioSet and YouTube-8M features need pca_truncate with final_relu=false.",
    )
    # Not among the recorded options: where the file lies says nothing of the rows; its hash is recorded instead.
    pca: str = Field(
        "",
        exclude=True,
        description="PCA parameters (.npz with pca_eigen_vectors, pca_means); empty for the published ones.",
    )

    @model_validator(mode="after")
    def _pca_is_used(self) -> Self:
        if self.pca and self.postprocess == "none":
            raise ValueError("pca is given but postprocess is none; add postprocess=pca_round or pca_truncate")
        return self


class VGG(nn.Module):
    """The convolutional network, with the parameter names of the PyTorch release.

    Args:
        final_relu: ReLU after the last layer.
    """

    def __init__(self, *, final_relu: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for widths in _PLAN:
            for width in widths:
                layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        shrink = 2 ** len(_PLAN)
        flat = channels * (NUM_FRAMES // shrink) * (NUM_BANDS // shrink)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, NUM_FEATURES),
            nn.ReLU(inplace=True) if final_relu else nn.Identity(),
        )

    def forward(self, log_mels: torch.Tensor) -> torch.Tensor:
        """Embeddings `(n, 128)` of examples `(n, 1, 96, 64)`; n may be 0."""
        maps = self.features(log_mels)
        # Time, band, channel: the order in which TensorFlow flattened. start_dim keeps n = 0 unambiguous.
        embeddings: torch.Tensor = self.embeddings(maps.permute(0, 2, 3, 1).flatten(start_dim=1))
        return embeddings


class Pca:
    """VGGish's post-processor: projection with whitening, clipping, and quantisation to 0..255.

    Args:
        eigen_vectors: `(128, 128)`, rows are components with whitening folded in.
        means: `(128,)`.
    """

    def __init__(self, eigen_vectors: NDArray[np.float64], means: NDArray[np.float64]) -> None:
        self.eigen_vectors, self.means = eigen_vectors, means

    @classmethod
    def load(cls, path: Path) -> Self:
        """Parameters of an npz file; pickled objects are refused.

        Raises:
            WeightsError: the file lacks the two arrays, or has them in other shapes.
        """
        expected = "pca_eigen_vectors (128, 128) and pca_means (128,)"
        try:
            with np.load(path, allow_pickle=False) as file:
                vectors, means = file["pca_eigen_vectors"], file["pca_means"].reshape(-1)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise WeightsError(f"{path} does not hold {expected} as plain arrays: {error}") from error
        if vectors.shape != (NUM_FEATURES, NUM_FEATURES) or means.shape != (NUM_FEATURES,):
            raise WeightsError(f"{path} holds shapes {vectors.shape} and {means.shape}, expected {expected}.")
        return cls(vectors.astype(np.float64), means.astype(np.float64))

    def project(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Values in 0..255 before they are made whole numbers, `(n, 128)` float64."""
        projected = (embeddings.astype(np.float64) - self.means) @ self.eigen_vectors.T
        return (np.clip(projected, -2.0, 2.0) + 2.0) * 63.75

    def quantise(self, embeddings: NDArray[np.floating], *, truncate: bool) -> NDArray[np.float32]:
        """Whole numbers 0..255 as float32: half to even, as in the PyTorch port, or truncated, as in TensorFlow."""
        values = self.project(embeddings)
        return (np.trunc(values) if truncate else np.rint(values)).astype(np.float32)


class VGGish(Encoder):
    """VGGish embeddings, 128 numbers per row."""

    Options: ClassVar[type[EncoderOptions]] = VGGishOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, VGGishOptions):
            raise TypeError(f"{name} takes VGGishOptions, got {type(options).__name__}.")
        self.options: VGGishOptions = options
        checkpoint = weights.resolve(options.weights, name)
        with weights.seeded(checkpoint.seed or 0):
            network = VGG(final_relu=options.final_relu)
            if checkpoint.path is None:
                _spread(network)
        if checkpoint.path is not None:
            state = weights.read_state(checkpoint.path)
            state = {key: tensor for key, tensor in state.items() if key not in _PCA_ENTRIES}
            weights.load_into(network, state, where=str(checkpoint.path))
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self.network = placed(network, device, torch.channels_last)
        self.pca, self.pca_sha256 = None, ""
        if options.postprocess != "none":
            parameters = weights.resolve(options.pca, _PCA_CHECKPOINT)
            if parameters.path is None:
                raise WeightsError("pca takes the path of an .npz file; its parameters are never random.")
            self.pca, self.pca_sha256 = Pca.load(parameters.path), parameters.sha256

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class; looks for the PCA parameters too where they are asked for."""
        weights.check_available(name, options.weights)
        if isinstance(options, VGGishOptions) and options.postprocess != "none":
            weights.check_available(_PCA_CHECKPOINT, options.pca)

    @property
    def input(self) -> AudioInput:
        """One example's samples."""
        return AudioInput(EXAMPLE_SAMPLES, SAMPLE_RATE_HZ)

    def stream(self) -> StreamTemplate:
        """One vector per row. Quantised rows are whole numbers up to 255, which float16 holds exactly."""
        preprocessing = {
            "front_end": "log-mel, 96 frames of 64 bands, 125-7500 Hz, magnitude, natural log of (mel + 0.01), float64",
            "samples": f"{EXAMPLE_SAMPLES} mono samples at {SAMPLE_RATE_HZ} Hz",
            "tap": "last layer, after ReLU" if self.options.final_relu else "last layer, before ReLU",
            "postprocess": self.options.postprocess,
        }
        if self.pca_sha256:
            preprocessing["pca_sha256"] = self.pca_sha256
        return StreamTemplate(
            kind="audio",
            fields={"features": FieldSpec(row_shape=(NUM_FEATURES,), dtype=self.options.dtype)},
            source=Source(
                paper="Hershey et al. CNN Architectures for Large-Scale Audio Classification. ICASSP 2017.",
                code="https://github.com/harritaylor/torchvggish",
                commit="f3f90969",
                licence="Apache-2.0",
                differs="no PCA by default; resampled by soxr instead of resampy; WAV files read with all their bits",
            ),
            preprocessing=preprocessing,
        )

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of 15,600 samples each, `(num_samples, 128)` float32."""
        waveforms = np.stack([np.asarray(sample.data) for sample in samples])
        if waveforms.shape[1:] != (EXAMPLE_SAMPLES,):
            raise MediaError(f"VGGish takes {EXAMPLE_SAMPLES} samples per row, got {waveforms.shape[1:]}.")
        if not np.isfinite(waveforms).all():
            raise MediaError("the sound holds samples that are not finite (NaN or infinity).")
        return Rows.dense(features=self._embedded(log_mel(waveforms).astype(np.float32)))

    def embed(self, examples: Examples) -> NDArray[np.float32]:
        """Embeddings of examples cut from a whole waveform, `(num_examples, 128)`."""
        size = self.preferred_batch()
        pieces = [self._embedded(examples.log_mel[k : k + size]) for k in range(0, len(examples.log_mel), size)]
        return np.concatenate([np.zeros((0, NUM_FEATURES), np.float32), *pieces])

    def as_seen(self, sample: Sample) -> Spectrogram:
        """The log-mel example."""
        return spectrogram(sample)

    def preferred_batch(self) -> int:
        """Examples per call; they are small, so that batches pay off on CPUs too."""
        return 128 if self.device.type == "cuda" else 8

    def _embedded(self, log_mels: NDArray[np.float32]) -> NDArray[np.float32]:
        with arithmetic(self.device, self.options.precision):
            batch = torch.from_numpy(log_mels).to(self.device)[:, None]
            embeddings: NDArray[np.float32] = self.network(batch).float().cpu().numpy()
        if self.pca is None:
            return embeddings
        return self.pca.quantise(embeddings, truncate=self.options.postprocess == "pca_truncate")


def _spread(network: nn.Module) -> None:
    # PyTorch's default start shrinks the signal in each of nine layers; untrained rows of different sounds would be
    # equal in float16. He's start keeps its size.
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


ENCODER = VGGish
