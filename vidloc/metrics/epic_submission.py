"""Submission files of the EPIC-KITCHENS action recognition challenges, written and read.

EPIC-55: a zip of `seen.json` and `unseen.json`, version 0.1. EPIC-100: a zip of `test.json`, version 0.2, with three
levels of supervision. Both give, per segment, one score for every verb and noun class under the class id as text, and
may give exactly 100 actions under `"VERB,NOUN"`. Actions are written when a prior is used, since the server would rank
them without it.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.core.records import Prediction
from vidloc.errors import OptionError
from vidloc.metrics.actions import OFFICIAL_CUT, rank_actions

CHALLENGE = "action_recognition"
NUM_CLASSES: dict[Literal["epic55", "epic100"], dict[str, int]] = {
    "epic55": {"verb": 125, "noun": 352},
    "epic100": {"verb": 97, "noun": 300},
}
_NUM_ACTIONS = 100
_SLS = ("sls_pt", "sls_tl", "sls_td")
_SLS_HIGHEST = 5
# Segments per block: their 100 x 100 pairs and their text stay small, however long the split.
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Submission:
    """One file of a submission as read.

    Attributes:
        header: everything but the results.
        scores: `(classes,)` by task, by segment id.
        actions: score by (verb, noun) pair, by segment id; empty where none were given.
    """

    header: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, NDArray[np.float64]]]
    actions: Mapping[str, Mapping[tuple[int, int], float]]


def write_epic55_submission(
    path: Path,
    predictions_seen: Sequence[Prediction],
    predictions_unseen: Sequence[Prediction],
    *,
    ids_seen: Iterable[str],
    ids_unseen: Iterable[str],
    prior: ArrayLike | None = None,
    cut: int | None = OFFICIAL_CUT,
) -> None:
    """Write `seen.json` and `unseen.json` into a zip.

    Args:
        predictions_seen, predictions_unseen: one per segment, `query_id` its uid, `scores` for verb and noun.
        ids_seen, ids_unseen: uids of all segments of test S1 and S2.
        prior, cut: as for `actions.rank_actions`; actions are written only with a prior.

    Raises:
        OptionError: segments are missing, extra or given twice, or lack a score.
    """
    header = {"version": "0.1", "challenge": CHALLENGE}
    parts = {
        "seen.json": _complete(predictions_seen, ids_seen, "epic55"),
        "unseen.json": _complete(predictions_unseen, ids_unseen, "epic55"),
    }
    _write_zip(path, header, parts, prior, cut)


def write_epic100_submission(
    path: Path,
    predictions: Sequence[Prediction],
    *,
    ids: Iterable[str],
    sls: tuple[int, int, int],
    prior: ArrayLike | None = None,
    cut: int | None = OFFICIAL_CUT,
) -> None:
    """Write `test.json` into a zip.

    Args:
        predictions: one per segment, `query_id` its narration id, `scores` for verb and noun.
        ids: narration ids of all segments of the test split.
        sls: levels of supervision, 0 to 5 each: pre-training, training labels, training data.
        prior, cut: as for `actions.rank_actions`; actions are written only with a prior.

    Raises:
        OptionError: as for EPIC-55, or a level outside 0 to 5.
    """
    if len(sls) != len(_SLS) or not all(type(level) is int and 0 <= level <= _SLS_HIGHEST for level in sls):
        raise OptionError(f"the levels of supervision (sls) are three whole numbers from 0 to 5, got {sls!r}.")
    header = {"version": "0.2", "challenge": CHALLENGE, **dict(zip(_SLS, sls, strict=True))}
    _write_zip(path, header, {"test.json": _complete(predictions, ids, "epic100")}, prior, cut)


def read_epic_submission(path: Path, edition: Literal["epic55", "epic100"]) -> dict[str, Submission]:
    """Read and check a submission; the result is by file name inside the zip.

    Raises:
        OptionError: anything the format does not allow; file and segment are named.
    """
    expected = {"epic55": {"seen.json", "unseen.json"}, "epic100": {"test.json"}}[edition]
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if names != expected:
                raise OptionError(f"{path} holds {sorted(names)}, expected {sorted(expected)}.")
            contents = {name: json.loads(archive.read(name)) for name in sorted(names)}
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{path} is not a submission: {error}.") from None
    return {name: _parsed(f"{path}, {name}", content, edition) for name, content in contents.items()}


def _complete(
    predictions: Sequence[Prediction], ids: Iterable[str], edition: Literal["epic55", "epic100"]
) -> list[tuple[str, Mapping[str, Sequence[float]]]]:
    """Scores by segment in the order of `ids`, each id exactly once."""
    answers: dict[str, Mapping[str, Sequence[float]]] = {}
    for prediction in predictions:
        query = prediction.query_id or ""
        if query in answers:
            raise OptionError(f"segment {query!r} has two predictions; a submission takes one.")
        answers[query] = _checked_scores(query, prediction.scores or {}, edition)
    wanted = list(ids)
    missing, extra = [i for i in wanted if i not in answers], sorted(set(answers) - set(wanted))
    if missing or extra:
        example = f"such as {missing[0]!r} missing" if missing else f"such as {extra[0]!r} too many"
        raise OptionError(
            f"a submission needs exactly the {len(wanted)} segments of the split: {len(missing)} are missing and "
            f"{len(extra)} do not belong to it, {example}. Predict the whole test split."
        )
    return [(segment, answers[segment]) for segment in wanted]


def _checked_scores(
    segment: str, scores: Mapping[str, Sequence[float]], edition: Literal["epic55", "epic100"]
) -> Mapping[str, Sequence[float]]:
    for task, count in NUM_CLASSES[edition].items():
        values = scores.get(task, ())
        if len(values) != count or not all(map(math.isfinite, values)):
            raise OptionError(
                f"segment {segment!r} needs {count} finite {task} scores for {edition}, found {len(values)} scores."
            )
    return scores


def _write_zip(
    path: Path,
    header: Mapping[str, Any],
    parts: Mapping[str, list[tuple[str, Mapping[str, Sequence[float]]]]],
    prior: ArrayLike | None,
    cut: int | None,
) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, entries in parts.items():
                with archive.open(name, "w") as file:
                    _write_part(file, header, _results(entries, prior, cut))
        unfinished.replace(path)
    except OSError as error:
        raise OptionError(f"the submission cannot be written to {path}: {error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _write_part(file: IO[bytes], header: Mapping[str, Any], results: Iterator[tuple[str, dict[str, Any]]]) -> None:
    """One JSON object, written segment by segment: a whole split as Python objects would take gigabytes."""
    file.write(json.dumps(header)[:-1].encode() + b', "results": {')
    for k, (segment, result) in enumerate(results):
        file.write(f"{', ' if k else ''}{json.dumps(segment)}: {json.dumps(result)}".encode())
    file.write(b"}}")


def _results(
    entries: list[tuple[str, Mapping[str, Sequence[float]]]], prior: ArrayLike | None, cut: int | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    for start in range(0, len(entries), _BLOCK):
        block = entries[start : start + _BLOCK]
        ranking = None
        if prior is not None:
            verbs, nouns = (np.array([scores[task] for _, scores in block]) for task in ("verb", "noun"))
            ranking = rank_actions(verbs, nouns, prior=prior, cut=cut, keep=_NUM_ACTIONS)
            if ranking.pairs.shape[1] < _NUM_ACTIONS:
                raise OptionError(f"a cut of {cut} leaves fewer than the {_NUM_ACTIONS} actions a submission needs.")
        for k, (segment, scores) in enumerate(block):
            result: dict[str, Any] = {
                task: {str(c): _short(value) for c, value in enumerate(scores[task])} for task in ("verb", "noun")
            }
            if ranking is not None:
                pairs = zip(ranking.pairs[k].tolist(), ranking.scores[k].tolist(), strict=True)
                result["action"] = {f"{verb},{noun}": _short(score) for (verb, noun), score in pairs}
            yield segment, result


def _short(value: float) -> float:
    """Nine digits: what a float32 holds; products of small probabilities keep theirs."""
    return float(f"{value:.9g}")


def _parsed(where: str, content: Any, edition: Literal["epic55", "epic100"]) -> Submission:
    version = {"epic55": "0.1", "epic100": "0.2"}[edition]
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or content.get("version") != version or content.get("challenge") != CHALLENGE:
        raise OptionError(f"{where}: expected version {version}, challenge {CHALLENGE} and an object 'results'.")
    levels = [content.get(key) for key in _SLS]
    if edition == "epic100" and not all(type(level) is int and 0 <= level <= _SLS_HIGHEST for level in levels):
        raise OptionError(f"{where}: {', '.join(_SLS)} must be whole numbers from 0 to 5, found {levels}.")
    scores, actions = {}, {}
    for segment, result in results.items():
        place = f"{where}, segment {segment!r}"
        scores[segment] = {
            task: _class_scores(place, result, task, count) for task, count in NUM_CLASSES[edition].items()
        }
        if "action" in result:
            actions[segment] = _action_scores(place, result["action"], edition)
    header = {key: value for key, value in content.items() if key != "results"}
    return Submission(header, scores, actions)


def _class_scores(place: str, result: Any, task: str, count: int) -> NDArray[np.float64]:
    given = result.get(task) if isinstance(result, dict) else None
    keys = [str(c) for c in range(count)]
    if not isinstance(given, dict) or set(given) != set(keys) or not all(_is_score(v) for v in given.values()):
        raise OptionError(f"{place}: {task} must give a finite score under each of the keys '0' to '{count - 1}'.")
    return np.array([given[key] for key in keys], dtype=np.float64)


def _action_scores(place: str, given: Any, edition: Literal["epic55", "epic100"]) -> dict[tuple[int, int], float]:
    known = NUM_CLASSES[edition]
    if not isinstance(given, dict) or len(given) != _NUM_ACTIONS or not all(_is_score(v) for v in given.values()):
        raise OptionError(f"{place}: action must hold exactly {_NUM_ACTIONS} finite scores.")
    found = {}
    for key, score in given.items():
        verb, comma, noun = key.partition(",")
        if not (comma and verb.isdecimal() and noun.isdecimal()) or not (
            int(verb) < known["verb"] and int(noun) < known["noun"]
        ):
            raise OptionError(f"{place}: action {key!r} is not 'VERB,NOUN' with known classes.")
        found[int(verb), int(noun)] = float(score)
    return found


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
