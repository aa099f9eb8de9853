"""R(2+1)D against torchvision's own network called plainly, and the three edits of the IG-65M port."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.video import R2Plus1D_18_Weights, r2plus1d_18
from torchvision.models.video.resnet import Conv2Plus1D

from vidloc.errors import OptionError, WeightsError
from vidloc.extract import weights
from vidloc.extract.base import Sample
from vidloc.extract.pictures import sized
from vidloc.extract.r2plus1d import R2Plus1D, ig65m_34
from vidloc.testing.deterministic_fill import filled

TOLERANCE = 1e-5  # of the maximum
PUBLISHERS = R2Plus1D_18_Weights.KINETICS400_V1


@pytest.fixture(scope="module")
def plain():
    network = r2plus1d_18().eval()
    network.load_state_dict(filled(network.state_dict()))
    return network


@pytest.fixture(scope="module")
def encoder(plain, tmp_path_factory, build_encoder):
    path = tmp_path_factory.mktemp("weights") / "r2plus1d_18-91a641e6.pth"
    torch.save(plain.state_dict(), path)
    return build_encoder("r2plus1d_18", weights=path, scores=True)


@pytest.fixture(scope="module")
def ig65m(tmp_path_factory, build_encoder):
    network = ig65m_34(400).eval()
    network.load_state_dict(filled(network.state_dict()))
    path = tmp_path_factory.mktemp("weights") / "clip8.pth"
    torch.save(network.state_dict(), path)
    return network, build_encoder("r2plus1d_34_clip8", weights=path)


def close(a, b):
    return np.abs(a - b).max() <= TOLERANCE * np.abs(b).max()


def test_the_published_networks(plain):
    assert sum(p.numel() for p in plain.parameters()) == PUBLISHERS.meta["num_params"] == 31_505_325
    assert len(plain.state_dict()) == 224


def plainly(network, clips):
    """Features and scores as the network itself computes them."""
    seen = []
    hook = network.fc.register_forward_hook(lambda module, inputs, scores: seen.extend((inputs[0], scores)))
    with torch.inference_mode():
        network(clips)
    hook.remove()
    return {name: tensor.numpy() for name, tensor in zip(("features", "scores"), seen, strict=True)}


def normalised(frames):
    transforms = PUBLISHERS.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (transforms.mean, transforms.std))
    return ((torch.from_numpy(frames).permute(3, 0, 1, 2) / 255 - mean) / std)[None]


def test_rows_equal_the_plain_network_and_come_near_the_publishers_whole_pipeline(plain, encoder):
    frames = np.random.default_rng(0).integers(0, 256, (16, 96, 160, 3), dtype=np.uint8)
    sample = _sample(np.stack([sized(frame, encoder.input.size) for frame in frames]))
    rows = encoder.encode([sample]).fields
    expected = plainly(plain, normalised(sample.data))
    assert rows.keys() == expected.keys()
    assert all(close(rows[name], expected[name]) for name in expected)
    # Its older resize calculates in floats, ours in bytes as torchvision's newer one does: one grey level at most, here
    # in a fifth of the pixels. A crop or a mean that is wrong would show as more than that.
    theirs = PUBLISHERS.transforms()(torch.from_numpy(frames).permute(0, 3, 1, 2))[None]
    assert (theirs - normalised(sample.data)).abs().max() < 1.01 / 255 / min(PUBLISHERS.transforms().std)
    largest = np.abs(expected["features"]).max()
    assert np.abs(plainly(plain, theirs)["features"] - rows["features"]).max() < 0.01 * largest


def _sample(frames):
    return Sample((Fraction(0), Fraction(1)), frames, np.zeros(len(frames)))


def test_a_batch_equals_its_members(encoder, clip):
    samples = [clip(name, 16, 112) for name in ("a", "b")]
    together = encoder.encode(samples).fields
    for k, sample in enumerate(samples):
        alone = encoder.encode([sample]).fields
        assert all(close(together[name][k], alone[name][0]) for name in ("features", "scores"))
    assert not close(together["features"][0], together["features"][1])


def test_the_three_edits_of_ig65m(ig65m):
    network, _ = ig65m
    assert [len(network.get_submodule(f"layer{k}")) for k in (1, 2, 3, 4)] == [3, 4, 6, 3]
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-3}
    middles = {
        (k, block, conv): network.get_submodule(f"layer{k}.{block}.{conv}")[0][0].out_channels
        for k in (2, 3, 4)
        for block in (0, 1)
        for conv in ("conv1", "conv2")
    }
    for k, own, theirs in ((2, 230, 288), (3, 460, 576), (4, 921, 1152)):
        assert middles[k, 0, "conv1"] == own
        assert middles[k, 0, "conv2"] == theirs  # torchvision: the same as conv1
        assert middles[k, 1, "conv1"] == middles[k, 1, "conv2"] == theirs  # by torchvision's rule
    assert isinstance(network.layer2[0].conv2[0], Conv2Plus1D)


def test_rows_of_ig65m_equal_the_plain_network(ig65m, clip):
    network, encoder = ig65m
    sample = clip("ig65m", 8, 112)
    network.fc = nn.Identity()
    with torch.inference_mode():
        expected = network(normalised(sample.data)).numpy()
    row = encoder.encode([sample]).fields["features"]
    assert row.shape == (1, 512)
    assert close(row, expected)


def test_weights_of_one_depth_do_not_fit_the_other(encoder, build_encoder, tmp_path):
    path = tmp_path / "r2plus1d_18.pth"
    torch.save(r2plus1d_18().state_dict(), path)
    with pytest.raises(WeightsError, match=r"does not fit VideoResNet: .*size mismatch for layer2\.0\.conv2"):
        build_encoder("r2plus1d_34_clip32", weights=path)


@pytest.mark.parametrize(
    ("name", "frames", "window_s"),
    [("r2plus1d_18", 16, "16/15"), ("r2plus1d_34_clip32", 32, "32/30"), ("r2plus1d_34_clip8", 8, "8/30")],
)
def test_inputs_are_as_published_and_can_be_changed(name, frames, window_s, build_encoder):
    encoder = build_encoder(name, weights="random:0")
    assert (encoder.input.num_frames, encoder.input.window_s) == (frames, Fraction(window_s))
    size = encoder.input.size
    assert (size.stretch_px, size.short_side_px, size.crop_px, size.antialias) == ((128, 171), None, 112, False)
    template = encoder.stream()
    assert template.preprocessing["resize"] == (
        "to 128 x 171 (height x width), aspect not kept, bilinear, no antialiasing"
    )
    assert template.source.licence.startswith("BSD" if name == "r2plus1d_18" else "MIT")


def test_another_rate(build_encoder):
    wanted = build_encoder("r2plus1d_18", weights="random:0", num_frames=8, fps="25/2").input
    assert (wanted.num_frames, wanted.window_s) == (8, Fraction(16, 25))


@pytest.mark.parametrize("name", ["r2plus1d_18", "r2plus1d_34_clip32", "r2plus1d_34_clip8"])
def test_each_member_has_weights_of_its_own(name, monkeypatch, tmp_path):
    monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"vidloc weights fetch {name}\n"):
        R2Plus1D.check_weights(R2Plus1D.Options(), name=name)


def test_published_weights_bring_the_names_of_their_classes(plain, build_encoder, monkeypatch, tmp_path):
    monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
    entry = weights.PUBLISHED["r2plus1d_18"]
    path = tmp_path / "weights" / entry.file_name
    path.parent.mkdir()
    torch.save(plain.state_dict(), path)
    monkeypatch.setitem(weights.PUBLISHED, "r2plus1d_18", replace(entry, sha256=weights.sha256_of(path)))
    template = build_encoder("r2plus1d_18", scores=True).stream()
    assert template.fields["scores"].row_shape == (400,) == (len(template.vocabulary),)
    assert (template.vocabulary[0], template.vocabulary[161], template.vocabulary[399]) == (
        "abseiling",
        "hurling (sport)",
        "zumba",
    )


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="'num_frames': Input should be greater than or equal to 1"):
        R2Plus1D.Options.parse({"num_frames": "0"}, where="encoder 'r2plus1d_18'")
