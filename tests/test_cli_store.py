"""`vidloc store ...` as typed: what it prints, and what it exits with."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vidloc.cli import main, vidloc
from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import center_grid
from vidloc.stores.base import StreamSpec, append_to_store, create_store, open_store

SPEC = StreamSpec(
    name="clip",
    kind="clip",
    fields={"features": FieldSpec(row_shape=(16,), dtype="float16")},
    encoder="toy",
    weights="random:7",
    weights_sha256="random:7",
)


def make(path: Path, items: str = "ab") -> Path:
    with create_store(path) as writer:
        writer.add_stream(SPEC)
        for number, item in enumerate(items):
            rows = np.random.default_rng(number).normal(size=(4, 16)).astype(np.float16)
            writer.set_info(ItemInfo(item_id=item))
            writer.write("clip", item, Rows.dense(features=rows), center_grid(2, Fraction(1, 2)))
            writer.commit(item)
    return path


def run(*args: object, **options: str):
    return CliRunner().invoke(vidloc, ["store", *map(str, args)], **options)


def test_info_shows_streams_and_says_loudly_that_weights_are_random(tmp_path):
    path = make(tmp_path / "s.zarr")
    result = run("info", path)
    assert result.exit_code == 0
    assert "zarr store, 2 items" in result.output
    assert "2 s every 0.5 s" in result.output
    assert "by toy, RANDOM WEIGHTS (random:7): the network was never trained" in result.output
    with open_store(path) as store:
        assert f"content id {store.digest()}" in result.output


def test_info_as_json_is_one_document(tmp_path):
    facts = json.loads(run("info", make(tmp_path / "s.h5"), "--json").output)
    assert facts["backend"] == "hdf5"
    assert facts["streams"]["clip"]["rows"] == 8
    assert facts["streams"]["clip"]["spec"]["weights_sha256"] == "random:7"


def test_ls_lists_reasons_and_chooses_by_status(tmp_path):
    path = make(tmp_path / "s.zarr")
    with append_to_store(path) as writer:
        writer.mark("clip", "c", "failed", "no frame could be decoded")
        writer.commit("c")
    result = run("ls", path, "--status", "failed")
    assert result.stdout == "c\n  clip  failed  0 rows: no frame could be decoded\n"
    assert list(json.loads(run("ls", path, "--json").stdout)) == ["a", "b", "c"]


def test_verify_exits_with_3_and_names_the_damage(tmp_path):
    path = make(tmp_path / "s.zarr")
    assert run("verify", path).exit_code == 0
    chunk = path / "streams" / "clip" / "features" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[4 * 32 + 5] ^= 1  # item a has rows 0 to 3
    chunk.write_bytes(data)
    result = run("verify", path)
    assert result.exit_code == 3
    assert "DAMAGED stream 'clip', item 'b': " in result.stdout
    assert run("verify", path, "--full").stdout == result.stdout
    assert run("verify", path, "--quick").exit_code == 0
    assert json.loads(run("verify", path, "--json").stdout)["damages"][0]["item"] == "b"


def test_merge_joins_parts_of_both_backends(tmp_path):
    parts = [make(tmp_path / "p1.zarr", "a"), make(tmp_path / "p2.h5", "ab")]
    result = run("merge", tmp_path / "all.h5", *parts)
    assert result.exit_code == 0
    assert "2 items; 2 of 2 entries copied from 2 parts" in result.output
    with open_store(tmp_path / "all.h5") as merged, open_store(parts[1]) as part:
        assert merged.digest() == part.digest()


def test_head_shows_times_and_first_numbers(tmp_path):
    path = make(tmp_path / "s.zarr")
    result = run("head", path, "b", "--rows", 1)
    with open_store(path) as store:
        numbers = ", ".join(f"{value:.4g}" for value in store.read_field("clip", "b")[0, :6].tolist())
    assert result.stdout == (
        f"b: no facts kept\nclip: done, 4 rows\n  row 0  -0.750 to 1.250 s\n    features [16]  {numbers}, ...\n"
    )
    assert len(json.loads(run("head", path, "b", "--json").stdout)["streams"]["clip"]["rows"]) == 3


def test_subset_takes_patterns_and_lists(tmp_path):
    path = make(tmp_path / "s.zarr", "abc")
    (tmp_path / "ids.txt").write_text("c\n\na\n", encoding="utf-8")
    result = run("subset", tmp_path / "two.h5", path, "--items", f"@{tmp_path / 'ids.txt'}", "--streams", "clip")
    assert result.exit_code == 0
    assert "2 items" in result.stdout
    with open_store(tmp_path / "two.h5") as store:
        assert store.items() == ["a", "c"]
    report = json.loads(run("drop", tmp_path / "one.zarr", path, "--items", "[ab]", "--json").stdout)
    assert (report["num_items"], report["num_copied"]) == (1, 1)


def test_subset_by_split_lists_what_the_store_lacks_and_exits_with_3(tmp_path):
    path = make(tmp_path / "s.zarr", "ab")
    (tmp_path / "segments.csv").write_text(
        "item_id,start_s,end_s,label,split\na,0,1,x,train\nb,0,1,x,val\nz,0,1,x,train\n", encoding="utf-8"
    )
    split = ["--split", "train", "--dataset", "segments", "--annotations", tmp_path / "segments.csv"]
    result = run("subset", tmp_path / "train.zarr", path, *split)
    assert result.exit_code == 3
    assert "Not in the store: 1 items of the split: z\n" in result.stdout
    assert "1 items, " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--items", "@none.txt"], "the list of items none.txt cannot be read"),
        (["--items", "x*"], "no item matches 'x*'. Known: a, b."),
        (["--split", "train"], "a split comes from annotations: add --dataset"),
        (["--dataset", "segments"], "choose items by a split: add --split NAME"),
        (["--streams", "clip,"], "--streams takes NAME,NAME,..., got 'clip,'"),
    ],
)
def test_a_subset_that_cannot_be_told_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    make(Path("s.zarr"))
    with pytest.raises(SystemExit) as stop:
        main(["store", "subset", "out.zarr", "s.zarr", *arguments])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err
    assert not Path("out.zarr").exists()


def test_compact_and_convert_say_what_they_did(tmp_path):
    path = make(tmp_path / "s.zarr")
    with open_store(path) as store:
        digest = store.digest()
    assert f"2 of 2 entries copied. Content id {digest}" in run("compact", tmp_path / "c.zarr", path).stdout
    assert digest in run("convert", tmp_path / "c.h5", path).stdout
    report = json.loads(run("convert", tmp_path / "w.zarr", path, "--dtype", "clip=float32", "--json").stdout)
    assert (report["source_digest"] == digest, report["digest"] == digest) == (True, False)


def test_diff_exits_with_3_where_rows_differ(tmp_path):
    first = make(tmp_path / "a.zarr")
    same = run("diff", first, make(tmp_path / "same.h5"))
    assert (same.exit_code, same.stdout.splitlines()[0]) == (0, "clip: 2 items are the same")
    other = run("diff", first, make(tmp_path / "b.h5", "xb"))
    assert other.exit_code == 3
    assert other.stdout.splitlines()[:3] == [
        "clip: 1 items are the same, 1 only in A, 1 only in B",
        "  only in A: a",
        "  only in B: x",
    ]
    assert json.loads(run("diff", first, tmp_path / "b.h5", "--json").stdout)["streams"]["clip"]["num_same"] == 1


def test_card_is_written_once(tmp_path):
    path = make(tmp_path / "s.zarr")
    printed = run("card", path).stdout
    assert printed.startswith("# s.zarr\n\nFeatures of 2 items in 1 streams")
    assert run("card", path, "--out", tmp_path / "README.md").exit_code == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == printed
    again = run("card", path, "--out", tmp_path / "README.md")
    assert again.exit_code == 1
    assert "File exists" in again.stderr


def test_export_lists_items_without_rows_and_exits_with_3(tmp_path):
    path = make(tmp_path / "s.zarr")
    assert run("export", tmp_path / "one", path, "--stream", "clip", "--format", "npz").exit_code == 0
    assert np.load(tmp_path / "one" / "a.npz")["features"].shape == (4, 16)
    with append_to_store(path) as writer:
        writer.mark("clip", "c", "absent", "no video track")
        writer.commit("c")
    assert run("export", tmp_path / "absent", path, "--stream", "clip", "--format", "npy").exit_code == 0
    with append_to_store(path) as writer:
        writer.mark("clip", "d", "failed", "no frames")
        writer.commit("d")
    result = run("export", tmp_path / "two", path, "--stream", "clip", "--format", "npy")
    assert result.exit_code == 3
    assert "No rows: c: absent: no video track\nNo rows: d: failed: no frames\n" in result.stdout
    assert "2 items, 8 rows of clip as npy" in result.stdout


def test_derive_appends_streams_and_info_still_says_that_weights_are_random(tmp_path):
    path = make(tmp_path / "s.zarr")
    texts = ("slow=pool(clip,stride=1)", "both=concat(clip,slow)")
    result = run("derive", path, *(f"--stream={text}" for text in texts))
    assert result.exit_code == 0
    assert "stream slow: 6 rows; items: 2 done. Content id " in result.stdout
    shown = run("info", path).stdout
    assert "by derived:concat, RANDOM WEIGHTS (random:7)" in shown
    with append_to_store(path) as writer:
        writer.mark("clip", "c", "failed", "no frames")
        writer.commit("c")
    result = run("derive", path, "--stream", "unit=normalise(clip)", "--out", tmp_path / "unit.h5")
    assert result.exit_code == 3
    assert "Not whole: c: stream 'clip': no frames\n" in result.stdout
    assert json.loads(run("derive", path, "--stream", "n=normalise(clip)", "--json").stdout)[0]["num_rows"] == 8


def test_pca_says_how_much_it_explains_and_where_components_are(tmp_path):
    path = make(tmp_path / "s.zarr")
    result = run("pca", path, "--stream", "clip", "--components", 2)
    assert result.exit_code == 0
    assert "2 components explain " in result.stdout
    assert f"kept in {path}.clip_pca.safetensors\n" in result.stdout
    fitted = ["--fitted", f"{path}.clip_pca.safetensors"]
    assert run("pca", path, "--stream", "clip", "--name", "again", *fitted).exit_code == 0
    with open_store(path) as store:
        assert np.array_equal(store.read_field("again", "b"), store.read_field("clip_pca", "b"))
    assert run("pca", path, "--stream", "clip").exit_code == 2
    assert run("pca", path, "--stream", "clip", *fitted, "--items", "a").exit_code == 2


def test_unlock_asks_first(tmp_path):
    path = make(tmp_path / "s.zarr")
    writer = append_to_store(path)
    refused = run("unlock", path, input="n\n")
    assert refused.exit_code == 1
    assert "is locked by process" in refused.stderr
    done = run("unlock", path, "--yes")
    assert "Removed the lock of process" in done.stdout
    writer.discard("a")


def test_finish_states_the_content_id(tmp_path):
    path = make(tmp_path / "s.h5")
    with open_store(path) as store:
        assert store.digest() in run("finish", path).output


def test_an_error_is_one_line_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["store", "info", str(tmp_path / "none.zarr")])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("Error: store ")
