"""Plain data comes back from pickles of every protocol; whatever else a pickle asks for is refused, and never run."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import time
from collections import OrderedDict
from decimal import Decimal

import numpy as np
import pytest

from vidloc.core.plain_pickle import read_plain_pickle
from vidloc.errors import PickleError

ORDERED = b"ccollections\nOrderedDict\n"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    np.array([True, False]),
    np.array([1 + 2j], dtype=np.complex64),
    np.array(["ab", "c"]),
    np.array([b"ab", b"\xff"]),
    np.zeros((0, 5), np.float16),
    np.array(3.5),
    np.arange(20, dtype=np.uint64)[::2],
]

SCALARS = {
    "f": np.float32(0.5),
    "i": np.int64(-7),
    "u": np.uint8(7),
    "b": np.bool_(True),
    "c": np.complex64(1j),
    "U": np.str_("ab"),
    "S": np.bytes_(b"a\xff"),
}


@pytest.fixture
def file(tmp_path):
    def write(content: bytes):
        path = tmp_path / "data.pkl"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def refused(file):
    """The reason that a pickle is refused for."""

    def refused(content: bytes) -> str:
        with pytest.raises(PickleError) as caught:
            read_plain_pickle(file(content))
        message = str(caught.value)
        assert "data.pkl" in message
        assert "\n" not in message
        return message

    return refused


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_back(file, protocol):
    shared = [1, 2]
    data = {
        "text": "äöü\n'\"\\",
        b"bytes": [b"", b"\x00\xff", bytearray(b"xy")][: 2 if protocol < 5 else 3],
        3: (1, -(2**63), 2**63, 0.1, float("inf"), True, False, None),
        ("a", 1): ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "ordered": OrderedDict([("b", 1), ("a", shared)]),
        "shared": shared,
        "empty": ([], {}),
        "long": "x" * 70_000,
    }
    found = read_plain_pickle(file(pickle.dumps(data, protocol)))
    assert found == data
    assert type(found["ordered"]) is dict
    assert list(found["ordered"]) == ["b", "a"]
    assert found["ordered"]["a"] is found["shared"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_come_back(file, protocol, array):
    first, second, scalar = read_plain_pickle(file(pickle.dumps((array, [array], SCALARS[array.dtype.kind]), protocol)))
    assert first is second[0]
    assert (first.dtype, first.shape) == (array.dtype, array.shape)
    assert np.array_equal(first, array)
    assert type(scalar) is type(SCALARS[array.dtype.kind])
    assert scalar == SCALARS[array.dtype.kind]


def python2_pickle(array: np.ndarray, *, protocol: int) -> bytes:
    """What Python 2 wrote for `{'w': array}`: its str, of text and of bytes alike, and NumPy's old module names."""
    raw, shape = array.tobytes(), array.shape

    def text(value: bytes) -> bytes:
        if protocol == 0:
            escaped = "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in value)
            return b"S'" + escaped.encode() + b"'\n"
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value

    dims = b"(" + b"".join(b"I%d\n" % n for n in shape) + b"t"
    kind = array.dtype.str[1:].encode()
    dtype = b"cnumpy\ndtype\n(" + text(kind) + b"I0\nI1\ntR(I3\n" + text(b"<") + b"NNNI-1\nI-1\nI0\ntb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + text(b"b") + b"tRp1\n"
    filled = b"(I1\n" + dims + dtype + b"I00\n" + text(raw) + b"tb"
    return (b"" if protocol == 0 else b"\x80\x02") + b"(dp0\n" + text(b"w") + made + filled + b"s."


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("size", [3, 300])
def test_pickles_of_python_2(file, protocol, size):
    array = np.linspace(-1, 1, size, dtype=np.float32)
    content = python2_pickle(array, protocol=protocol)
    assert np.array_equal(pickle.loads(content, encoding="latin1")["w"], array)  # the test's own writer is right
    assert np.array_equal(read_plain_pickle(file(content))["w"], array)
    as_bytes = read_plain_pickle(file(content), python2_text="bytes")
    assert list(as_bytes) == [b"w"]
    assert np.array_equal(as_bytes[b"w"], array)


