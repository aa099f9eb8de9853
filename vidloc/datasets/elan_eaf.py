"""ELAN's own files, `.eaf`: XML with time slots, tiers of annotations, controlled vocabularies and media files.

A time slot counts milliseconds; where the media file has an origin (ELAN's offset, by which several recordings are
synchronised), second 0 of the annotations is that moment of the file. An annotation that refers to another one has the
span of that one. The label is the entry of the tier's controlled vocabulary where the annotation names one, else its
text. The format is that of the schemas EAF 2.7 to 3.0 (www.mpi.nl/tools/elan).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from vidloc.datasets.tool_marks import Document, LeftOut, Mark, media_name, text_of
from vidloc.errors import AnnotationError

_Ends = tuple[float | None, float | None]
_NO_TIME = "its start or end has no time in ELAN (an unaligned time slot)"
_SHARED = "it shares the span of its parent with others, without a time of its own (symbolic subdivision)"


@dataclass(frozen=True)
class _Vocabulary:
    """Entries of a controlled vocabulary: labels by id, where entries have one, and all labels."""

    by_id: Mapping[str, str]
    labels: frozenset[str]


def read_eaf(path: Path) -> Document:
    """The annotations of an ELAN file.

    Raises:
        AnnotationError: the file is missing, no ELAN file, or contradicts itself.
    """
    root = _root(path)
    media, origin_s, notes = _media(path, root)
    tiers = [text_of(f"{path}, a tier", tier.attrib, "TIER_ID") for tier in root.iterfind("TIER")]
    document = Document(path, [media], tiers, notes=notes)
    spans, siblings = _spans(path, root, origin_s)
    vocabularies = _vocabularies(root)
    for tier, element in zip(tiers, root.iterfind("TIER"), strict=True):
        vocabulary = vocabularies.get(element.get("LINGUISTIC_TYPE_REF", ""), _Vocabulary({}, frozenset()))
        renamed, unlisted = Counter[tuple[str, str]](), Counter[str]()
        for annotation in element.iterfind("ANNOTATION/*"):
            where = f"{path}, tier {tier!r}, annotation {annotation.get('ANNOTATION_ID', '?')!r}"
            text = (annotation.findtext("ANNOTATION_VALUE") or "").strip()
            label = vocabulary.by_id.get(annotation.get("CVE_REF", ""), text)
            start_s, end_s = spans[annotation.get("ANNOTATION_ID", "")]
            if siblings[tier, annotation.get("ANNOTATION_REF", "")] > 1:
                document.left_out.append(LeftOut(where, tier, _SHARED))
            elif start_s is None or end_s is None:
                document.left_out.append(LeftOut(where, tier, _NO_TIME))
            elif not label:
                document.left_out.append(LeftOut(where, tier, "it has no text"))
            else:
                document.marks.append(Mark(where, media, tier, label, start_s, end_s))
                renamed.update([(text, label)] if text != label else [])
                unlisted.update([label] if vocabulary.labels and label not in vocabulary.labels else [])
        notes.extend(_vocabulary_notes(path, tier, renamed, unlisted))
    return document


def _root(path: Path) -> Element:
    try:
        root: Element = fromstring(path.read_bytes(), forbid_dtd=True)
    except FileNotFoundError:
        raise AnnotationError(f"there is no annotation file {path}.") from None
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error}.") from None
    except (ParseError, LookupError, ValueError) as error:
        # DefusedXmlException is a ValueError: a file that declares entities, which no ELAN file does.
        what = "declares its own entities" if isinstance(error, DefusedXmlException) else f"is not XML: {error}"
        raise AnnotationError(f"{path} {what}; expected a file as ELAN saves it.") from None
    if root.tag != "ANNOTATION_DOCUMENT":
        raise AnnotationError(f"{path} holds <{root.tag}>, expected <ANNOTATION_DOCUMENT> as ELAN writes it.")
    units = root.find("HEADER")
    if units is None or units.get("TIME_UNITS", "milliseconds") != "milliseconds":
        stated = "no header" if units is None else f"times in {units.get('TIME_UNITS')}"
        raise AnnotationError(f"{path} has {stated}; expected times in milliseconds. Save it with ELAN once more.")
    return root


def _media(path: Path, root: Element) -> tuple[str, float, list[str]]:
    """Name and origin of the media file whose labels these are, and what is to be said of it."""
    found = root.findall("HEADER/MEDIA_DESCRIPTOR")
    if not found:
        return path.stem, 0.0, [f"{path.name} names no media file; its own name is taken for it."]
    chosen = next((media for media in found if media.get("MIME_TYPE", "").startswith("video")), found[0])
    name = media_name(text_of(f"{path}, a media file", chosen.attrib, "MEDIA_URL"))
    origin_s = _whole(f"{path}, media file {name!r}", chosen.get("TIME_ORIGIN", "0")) / 1000
    notes = []
    others = [media_name(media.get("MEDIA_URL", "")) for media in found if media is not chosen]
    if others:
        notes.append(f"{path.name} is about {len(found)} media files; labels are those of {name}, not {others}.")
    if origin_s:
        notes.append(f"{path.name}: second 0 of its annotations is {origin_s:g} s of {name}, which is added.")
    return name, origin_s, notes


def _spans(path: Path, root: Element, origin_s: float) -> tuple[dict[str, _Ends], Counter[tuple[str, str]]]:
    """Ends of every annotation by id, and how many annotations of a tier refer to one annotation."""
    slots = {
        slot.get("TIME_SLOT_ID", ""): _whole(f"{path}, a time slot", slot.attrib["TIME_VALUE"]) / 1000 + origin_s
        for slot in root.iterfind("TIME_ORDER/TIME_SLOT")
        if "TIME_VALUE" in slot.attrib
    }
    ends: dict[str, _Ends] = {}
    parents: dict[str, str] = {}
    siblings: Counter[tuple[str, str]] = Counter()
    for tier in root.iterfind("TIER"):
        for annotation in tier.iterfind("ANNOTATION/*"):
            own = text_of(f"{path}, an annotation", annotation.attrib, "ANNOTATION_ID")
            if annotation.tag == "REF_ANNOTATION":
                parents[own] = text_of(f"{path}, annotation {own!r}", annotation.attrib, "ANNOTATION_REF")
                siblings[tier.get("TIER_ID", ""), parents[own]] += 1
            else:
                ends[own] = (
                    slots.get(annotation.get("TIME_SLOT_REF1", "")),
                    slots.get(annotation.get("TIME_SLOT_REF2", "")),
                )
    for own in parents:
        ends[own] = _ends_of(path, own, parents, ends)
    return ends, siblings


def _ends_of(path: Path, own: str, parents: Mapping[str, str], ends: Mapping[str, _Ends]) -> _Ends:
    seen, at = {own}, parents[own]
    while at not in ends:
        if at in seen or at not in parents:
            raise AnnotationError(
                f"{path}, annotation {own!r} refers to {at!r}, which leads to no annotation with times."
            )
        seen.add(at)
        at = parents[at]
    return ends[at]


def _vocabularies(root: Element) -> dict[str, _Vocabulary]:
    """Controlled vocabulary by type of tier."""
    found: dict[str, _Vocabulary] = {}
    for vocabulary in root.iterfind("CONTROLLED_VOCABULARY"):
        plain = [(entry.text or "").strip() for entry in vocabulary.iterfind("CV_ENTRY")]
        by_id = {
            # Where an entry has a value in several languages, the first is the one that ELAN shows by default.
            entry.get("CVE_ID", ""): (entry.findtext("CVE_VALUE") or "").strip()
            for entry in vocabulary.iterfind("CV_ENTRY_ML")
        }
        found[vocabulary.get("CV_ID", "")] = _Vocabulary(by_id, frozenset({*plain, *by_id.values()} - {""}))
    return {
        kind.get("LINGUISTIC_TYPE_ID", ""): found[kind.get("CONTROLLED_VOCABULARY_REF", "")]
        for kind in root.iterfind("LINGUISTIC_TYPE")
        if kind.get("CONTROLLED_VOCABULARY_REF", "") in found
    }


def _vocabulary_notes(
    path: Path, tier: str, renamed: Mapping[tuple[str, str], int], unlisted: Mapping[str, int]
) -> Iterator[str]:
    for (text, label), count in renamed.items():
        yield (
            f"{path.name}, tier {tier!r}: the text {text!r} of {count} annotations is called {label!r} in the "
            "controlled vocabulary, which is taken."
        )
    for label, count in unlisted.items():
        yield f"{path.name}, tier {tier!r}: {label!r} ({count} annotations) is not in the tier's controlled vocabulary."


def _whole(where: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise AnnotationError(f"{where}: expected whole milliseconds, found {text!r}.") from None
