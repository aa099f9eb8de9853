"""Checkpoints: found or refused with the line that helps, hashed, and loaded without running their code."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet34

from vidloc.commands.weights import weights as command
from vidloc.core import registry
from vidloc.errors import MisfitError, OptionError, UnknownNameError, WeightsError
from vidloc.extract import weights
from vidloc.pipelines import checkpoint_fit


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


def kept(folder):
    """Names in the cache, without the locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


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
    found = weights.fetch("small")
    assert found.path == cache / "small.pth"
    assert weights.read_state(found.path)["weight"].tolist() == [1, 1]
    assert weights.fetch("small") == found == weights.resolve("", "small")


def test_fetch_keeps_nothing_of_another_hash(cache, served, monkeypatch):
    monkeypatch.setitem(weights.PUBLISHED, "small", replace(served, sha256="00000000"))
    with pytest.raises(WeightsError, match=r"expected 00000000: .* another one\. Nothing of it is kept"):
        weights.fetch("small")
    assert not kept(cache)


def test_an_altered_cached_file_is_refused(cache, served):
    weights.fetch("small")
    (cache / "small.pth").write_bytes(b"another file")
    with pytest.raises(WeightsError, match=rf"expected {served.sha256}.*vidloc weights fetch small"):
        weights.resolve("", "small")


def test_a_file_without_published_hash_is_pinned_at_its_first_download(cache, served, monkeypatch):
    monkeypatch.setitem(weights.PUBLISHED, "small", replace(served, sha256=""))
    found = weights.fetch("small")
    assert weights.known_hash(weights.PUBLISHED["small"]) == found.sha256
    pinned = json.loads((cache / "pins.json").read_text())["small"]
    seen = datetime.fromisoformat(pinned.pop("seen"))
    assert abs((datetime.now(UTC) - seen).total_seconds()) < 60
    facts = {"file": "small.pth", "sha256": found.sha256, "num_bytes": found.path.stat().st_size, "url": served.url}
    assert pinned == facts
    (cache / "small.pth").write_bytes(b"another file")
    with pytest.raises(WeightsError, match=f"expected {found.sha256}, which it had when it was first seen"):
        weights.resolve("", "small")


def test_a_pin_outlives_its_file(cache, served, tmp_path, monkeypatch):
    monkeypatch.setitem(weights.PUBLISHED, "small", replace(served, sha256=""))
    weights.fetch("small")
    (cache / "small.pth").unlink()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "upstream" / "small.pth")
    with pytest.raises(WeightsError, match=r"first seen .*Nothing of it is kept.* take 'small' out of .*pins\.json"):
        weights.fetch("small")
    assert kept(cache) == ["pins.json"]
    (cache / "pins.json").write_text("{}")
    assert weights.read_state(weights.fetch("small").path)["weight"].tolist() == [0, 0]


@pytest.mark.parametrize("content", ["{", "[]", '{"small": {"sha256": "x"}}'])
def test_damaged_pins_are_not_passed_over(cache, served, content):
    (cache / "pins.json").write_text(content)
    with pytest.raises(WeightsError, match=r"pins\.json cannot be read: .*Mend it"):
        weights.fetch("small")


def test_pins_that_cannot_be_written_are_told(cache, served, monkeypatch):
    monkeypatch.setitem(weights.PUBLISHED, "small", replace(served, sha256=""))
    (cache / ".pins.json.lock").mkdir()
    with pytest.raises(WeightsError, match=r"pins\.json cannot be written: Is a directory"):
        weights.fetch("small")