def test_a_pickle_behind_a_header(file):
    assert read_plain_pickle(file(b"header" + pickle.dumps([1])), offset=6) == [1]


class Runs:
    """Asks for a call while it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class TestForeignCode:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_calls_are_refused_and_not_made(self, refused, tmp_path, protocol):
        mark = tmp_path / "was_here"
        for function, arguments, name in [
            (os.system, (f"touch {mark}",), f"{os.name}.system"),
            (eval, (f"open({str(mark)!r}, 'w')",), "eval"),
            (getattr, (np, "load"), "getattr"),
            (np.load, (str(mark),), "numpy"),
            (np.frombuffer, (b"1",), "numpy"),
        ]:
            if function is getattr:  # a module does not pickle
                arguments = ("", "upper")
            message = refused(pickle.dumps({"w": Runs(function, *arguments)}, protocol))
            assert name in message
            assert "anything else can run code" in message
        assert not mark.exists()

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"cos\nsystem\n(S'true'\ntR.", "'os.system'"),
            (b"(S'true'\nios\nsystem\n.", "an object of some class"),
            (b"(cnumpy\nndarray\no.", "an object of some class"),
            (pickle.dumps(Decimal(1), 2), "'decimal.Decimal'"),
            (b"cnumpy\nndarray\n)\x81.", "an object of some class"),
            (b"\x82\x01.", "extension registry"),
            (b"Pfile\n.", "an object kept outside the file"),
            (b"\x97.", "a buffer kept outside the file"),
            (pickle.dumps({1}, 4), "a set"),
            (b"ccopyreg\n_reconstructor\n.", "'copyreg._reconstructor'"),
            (b"ccopy_reg\n__newobj__\n.", "'copy_reg.__newobj__'"),
            (b"cnumpy\n__builtins__.eval\n.", "'numpy.__builtins__.eval'"),
            (b"\x8c\x05numpy\x8c\x08ndarray.\x93.", "'numpy.ndarray.'"),
            (b"cnumpy\nndarray\n(I9\ntR.", "a call of the name of an array type"),
            (b"]]R.", "a call of a list"),
            (b"cbuiltins\nbytes\n(I999999999\ntR.", "damaged"),
            (b"cbuiltins\nbytes\n.", "as data"),
        ],
    )
    def test_other_ways_to_code(self, refused, content, reason):
        assert reason in refused(content)

    @pytest.mark.parametrize(
        "target",
        [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", ORDERED, ORDERED + b")R", b"}", b"]"],
    )
    def test_nothing_but_arrays_and_their_types_takes_a_state(self, refused, target):
        assert "another state of" in refused(target + b"}S'__setstate__'\nNsb.")

    def test_the_names_of_numpy_stay_as_they_were(self, refused):
        before = dict(vars(np.ndarray)), np.dtype("f4").str
        refused(b"cnumpy\nndarray\nN}S'tobytes'\nNs\x86b.")
        refused(b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'>'\nNNNI-1\nI-1\nI0\ntb.")
        assert (dict(vars(np.ndarray)), np.dtype("f4").str) == before


class TestArrays:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_arrays_of_objects_are_refused(self, refused, protocol):
        array = np.array([Runs(os.system, "true"), 1], dtype=object)
        assert "'O8', not of numbers or text" in refused(pickle.dumps(array, protocol)) or protocol == 0
        plain = np.array([[1], {}], dtype=object)
        assert "'O8', not of numbers or text" in refused(pickle.dumps(plain, protocol))

    def test_records_and_dates_are_refused(self, refused):
        assert "'V8'" in refused(pickle.dumps(np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])))
        assert "'M8'" in refused(pickle.dumps(np.array(["2020-01-01"], dtype="M8[D]")))

    def test_subclasses_are_refused(self, refused):
        assert "'numpy.matrix'" in refused(pickle.dumps(np.eye(2).view(np.matrix)))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"K\x03K\x04\x86", b"K\x03K\x05\x86"),  # more bytes than there are
            (b"K\x03K\x04\x86", b"K\x03K\x03\x86"),  # fewer
            (b"K\x03K\x04\x86", b"K\x03J\xfc\xff\xff\xff\x86"),  # a negative side
            (b"K\x03K\x04\x86", b"K\x03N\x86"),
        ],
    )
    def test_shapes_are_those_of_the_bytes(self, refused, old, new):
        content = pickle.dumps(ARRAYS[0], 2)
        assert content.count(old) == 1
        assert "damaged" in refused(content.replace(old, new))

    def test_an_array_without_its_content_is_no_data(self, refused):
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        assert "an array without content as data" in refused(made + b".")
        assert "an array without content as data" in refused(b"]" + made + b"a.")


class TestArraysOfObjects:
    """Taken where the caller asks for them, as nested lists."""

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_they_become_lists_as_deep_as_their_dimensions(self, file, protocol):
        ragged = np.empty(2, dtype=object)
        ragged[:] = [np.arange(6, dtype=np.float32).reshape(3, 2), np.zeros((0, 2), np.float32)]
        table = np.array([[1, "a"], [None, 2.5], [b"x", {"k": 1}]], dtype=object)
        alone = np.array({"k": [1, 2]}, dtype=object)
        content = pickle.dumps((ragged, table, np.asfortranarray(table), table[:0], alone), protocol)
        first, second, third, empty, held = read_plain_pickle(file(content), object_arrays=True)
        assert type(first) is list
        for made, given in zip(first, ragged, strict=True):
            assert np.array_equal(made, given)
            assert (made.dtype, made.shape) == (given.dtype, given.shape)
        assert second == third == table.tolist()
        assert empty == []
        assert held == {"k": [1, 2]}

    def test_what_numpy_saves_is_read_behind_its_header(self, tmp_path):
        array = np.empty(3, dtype=object)
        array[:] = [np.full((k, 2), k, np.float32) for k in range(3)]
        np.save(tmp_path / "data.npy", array, allow_pickle=True)
        header = (tmp_path / "data.npy").read_bytes().index(b"\n") + 1
        found = read_plain_pickle(tmp_path / "data.npy", offset=header, object_arrays=True)
        assert [part.tolist() for part in found] == [part.tolist() for part in array]

    def refused(self, file, content: bytes) -> str:
        with pytest.raises(PickleError) as caught:
            read_plain_pickle(file(content), object_arrays=True)
        return str(caught.value)

    def test_what_they_hold_is_as_plain_as_the_rest(self, file, tmp_path):
        mark = tmp_path / "was_here"
        array = np.array([Runs(os.system, f"touch {mark}"), 1], dtype=object)
        assert f"{os.name}.system" in self.refused(file, pickle.dumps(array))
        assert not mark.exists()
        records = np.zeros(2, dtype=[("a", "O")])
        assert "'V8'" in self.refused(file, pickle.dumps(records))

    def test_a_scalar_or_a_buffer_of_objects_is_none(self, file):
        dtype = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb"
        for call in (
            b"cnumpy.core.multiarray\nscalar\n(" + dtype + b"S'12345678'\ntR.",
            b"cnumpy.core.numeric\n_frombuffer\n(S'12345678'\n" + dtype + b"(I1\ntS'C'\ntR.",
        ):
            assert "objects as the bytes of an array" in self.refused(file, call)

    @pytest.mark.parametrize(
        ("shape", "items", "reason"),
        [
            (b"I3\n", b"I1\nI2\n", "3 objects, of which there are 2"),
            (b"I-1\n", b"", "shape"),
            (b"I999999999\nI0\n", b"", "again and again"),
            (b"I1\n" * 33, b"I1\n", "no tuple of whole numbers"),
            (b"I1\n" * 30, (b"(" * 40 + b"l" * 40), "nested deeper"),
        ],
    )
    def test_their_shapes_are_checked_before_memory_is_taken(self, file, shape, items, reason):
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        dtype = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR"
        start = time.monotonic()
        assert reason in self.refused(file, made + b"(I1\n(" + shape + b"t" + dtype + b"I00\n(" + items + b"ltb.")
        assert time.monotonic() - start < 1

    def test_one_that_holds_itself_is_refused(self, file):
        array = np.empty(1, dtype=object)
        array[0] = array
        assert "an array without content as data" in self.refused(file, pickle.dumps(array))


class TestBombs:
    """Small files that would make other readers take all memory, or all time there is."""

    @pytest.mark.parametrize(
        "content",
        [
            b"\x8e" + struct.pack("<Q", 2**62) + b"x.",
            b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
            b"\x96" + struct.pack("<Q", 2**40) + b"x.",
            b"B" + struct.pack("<I", 2**32 - 1) + b"x.",
            b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
            b"I" + b"9" * 5000 + b"\n.",
            pickle.dumps(1 << 80),
            pickle.dumps(1 << 80, 0),
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L99999999999999\ntS'b'\ntR.",
            b"]2" + b"a2" * 3,  # a list in itself
            b"]" * 100 + b"a" * 99 + b".",
            b"]q\x00h\x00a.",
        ],
    )
    def test_lengths_and_depths_are_checked_before_memory_is_taken(self, refused, content):
        start = time.monotonic()
        refused(content)
        assert time.monotonic() - start < 1

    def test_a_memo_of_any_number_takes_no_room(self, file):
        content = b"]r" + struct.pack("<I", 2**32 - 1) + b"0j" + struct.pack("<I", 2**32 - 1) + b"."
        assert read_plain_pickle(file(content)) == []

    def test_copies_are_counted(self, refused):
        content = (
            b"\x80\x02X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x010"
            b"c_codecs\nencode\nq\x000" + b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R0" * 1000 + b"N."
        )
        assert "again and again" in refused(content)

    def test_shared_parts_are_visited_once(self, file):
        # 2 to the 60th mentions of one number.
        content = b"K\x01" + b"q\x00h\x00\x86" * 60 + b"."
        found = read_plain_pickle(file(content))
        for _ in range(60):
            assert found[0] is found[1]
            found = found[0]
        assert found == 1

    def test_nested_keys_are_refused(self, refused):
        assert "a dict key that is a tuple" in refused(b"}K\x01" + b"q\x00h\x00\x86" * 60 + b"Ns.")

    def test_messages_do_not_print_what_is_shared(self, refused):
        nested = b"K\x01" + b"q\x00h\x00\x86" * 60
        refused(b"cnumpy\ndtype\n" + nested + b"I0\nI1\n\x87R.")
        refused(nested + nested + b"\x93.")

    def test_large_files_are_left_alone(self, file):
        path = file(pickle.dumps([1] * 100))
        with pytest.raises(PickleError, match="a pickle of more than 50 is not read"):
            read_plain_pickle(path, max_bytes=50)


class TestDamage:
    def test_every_cut_and_every_changed_byte_is_data_or_refused(self, file):
        content = pickle.dumps({"w": np.arange(4, dtype=np.float32), "k": [1, ("a", b"b")]}, 2)
        for end in range(len(content)):
            with pytest.raises(PickleError):
                read_plain_pickle(file(content[:end]))
        generator = np.random.default_rng(0)
        for _ in range(150):
            changed = bytearray(content)
            changed[generator.integers(len(content))] = generator.integers(256)
            try:
                read_plain_pickle(file(bytes(changed)))
            except PickleError as error:
                assert "data.pkl" in str(error)  # noqa: PT017

    def test_every_instruction_alone(self, file):
        for op in pickletools.opcodes:
            for tail in (b".", b"\x00" * 9 + b".", b"1\n1\n."):
                try:
                    read_plain_pickle(file(b"NN(" + op.code.encode("latin-1") + tail))
                except PickleError as error:
                    assert "data.pkl" in str(error)  # noqa: PT017

    def test_files_that_are_no_pickles(self, file, tmp_path):
        for content in (b"", b"<html>", b"PK\x03\x04"):
            with pytest.raises(PickleError, match=r"data\.pkl"):
                read_plain_pickle(file(content))
        with pytest.raises(PickleError, match="cannot be read: No such file"):
            read_plain_pickle(tmp_path / "gone.pkl")
