"""Checkpoints: found or refused with the line that helps, hashed, and loaded without running their code."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from vidloc.commands.weights import weights as command
from vidloc.core import registry
from vidloc.errors import OptionError, UnknownNameError, WeightsError
from vidloc.extract import weights


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A checkpoint `small` whose publisher's address is a file of this machine."""
    source = tmp_path / "upstream" / "small.pth"
    source.parent.mkdir()
    torch.save({"weight": torch.ones(2)}, source)
    entry = weights.Published("small", source.as_uri(), weights.sha256_of(source)[:8], "CC0", "Nobody 2020")
    monkeypatch.setitem(weights.PUBLISHED, "small", entry)
    return entry


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["slowfast_r50", "i3d_r50", "vggish", "fasterrcnn"])
def test_missing_weights_are_said_before_any_network_is_built(name, cache):
    found = registry.load("encoders", name)
    with pytest.raises(WeightsError) as caught:
        found.target.check_weights(found.target.Options(), name=name)
    message = str(caught.value)
    assert f"vidloc weights fetch {name}" in message
    assert weights.PUBLISHED[name].url in message
    assert str(cache / weights.PUBLISHED[name].file_name) in message
    assert f"--encoder {name}:weights=random:0" in message


def test_an_encoder_without_published_weights_asks_for_a_path():
    with pytest.raises(WeightsError, match=r"no checkpoint is published for 'mine'.*weights=PATH"):
        weights.check_available("mine", "")


@pytest.mark.parametrize("option", ["random:", "random:x", "random:-1", "random:1.5"])
def test_a_seed_is_a_whole_number(option):
    with pytest.raises(OptionError, match="a whole number such as random:0"):
        weights.check_available("vggish", option)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no checkpoint .*gone\.pth"):
        weights.check_available("vggish", str(tmp_path / "gone.pth"))


