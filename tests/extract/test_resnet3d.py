"""Single-pathway ResNets against pytorchvideo's own called plainly, and what precision and seeds change."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from vidloc.errors import WeightsError
from vidloc.extract.pytorchvideo_nets import hub  # imported there, with its warning filtered
from vidloc.extract.resnet3d import NAMES
from vidloc.testing.deterministic_fill import filled

TOLERANCE = 1e-5  # of the maximum


@pytest.fixture(scope="module")
def encoder(build_encoder):
    return build_encoder("i3d_r50", weights="random:5", crop_px=224)


def features_of(encoder, *samples):
    return encoder.encode(samples).fields["features"]


NETWORKS = {  # parameters and entries as published
    "i3d_r50": (28_043_472, 320),
    "slow_r50": (32_454_096, 320),
    "c2d_r50": (24_327_632, 320),
    "r2plus1d_r50": (28_107_600, 416),
}


def plain_network(name):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return getattr(hub, name)().eval()


def plainly(network, sample):
    """What the network returns, and by the way what its classifier was fed and gave, averaged over positions."""
    pixels = ((torch.from_numpy(sample.data).float() / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)[None]
    seen = []
    hook = network.blocks[-1].proj.register_forward_hook(lambda module, fed, given: seen.extend((*fed, given)))
    with torch.inference_mode():
        output = network(pixels).numpy()
    hook.remove()
    return output, *(maps.mean((1, 2, 3)).numpy() for maps in seen)


def close(a, b):
    return np.abs(a - b).max() <= TOLERANCE * np.abs(b).max()


def test_the_names_are_the_networks_that_are_compared():
    assert set(NAMES) == NETWORKS.keys()


@pytest.mark.parametrize(("name", "side_px"), [("i3d_r50", 256), *((n, 224) for n in NETWORKS if n != "i3d_r50")])
def test_rows_and_scores_equal_the_plain_network(name, side_px, build_encoder, clip):
    plain = plain_network(name)
    parameters, entries = NETWORKS[name]
    assert sum(p.numel() for p in plain.parameters()) == parameters
    assert len(plain.state_dict()) == entries
    with_scores = build_encoder(name, weights="random:5", crop_px=side_px, scores=True)
    sample = clip(name, with_scores.input.num_frames, side_px)
    rows = with_scores.encode([sample]).fields
    assert {field: row.shape for field, row in rows.items()} == {"features": (1, 2048), "scores": (1, 400)}
    output, features, scores = plainly(plain, sample)
    assert close(rows["features"], features)
    assert close(rows["scores"], scores)
    if name == "r2plus1d_r50":  # its head ends in a softmax; at one position that is the softmax of the mean, too
        assert output.sum() == pytest.approx(1)
        assert abs(rows["scores"].sum() - 1) > 0.1
        assert close(torch.from_numpy(rows["scores"]).softmax(1).numpy(), output)
    else:
        assert close(rows["scores"], output)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_published_layout_loads_with_its_classifier_and_without(name, build_encoder, tmp_path):
    state = getattr(hub, name)(model_num_class=3).state_dict()
    path = tmp_path / "checkpoint.pyth"
    torch.save({"model_state": state}, path)
    scored = build_encoder(name, weights=path, scores=True)
    assert scored.stream().fields["scores"].row_shape == (3,)
    classifier = f"blocks.{len(scored.network.blocks) - 1}.proj"
    assert torch.equal(scored.network.blocks[-1].proj.weight, state[f"{classifier}.weight"])
    headless = {key: tensor for key, tensor in state.items() if not key.startswith(classifier)}
    torch.save({"model_state": headless}, path)
    assert build_encoder(name, weights=path).stream().fields.keys() == {"features"}
    with pytest.raises(WeightsError, match=rf"missing: {classifier}\.weight, {classifier}\.bias"):
        build_encoder(name, weights=path, scores=True)


@pytest.mark.parametrize("name", ["i3d_r50", "slow_r50", "c2d_r50"])
def test_pyslowfasts_names_load_with_classifiers_of_one_task_and_of_two(name, build_encoder, tmp_path):
    state = filled(getattr(hub, name)(model_num_class=5).state_dict())
    theirs = {pyslowfast_name(key, name): tensor for key, tensor in state.items()}
    assert not theirs.keys() & state.keys()
    path = tmp_path / "checkpoint.pyth"
    torch.save({"model_state": theirs}, path)
    one = build_encoder(name, weights=path, scores=True)
    torch.save({"model_state": state}, path)
    loaded = [list(build_encoder(name, weights=path, scores=True).network.parameters()), list(one.network.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(*loaded, strict=True))
    for kind in ("weight", "bias"):
        both = theirs.pop(f"head.projection.{kind}")
        theirs |= {f"head.projection_noun.{kind}": both[2:], f"head.projection_verb.{kind}": both[:2]}
    torch.save({"model_state": theirs}, path)
    two = build_encoder(name, weights=path, scores=True)
    assert two.num_classes == {"scores_noun": 3, "scores_verb": 2}
    assert torch.equal(two.network.blocks[-1].proj.weight, one.network.blocks[-1].proj.weight.roll(3, 0))


def pyslowfast_name(key, name):
    """PySlowFast's name: stages count from 1 at the stem, and the pool that two networks have is none of them."""
    block, rest = (part for part in key.removeprefix("blocks.").split(".", 1))
    if rest.startswith("proj"):
        return f"head.{rest.replace('proj', 'projection')}"
    stage = int(block) + (1 if name == "slow_r50" or int(block) < 2 else 0)
    rest = re.sub(
        r"branch2\.(conv|norm)_([abc])", r"branch2.\2_\1", re.sub(r"branch1_(conv|norm)", r"branch1_\1", rest)
    )
    rest = rest.replace("_conv.", ".").replace("_norm.", "_bn.")
    if stage == 1:
        return f"s1.pathway0_stem.{rest.replace('norm.', 'bn.')}"
    return f"s{stage}.pathway0_{rest.replace('res_blocks.', 'res', 1)}"


