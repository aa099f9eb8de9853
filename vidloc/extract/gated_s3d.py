"""The network S3D-G of MIL-NCE: separable Inception-v1 with self-gating, and the words beside it.

Xie et al., ECCV 2018; as Miech et al. (CVPR 2020) trained it on HowTo100M. Layers and names are those of
specs/encoders.md sections 5.7 and 7, compared by the worked values of its section 12, which hold for the publisher's
program (`antoine77340/S3D_HowTo100M` b8cd0bb).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from vidloc.extract.inception import MIXED, NUM_FEATURES, POOLS, MaxPool, Triple, Widths

NUM_JOINT = 512
MAX_WORDS = 16
NUM_EMBEDDINGS = 66250  # of words; number 0 stands for no word
_NUM_WORD_FEATURES, _NUM_HIDDEN = 300, 2048
_WORD = re.compile(r"[\w']+")
_STAGES = ("3b", "3c", "pool_4a", "4b", "4c", "4d", "4e", "4f", "pool_5a", "5b", "5c")


class GatedS3D(nn.Module):
    """The video side: 1024 numbers per clip (`mixed_5c`), and 512 in the space that it shares with sentences."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _Convolution(24, 64, (2, 4, 4), padding=(1, 2, 2))
        self.conv_2b = _Convolution(64, 64, (1, 1, 1))
        self.conv_2c = _Separable(64, 192)
        self.gating = _SelfGating(192)
        for name, (kernel, stride) in POOLS.items():
            self.add_module(f"pool_{name}", MaxPool(kernel, stride, static=True))
        for name, (channels, widths) in MIXED.items():
            self.add_module(f"mixed_{name}", _GatedMixed(channels, widths))
        self.fc = nn.Linear(NUM_FEATURES, NUM_JOINT)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """`(batch, 1024)` of clips `(batch, 3, frames, height, width)` in [0, 1]; all three sizes are even."""
        # A kernel of two frames and four pixels of the folded clip, centred as TensorFlow's SAME would: a slice too
        # many is computed in front.
        maps = self.conv1(space_to_depth(clips))[:, :, 1:, 1:, 1:]
        maps = self.conv_2b(self.get_submodule("pool_2a")(maps))
        maps = self.get_submodule("pool_3a")(self.gating(self.conv_2c(maps)))
        for name in _STAGES:
            maps = self.get_submodule(name if name.startswith("pool") else f"mixed_{name}")(maps)
        features: torch.Tensor = maps.float().mean((2, 3, 4))
        return features

    def joint(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, 512)`; similarity with sentences is the dot product, nothing is normalised."""
        joint: torch.Tensor = self.fc(features)
        return joint


class WordsToJoint(nn.Module):
    """The text side: each word embedded and mapped by itself, then the largest of each number over the words."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embd = nn.Embedding(NUM_EMBEDDINGS, _NUM_WORD_FEATURES)
        self.fc1 = nn.Linear(_NUM_WORD_FEATURES, _NUM_HIDDEN)
        self.fc2 = nn.Linear(_NUM_HIDDEN, NUM_JOINT)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """`(batch, 512)` of word numbers `(batch, 16)`; empty places take part, so that no word has a vector too."""
        words = functional.relu(self.fc1(self.word_embd(numbers)))
        joint: torch.Tensor = self.fc2(words.amax(1))
        return joint


def space_to_depth(clips: torch.Tensor) -> torch.Tensor:
    """`(batch, c, t, h, w)` to `(batch, 8 c, t/2, h/2, w/2)`: cells of 2 x 2 x 2 become channels.

    Channel `((dt * 2 + dh) * 2 + dw) * c + i` holds channel i of the cell's frame dt, row dh, column dw.
    """
    batch, channels, times, rows, columns = clips.shape
    cells = clips.reshape(batch, channels, times // 2, 2, rows // 2, 2, columns // 2, 2)
    return cells.permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(batch, 8 * channels, times // 2, rows // 2, columns // 2)


def words_of(sentence: str) -> list[str]:
    """Lower-case words: runs of letters, digits, underscores and apostrophes."""
    return _WORD.findall(sentence.lower())


def word_numbers(sentence: str, dictionary: Mapping[str, int]) -> list[int]:
    """Numbers of the first 16 words that the dictionary has; the others are left out, not replaced."""
    return [dictionary[word] for word in words_of(sentence) if word in dictionary][:MAX_WORDS]


def numbered(words: Sequence[str]) -> dict[str, int]:
    """The dictionary of a list of words: position + 1. Of a word that comes twice the last position counts."""
    return {word: number for number, word in enumerate(words, 1)}


class _Convolution(nn.Module):
    # Norms follow their convolutions, so that they can be folded into them.
    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, padding: Triple = (0, 0, 0)) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, kernel, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm3d(out_channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return functional.relu_(self.bn1(self.conv1(maps)))


class _Separable(_Convolution):
    # 1 x 3 x 3, then 3 x 1 x 1.
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1))
        self.conv2 = nn.Conv3d(out_channels, out_channels, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(out_channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return functional.relu_(self.bn2(self.conv2(super().forward(maps))))


class _SelfGating(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        gates: torch.Tensor = self.fc(maps.mean((2, 3, 4))).sigmoid()
        return maps * gates[:, :, None, None, None]


class _GatedMixed(nn.Module):
    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        a, b1, b2, c1, c2, d = widths
        one = (1, 1, 1)
        self.conv_b0 = _Convolution(in_channels, a, one)
        self.conv_b1_a = _Convolution(in_channels, b1, one)
        self.conv_b1_b = _Separable(b1, b2)
        self.conv_b2_a = _Convolution(in_channels, c1, one)
        self.conv_b2_b = _Separable(c1, c2)
        self.pool_b3 = MaxPool((3, 3, 3), one, static=True)
        self.conv_b3_b = _Convolution(in_channels, d, one)
        for k, width in enumerate((a, b2, c2, d)):
            self.add_module(f"gating_b{k}", _SelfGating(width))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        branches = (
            self.conv_b0(maps),
            self.conv_b1_b(self.conv_b1_a(maps)),
            self.conv_b2_b(self.conv_b2_a(maps)),
            self.conv_b3_b(self.pool_b3(maps)),
        )
        return torch.cat([self.get_submodule(f"gating_b{k}")(branch) for k, branch in enumerate(branches)], dim=1)
