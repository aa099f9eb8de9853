"""Everything registered keeps its contract: heads, encoders, both storage backends, and a made-up store."""

from __future__ import annotations

import pytest

from vidloc.core.registry import entries, load
from vidloc.stores.base import create_store
from vidloc.testing.checks import BACKENDS, check_backend, check_encoder, check_head, check_store
from vidloc.testing.synthetic_store import write_all

# The same code in less time: smaller pictures, fewer of them.
SMALL = {
    "fasterrcnn": {"min_size": "160"},
    "fasterrcnn_v2": {"min_size": "160"},
    **{name: {"short_side_px": "224", "crop_px": "224"} for name in ("slowfast_r50", "i3d_r50", "slow_r50", "c2d_r50")},
    "i3d": {"num_frames": "9", "crop_px": "193"},
    # TV-L1 does not converge on noise, and takes half a minute for each pair of it.
    "i3d_flow": {
        "num_frames": "9",
        "short_side_px": "193",
        "crop_px": "193",
        "flow": "raft_small",
        "flow_weights": "random:0",
        "flow_updates": "1",
    },
    **{name: {"num_frames": "2"} for name in ("r2plus1d_18", "r2plus1d_34_clip32", "r2plus1d_34_clip8")},
    "s3d": {"num_frames": "14"},
    "s3d_milnce": {"num_frames": "4", "crop_px": "64"},
    **{name: {"side_px": "64"} for name in ("resnet34", "resnet50", "vgg16")},
    "lfb_r50": {"num_frames": "8", "short_side_px": "64", "crop_px": "64"},
    **{name: {"frame": "crop", "crop_px": "64"} for name in ("tsn_rgb_bninception", "tsn_rgb_r50")},
    "tsn_flow_bninception": {
        "frame": "crop",
        "short_side_px": "128",
        "crop_px": "64",
        "flow": "raft_small",
        "flow_weights": "random:0",
        "flow_updates": "1",
    },
}


# Large members of families, each with a sibling that runs the same code in a fraction of the time.
SIBLINGS = {
    "slowfast_r101": "slowfast_r50",
    "r2plus1d_r50": "i3d_r50",
    **dict.fromkeys(("hara_r50", "hara_resnext101"), "hara_r34"),
    "resnet152": "resnet50",
    "vgg19": "vgg16",
    "tsn_flow_r50": "tsn_flow_bninception",
}
# Names that take a model's folder, and those whose untrained networks are large: tests/extract/test_hf.py, test_bert.py
# and test_clip.py run the same checks on small ones.
ELSEWHERE = {*(name for name in entries("encoders") if name.endswith(":")), "bert", "clip_image", "clip_text"}


def failures(report):
    return [f"{outcome.check}: {outcome.sentence}" for outcome in report.outcomes if not outcome.passed]


@pytest.mark.parametrize("name", entries("heads"))
def test_head(name):
    assert failures(check_head(name)) == []


@pytest.mark.parametrize("name", [name for name in entries("encoders") if name not in {*SIBLINGS, *ELSEWHERE}])
def test_encoder(name):
    assert failures(check_encoder(name, SMALL.get(name))) == []


@pytest.mark.parametrize(("name", "sibling"), SIBLINGS.items())
def test_encoder_that_a_sibling_stands_for_is_the_same_code(name, sibling):
    assert load("encoders", name).target is load("encoders", sibling).target


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(backend):
    assert failures(check_backend(backend)) == []


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_store(tmp_path, suffix):
    path = tmp_path / f"made_up{suffix}"
    with create_store(path) as writer:
        write_all(writer)
    assert failures(check_store(path)) == []
