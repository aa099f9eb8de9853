"""What an extraction did: outcome per (item, stream), and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidloc.core.records import Status
from vidloc.errors import VidlocError


@dataclass(frozen=True)
class Outcome:
    """State of one (item, stream) at the end of a run.

    Attributes:
        num_rows: rows stored.
        reason: why it is not `done`.
        earlier: left so by an earlier run, not touched by this one.
    """

    item_id: str
    stream: str
    status: Status
    num_rows: int
    reason: str = ""
    earlier: bool = False


@dataclass
class Timing:
    """Where the time of a run went, in seconds.

    Decoding, encoding and writing run beside each other, and on several devices at once: the parts, summed over all
    workers, may exceed `wall_s`.

    Attributes:
        decode_s: reading and decoding.
        prepare_s: colour, size and sample rate of what was decoded.
        encode_s: spent in each encoder (normalisation, copies to the device, the network), by stream.
        write_s: handing rows to the store and committing.
        wait_s: encoders waiting for the decoder.
        write_wait_s: encoders waiting for the store.
    """

    wall_s: float = 0.0
    decode_s: float = 0.0
    prepare_s: float = 0.0
    write_s: float = 0.0
    wait_s: float = 0.0
    write_wait_s: float = 0.0
    encode_s: dict[str, float] = field(default_factory=dict)

    def add(self, other: Timing) -> None:
        """Add what another worker spent; `wall_s` is nobody's share."""
        self.decode_s += other.decode_s
        self.prepare_s += other.prepare_s
        self.write_s += other.write_s
        self.wait_s += other.wait_s
        self.write_wait_s += other.write_wait_s
        for name, seconds in other.encode_s.items():
            self.encode_s[name] = self.encode_s.get(name, 0.0) + seconds

    def __str__(self) -> str:
        encode = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.encode_s.items() if seconds)
        return (
            f"decode {self.decode_s:.1f} s, preprocess {self.prepare_s:.1f} s, encode {encode or '0 s'}, "
            f"write {self.write_s:.1f} s"
        )

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "wall": round(self.wall_s, 3),
            "decode": round(self.decode_s, 3),
            "preprocess": round(self.prepare_s, 3),
            "encode": {name: round(seconds, 3) for name, seconds in self.encode_s.items()},
            "write": round(self.write_s, 3),
            "wait_for_decoder": round(self.wait_s, 3),
            "wait_for_writer": round(self.write_wait_s, 3),
        }


@dataclass(frozen=True)
class ExtractReport:
    """Result of `extract`.

    Attributes:
        store: path of the store.
        outcomes: by item, then stream; what earlier runs left `partial` is listed too.
        already_done: items that had nothing to do.
        missing: items the annotations name for which no file was found.
        not_reached: items left because the run was interrupted.
        rows: rows made by this run, by stream.
        video_s: seconds of video and sound that went through.
        interrupted_by: number of the signal that ended the run early.
        staged: the new rows wait beside an HDF5 file, which was not written anew for the sake of a quick stop.
    """

    store: str
    outcomes: tuple[Outcome, ...]
    already_done: int
    missing: tuple[str, ...]
    not_reached: int
    rows: Mapping[str, int]
    video_s: float
    timing: Timing
    interrupted_by: int | None = None
    staged: bool = False

    def with_status(self, status: Status) -> list[Outcome]:
        """Outcomes of one status."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def failures(self) -> list[str]:
        """Items with a failed or partial stream, sorted."""
        return sorted({o.item_id for o in self.outcomes if o.status in ("failed", "partial")})

    @property
    def clips_per_s(self) -> float:
        """Rows made per second of wall time, all streams together."""
        return sum(self.rows.values()) / self.timing.wall_s if self.timing.wall_s > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "store": self.store,
            **{status: [_listed(o) for o in self.with_status(status)] for status in STATUSES},
            "items_with_failures": self.failures,
            "items_already_done": self.already_done,
            "missing": list(self.missing),
            "not_reached": self.not_reached,
            "interrupted_by": self.interrupted_by,
            "staged": self.staged,
            "rows": dict(self.rows),
            "clips_per_s": round(self.clips_per_s, 3),
            "video_hours": round(self.video_s / 3600, 6),
            "seconds": self.timing.as_json(),
        }

    def lines(self) -> list[str]:
        """The same for people: counts, times, then every item that is not simply done."""
        made = [o for o in self.outcomes if not o.earlier]
        counts = ", ".join(
            f"{sum(o.status == status for o in made)} {status}"
            for status in STATUSES
            if status == "done" or any(o.status == status for o in made)
        )
        items = len({o.item_id for o in made})
        text = [f"{items} items worked on ({counts}, counted per stream); {self.already_done} were done before."]
        if made:
            text.append(
                f"{sum(self.rows.values()):,} rows from {duration(self.video_s)} of video in {self.timing.wall_s:.1f} "
                f"s ({self.clips_per_s:.2f} rows/s); {self.timing}."
            )
        if self.missing:
            text.append(f"Missing videos: {len(self.missing)} ({named(self.missing)}).")
        text += _absent_lines(self.with_status("absent"))
        for status in ("partial", "failed"):
            text += _item_lines(self.with_status(status))
        if self.interrupted_by is not None:
            text.append(
                f"Stopped by signal {self.interrupted_by}; {self.not_reached} items are left. "
                "What is listed is committed: the same command goes on from here."
                + (f" Plain h5py sees it after: vidloc store finish {self.store}" if self.staged else "")
            )
        return text


STATUSES: tuple[Status, ...] = ("done", "partial", "absent", "failed")


def duration(seconds: float) -> str:
    """A stretch of time as people say it: `2 h 5 min`, `3 min 20 s`, `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def named(items: Sequence[str], *, most: int = 10) -> str:
    """Names in a sentence; beyond `most` the rest is counted."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def reason_of(error: Exception) -> str:
    """An exception as the reason an item failed; errors made on purpose speak for themselves."""
    text = str(error) if isinstance(error, VidlocError) else f"{type(error).__name__}: {error}"
    return " ".join([text, *getattr(error, "__notes__", ())])


def _listed(outcome: Outcome) -> dict[str, Any]:
    entry: dict[str, Any] = {"item": outcome.item_id, "stream": outcome.stream, "rows": outcome.num_rows}
    if outcome.reason:
        entry["reason"] = outcome.reason
    if outcome.earlier:
        entry["earlier"] = True
    return entry


def _absent_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Counted by stream: a corpus without sound would otherwise fill the screen. `--json` names every one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.stream, outcome.reason), []).append(outcome.item_id)
    return [
        f"absent: {stream} of {len(items)} items, {reason}: {named(items, most=5)}"
        for (stream, reason), items in groups.items()
    ]


def _item_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """One line per item and reason, with the streams it holds for."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.item_id, outcome.reason), []).append(outcome)
    return [
        f"{members[0].status}: {item} ({', '.join(_with_rows(o) for o in members)}): {reason}"
        for (item, reason), members in groups.items()
    ]


def _with_rows(outcome: Outcome) -> str:
    rows = f" {outcome.num_rows} rows" if outcome.num_rows else ""
    return outcome.stream + rows + (" of an earlier run" if outcome.earlier else "")
