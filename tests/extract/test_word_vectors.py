"""Word vectors: the three public layouts, words of sentences as heads read them, unknown words counted."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest

from vidloc.errors import OptionError, WeightsError
from vidloc.extract.base import Sample
from vidloc.extract.word2vec import Word2Vec, Word2VecOptions
from vidloc.extract.word_file import WordFile

WORDS = ["the", "open", "door", "man", "s", "man's", "at name@domain", "crème"]
VECTORS = np.random.default_rng(0).standard_normal((len(WORDS), 5)).astype(np.float32)
LINES = [f"{word} {' '.join(map(repr, row.tolist()))}\n" for word, row in zip(WORDS, VECTORS, strict=True)]


def binary(words=WORDS, vectors=VECTORS, *, newline=b""):
    entries = [word.encode() + b" " + row.astype("<f4").tobytes() for word, row in zip(words, vectors, strict=True)]
    return f"{len(words)} {vectors.shape[1]}\n".encode() + b"".join(entry + newline for entry in entries)


def text(header=""):
    return (header + "".join(LINES)).encode()


# No word of word2vec's binary holds a space.
PHRASES = [word.replace(" ", "_") for word in WORDS]
LAYOUTS = {
    "glove.txt": text(),
    "windows.txt": text().replace(b"\n", b"\r\n"),
    "word2vec.txt": text("8 5\n"),
    "word2vec.bin": binary(PHRASES),
    "original.bin": binary(PHRASES, newline=b"\n"),
}


@pytest.fixture
def write(tmp_path):
    def written(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return written


def said(*sentences):
    return [Sample((Fraction(0), Fraction(1)), text, np.zeros(0), key=f"k{k}") for k, text in enumerate(sentences)]


class TestFile:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_word_of_every_layout_is_found(self, write, layout):
        file = WordFile(write(layout, LAYOUTS[layout]))
        assert (file.dim, file.num_words, file.cased) == (5, len(WORDS), False)
        words = PHRASES if layout.endswith(".bin") else WORDS
        for number, (word, vector) in enumerate(zip(words, VECTORS, strict=True)):
            place, found = file.find(word)
            assert place == number
            assert found.dtype == np.float32
            assert np.array_equal(found, vector)
        assert file.find("at") is None
        assert file.find("Open") is None
        assert file.find("") is None

    def test_the_first_of_two_equal_words_counts_whatever_their_hashes(self, write, monkeypatch):
        monkeypatch.setattr("vidloc.extract.word_file._hash", lambda word: len(word))
        file = WordFile(write("a.txt", text() + LINES[1].replace("open", "Open").encode() + LINES[0].encode()))
        assert file.cased
        assert file.num_words == 10
        for number, word in enumerate([*WORDS, "Open"]):
            assert file.find(word)[0] == number
        assert file.find("xyz") is None

    def test_a_large_file_stays_on_disk(self, write):
        count, dim = 20_000, 50
        vectors = np.arange(count * dim, dtype=np.float32).reshape(count, dim)
        file = WordFile(write("large.bin", binary([f"w{k}" for k in range(count)], vectors)))
        kept = sum(part.nbytes for part in vars(file).values() if isinstance(part, np.ndarray))
        assert kept <= 20 * count
        assert np.array_equal(file.find("w12345")[1], vectors[12345])

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.txt", b"", "cannot be read as word vectors"),
            ("prose.txt", b"Not a vector file at all.\nNor here.\n", "is no file of word vectors"),
            ("short.txt", text()[:-30], "word 8 has [0-4] numbers, expected 5"),
            ("short.bin", binary(PHRASES)[:-3], "ends, or is damaged, at word 8 of 8"),
            ("few.txt", text("9 5\n"), "states 9 words but holds 8"),
            ("liar.bin", b"999999999 300\n" + binary()[4:], "states 999999999 words of 300 numbers, which its"),
            ("wide.bin", b"1 99999999\n" + binary()[4:], "states 1 words of 99999999 numbers"),
            ("glove.zip", text(), "is packed; unpack it first"),
        ],
    )
    def test_damage_is_said_when_the_file_is_opened(self, write, name, content, message):
        with pytest.raises(WeightsError, match=message):
            WordFile(write(name, content))

    def test_damaged_numbers_are_said_when_they_are_asked_for(self, write):
        file = WordFile(write("a.txt", text() + b"bad 1 2 x 4 5\n"))
        with pytest.raises(WeightsError, match=r"a\.txt: the numbers of 'bad' are damaged"):
            file.find("bad")
        nan = binary(PHRASES).replace(VECTORS[2].tobytes()[:4], struct.pack("<f", float("nan")))
        with pytest.raises(WeightsError, match="the numbers of 'door' are damaged"):
            WordFile(write("a.bin", nan)).find("door")


class TestRows:
    def test_known_words_in_order_and_unknown_ones_counted(self, write, build_encoder):
        encoder = build_encoder("glove", weights=write("glove.txt", text()))
        rows = encoder.encode(said("Open THE big door!", "zzz", "", "crème"))
        expected = [VECTORS[[1, 0, 2]], VECTORS[:0], VECTORS[:0], VECTORS[[7]]]
        for found, wanted in zip(rows.entries("features"), expected, strict=True):
            assert np.array_equal(found, wanted)
        assert [ids.tolist() for ids in rows.entries("token_ids")] == [[1, 0, 2], [], [], [7]]
        assert rows.fields["unknown"].tolist() == [1, 1, 0, 0]
        assert rows.fields["tokens"].tolist() == [4, 1, 0, 1]
        assert rows.strings("text")[0] == "Open THE big door!"
        assert rows.strings("key") == ["k0", "k1", "k2", "k3"]

    def test_zeros_keep_the_place_of_unknown_words(self, write, build_encoder):
        encoder = build_encoder("glove", weights=write("glove.txt", text()), unknown="zero")
        rows = encoder.encode(said("the big door"))
        assert np.array_equal(rows.fields["features"], np.stack([VECTORS[0], np.zeros(5, np.float32), VECTORS[2]]))
        assert rows.fields["token_ids"].tolist() == [0, -1, 2]
        assert rows.fields["unknown"].tolist() == [1]

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("glove", {}, ["the", "man", "s", "door", "3"]),  # MCN: man's becomes man s
            ("word2vec", {}, ["the", "man's", "door_3"]),  # HowTo100M: [\w']+
            ("word2vec", {"case": "keep"}, ["The", "man's", "DOOR_3"]),
            ("glove", {"words": "apostrophes"}, ["the", "man's", "door_3"]),
        ],
    )
    def test_words_are_those_of_the_heads(self, write, build_encoder, name, options, words):
        encoder = build_encoder(name, weights=write("a.txt", text()), **options)
        assert encoder.words_of("The man's, DOOR_3!") == words

    def test_case_is_kept_where_the_file_has_capitals(self, write, build_encoder):
        encoder = build_encoder("word2vec", weights=write("a.bin", binary(["the", "The"], VECTORS[:2])))
        rows = encoder.encode(said("The the"))
        assert rows.fields["token_ids"].tolist() == [1, 0]
        assert "case kept" in encoder.stream().preprocessing["words"]

    def test_what_the_file_was_is_recorded(self, write, build_encoder):
        path = write("glove.txt", text())
        encoder = build_encoder("glove", weights=path)
        assert encoder.weights_name == "glove.txt"
        template = encoder.stream()
        assert template.fields["features"].row_shape == ("words", 5)
        assert template.preprocessing["vocabulary"] == "8 words"
        assert template.preprocessing["words"] == r"[^\W_]+, lower-cased"

    def test_without_a_file_the_places_to_get_one_are_said(self):
        with pytest.raises(WeightsError, match=r"word2vec:weights=FILE\n.*GoogleNews.*\n.*weights=random:0"):
            Word2Vec.check_weights(Word2VecOptions(), name="word2vec")
        with pytest.raises(OptionError, match="random: is followed by a seed"):
            Word2Vec.check_weights(Word2VecOptions(weights="random:x"), name="word2vec")