def test_a_batch_equals_its_members(encoder, clip):
    samples = [clip(name, 8, 224) for name in ("a", "b")]
    together = features_of(encoder, *samples)
    alone = np.concatenate([features_of(encoder, sample) for sample in samples])
    largest = np.abs(alone).max()
    assert np.abs(together - alone).max() <= TOLERANCE * largest
    assert np.abs(together[0] - together[1]).max() > 1e-3 * largest


def test_bfloat16_is_near_and_said(encoder, build_encoder, clip):
    faster = build_encoder("i3d_r50", weights="random:5", crop_px=224, precision="bfloat16")
    sample = clip("half", 8, 224)
    exact, rough = features_of(encoder, sample)[0], features_of(faster, sample)[0]
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.02 * np.abs(exact).max()
    assert faster.options.precision == "bfloat16"


def test_a_seed_names_one_network_and_moves_no_other_generator(encoder, build_encoder):
    before = torch.get_rng_state()
    again, other = (build_encoder("i3d_r50", weights=f"random:{seed}") for seed in (5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(encoder.network.parameters(), again.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(other.network.parameters()), next(encoder.network.parameters()))
    assert (again.weights_name, again.weights_sha256) == ("random:5", "random:5")


def test_input_and_stream(encoder):
    assert (encoder.input.num_frames, encoder.input.window_s) == (8, Fraction(64, 30))
    template = encoder.stream()
    assert template.kind == "clip"
    assert template.fields["features"].row_shape == (2048,)
    assert template.preprocessing["crop"] == "centre 224"
    assert encoder.preferred_batch() == 1


def test_inputs_of_the_members(build_encoder):
    wider = build_encoder("r2plus1d_r50", weights="random:0")
    assert (wider.input.num_frames, wider.input.window_s) == (16, Fraction(64, 30))
    template = wider.stream()
    assert template.preprocessing["fps"] == "15/2"
    assert template.preprocessing["normalisation"] == "minus 0.45, over 0.225"
    assert template.source.paper.startswith("Tran")
