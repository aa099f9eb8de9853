"""Plain data from a pickle file, by a reader that never runs what the file asks for.

A pickle is a program: its instructions may import any module and call anything in it. Labs nevertheless keep arrays
in pickles (Caffe2 and Detectron checkpoints, feature banks). Here the instructions are walked one by one, with the
readers of the standard library's `pickletools`, and only those that build plain data are known: numbers, text, bytes,
lists, tuples, dicts, and NumPy arrays and scalars of numbers or text. Nothing is ever imported or called by a name
that the file holds: a dozen names (`numpy.ndarray`, `collections.OrderedDict`, ...) are understood by what they stand
for, and every other one is refused.

Arrays of objects are refused as well, unless the caller asks for them: then each becomes nested lists, as deep as the
array has dimensions, of whatever plain data it held.

What a file makes is bounded by its size: lengths are those of the bytes that are there, positions of a memo take no
room, copies are counted, dict keys are flat, and containers neither hold themselves nor nest deeper than 64. They may
be shared, though: a walk that visits a list as often as it is mentioned may take forever.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from vidloc.core.pickle_instructions import INSTRUCTIONS, UNKNOWN
from vidloc.errors import PickleError

Strings = Literal["latin1", "bytes"]

_MAX_BYTES = 2**32
_MAX_DEPTH = 64
_MAX_INT_BITS = 64
_MAX_DIMENSIONS = 32
_COPIES = 4  # a byte of an array may be copied as text, as bytes and as numbers
_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:\?|b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6})")
_OBJECTS = ("O", "O8", "O4", "|O")
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: Mapping[str, type[Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_SHORT_TUPLES: Mapping[str, int] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SIMPLE = (str, bytes, int, float, type(None), np.generic)  # bool is an int

# Names that a file may mention, and what each stands for here.
_MEANINGS: Mapping[tuple[str, str], str] = {
    ("numpy", "ndarray"): "an array type",
    ("numpy", "dtype"): "a dtype",
    ("numpy.core.multiarray", "_reconstruct"): "an array",
    ("numpy._core.multiarray", "_reconstruct"): "an array",
    ("numpy.core.multiarray", "scalar"): "a scalar",
    ("numpy._core.multiarray", "scalar"): "a scalar",
    ("numpy.core.numeric", "_frombuffer"): "an array of a buffer",
    ("numpy._core.numeric", "_frombuffer"): "an array of a buffer",
    ("collections", "OrderedDict"): "a dict",
    ("_codecs", "encode"): "bytes of latin-1 text",
    ("builtins", "bytes"): "empty bytes",
    ("__builtin__", "bytes"): "empty bytes",
}


def read_plain_pickle(
    path: Path,
    *,
    offset: int = 0,
    python2_text: Strings = "latin1",
    max_bytes: int = _MAX_BYTES,
    object_arrays: bool = False,
) -> Any:
    """The plain data of a pickle file of any protocol (0 to 5), made by Python 2 or 3.

    Args:
        offset: where the pickle begins, for formats that put a header before it.
        python2_text: what Python 2's `str` becomes: text (every byte one character), or bytes.
        max_bytes: size above which a file is not read.
        object_arrays: take arrays of objects, as nested lists (one of no dimension as what it holds).

    Returns:
        What was pickled; an `OrderedDict` as a dict. Arrays are views of bytes that were read: not writable.

    Raises:
        PickleError: the file asks for anything else, is damaged, or is too large; it says what and where.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise PickleError(f"{path} has {size:,} bytes; a pickle of more than {max_bytes:,} is not read.")
        if size <= offset:
            raise PickleError(f"{path} holds no pickle: it has {size:,} bytes.")
        # Reads beyond its end are cut short without memory for them, unlike a file's.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
            source.seek(offset)
            return _Machine(source, path, python2_text, object_arrays=object_arrays).run()
    except OSError as error:
        raise PickleError(f"{path} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class _Meaning:
    # A name that the file mentioned.
    what: str


@dataclass(slots=True, eq=False)
class _DType:
    dtype: np.dtype[Any]


@dataclass(slots=True, eq=False)
class _Unfilled:
    # An array whose state is yet to come; `places` are where the memo mentions it.
    places: list[int] = field(default_factory=list)


_INSPECTED = (dict, list, tuple, _Meaning, _DType, _Unfilled)


class _Machine:
    """The stack machine that pickles are written for, without any instruction that could run foreign code."""

    def __init__(self, source: mmap.mmap, path: Path, python2_text: Strings, *, object_arrays: bool) -> None:
        self._source = source
        self._path = path
        self._python2_text = python2_text
        self._object_arrays = object_arrays
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._position = source.tell()
        self._copies_left = _COPIES * (source.size() - self._position) + 2**20

    def run(self) -> Any:
        """Walk all instructions."""
        try:
            while self._step() != "STOP":
                pass
            result = self._stack.pop()
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
            if isinstance(error, PickleError):
                raise
            raise PickleError(
                f"{self._path} is no pickle, or a damaged one (at byte {self._position}: {error})."
            ) from error
        self._check_whole(result)
        return result

    def _step(self) -> str:
        self._position = self._source.tell()
        code = self._source.read(1)
        if not code:
            raise ValueError("it ends before its last instruction")
        instruction = INSTRUCTIONS.get(code, UNKNOWN)
        if instruction.refused:
            self._refuse(instruction.refused)
        name, reader = instruction.name, instruction.reader
        value = reader(self._source) if reader else None
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _SHORT_TUPLES:
            self._stack.append(self._last(_SHORT_TUPLES[name]))
        elif name in self._HANDLERS:
            self._HANDLERS[name](self, value)
        return name

    def _refuse(self, what: str) -> NoReturn:
        raise PickleError(
            f"{self._path} asks for {what} (at byte {self._position}), which vidloc does not load: only numbers, text, "
            "lists, tuples, dicts and arrays of numbers are taken from a pickle, since anything else can run code."
        )

    # Instructions; each takes the value that stood beside it in the file.

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_int(self, value: int) -> None:
        if value.bit_length() > _MAX_INT_BITS:
            self._refuse(f"a whole number of {value.bit_length():,} bits")
        self._stack.append(value)

    def _push_python2_text(self, value: str) -> None:
        self._stack.append(value if self._python2_text == "latin1" else value.encode("latin-1"))

    def _mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _list(self, _: None) -> None:
        self._stack.append(self._since_mark())

    def _tuple(self, _: None) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _dict(self, _: None) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._update(items)

    def _append(self, _: None) -> None:
        self._extend(self._last(1))

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _setitem(self, _: None) -> None:
        self._update(self._last(2))

    def _setitems(self, _: None) -> None:
        self._update(self._since_mark())

    def _pop(self, _: None) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _pop_mark(self, _: None) -> None:
        self._since_mark()

    def _dup(self, _: None) -> None:
        self._stack.append(self._stack[-1])

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def _memoize(self, _: None) -> None:
        self._put(len(self._memo))

    def _put(self, place: int) -> None:
        value = self._stack[-1]
        if isinstance(value, _Unfilled):
            value.places.append(place)
        self._memo[place] = value

    def _global(self, names: tuple[str, str]) -> None:
        self._push_meaning(*names)

    def _stack_global(self, _: None) -> None:
        module, name = self._last(2)
        self._push_meaning(self._text(module), self._text(name))

    def _push_meaning(self, module: str, name: str) -> None:
        what = _MEANINGS.get((module, name))
        if what is None:
            self._refuse(repr(f"{module}.{name}"[:200]))
        self._stack.append(_Meaning(what))

    def _reduce(self, _: None) -> None:
        called, arguments = self._last(2)
        maker = self._MAKERS.get(called.what) if isinstance(called, _Meaning) else None
        if maker is None or type(arguments) is not tuple:
            self._refuse(f"a call of {_kind(called)}")
        self._stack.append(maker(self, *arguments))

    def _build(self, _: None) -> None:
        target, state = self._last(2)
        if isinstance(target, _DType):
            self._set_byte_order(target, *state)
            self._stack.append(target)
        elif isinstance(target, _Unfilled):
            version, shape, dtype, fortran, data = state
            if version != 1:
                raise ValueError("an array's state of another version")
            array = self._filled(data, dtype, shape, "F" if fortran else "C")
            self._memo.update(dict.fromkeys(target.places, array))
            self._stack.append(array)
        else:
            self._refuse(f"another state of {_kind(target)}")

    # Values taken from the stack.

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _last(self, count: int) -> tuple[Any, ...]:
        if len(self._stack) < count:
            raise IndexError("too few values on the stack")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        return items

    def _extend(self, items: Sequence[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            self._refuse(f"entries in {_kind(target)} as if it were a list")
        target.extend(items)

    def _update(self, items: Sequence[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            self._refuse(f"keys in {_kind(target)} as if it were a dict")
        self._fill_dict(target, zip(items[::2], items[1::2], strict=True))

    def _fill_dict(self, target: dict[Any, Any], pairs: Iterable[Any]) -> None:
        for key, value in pairs:
            # Nested keys could share parts so that hashing them takes forever.
            flat = key if type(key) is tuple else (key,)
            if not all(isinstance(part, _SIMPLE) for part in flat):
                self._refuse(f"a dict key that is {_kind(key)}")
            target[key] = value

    def _text(self, value: Any) -> str:
        # Never the repr of whatever was there: that of shared nested lists takes forever.
        if isinstance(value, bytes):
            return value.decode("latin-1")
        if not isinstance(value, str):
            self._refuse(f"{_kind(value)} where a text belongs")
        return value

    # What the known names make.

    def _make_dtype(self, text: Any, *_: Any) -> _DType:
        code = self._text(text)
        if code in _OBJECTS and self._object_arrays:
            return _DType(np.dtype("O"))
        if not _PLAIN_DTYPE.fullmatch(code):
            self._refuse(f"an array of type {code[:40]!r}, not of numbers or text")
        return _DType(np.dtype(code))

    def _set_byte_order(self, target: _DType, version: Any, order: Any, *rest: Any) -> None:
        if rest[:3] != (None, None, None):
            self._refuse("an array of records")
        match self._text(order):
            case "<" | ">" | "=" | "|" as sign:
                target.dtype = target.dtype.newbyteorder(sign)
            case other:
                raise ValueError(f"byte order {other[:8]!r}")

    def _make_unfilled(self, kind: Any, shape: Any, code: Any) -> _Unfilled:
        if kind != _Meaning("an array type"):
            self._refuse(f"an array whose class is {_kind(kind)}")
        return _Unfilled()

    def _make_scalar(self, dtype: Any, data: Any) -> Any:
        return self._array(data, dtype, (), "C")[()]

    def _make_of_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
        return self._array(data, dtype, shape, self._text(order))

    def _make_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        self._copied(len(pairs))
        self._fill_dict(made, pairs)
        return made

    def _make_bytes(self, text: Any, encoding: Any) -> bytes:
        if self._text(encoding) not in ("latin1", "latin-1"):
            self._refuse("bytes in another encoding than latin-1")
        self._copied(len(text))
        return self._text(text).encode("latin-1")

    def _make_empty_bytes(self) -> bytes:
        return b""

    def _filled(self, data: Any, dtype: Any, shape: Any, order: Any) -> Any:
        if not (isinstance(dtype, _DType) and dtype.dtype.hasobject):
            return self._array(data, dtype, shape, order)
        # NumPy lists the elements row by row, whatever the order in memory.
        if type(data) is not list:
            self._refuse(f"an array of objects whose content is {_kind(data)}")
        sizes = _checked_shape(shape)
        if math.prod(sizes) != len(data):
            raise ValueError(f"an array of {math.prod(sizes):,} objects, of which there are {len(data):,}")
        # Lists of a shape such as (1000000, 0) would come from no byte of the file.
        self._copied(sum(math.prod(sizes[:depth]) for depth in range(1, len(sizes) + 1)))
        return _nested(data, sizes)

    def _array(self, data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
        if not isinstance(dtype, _DType):
            self._refuse(f"an array whose type is {_kind(dtype)}")
        if dtype.dtype.hasobject:
            self._refuse("objects as the bytes of an array")
        if isinstance(data, str):  # Python 2's, read as text
            self._copied(len(data))
            data = data.encode("latin-1")
        if not isinstance(data, bytes | bytearray):
            self._refuse(f"an array whose content is {_kind(data)}")
        _checked_shape(shape)
        if order not in ("C", "F"):
            raise ValueError(f"an array in order {order[:8]!r}")
        wanted = math.prod(shape) * dtype.dtype.itemsize
        if wanted != len(data):
            raise ValueError(f"an array of {wanted:,} bytes, of which there are {len(data):,}")
        return np.ndarray(shape, dtype.dtype, data if wanted else None, order=order)

    def _copied(self, count: int) -> None:
        self._copies_left -= count
        if self._copies_left < 0:
            self._refuse("the same bytes again and again")

    def _check_whole(self, root: Any) -> None:
        # Heights of containers, found without recursion: each is visited once on the way down and once on the way up.
        heights: dict[int, int] = {}
        above: set[int] = set()
        todo: list[tuple[Any, bool]] = [(root, False)]
        while todo:
            value, finished = todo.pop()
            if isinstance(value, _Meaning | _DType | _Unfilled):
                self._refuse(f"{_kind(value)} as data")
            if not isinstance(value, dict | list | tuple) or (not finished and id(value) in heights):
                continue
            inner = list(value.values()) if isinstance(value, dict) else value
            if finished:
                heights[id(value)] = 1 + max((heights.get(id(part), 0) for part in inner), default=0)
                above.discard(id(value))
                continue
            if id(value) in above:
                self._refuse("a container that holds itself")
            above.add(id(value))
            if len(above) > _MAX_DEPTH:
                self._refuse(f"containers nested deeper than {_MAX_DEPTH}")
            todo.append((value, True))
            todo.extend((part, False) for part in inner if isinstance(part, _INSPECTED))
        if heights.get(id(root), 0) > _MAX_DEPTH:
            self._refuse(f"containers nested deeper than {_MAX_DEPTH}")

    _HANDLERS: ClassVar[Mapping[str, Callable[[_Machine, Any], None]]] = {
        **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _push_int),
        **dict.fromkeys(("FLOAT", "BINFLOAT"), _push),
        **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _push),
        **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push),
        **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _push_python2_text),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
        **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
        "MARK": _mark,
        "LIST": _list,
        "TUPLE": _tuple,
        "DICT": _dict,
        "APPEND": _append,
        "APPENDS": _appends,
        "SETITEM": _setitem,
        "SETITEMS": _setitems,
        "POP": _pop,
        "POP_MARK": _pop_mark,
        "DUP": _dup,
        "MEMOIZE": _memoize,
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _reduce,
        "BUILD": _build,
    }
    _MAKERS: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "a dtype": _make_dtype,
        "an array": _make_unfilled,
        "a scalar": _make_scalar,
        "an array of a buffer": _make_of_buffer,
        "a dict": _make_dict,
        "bytes of latin-1 text": _make_bytes,
        "empty bytes": _make_empty_bytes,
    }


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if not (type(shape) is tuple and len(shape) <= _MAX_DIMENSIONS and all(type(n) is int for n in shape)):
        raise ValueError("an array whose shape is no tuple of whole numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    return shape


def _nested(items: list[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return items[0]
    part = math.prod(shape[1:])
    if len(shape) == 1:
        return list(items)
    return [_nested(items[k * part : (k + 1) * part], shape[1:]) for k in range(shape[0])]


def _kind(value: Any) -> str:
    if isinstance(value, _Meaning):
        return f"the name of {value.what}"
    names = {_DType: "dtype", _Unfilled: "array without content"}
    name = names.get(type(value), type(value).__name__)
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
