"""Caffe2's names of a video network's blobs turned into PySlowFast's names of tensors.

The checkpoints of PySlowFast's model zoo that end in `.pkl` (SlowFast, Slow, I3D, C2D on Kinetics) were trained in
Caffe2. `res3_1` is block 1 of stage 3 of the first pathway; names of the second pathway begin with `t_`. Norms are
`_bn_s`, `_bn_b`, `_bn_rm` and `_bn_riv`: in spite of its name (inverse variance), the last is the variance itself. The
shapes of the blobs are those of the tensors.
"""

from __future__ import annotations

import re

_ENTRIES = {
    "w": "weight",
    "b": "bias",
    "bn_s": "weight",
    "bn_b": "bias",
    "bn_rm": "running_mean",
    "bn_riv": "running_var",
}
_NAME = re.compile(r"(?P<place>\w+?)_(?P<entry>bn_(?:s|b|rm|riv)|w|b)")
_STEM = re.compile(r"(?P<fast>t_)?(?:res_)?conv1")
_BLOCK = re.compile(r"(?P<fast>t_)?res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2[abc])")
_FUSION = re.compile(r"t_(?:pool1|res(?P<stage>[2-4])_\d+_branch2c_bn)_subsample")


def pyslowfast_name(blob: str) -> str:
    """PySlowFast's name of a blob; names that are not Caffe2's stay."""
    parts = _NAME.fullmatch(blob)
    if parts is None:
        return blob
    place = _place(parts["place"], is_norm=parts["entry"].startswith("bn_"))
    return f"{place}.{_ENTRIES[parts['entry']]}" if place else blob


def _place(place: str, *, is_norm: bool) -> str:
    if place == "pred":
        return "head.projection"
    if stem := _STEM.fullmatch(place):
        return f"s1.pathway{_pathway(stem)}_stem.{'bn' if is_norm else 'conv'}"
    if fusion := _FUSION.fullmatch(place):
        return f"s{fusion['stage'] or 1}_fuse.{'bn' if is_norm else 'conv_f2s'}"
    if block := _BLOCK.fullmatch(place):
        branch = "branch1" if block["branch"] == "1" else f"branch2.{block['branch'][1]}"
        return f"s{block['stage']}.pathway{_pathway(block)}_res{block['block']}.{branch}{'_bn' if is_norm else ''}"
    return ""


def _pathway(match: re.Match[str]) -> int:
    return 1 if match["fast"] else 0