def test_what_cannot_be_fetched_is_told(cache, served, tmp_path, monkeypatch):
    entry = replace(served, by_hand="it lies on a tape", sha256="", url="https://example.org/page", file="small.pth")
    monkeypatch.setitem(weights.PUBLISHED, "small", entry)
    wanted = (
        r"it lies on a tape \(https://example\.org/page\)\. Put it here as .*small\.pth, then run: vidloc weights check"
    )
    for ask in (weights.fetch, lambda name: weights.resolve("", name), lambda name: weights.check_available(name, "")):
        with pytest.raises(WeightsError, match=wanted):
            ask("small")
    shutil.copy(tmp_path / "upstream" / "small.pth", cache)
    assert weights.fetch("small") == weights.resolve("", "small")
    assert "small" in json.loads((cache / "pins.json").read_text())


def test_published_entries_are_whole_and_apart():
    entries = list(weights.PUBLISHED.values())
    assert len({entry.file_name for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.url.startswith("https://")
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*\.[a-z]+", entry.file_name)
        assert re.fullmatch(r"|[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256)
        assert re.fullmatch(r"|[0-9a-f]{40}", entry.git_blob)
        assert entry.licence
        assert entry.citation
        # Eight digits in a name of torchvision's or torch hub's are the beginning of the hash.
        if stated := re.search(r"-([0-9a-f]{8})\.pth$", entry.file_name):
            assert entry.sha256 == stated[1]


def test_a_file_kept_in_git_is_known_by_its_blob(cache, served, tmp_path, monkeypatch):
    source = tmp_path / "upstream" / "small.pth"
    # Known answer: `printf 'abc' | git hash-object --stdin`.
    (tmp_path / "abc").write_bytes(b"abc")
    assert weights.git_blob_of(tmp_path / "abc") == "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"
    entry = replace(served, sha256="", git_blob=weights.git_blob_of(source))
    monkeypatch.setitem(weights.PUBLISHED, "small", entry)
    assert weights.fetch("small").sha256.startswith(served.sha256)
    (cache / "pins.json").unlink()
    (cache / "small.pth").write_bytes(b"abc")
    with pytest.raises(WeightsError, match=rf"git would call it f2ba8f84.*expected {entry.git_blob}"):
        weights.resolve("", "small")
    (cache / "small.pth").unlink()
    monkeypatch.setitem(weights.PUBLISHED, "small", replace(entry, git_blob="0" * 40))
    with pytest.raises(WeightsError, match="is not the published file"):
        weights.fetch("small")
    assert not kept(cache)


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
    with pytest.raises(
        MisfitError, match=r"missing: bias\. size mismatch for weight: \[1, 3\], .* \[1, 2\]\."
    ) as caught:
        weights.load_into(network, {"weight": torch.zeros(1, 3)}, where="f.pth")
    assert (caught.value.missing, caught.value.unknown, len(caught.value.mismatched)) == (("bias",), (), 1)
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


class TestCommands:
    def run(self, *arguments):
        return CliRunner().invoke(command, arguments)

    def test_list_and_fetch(self, cache, served):
        assert self.run("fetch", "small", "--json").exit_code == 0
        listed = json.loads(self.run("list", "--json").stdout)
        here = {entry["name"]: entry["here"] for entry in listed["checkpoints"]}
        assert here == {**dict.fromkeys(weights.PUBLISHED, False), "small": True}
        assert listed["folder"] == str(cache)
        table = self.run("list").stdout
        assert "vidloc weights fetch NAME" in table
        assert re.search(r"^small +here +small\.pth +CC0$", table, re.MULTILINE)
        assert re.search(r"^slowfast_r50_epic100 +by hand +SlowFast\.pyth", table, re.MULTILINE)
        fetched = self.run("fetch", "small").stdout
        assert served.licence in fetched
        assert "please cite: Nobody 2020" in fetched

    def test_list_of_some_tells_all(self, cache, served):
        told = self.run("list", "flow_hassony", "mal").stdout
        assert "git blob 5d552d2206f41089c428b0d9d8de3b1fccc85b5a" in told
        assert f"small  (not here: small.pth)\n  from     {served.url}\n  hash     sha256 {served.sha256}" in told
        assert "fasterrcnn" not in told
        assert "none is published; pinned when first seen" in self.run("list", "slowfast_r101").stdout
        assert "a pickle of Caffe2's blobs: vidloc weights convert" in self.run("list", "pyslowfast").stdout
        with pytest.raises(UnknownNameError, match=r"no checkpoint has vgish in its name\. Did you mean vggish"):
            CliRunner().invoke(command, ["list", "vgish"], catch_exceptions=False)

    def test_no_download_begins_when_one_name_is_wrong(self, cache, served):
        result = self.run("fetch", "small", "smal")
        assert isinstance(result.exception, UnknownNameError)
        assert not kept(cache)

    def test_check_looks_at_all_that_are_here(self, cache, served, monkeypatch):
        assert "0 of 0 files are sound" in self.run("check").stdout
        entry = weights.Published("other", "https://example.org/other.pth", "", "CC0", "Nobody 2020")
        monkeypatch.setitem(weights.PUBLISHED, "other", entry)
        weights.fetch("small")
        (cache / "other.pth").write_bytes(b"abc")
        first = self.run("check")
        assert first.exit_code == 0
        assert f"ok    small: small.pth has the published sha256 {served.sha256}" in first.stdout
        assert "ok    other: other.pth is pinned now: sha256 ba7816bf" in first.stdout
        assert "2 of 2 files are sound" in first.stdout
        (cache / "other.pth").write_bytes(b"abd")
        second = self.run("check")
        assert second.exit_code == 3
        assert "FAIL  other: " in second.stdout
        assert "first seen" in second.stdout
        assert self.run("check", "small").exit_code == 0
        (cache / "small.pth").unlink()
        gone = self.run("check", "small", "--json")
        assert gone.exit_code == 3
        assert "vidloc weights fetch small" in json.loads(gone.stdout)[0]["sentence"]

    def test_check_of_a_file_lists_what_is_in_the_way(self, tmp_path, monkeypatch):
        # Its largest relatives are slow to build.
        monkeypatch.setattr(checkpoint_fit, "entries", self.two_resnets)
        state = resnet34().state_dict()
        path = saved(tmp_path / "resnet.pth", state)
        fitting = self.run("check", str(path), "--encoder", "resnet34")
        assert (fitting.exit_code, fitting.stdout) == (
            0,
            f"{path} fits resnet34: all names and shapes are those of its network.\n",
        )
        first, second, *_ = state
        changed = {f"extra.{k}": torch.zeros(1) for k in range(9)} | state | {second: torch.zeros(1, 7)}
        del changed[first]
        misfit = self.run("check", str(saved(path, changed)), "--encoder", "resnet34")
        assert misfit.exit_code == 1
        assert f"1 missing (the network has them, the file does not):\n  {first}\n" in misfit.stdout
        assert "9 left over (the file has them, the network does not):\n  extra.0\n" in misfit.stdout
        assert "  extra.8\n" in misfit.stdout
        assert f"1 of another shape:\n  size mismatch for {second}: [1, 7], the network has" in misfit.stdout
        assert "It fits" not in misfit.stdout
        related = json.loads(self.run("check", str(saved(path, state)), "--encoder", "resnet50", "--json").stdout)
        assert related["relatives"] == ["resnet34"]
        assert "layer1.0.conv3.weight" in related["missing"]

    @staticmethod
    def two_resnets(group):
        return {name: entry for name, entry in registry.entries(group).items() if name in ("resnet34", "resnet50")}

    def test_check_of_a_file_is_asked_for_rightly(self, tmp_path):
        no_file = self.run("check", str(tmp_path / "gone.pth"), "--encoder", "resnet34")
        assert "there is no checkpoint" in str(no_file.exception)
        assert self.run("check", "a", "b", "--encoder", "resnet34").exit_code == 2
        twice = self.run("check", "a", "--encoder", "resnet34:weights=b")
        assert "leave weights= out" in str(twice.exception)
