"""Names of PySlowFast's checkpoints (by Caffe2, too) turned into those of pytorchvideo, whose networks are the same.

PySlowFast counts stages (`s1` is the stem) and pathways; pytorchvideo counts blocks, among which may be a pool, and has
pathways only in networks of several. Networks fine-tuned on several tasks at once have one classifier each
(`head.projection_verb`, `head.projection_noun` in the release for EPIC-KITCHENS-100); here their rows are joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from vidloc.extract.caffe2_names import pyslowfast_name
from vidloc.extract.clip_classifier import joined

_STEM = re.compile(r"s1\.pathway(?P<pathway>\d)_stem\.(?P<layer>conv|bn)\.")
_FUSION = re.compile(r"s(?P<stage>[1-4])_fuse\.(?P<layer>conv_f2s|bn)\.")
_RESIDUAL = re.compile(
    r"s(?P<stage>[2-5])\.pathway(?P<pathway>\d)_res(?P<block>\d+)\."
    r"(?P<branch>branch1|branch2\.[abc])(?P<norm>_bn)?\."
)
_TASK = re.compile(r"head\.projection_(?P<task>[a-z][a-z0-9_]*)\.weight")


@dataclass(frozen=True)
class Layout:
    """Where a network of pytorchvideo has what PySlowFast numbers otherwise.

    Attributes:
        stages: block of each of the five stages.
        head: block of the head.
        several: whether there are several pathways.
    """

    stages: tuple[int, int, int, int, int]
    head: int
    several: bool = False

    def renamed(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors under pytorchvideo's names, with classifiers of several tasks joined; other names stay."""
        tasks = tasks_of(state)
        renamed = {self.name(name): tensor for name, tensor in state.items()}
        for kind in ("weight", "bias"):
            names = [f"head.projection_{task}.{kind}" for task in tasks]
            joint = joined([state[name] for name in names if name in state])
            # Those that do not fit together keep their names, and are said to be left over.
            if joint is not None and all(name in state for name in names):
                renamed = {name: tensor for name, tensor in renamed.items() if name not in names}
                renamed[f"blocks.{self.head}.proj.{kind}"] = joint
        return renamed

    def name(self, theirs: str) -> str:
        """The name of one tensor, by its name in PySlowFast or Caffe2."""
        theirs = pyslowfast_name(theirs)
        if theirs.startswith("head.projection."):
            return theirs.replace("head.projection", f"blocks.{self.head}.proj")
        if stem := _STEM.match(theirs):
            layer = "conv" if stem["layer"] == "conv" else "norm"
            return f"{self._pathway(1, stem['pathway'])}.{layer}.{theirs[stem.end() :]}"
        if self.several and (fusion := _FUSION.match(theirs)):
            layer = "norm" if fusion["layer"] == "bn" else "conv_fast_to_slow"
            return f"{self._block(int(fusion['stage']))}.multipathway_fusion.{layer}.{theirs[fusion.end() :]}"
        if residual := _RESIDUAL.match(theirs):
            kind, branch = "norm" if residual["norm"] else "conv", residual["branch"]
            layer = f"branch1_{kind}" if branch == "branch1" else f"branch2.{kind}_{branch[-1]}"
            place = self._pathway(int(residual["stage"]), residual["pathway"])
            return f"{place}.res_blocks.{residual['block']}.{layer}.{theirs[residual.end() :]}"
        return theirs

    def _block(self, stage: int) -> str:
        return f"blocks.{self.stages[stage - 1]}"

    def _pathway(self, stage: int, pathway: str) -> str:
        block = self._block(stage)
        # In a network of one pathway any other has no place, and is named as a leftover.
        return f"{block}.multipathway_blocks.{pathway}" if self.several else block + ("" if pathway == "0" else ".1")


def tasks_of(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Classes by task of a checkpoint with several classifiers, in its order; empty where it has one for all."""
    found = {name: _TASK.fullmatch(name) for name, tensor in state.items() if tensor.ndim}
    return {match["task"]: len(state[name]) for name, match in found.items() if match}
