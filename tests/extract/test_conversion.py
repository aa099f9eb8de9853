"""Pickled checkpoints become safetensors: names, numbers, what is left out, and the zoo's SlowFast end to end."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from vidloc import __version__
from vidloc.commands.weights import weights as command
from vidloc.errors import PickleError, WeightsError
from vidloc.extract.caffe2_names import pyslowfast_name
from vidloc.extract.conversion import convert
from vidloc.extract.pytorchvideo_nets import hub
from vidloc.extract.slowfast import SlowFast
from vidloc.extract.weights import read_state, sha256_of
from vidloc.testing.deterministic_fill import fill, filled


@pytest.fixture
def pickled(tmp_path):
    def write(content, protocol=2):
        path = tmp_path / "model_final.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        return path

    return write


BLOBS = {
    "conv1_w": fill("conv1_w", (2, 3, 1, 2, 2)),
    "conv1_w_momentum": np.ones((2, 3), np.float32),
    "res_conv1_bn_riv": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
    "half": np.ones(3, np.float16)[::2],
    "scalar": np.array(2, np.int64),
    "lr": np.array([0.1]),
    "names": np.array(["a"]),
    3: np.ones(1),
    "note": "text",
}


@pytest.mark.parametrize("wrapper", ["blobs", "model_state", "state_dict", "model", None])
def test_arrays_are_kept_and_the_rest_is_listed(pickled, tmp_path, wrapper):
    source = pickled({wrapper: BLOBS, "cfg": "NUM_GPUS: 8"} if wrapper else BLOBS)
    made = convert(source, tmp_path / "out.safetensors")
    assert made.left_out == {
        **({"cfg": f"lies beside {wrapper!r}, which holds the tensors"} if wrapper else {}),
        "conv1_w_momentum": "momentum of the optimiser",
        "lr": "state of the training",
        "names": "an array of <U1, not of numbers",
        "3": "its name is a int, not text",
        "note": "a str, not an array",
    }
    state = read_state(made.path)
    assert set(state) == {"conv1_w", "res_conv1_bn_riv", "half", "scalar"}
    for name, tensor in state.items():
        assert tensor.shape == BLOBS[name].shape
        assert np.array_equal(tensor.numpy(), BLOBS[name])
    assert (made.num_tensors, made.num_numbers) == (4, 24 + 6 + 2 + 1)
    with safe_open(made.path, "np") as file:
        facts = {
            "source": "model_final.pkl",
            "source_sha256": sha256_of(source),
            "converted_by": f"vidloc {__version__}",
        }
        assert file.metadata() == facts


def test_what_is_no_checkpoint_is_refused_and_nothing_is_left(pickled, tmp_path):
    target = tmp_path / "out.safetensors"
    for content in ([1, 2], {}, {"blobs": {"a_momentum": np.ones(1)}}, {"P01_01": [np.ones(3)]}):
        with pytest.raises(WeightsError, match="holds no arrays by name, bare or under one of blobs"):
            convert(pickled(content), target)
    with pytest.raises(PickleError, match=r"asks for '(_io|io)\.open'"):
        convert(pickled({"blobs": {"a_w": open}}, 4), target)
    with pytest.raises(WeightsError, match=r"does not end with \.safetensors"):
        convert(pickled({"blobs": BLOBS}), tmp_path / "out.pth")
    with pytest.raises(WeightsError, match=r"cannot be written: .*No such file"):
        convert(pickled({"blobs": BLOBS}), tmp_path / "gone" / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model_final.pkl"]
    convert(pickled({"blobs": BLOBS}), target)
    with pytest.raises(WeightsError, match="exists already"):
        convert(pickled({"blobs": BLOBS}), target)


def test_on_the_command_line(pickled, tmp_path):
    blobs = {"a_w": np.ones((2, 3), np.float32), "a_w_momentum": np.ones(1), "b_momentum": np.ones(1)}
    arguments = ["convert", str(pickled({"blobs": blobs})), str(tmp_path / "out.safetensors")]
    told = CliRunner().invoke(command, arguments)
    assert told.exit_code == 0
    assert told.stdout.splitlines() == [
        f"{tmp_path / 'out.safetensors'}: 1 tensors, 6 numbers",
        "  left out (momentum of the optimiser): a_w_momentum, b_momentum",
    ]
    arguments[-1] = str(tmp_path / "again.safetensors")
    document = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).stdout)
    assert document["num_tensors"] == 1
    assert document["left_out"]["b_momentum"] == "momentum of the optimiser"


# Names and shapes as PySlowFast logs them while it loads its zoo's files.
LOGGED = {
    "conv1_w": "s1.pathway0_stem.conv.weight",
    "res_conv1_bn_s": "s1.pathway0_stem.bn.weight",
    "t_conv1_w": "s1.pathway1_stem.conv.weight",
    "t_res_conv1_bn_b": "s1.pathway1_stem.bn.bias",
    "t_pool1_subsample_w": "s1_fuse.conv_f2s.weight",
    "t_pool1_subsample_bn_rm": "s1_fuse.bn.running_mean",
    "t_res4_22_branch2c_bn_subsample_w": "s4_fuse.conv_f2s.weight",
    "t_res4_22_branch2c_bn_subsample_bn_riv": "s4_fuse.bn.running_var",
    "t_res5_0_branch1_w": "s5.pathway1_res0.branch1.weight",
    "t_res3_0_branch1_bn_rm": "s3.pathway1_res0.branch1_bn.running_mean",
    "res4_12_branch2a_bn_s": "s4.pathway0_res12.branch2.a_bn.weight",
    "res5_1_branch2c_w": "s5.pathway0_res1.branch2.c.weight",
    "t_res4_7_branch2c_bn_b": "s4.pathway1_res7.branch2.c_bn.bias",
    "pred_w": "head.projection.weight",
    "pred_b": "head.projection.bias",
}
OTHERS = ("head.projection_verb.weight", "blocks.0.conv.weight", "nonlocal_conv3_1_theta_w", "res9_1_branch2a_w", "w")


@pytest.mark.parametrize(("blob", "name"), [*LOGGED.items(), *((name, name) for name in OTHERS)])
def test_names_of_caffe2(blob, name):
    assert pyslowfast_name(blob) == name


def caffe2_name(name: str, last_of_stage_4: int) -> str:
    """Caffe2's name of a tensor of pytorchvideo's SlowFast, written down from the structure of the network."""
    parts = name.split(".")
    entry = {"weight": "w", "bias": "b"}
    norm = {"weight": "bn_s", "bias": "bn_b", "running_mean": "bn_rm", "running_var": "bn_riv"}
    if parts[1] == "6":
        return f"pred_{entry[parts[-1]]}"
    stage, last = int(parts[1]) + 1, {2: 2, 3: 3, 4: last_of_stage_4}
    if parts[2] == "multipathway_fusion":
        place = "t_pool1" if stage == 1 else f"t_res{stage}_{last[stage]}_branch2c_bn"
        return f"{place}_subsample_{norm[parts[-1]] if parts[3] == 'norm' else 'w'}"
    fast = "t_" if parts[3] == "1" else ""
    if stage == 1:
        return f"{fast}res_conv1_{norm[parts[-1]]}" if parts[4] == "norm" else f"{fast}conv1_w"
    branch, is_norm = parts[6], "norm" in parts[-2]
    place = "branch1" if branch != "branch2" else f"branch2{parts[7][-1]}"
    return f"{fast}res{stage}_{parts[5]}_{place}_{norm[parts[-1]] if is_norm else 'w'}"


@pytest.mark.parametrize(("name", "last_of_stage_4"), [("slowfast_r50", 5), ("slowfast_r101", 22)])
def test_every_tensor_of_slowfast_has_its_blob(name, last_of_stage_4):
    with torch.device("meta"):
        names = [n for n in getattr(hub, name)().state_dict() if not n.endswith("num_batches_tracked")]
    blobs = {caffe2_name(n, last_of_stage_4): n for n in names}
    assert len(blobs) == len(names)
    assert {blob: SlowFast.layout.name(blob) for blob in blobs} == blobs


def test_the_zoos_slowfast_loads_once_it_is_converted(build_encoder, tmp_path):
    with torch.device("meta"):
        network = hub.slowfast_r50()
    state = filled(network.state_dict())
    blobs = OrderedDict(
        (caffe2_name(name, 5), tensor.numpy())
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    )
    blobs |= {f"{name}_momentum": np.zeros(1, np.float32) for name in ("conv1_w", "pred_w")}
    source = tmp_path / "SLOWFAST_8x8_R50.pkl"
    source.write_bytes(pickle.dumps({"blobs": blobs}, 4))
    made = convert(source, tmp_path / "slowfast.safetensors")
    assert set(made.left_out) == {"conv1_w_momentum", "pred_w_momentum"}
    for blob, tensor in read_state(made.path).items():
        assert torch.equal(tensor, state[SlowFast.layout.name(blob)]), blob
    encoder = build_encoder("slowfast_r50", weights=made.path, scores=True)
    assert torch.equal(encoder.network.blocks[-1].proj.weight, state["blocks.6.proj.weight"])
    with pytest.raises(WeightsError, match=rf"vidloc weights convert {source} OUT\.safetensors"):
        read_state(source)
