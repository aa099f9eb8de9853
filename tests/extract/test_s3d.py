"""S3D on Kinetics: both public sets of weights in torchvision's network, each with the input that it learned from."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.video import s3d

from vidloc.errors import OptionError, WeightsError
from vidloc.extract.s3d import S3D, torchvision_name
from vidloc.testing.deterministic_fill import filled

TOLERANCE = 1e-5  # of the maximum
FRAMES, SIDE = 14, 224  # the smallest clip


@pytest.fixture(scope="module")
def plain():
    network = s3d().eval()
    network.load_state_dict(filled(network.state_dict()))
    return network


@pytest.fixture(scope="module")
def checkpoint(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "s3d-d76dad2f.pth"
    torch.save(plain.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def kylemins(plain, tmp_path_factory):
    """The same numbers under kylemin's names, with the prefixes that its Drive file may have."""
    path = tmp_path_factory.mktemp("weights") / "S3D_kinetics400.pt"
    torch.save({f"module.{kylemin_name(name)}": tensor for name, tensor in plain.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def encoder(checkpoint, build_encoder):
    return build_encoder("s3d", weights=checkpoint, num_frames=FRAMES, scores=True)


def kylemin_name(name: str) -> str:
    """Kylemin's name of a tensor of torchvision, by the rules of specs/encoders.md 5.6 read from right to left."""
    name = name.replace("features.", "base.", 1).replace("classifier.1.", "fc.0.")
    separable = r"(?:base\.(?:0|3)|base\.\d+\.branch[12]\.1)"
    for ours, theirs in (("0.0", "conv_s"), ("0.1", "bn_s"), ("1.0", "conv_t"), ("1.1", "bn_t")):
        name = re.sub(rf"^({separable})\.{re.escape(ours)}\.", rf"\1.{theirs}.", name)
    name = re.sub(r"^(base\.\d+)\.branch0\.", r"\1.branch0.0.", name)
    for ours, theirs in (("0", "conv"), ("1", "bn")):
        name = re.sub(rf"^(base\.2|base\.\d+\.branch(?:0\.0|[12]\.0|3\.1))\.{ours}\.", rf"\1.{theirs}.", name)
    return name


def close(a, b):
    return np.abs(a - b).max() <= TOLERANCE * np.abs(b).max()


def test_the_published_network(plain):
    assert sum(p.numel() for p in plain.parameters()) == 8_320_048
    assert len(plain.state_dict()) == 464
    assert {m.eps for m in plain.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-3}


def test_rows_equal_the_plain_network_and_a_batch_equals_its_members(plain, encoder, clip):
    samples = [clip(name, FRAMES, SIDE) for name in ("a", "b")]
    rows = encoder.encode(samples).fields
    assert {name: row.shape for name, row in rows.items()} == {"features": (2, 1024), "scores": (2, 400)}
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in ([0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989]))
    pooled = []
    hook = plain.avgpool.register_forward_hook(lambda module, inputs, maps: pooled.append(maps))
    for k, sample in enumerate(samples):
        with torch.inference_mode():
            scores = plain(((torch.from_numpy(sample.data).permute(3, 0, 1, 2) / 255 - mean) / std)[None])
        assert pooled[k].shape == (1, 1024, 1, 1, 1)
        assert close(rows["features"][k], pooled[k].flatten().numpy())
        assert close(rows["scores"][k], scores[0].numpy())
    hook.remove()
    assert not close(rows["features"][0], rows["features"][1])


def test_kylemins_names_and_ours_are_one_to_one(plain):
    ours = list(plain.state_dict())
    theirs = [kylemin_name(name) for name in ours]
    assert {"base.0.conv_s.weight", "base.2.bn.bias", "base.5.branch0.0.conv.weight", "fc.0.bias"} <= set(theirs)
    assert {"base.15.branch2.1.bn_t.running_var", "base.6.branch3.1.bn.weight"} <= set(theirs)
    assert [torchvision_name(name) for name in theirs] == ours
    assert not set(ours) & set(theirs)


def test_kylemins_checkpoint_gives_the_same_network_and_another_input(
    kylemins, checkpoint, encoder, build_encoder, clip
):
    theirs = build_encoder("s3d", weights=kylemins, variant="kylemin")
    pairs = zip(theirs.network.parameters(), encoder.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    # Saved anew under torchvision's names it is the same: names do not say what the numbers learned from.
    renamed = build_encoder("s3d", weights=checkpoint, variant="kylemin")
    assert renamed.input == theirs.input
    sample = clip("range", 1, 8)
    pixels = torch.from_numpy(sample.data).permute(3, 0, 1, 2)[None].double()
    made = theirs.preparation.clips([sample], torch.device("cpu"))
    assert (made - (pixels / 127.5 - 1)).abs().max() < 1e-6
    tool = build_encoder("s3d", weights=kylemins, variant="video_features")
    assert (tool.preparation.clips([sample], torch.device("cpu")) - pixels / 255).abs().max() < 1e-6


def test_kylemins_checkpoint_is_not_fed_torchvisions_input(kylemins, build_encoder):
    with pytest.raises(WeightsError, match=r"learned from values in \[-1, 1\].*variant=kylemin,weights=FILE"):
        build_encoder("s3d", weights=kylemins)


@pytest.mark.parametrize(
    ("variant", "frames", "window_s", "stretch", "short", "published"),
    [
        ("torchvision", 128, "128/15", (256, 256), None, "s3d"),
        ("kylemin", 64, "64/25", None, 256, "s3d_kylemin"),
        ("video_features", 64, "64/25", None, 224, "s3d_kylemin"),
    ],
)
def test_inputs_and_weights_of_the_variants(
    variant, frames, window_s, stretch, short, published, build_encoder, monkeypatch, tmp_path
):
    wanted = build_encoder("s3d", weights="random:0", variant=variant).input
    assert (wanted.num_frames, wanted.window_s) == (frames, Fraction(window_s))
    size = wanted.size
    assert (size.stretch_px, size.short_side_px, size.crop_px, size.antialias) == (stretch, short, 224, False)
    monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"vidloc weights fetch {published}\n"):
        S3D.check_weights(S3D.Options(variant=variant), name="s3d")


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="'num_frames': Input should be greater than or equal to 14"):
        S3D.Options.parse({"num_frames": "13"}, where="encoder 's3d'")
