"""Vectors of queries that are not in a store: a file or a text, through the encoder that made the stream.

The stream's spec says which encoder that was, with which options and weights. It is built again from them, and its
own spec is compared with the stream's: rows of another origin would be compared with nothing in common.

A text can also be asked of pictures whose encoder learned a common space with sentences (CLIP, MIL-NCE). Such a spec
names the encoder of the sentences, `preprocessing["text_encoder"]`, which must have the weights that made the stream.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from vidloc.core.grammar import EncoderPlan, parse_encoder
from vidloc.core.rows import Rows
from vidloc.errors import MediaError, OptionError, ProvenanceError, VidlocError, WeightsError
from vidloc.extract.base import Sample
from vidloc.pipelines.extraction.batching import Batcher, Encoded
from vidloc.pipelines.extraction.decoding import Arrived, TrackEnd, decode_items
from vidloc.pipelines.extraction.devices import choose_device
from vidloc.pipelines.extraction.encoders import StreamEncoder, build_encoders
from vidloc.pipelines.extraction.item_work import ItemWork
from vidloc.pipelines.extraction.layout import DEFAULT_STRIDE_S, words_of
from vidloc.retrieval.vectors import FIELD, Vectors, vectors_of
from vidloc.stores.base import StreamSpec

# May differ between the rows of a stream and a query without changing what a row means.
_NOT_COMPARED = ("name", "encoder_version", "parents")


def encoder_of(spec: StreamSpec, *, replacement: str | None, device: str) -> StreamEncoder:
    """The encoder that made a stream, built again.

    Args:
        replacement: `NAME[:option=value,...]` as after `--encoder`, to say what the spec does not: the place of a
            checkpoint, or the file of an encoder that is not installed.

    Raises:
        OptionError: the stream's rows were not made by an encoder of vidloc.
        WeightsError: the weights are missing, or others than the stream's.
        ProvenanceError: anything else differs; the entries are named.
    """
    if not spec.encoder or spec.sampling.get("align") not in ("centre", "start", "annotations"):
        raise OptionError(
            f"stream {spec.name!r} was not made by 'vidloc extract' (encoder {spec.encoder!r}, sampling "
            f"{dict(spec.sampling)}), so nothing outside the store can be compared with it. Search by --like or --row."
        )
    plan = _plan(spec, replacement)
    made = _built(plan, spec, device=device, name=spec.encoder)
    ours, theirs = made.spec.origin(), spec.origin()
    differing = [name for name in ours if name not in _NOT_COMPARED and ours[name] != theirs[name]]
    if differing:
        shown = "; ".join(f"{name}: stream {theirs[name]!r}, now {ours[name]!r}" for name in differing)
        raise ProvenanceError(
            f"encoder {plan.name!r} no longer makes rows like those of stream {spec.name!r}: {shown}."
        )
    return made


def text_side(spec: StreamSpec) -> str:
    """The encoder of sentences in the space of a stream's vectors; empty where there is none."""
    return str(spec.preprocessing.get("text_encoder", ""))


def text_encoder_of(spec: StreamSpec, *, replacement: str | None, device: str) -> StreamEncoder:
    """The encoder that turns a sentence into a vector to compare with a stream's: its own, or its text side.

    Args:
        replacement: as for `encoder_of`; of the text side where the stream is made of pictures.

    Raises:
        OptionError, WeightsError, ProvenanceError: as for `encoder_of`.
    """
    name = text_side(spec)
    if not name:
        return encoder_of(spec, replacement=replacement, device=device)
    given = parse_encoder(f"{spec.name}={replacement or name}")
    options = _untrained(spec) | given.options
    made = _built(EncoderPlan(spec.name, given.name, options), spec, device=device, name=name)
    wanted, found = spec.fields[FIELD].entry_shape, made.spec.fields[FIELD].entry_shape
    if made.spec.kind != "text" or wanted != found:
        raise ProvenanceError(
            f"encoder {given.name!r} makes {made.spec.kind} vectors of {found}, but the sentences of stream "
            f"{spec.name!r} are those of {name!r}, vectors of {wanted}."
        )
    return made


def text_vectors(text: str, encoder: StreamEncoder) -> Vectors:
    """The vector of one sentence, normalised, `(1, D)`."""
    sample = Sample(span=(Fraction(0), Fraction(0)), data=text, pts_s=np.empty(0), key="query")
    return vectors_of(encoder.encoder.encode([sample]), encoder.spec)


def file_vectors(path: Path, encoder: StreamEncoder) -> tuple[Vectors, str]:
    """Normalised vectors of all rows of a file, and what was wrong with the file (empty where nothing was).

    Raises:
        MediaError: the file gives no row; the message says why.
    """
    stream = encoder.stream
    batcher, rows = Batcher(encoder), list[Rows]()
    end = TrackEnd("failed", reason="it was not decoded")
    for event in decode_items([ItemWork(path.name, path, (stream,))], {stream: encoder}):
        if isinstance(event, Arrived):
            rows += (_rows(answer) for answer in batcher.add(path.name, event.sample))
        else:
            end = event.tracks[stream]
    rows += (_rows(answer) for answer in batcher.flush())
    if end.status not in ("done", "partial") or not rows:
        raise MediaError(f"{path} gives no rows of {encoder.spec.encoder}: {end.reason or 'it is too short'}")
    return vectors_of(Rows.concatenated(rows), encoder.spec), end.reason


def _rows(answer: Encoded) -> Rows:
    if answer.rows is None:
        raise VidlocError(f"the encoder of stream {answer.stream!r} failed on {answer.item_id}: {answer.error}")
    return answer.rows


def _built(plan: EncoderPlan, spec: StreamSpec, *, device: str, name: str) -> StreamEncoder:
    """The planned encoder, with the weights that made a stream; `name` is the one to say in messages."""
    family, colon, _ = name.partition(":")
    where = f"Say where its weights are: --encoder {f'{family}:FOLDER' if colon else f'{name}:weights=FILE'}"
    try:
        (made,) = build_encoders([plan], stride_s=DEFAULT_STRIDE_S, device=choose_device(device))
    except WeightsError as error:
        error.add_note(f"(stream {spec.name!r} was made with {spec.weights}, sha256 {spec.weights_sha256}. {where})")
        raise
    if made.spec.weights_sha256 != spec.weights_sha256:
        raise WeightsError(
            f"stream {spec.name!r} was made with weights {spec.weights} (sha256 {spec.weights_sha256}), but "
            f"{made.spec.weights} has {made.spec.weights_sha256}. {where}"
        )
    return made


def _plan(spec: StreamSpec, replacement: str | None) -> EncoderPlan:
    options: dict[str, Any] = dict(spec.options) | _untrained(spec)
    if spec.sampling.get("align") in ("centre", "start"):
        options |= words_of(spec.sampling)
    if replacement is None:
        name = spec.encoder
    else:
        given = parse_encoder(f"{spec.name}={replacement}")
        name, options = given.name, options | given.options
    # JSON values as the spec keeps them; options validate them as they do text.
    return EncoderPlan(spec.name, name, cast("dict[str, str]", options))


def _untrained(spec: StreamSpec) -> dict[str, str]:
    return {"weights": spec.weights_sha256} if spec.weights_sha256.startswith("random:") else {}
