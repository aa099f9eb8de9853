"""The card of a store: what it says, that its examples run, and that texts from a store stay texts."""

from __future__ import annotations

import re

import pytest
from store_samples import CLIP, SPECS, fill

from vidloc.core.records import ItemInfo, Source
from vidloc.stores.base import create_store, open_store
from vidloc.stores.card import card_of


@pytest.fixture
def filled(store_path):
    source = Source(paper="Doe 2021, *Rows* <script>", licence="CC BY 4.0", code="https://example.org/rows")
    with create_store(store_path) as writer:
        writer.add_stream(CLIP.model_copy(update={"source": source, "parents": {"raw": "ab" * 32}}))
        for spec in SPECS[1:]:
            writer.add_stream(spec)
        for item in ("P01/`a'.mp4", "P02"):
            writer.set_info(ItemInfo(item_id=item, duration_s=1800))
            fill(writer, item, 5)
            writer.commit(item)
        writer.mark("clip", "broken|x", "failed", "no frames")
        writer.commit("broken|x")
    return store_path


def test_it_says_what_by_whom_under_which_licence_and_from_which_videos(filled):
    card = card_of(filled)
    with open_store(filled) as store:
        assert card.count(store.digest()) == 2
    assert "3 items, 1.00 hours (1 of durations not stated)" in card
    assert "| clip | clip | 2 | 10 | 33.37 s every 0.5 s | `features[6] float16` |" in card
    assert "Weights: RANDOM (random:1); the network was never trained" in card
    assert "Licence of code or weights, as published: CC BY 4.0" in card
    assert f"Made of the stream raw, whose content id was `{'ab' * 32}`" in card
    assert "Failed: 1: clip of `broken|x`" in card


def test_texts_of_a_store_are_no_markup(filled):
    card = card_of(filled)
    assert r"Doe 2021, \*Rows\* \<script\>" in card
    assert "`P01/'a'.mp4`" in card


def test_its_examples_run_and_agree(filled, monkeypatch, capsys):
    monkeypatch.chdir(filled.parent)
    blocks = re.findall(r"```python\n(.*?)```", card_of(filled), flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "card", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("(5, 6) [[")
    assert printed.endswith("]]\n(5, 6)\n")


def test_a_few_seconds_are_not_told_in_hours(store_path):
    with create_store(store_path) as writer:
        writer.add_stream(CLIP)
        writer.set_info(ItemInfo(item_id="a", duration_s=2.5))
        writer.mark("clip", "a", "failed", "no frames")
        writer.commit("a")
    card = card_of(store_path)
    assert "1 items, 2.5 s: `a`" in card
    assert "## Loading" not in card  # there are no rows to show it on
