"""The small texts that commands take."""

from __future__ import annotations

import pytest

from vidloc.core.grammar import Part, parse_encoder, parse_excerpt, parse_pairs, parse_part
from vidloc.core.timeline import Span
from vidloc.errors import OptionError


@pytest.mark.parametrize(
    ("text", "stream", "name", "options"),
    [
        ("vggish", "vggish", "vggish", {}),
        ("verb=slowfast_r50:weights=v.pyth", "verb", "slowfast_r50", {"weights": "v.pyth"}),
        ("vggish:weights=random:7,dtype=float32", "vggish", "vggish", {"weights": "random:7", "dtype": "float32"}),
        ("clip=hf:org/model", "clip", "hf:org/model", {}),
        ("clip=hf:org/model:revision=main", "clip", "hf:org/model", {"revision": "main"}),
        ("./encoders/mobilenet.py:size=128", "mobilenet", "./encoders/mobilenet.py", {"size": "128"}),
        ("text:model=a,b/c", "text", "text", {"model": "a,b/c"}),
    ],
)  # fmt: skip
def test_encoder(text: str, stream: str, name: str, options: dict[str, str]) -> None:
    plan = parse_encoder(text)
    assert (plan.stream, plan.name, plan.options) == (stream, name, options)


@pytest.mark.parametrize("text", ["", "hf:org/My-Model", "vggish:fps=1,fps=2"])
def test_bad_encoder(text: str) -> None:
    with pytest.raises(OptionError, match=r"usable stream name|twice"):
        parse_encoder(text)


def test_parts_cover_all_items_once() -> None:
    items = [f"v{k}" for k in range(11)]
    parts = [parse_part(f"{k}/3").select(items) for k in (1, 2, 3)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert parse_part("1/3") == Part(index=1, count=3)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "a/b"])
def test_bad_part(text: str) -> None:
    with pytest.raises(OptionError, match="K/N"):
        parse_part(text)


def test_excerpt() -> None:
    excerpt = parse_excerpt("P01_01@12.0-14.5")
    assert excerpt.item_id == "P01_01"
    assert excerpt.span == Span(12.0, 14.5)
    assert parse_excerpt("a@b/video@2.mp4@1-2").item_id == "a@b/video@2.mp4"
    assert parse_excerpt("a@b.mp4").span is None


def test_excerpt_that_ends_before_it_starts() -> None:
    with pytest.raises(OptionError, match="at or before its start"):
        parse_excerpt("a@5-5")


def test_pairs() -> None:
    assert parse_pairs(["verb=a", "noun=b=c"], flag="--stream") == {"verb": "a", "noun": "b=c"}
    with pytest.raises(OptionError, match="--stream takes NAME=VALUE"):
        parse_pairs(["verb"], flag="--stream")
    with pytest.raises(OptionError, match="twice"):
        parse_pairs(["verb=a", "verb=b"], flag="--stream")
