"""The small texts that commands take: encoders, derived streams, parts, excerpts and `name=value` pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from vidloc.core.records import Record
from vidloc.core.timeline import Span
from vidloc.errors import OptionError

_STREAM_NAME = r"[a-z][a-z0-9_]{0,63}"
_OPTIONS_START = re.compile(r":(?=[A-Za-z_]\w*=)")


@dataclass(frozen=True)
class EncoderPlan:
    """One `--encoder [STREAM=]NAME[:option=value,...]`.

    Attributes:
        stream: name of the stream to write.
        name: registered name, or path of a Python file.
        options: option values as typed.
    """

    stream: str
    name: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Derivation:
    """One `--stream NEW=OPERATION(STREAM,...,option=value,...)`.

    Attributes:
        stream: name of the stream to make.
        operation: what it is made by.
        parents: streams it is made of.
        options: option values as typed.
    """

    stream: str
    operation: str
    parents: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)


class Part(Record):
    """One worker's share of the items: every `count`-th of the sorted ids, beginning with number `index` (from 1)."""

    index: int
    count: int

    def select(self, items: Sequence[str]) -> list[str]:
        """This part's items, in order."""
        return sorted(items)[self.index - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Excerpt:
    """`ITEM@12.0-14.5`: a span of an item, or the whole item where no span is given."""

    item_id: str
    span: Span | None


def parse_encoder(text: str) -> EncoderPlan:
    """Read `[STREAM=]NAME[:option=value,...]`.

    Options begin at the first colon followed by `word=`, so that `hf:org/model` stays whole. A comma begins the next
    option only where `word=` follows it, so that values may hold commas and colons (`weights=random:7`).

    Raises:
        OptionError: an empty name, or a stream name outside `[a-z][a-z0-9_]*`.
    """
    head, *rest = _OPTIONS_START.split(text, maxsplit=1)
    named = re.fullmatch(rf"({_STREAM_NAME})=(.+)", head)
    name = named[2] if named else head
    options: dict[str, str] = {}
    for pair in re.split(r",(?=[A-Za-z_]\w*=)", rest[0]) if rest else ():
        key, value = pair.split("=", 1)
        if key in options:
            raise OptionError(f"encoder {text!r} gives option {key!r} twice.")
        options[key] = value
    if named:
        return EncoderPlan(named[1], name, options)
    stream = name.rsplit("/", 1)[-1].removesuffix(".py")
    if not re.fullmatch(_STREAM_NAME, stream):
        raise OptionError(
            f"encoder {text!r} does not give a usable stream name (a-z, 0-9, _; a letter first). "
            f"Name the stream: --encoder my_stream={name or 'NAME'}."
        )
    return EncoderPlan(stream, name, options)


def parse_part(text: str) -> Part:
    """Read `k/n`, counting from one.

    Raises:
        OptionError: not two whole numbers with 1 <= k <= n.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise OptionError(f"part {text!r} is not K/N with K from 1 to N, such as 1/8 for the first of eight parts.")
    return Part(index=int(match[1]), count=int(match[2]))


def parse_excerpt(text: str) -> Excerpt:
    """Read `ITEM@START-END` (seconds) or `ITEM`. The last `@` counts, since ids may hold one.

    Raises:
        OptionError: an end at or before the start.
    """
    match = re.fullmatch(r"(.+)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", text, flags=re.DOTALL)
    if match is None:
        return Excerpt(text, None)
    span = Span(float(match[2]), float(match[3]))
    if span.end_s <= span.start_s:
        raise OptionError(f"excerpt {text!r} ends at or before its start; give ITEM@START-END in seconds.")
    return Excerpt(match[1], span)


def parse_pairs(texts: Sequence[str], *, flag: str) -> dict[str, str]:
    """Read repeated `NAME=VALUE` arguments of a flag.

    Raises:
        OptionError: an argument without `=`, or a name given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise OptionError(f"{flag} takes NAME=VALUE, got {text!r}.")
        if name in pairs:
            raise OptionError(f"{flag} gives {name!r} twice ({pairs[name]!r} and {value!r}).")
        pairs[name] = value
    return pairs


def parse_derivation(text: str) -> Derivation:
    """Read `NEW=OPERATION(STREAM,...,option=value,...)`; streams come before options, a value holds no comma.

    Raises:
        OptionError: it is not of that form, or gives an option twice.
    """
    match = re.fullmatch(rf"({_STREAM_NAME})=([a-z0-9_]+)\((.*)\)", text)
    words = [word.strip() for word in match[3].split(",")] if match else []
    parents = [word for word in words if "=" not in word]
    options = parse_pairs(words[len(parents) :], flag=f"stream {text!r}") if parents else {}
    if match is None or not all(re.fullmatch(_STREAM_NAME, parent) for parent in parents) or not parents:
        raise OptionError(
            f"stream {text!r} is not NEW=OPERATION(STREAM,...,option=value,...), such as "
            "slow=pool(slowfast_r50,stride=1)."
        )
    return Derivation(match[1], match[2], tuple(parents), options)