def test_a_path_is_known_by_name_and_hash(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"abc")
    found = weights.resolve(str(path), "vggish")
    assert (found.path, found.name, found.seed) == (path, "a.pth", None)
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_cache_lies_in_the_home_folder_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("VIDLOC_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / ".cache" / "vidloc" / "weights"


def test_fetch_keeps_a_file_of_the_right_hash(cache, served):
    found = weights.fetch("small", progress=False)
    assert found.path == cache / "small.pth"
    assert weights.read_state(found.path)["weight"].tolist() == [1, 1]
    assert weights.fetch("small", progress=False) == found == weights.resolve("", "small")


def test_fetch_keeps_nothing_of_another_hash(cache, served, monkeypatch):
    monkeypatch.setitem(weights.PUBLISHED, "small", replace(served, sha256="00000000"))
    with pytest.raises(WeightsError, match=r"could not be fetched: invalid hash value.*put it here as"):
        weights.fetch("small", progress=False)
    assert not list(cache.iterdir())


def test_an_altered_cached_file_is_refused(cache, served):
    weights.fetch("small", progress=False)
    (cache / "small.pth").write_bytes(b"another file")
    with pytest.raises(WeightsError, match=rf"expected {served.sha256}.*vidloc weights fetch small"):
        weights.resolve("", "small")


def test_a_file_without_published_hash_is_pinned_at_its_first_download(cache, served, monkeypatch):
    monkeypatch.setitem(weights.PUBLISHED, "small", replace(served, sha256=""))
    found = weights.fetch("small", progress=False)
    assert weights.known_hash(weights.PUBLISHED["small"]) == found.sha256
    (cache / "small.pth").write_bytes(b"another file")
    with pytest.raises(WeightsError, match=f"expected {found.sha256}"):
        weights.resolve("", "small")


def test_a_file_kept_in_git_is_known_by_its_blob(cache, served, tmp_path, monkeypatch):
    source = tmp_path / "upstream" / "small.pth"
    # Known answer: `printf 'abc' | git hash-object --stdin`.
    (tmp_path / "abc").write_bytes(b"abc")
    assert weights.git_blob_of(tmp_path / "abc") == "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"
    kept = replace(served, sha256="", git_blob=weights.git_blob_of(source))
    monkeypatch.setitem(weights.PUBLISHED, "small", kept)
    assert weights.fetch("small", progress=False).sha256.startswith(served.sha256)
    (cache / "small.pth.sha256").unlink()
    (cache / "small.pth").write_bytes(b"abc")
    with pytest.raises(WeightsError, match=rf"git would call it f2ba8f84.*expected {kept.git_blob}"):
        weights.resolve("", "small")
    (cache / "small.pth").unlink()
    monkeypatch.setitem(weights.PUBLISHED, "small", replace(kept, git_blob="0" * 40))
    with pytest.raises(WeightsError, match="is not the published file"):
        weights.fetch("small", progress=False)
    assert not list(cache.iterdir())


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean slowfast_r50"):
        weights.published("slowfst_r50")


@pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_one_leading_module_are_taken_off(tmp_path, wrapper, prefix):
    state = {f"{prefix}weight": torch.zeros(1, 2), f"{prefix}bias": torch.ones(1)}
    path = saved(tmp_path / "a.pth", state if wrapper is None else {"epoch": 3, wrapper: state})
    assert set(weights.read_state(path)) == {"weight", "bias"}


def test_only_one_module_and_only_where_all_have_it(tmp_path):
    one = torch.zeros(1)
    assert set(weights.read_state(saved(tmp_path / "a.pth", {"module.module.x": one}))) == {"module.x"}
    mixed = {"module.x": one, "y": one}
    assert set(weights.read_state(saved(tmp_path / "b.pth", mixed))) == set(mixed)


def test_safetensors_are_read(tmp_path):
    save_file({"weight": torch.full((2,), 7.0)}, tmp_path / "a.safetensors")
    assert weights.read_state(tmp_path / "a.safetensors")["weight"].tolist() == [7, 7]


def test_pickled_objects_are_not_unpickled(tmp_path):
    path = saved(tmp_path / "a.pth", {"weight": torch.zeros(1), "trainer": CliRunner()})
    with pytest.raises(WeightsError, match=r"does not unpickle since that can run any code.*safetensors"):
        weights.read_state(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut short"])
def test_files_that_are_no_checkpoints(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"a\.{suffix} (does not load as a checkpoint|holds Python objects)"):
        weights.read_state(path)


def test_what_is_not_a_tensor_is_named(tmp_path):
    path = saved(tmp_path / "a.pth", {"weight": torch.zeros(1), "epoch": 3})
    with pytest.raises(WeightsError, match="epoch are not tensors"):
        weights.read_state(path)
    with pytest.raises(WeightsError, match=r"no dict of named tensors \(found list\)"):
        weights.read_state(saved(tmp_path / "b.pth", [1, 2]))


def test_gaps_leftovers_and_shapes_are_listed():
    network = nn.Linear(2, 1)
    with pytest.raises(WeightsError, match=r"f\.pth does not fit Linear: missing: bias\. not known.*: head\.x\."):
        weights.load_into(network, {"weight": torch.zeros(1, 2), "head.x": torch.zeros(1)}, where="f.pth")
    with pytest.raises(WeightsError, match=r"size mismatch for weight: .*\[1, 3\].*\[1, 2\]"):
        weights.load_into(network, {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, where="f.pth")
    many = {f"x{k}": torch.zeros(1) for k in range(9)}
    with pytest.raises(WeightsError, match="x5 and 3 more"):
        weights.load_into(network, {**network.state_dict(), **many}, where="f.pth")


def test_norm_counters_of_old_files_may_be_absent():
    norm = nn.BatchNorm1d(2)
    state = {name: tensor for name, tensor in norm.state_dict().items() if name != "num_batches_tracked"}
    weights.load_into(norm, state, where="old.pt")
    assert norm.num_batches_tracked == 0


def test_seeds_repeat_and_leave_the_caller_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    with weights.seeded(7):
        first = nn.Linear(3, 3).weight
    assert torch.equal(torch.rand(1), expected)
    with weights.seeded(7):
        assert torch.equal(nn.Linear(3, 3).weight, first)


def test_list_and_fetch_on_the_command_line(cache, served):
    runner = CliRunner()
    assert runner.invoke(command, ["fetch", "small", "--json"]).exit_code == 0
    listed = json.loads(runner.invoke(command, ["list", "--json"]).stdout)
    here = {entry["name"]: entry["here"] for entry in listed["checkpoints"]}
    assert here == {**dict.fromkeys(weights.PUBLISHED, False), "small": True}
    assert listed["folder"] == str(cache)
    plain = runner.invoke(command, ["list"]).stdout
    assert "vidloc weights fetch NAME" in plain
    assert "pinned at the first fetch" in plain
    fetched = runner.invoke(command, ["fetch", "small"]).stdout
    assert served.licence in fetched
    assert "please cite: Nobody 2020" in fetched


def test_no_download_begins_when_one_name_is_wrong(cache, served):
    result = CliRunner().invoke(command, ["fetch", "small", "smal"])
    assert isinstance(result.exception, UnknownNameError)
    assert not list(cache.iterdir())
