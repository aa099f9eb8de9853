"""A process that opens mutated stores, one after another, within limits of memory and time, and reports each in a line.

    python fuzz_worker.py BASES FOLDER SEED FIRST LAST

It prints one JSON object per case: how the store was changed, what came of it (`refused`, `damaged`, `sound`), and,
where that is not what is promised, `wrong`.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
from mutations import copy_store, mutate
from store_samples import GRID, clip_rows

from vidloc.errors import StoreError
from vidloc.stores import hdf5_apart, hdf5_file
from vidloc.stores.base import FeatureStore, append_to_store, open_store
from vidloc.stores.facts import facts_of
from vidloc.stores.format import chunk_rows
from vidloc.stores.operations import verify
from vidloc.stores.rewriting import subset

BASES = ("closed.zarr", "journal.zarr", "closed.h5", "staged.h5")
PRECIOUS = b"PRECIOUS" * 512
CHUNK_BYTES = 256
SECONDS = 60  # of any clock, beside whatever else the machine does
LIBRARY_SECONDS = 1
# Every so many cases libhdf5 runs in a process started anew, as for users; else in one forked from this, for speed.
STARTED = 100
ADDRESS_SPACE = 2 * 1024**3
GROWTH_KIB = 64 * 1024

_opened: list[str] = []
_answer_apart = hdf5_apart._answer_apart


def small_chunks() -> None:
    """Let arrays of a few rows span several chunks, and chunk files be no larger than the tests."""
    assert chunk_rows.__kwdefaults__ is not None
    chunk_rows.__kwdefaults__["target"] = CHUNK_BYTES
    hdf5_file._CHUNK_BYTES = CHUNK_BYTES


class TooSlow(BaseException):
    """A case took longer than `SECONDS`; no error that anything may catch."""


def answer_forked(read, size: int, where: str) -> bytes:
    """As `hdf5_apart._answer_apart`, in a copy of this process, which is ready at once."""
    answers, into = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(0)
            hdf5_apart._limit(resource.RLIMIT_CPU, LIBRARY_SECONDS)
            hdf5_apart._send(into, hdf5_apart.answer_of(read, size, where))
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(answers, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not answer:
        raise StoreError(f"{where} cannot be read: {hdf5_apart._ending(status, b'')}")
    return answer


def exercise(path: Path) -> str:
    """Open, list, read whole and verify a store; what is promised of any store is asserted."""
    with open_store(path) as store:
        found = {name: read_all(store, name) for name in store.streams()}
        for item in store.items():
            tolerant(lambda item=item: store.info(item))
        store.digest()
    tolerant(lambda: facts_of(path))
    verify(path, quick=True)
    report = verify(path)
    told = {(damage.stream, damage.item) for damage in report.damages if not damage.stream.startswith("(")}
    bad = {(name, item) for name, items in found.items() for item, is_sound in items.items() if not is_sound}
    assert told == bad, f"verify names {told}, reading found {bad}"
    return "damaged" if report.damages else "sound"


def read_all(store: FeatureStore, stream: str) -> dict[str, bool]:
    """Whether each item's rows are those that were committed; unreadable ones are not."""
    sound = {}
    for item, entry in store.entries(stream).items():
        if entry.status not in ("done", "partial") and not entry.digest:
            continue
        try:
            rows = store.read(stream, item)
            for name, array in rows.fields.items():
                assert PRECIOUS[:64] not in array.tobytes(), "rows hold bytes of a file elsewhere"
                out = np.empty(array.shape, array.dtype)
                assert store.read_field(stream, item, name, out=out).tobytes() == array.tobytes()
            sound[item] = store.recomputed_digest(stream, item) == entry.digest and rows.num_rows == entry.num_rows
        except StoreError:
            sound[item] = False
    return sound


def tolerant(use) -> None:
    with suppress(StoreError):
        use()


def append(path: Path) -> None:
    """A writer goes on with the store, or refuses to; rows that were sound stay so."""
    before = sound_entries(path)
    try:
        with append_to_store(path) as writer:
            if "clip" in writer.streams() and dict(writer.streams()["clip"].fields)["features"].row_shape == (6,):
                writer.write("clip", "new", clip_rows(3), GRID)
                writer.commit("new")
    finally:
        assert before <= sound_entries(path), "rows that were sound are lost or changed"


def copy(path: Path, out: Path) -> None:
    """A copy holds nothing that is damaged, or is refused."""
    subset(out, path)
    assert not verify(out).damages, "damaged rows were copied"


def sound_entries(path: Path) -> set[tuple[str, str, str]]:
    with open_store(path) as store:
        return {
            (name, item, store.entries(name)[item].digest)
            for name in store.streams()
            for item, is_sound in read_all(store, name).items()
            if is_sound and item != "new"
        }


def run(case: int, seed: int, bases: Path, folder: Path) -> dict[str, object]:
    chance = random.Random(f"{seed} {case}")
    outside, base = folder / "outside", chance.choice(BASES)
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir(parents=True)
    (outside / "precious").write_bytes(PRECIOUS)
    path = copy_store(bases / base, folder / f"of {base}")
    said = mutate(chance, path, outside)
    hdf5_apart._answer_apart = _answer_apart if case % STARTED == 0 else answer_forked
    before = {file: file.read_bytes() for file in outside.rglob("*") if file.is_file()}
    _opened.clear()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    report: dict[str, object] = {"case": case, "store": path.name, "change": said, "wrong": ""}
    try:
        signal.alarm(SECONDS)
        report["outcome"] = exercise(path)
        if case % 4 == 0:
            append(path)
        elif case % 8 == 1:
            copy(path, path.with_name(chance.choice(("copy.zarr", "copy.h5"))))
    except StoreError as error:
        report |= {"outcome": report.get("outcome", "refused"), "message": str(error)}
        if len(str(error).strip()) < 20 or not str(error).isprintable():
            report["wrong"] = f"not one clear line: {error}"
    except BaseException:  # noqa: BLE001 (what is not promised is what we look for)
        report["wrong"] = traceback.format_exc()
    finally:
        signal.alarm(0)
    report["seconds"] = round(time.monotonic() - begun, 3)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    if growth > GROWTH_KIB:
        report["wrong"] = f"{report['wrong']} memory grew by {growth} KiB"
    elsewhere = [name for name in _opened if name.startswith((f"{outside}/", "/dev/zero", "/etc/passwd"))]
    if elsewhere:
        report["wrong"] = f"{report['wrong']} opened {elsewhere}"
    if before != {file: file.read_bytes() for file in outside.rglob("*") if file.is_file()}:
        report["wrong"] = f"{report['wrong']} a file elsewhere was changed"
    return report


def main(bases: str, folder: str, seed: str, first: str, last: str) -> None:
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hdf5_apart.CPU_SECONDS = LIBRARY_SECONDS + 2  # of which the start of Python is one

    def too_slow(number, frame):
        raise TooSlow

    signal.signal(signal.SIGALRM, too_slow)

    def note(event, arguments):
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            parent, name = os.path.split(os.fsdecode(arguments[0]))
            # Told before the file is opened; with this flag a link is not.
            follows = not arguments[2] & os.O_NOFOLLOW
            _opened.append(os.path.realpath(arguments[0]) if follows else f"{os.path.realpath(parent)}/{name}")

    here = Path(folder).resolve()
    small_chunks()
    sys.addaudithook(note)
    # No tests here are about power failures: what was written is there without being synced.
    os.fsync = os.fdatasync = lambda handle: None
    for case in range(int(first), int(last)):
        print(json.dumps(run(case, int(seed), Path(bases), here)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
