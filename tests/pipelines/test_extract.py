"""Extraction in Python: items, plan, batches, failures, interrupts, resume; with one-file encoders without weights."""

from __future__ import annotations

import os
import signal
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from made_videos import write_folder, write_video

from vidloc.core.grammar import parse_part
from vidloc.core.options import Options
from vidloc.core.records import Narration, Source
from vidloc.core.timeline import Span, Spans, center_grid
from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.errors import MediaError, OptionError, ProvenanceError, StoreError, UnknownNameError, WeightsError
from vidloc.pipelines import extract as extract_module
from vidloc.pipelines.extract import Selection, extract, plan_extraction
from vidloc.pipelines.extraction import decoding, encoding
from vidloc.pipelines.extraction.background import RunAhead, RunBehind
from vidloc.pipelines.extraction.interrupts import Interrupts
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.pipelines.extraction.progress import Silent
from vidloc.stores.base import append_to_store, open_store
from vidloc.stores.hdf5_store import staging_of
from vidloc.stores.lock import Holder
from vidloc.stores.zarr_writer import ZarrWriter

DATA = Path(__file__).parent.parent / "data"
COLOUR, LOUDNESS = str(DATA / "mean_colour.py"), str(DATA / "loudness.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("made") / "videos", 5)


def of_folder(folder: Path, **kwargs) -> Selection:
    return Selection(dataset=open_dataset("folder"), root=folder, **kwargs)


def digests(path: Path) -> dict[tuple[str, str], str]:
    with open_store(path) as store:
        return {(s, i): entry.digest for s in store.streams() for i, entry in store.entries(s).items()}


class Signals(Silent):
    """Sends signals to this process once so many samples were fed."""

    def __init__(self, *numbers: int, after: int) -> None:
        self.numbers = numbers
        self.left = after

    def rows(self, count: int) -> None:
        self.left -= count
        if self.left == 0:
            for number in self.numbers:
                handler = signal.getsignal(number)
                os.kill(os.getpid(), number)
                # Two of one kind that arrive together are one; the first is seen once its handler has stepped back.
                deadline = time.monotonic() + 10
                while len(self.numbers) > 1 and signal.getsignal(number) is handler and time.monotonic() < deadline:
                    time.sleep(0.01)


def stale_lock() -> str:
    """The lock of a process of this host that no longer runs."""
    return Holder.here().model_copy(update={"started": "0"}).model_dump_json()


class Corpus(Dataset):
    """Two videos, one of them narrated, and a third that is nowhere."""

    def read(self, annotations):
        said = tuple(
            Narration(item_id="v00", span=Span(0.1 * k, 0.1 * k + 0.5), text=f"open door {k}", id=f"n{k}")
            for k in range(3)
        )
        return Annotations(
            dataset="corpus", classes={}, splits={}, items=("v00", "v01", "v09"), sha256={}, narrations={"v00": said}
        )

    def find_media(self, root, annotations):
        return Media(paths={item: root / f"{item}.mp4" for item in ("v00", "v01")}, missing=("v09",))


@pytest.fixture
def corpus(folder) -> Selection:
    return Selection(dataset=Corpus(Options(), name="corpus"), root=folder, annotations=folder)


class TestRows:
    def test_rows_are_those_of_the_encoder_on_the_shared_grid(self, folder, tmp_path):
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}:dtype=float32", LOUDNESS], of_folder(folder))
        assert not report.failures
        with open_store(tmp_path / "s.zarr") as store:
            assert store.items("colour") == store.items("loudness") == [f"v{k:02d}.mp4" for k in range(5)]
            # 1.0 s at a stride of 0.5 s: centres at 0.25 and 0.75 s.
            assert store.entry("colour", "v00.mp4").num_rows == store.entry("loudness", "v00.mp4").num_rows == 2
            assert store.timeline("colour", "v00.mp4") == center_grid(1, Fraction(1, 2))
            assert store.timeline("loudness", "v00.mp4") == center_grid(Fraction(1, 2), Fraction(1, 2))
            assert store.entry("colour", "v00.mp4").extent == (0.0, 1.0)
            info = store.info("v00.mp4")
            assert (info.num_frames, info.width_px, info.duration_s, info.source_name) == (10, 48, 1.0, "v00.mp4")
            # The picture is one flat random colour per frame; rows are means of four of them.
            rows = store.read_field("colour", "v00.mp4")
            assert rows.dtype == np.float32
            assert 0.05 < rows.min() < rows.max() < 0.95
        assert report.rows == {
            "colour": sum(o.num_rows for o in report.with_status("done") if o.stream == "colour"),
            "loudness": sum(o.num_rows for o in report.with_status("done") if o.stream == "loudness"),
        }

    @pytest.mark.parametrize("batch", [2, 3, 64])
    def test_batches_that_cross_videos_change_nothing(self, folder, tmp_path, batch, monkeypatch):
        # As on a GPU: batches are filled from several videos, and items are committed when their last row is back.
        monkeypatch.setattr(encoding, "crosses_items", lambda encoder: True)
        extract(tmp_path / "one.zarr", [f"colour={COLOUR}"], of_folder(folder))
        extract(tmp_path / "many.zarr", [f"colour={COLOUR}:batch={batch}"], of_folder(folder))
        assert digests(tmp_path / "one.zarr") == digests(tmp_path / "many.zarr")

    def test_more_rows_than_one_piece_are_written_in_order(self, tmp_path):
        write_video(tmp_path / "long.mp4", seconds=30, fps=10)
        selection = of_folder(tmp_path)
        extract(
            tmp_path / "s.zarr", [f"colour={COLOUR}:num_frames=1,window_s=0.1"], selection, stride_s=Fraction(1, 10)
        )
        with open_store(tmp_path / "s.zarr") as store:
            entry = store.entry("colour", "long.mp4")
            rows = store.read_field("colour", "long.mp4")
        assert (entry.num_rows, entry.extent) == (300, (0.0, 30.0))
        colours = np.random.default_rng(0).integers(0, 256, (300, 3), dtype=np.uint8) / 255
        assert np.abs(rows - colours).mean() < 0.06  # chroma is halved by the codec, order is not

    def test_origin_of_a_stream_is_kept(self, folder, tmp_path):
        extract(tmp_path / "s.zarr", [f"colour={COLOUR}:num_frames=2"], of_folder(folder, patterns=["v00*"]))
        with open_store(tmp_path / "s.zarr") as store:
            spec = store.streams()["colour"]
        assert spec.encoder == "mean_colour"
        assert spec.encoder_version.startswith("file sha256:")
        assert spec.options["num_frames"] == 2
        assert "weights" not in spec.options
        assert spec.sampling["stride_s"] == "1/2"
        assert spec.sampling["num_frames"] == 2
        assert spec.source == Source(licence="Apache-2.0")
        assert {"torch", "av", "vidloc", "numpy", "device"} <= set(spec.versions)
        assert spec.fields["features"].dtype == "float16"


class TestText:
    def test_narrations_become_rows_and_their_absence_is_said(self, corpus, tmp_path, sentence_encoder):
        report = extract(tmp_path / "s.zarr", [f"text={sentence_encoder}", f"colour={COLOUR}"], corpus)
        assert [(o.item_id, o.stream) for o in report.with_status("absent")] == [("v01", "text")]
        assert report.missing == ("v09",)
        assert report.failures == []
        with open_store(tmp_path / "s.zarr") as store:
            assert store.timeline("text", "v00") == Spans(np.array([[0.1 * k, 0.1 * k + 0.5] for k in range(3)]))
            assert store.read("text", "v00").strings("text") == [f"open door {k}" for k in range(3)]
            assert store.read("text", "v00").strings("key") == ["n0", "n1", "n2"]

    def test_text_alone_needs_no_video(self, corpus, tmp_path, sentence_encoder):
        selection = Selection(dataset=corpus.dataset, annotations=corpus.annotations)
        report = extract(tmp_path / "s.zarr", [f"text={sentence_encoder}"], selection)
        assert [(o.item_id, o.status, o.num_rows) for o in report.outcomes] == [("v00", "done", 3)]


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory) -> Path:
    """Counts of letters: the text counterpart of the other one-file encoders."""
    path = tmp_path_factory.mktemp("encoder") / "letters.py"
    path.write_text(
        '''
"""Length and number of words of a sentence."""
import numpy as np
from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import Encoder, StreamTemplate, TextInput

class Letters(Encoder):
    def __init__(self, options, *, name, device):
        self.options, self.device, self.weights_name, self.weights_sha256 = options, device, "", ""
    input = TextInput()
    def stream(self):
        fields = {"features": FieldSpec(row_shape=(2,), dtype=self.options.dtype)}
        fields |= {name: FieldSpec(row_shape=(f"{name}_bytes",), dtype="uint8") for name in ("text", "key")}
        return StreamTemplate("text", fields, Source(), {})
    def encode(self, samples):
        features = np.array([[len(s.data), len(s.data.split())] for s in samples], np.float32)
        texts = Rows.texts("bytes", text=[s.data for s in samples], key=[s.key for s in samples])
        return Rows.joined(Rows.dense(features=features), texts)

ENCODER = Letters
''',
        encoding="utf-8",
    )
    return path


def test_samples_say_which_item_they_are_of(folder, tmp_path):
    """So that an encoder may be told something of each item by a file of its own."""
    table = tmp_path / "numbered.py"
    table.write_text(
        f'''
"""The number in an item's name."""
import importlib.util
import numpy as np
from vidloc.core.rows import Rows
spec = importlib.util.spec_from_file_location("mean_colour_base", {COLOUR!r})
base = importlib.util.module_from_spec(spec)
spec.loader.exec_module(base)

class Numbered(base.MeanColour):
    def encode(self, samples):
        rows = super().encode(samples).fields["features"]
        numbers = np.array([float(s.item_id[1:3]) for s in samples], np.float32)
        return Rows.dense(features=np.broadcast_to(numbers[:, None], rows.shape).copy())

ENCODER = Numbered
''',
        encoding="utf-8",
    )
    extract(tmp_path / "s.zarr", [f"numbers={table}:batch=64"], of_folder(folder))
    with open_store(tmp_path / "s.zarr") as store:
        found = {item: set(store.read("numbers", item).fields["features"].ravel()) for item in store.items("numbers")}
    assert found == {f"v{k:02d}.mp4": {k} for k in range(5)}


class TestFailures:
    @pytest.fixture
    def fragile(self, tmp_path) -> Path:
        """Refuses every window whose first frame is darker than the option says."""
        path = tmp_path / "fragile.py"
        path.write_text(
            f'''
"""Fails on some samples."""
import importlib.util
from pydantic import Field
spec = importlib.util.spec_from_file_location("mean_colour_base", {COLOUR!r})
base = importlib.util.module_from_spec(spec)
spec.loader.exec_module(base)

class FragileOptions(base.MeanColourOptions):
    refuse: str = Field("", description="Item length in rows that is refused.")

class Fragile(base.MeanColour):
    Options = FragileOptions
    def encode(self, samples):
        if any(float(s.span[0]) > 0.4 for s in samples):
            raise RuntimeError("not enough memory, it says")
        return super().encode(samples)

ENCODER = Fragile
''',
            encoding="utf-8",
        )
        return path

    @pytest.mark.parametrize("batch", [1, 64])
    def test_an_encoder_that_raises_fails_its_stream_of_that_item_only(self, folder, tmp_path, fragile, batch):
        # v00 and v03 last 1.0 s and have no window that begins after 0.4 s; the others have.
        report = extract(
            tmp_path / "s.zarr", [f"fragile={fragile}:batch={batch}", f"colour={COLOUR}"], of_folder(folder)
        )
        failed = report.with_status("failed")
        assert [(o.item_id, o.stream, o.num_rows) for o in failed] == [
            (f"v{k:02d}.mp4", "fragile", 0) for k in (1, 2, 4)
        ]
        assert {o.reason for o in failed} == {"RuntimeError: not enough memory, it says"}
        assert sum(o.status == "done" for o in report.outcomes) == 7
        with open_store(tmp_path / "s.zarr") as store:
            assert store.items("fragile") == ["v00.mp4", "v03.mp4"]
            assert len(store.items("colour")) == 5

    def test_a_value_that_does_not_fit_float16_fails_the_item_and_names_the_option(self, folder, tmp_path):
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}:scale=1e6"], of_folder(folder, patterns=["v00*"]))
        assert report.failures == ["v00.mp4"]
        assert "dtype=float32" in report.outcomes[0].reason

    def test_failed_items_are_tried_again_and_only_they(self, tmp_path):
        videos = write_folder(tmp_path / "videos", 2)
        sound = (videos / "v01.mp4").read_bytes()
        (videos / "v01.mp4").write_bytes(b"not a video")
        first = extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(videos))
        assert first.failures == ["v01.mp4"]
        assert "cannot be opened" in first.with_status("failed")[0].reason
        assert str(tmp_path) not in first.with_status("failed")[0].reason
        (videos / "v01.mp4").write_bytes(sound)
        plan = plan_extraction(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(videos))
        assert (plan.tried_before, plan.already_done) == (("v01.mp4",), 1)
        second = extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(videos))
        assert [(o.item_id, o.status) for o in second.outcomes] == [("v01.mp4", "done")]

    def test_an_item_without_any_wanted_track_is_failed_until_a_fitting_encoder_comes(self, tmp_path):
        videos = tmp_path / "videos"
        videos.mkdir()
        write_video(videos / "mute.mp4", sound=False)
        report = extract(tmp_path / "s.zarr", [LOUDNESS], of_folder(videos))
        assert [(o.status, o.reason) for o in report.outcomes] == [("failed", "the file has no sound track")]
        report = extract(tmp_path / "s.zarr", [LOUDNESS, f"colour={COLOUR}"], of_folder(videos))
        assert [(o.stream, o.status) for o in report.outcomes] == [("colour", "done"), ("loudness", "absent")]
        assert report.failures == []

    def test_a_listed_file_that_is_not_there_fails_as_its_item(self, folder, tmp_path):
        (tmp_path / "list.csv").write_text(f"item_id,path\nhere,{folder / 'v00.mp4'}\ngone,gone.mp4\n")
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], Selection(videos=tmp_path / "list.csv"))
        assert report.failures == ["gone"]
        assert "there is no such file" in report.with_status("failed")[0].reason

    def test_a_name_that_no_disk_takes_fails_as_its_item(self, folder, tmp_path):
        (tmp_path / "list.csv").write_text(f"item_id,path\nhere,{folder / 'v00.mp4'}\nlong,{'x' * 300}.mp4\n")
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], Selection(videos=tmp_path / "list.csv"))
        assert report.failures == ["long"]
        assert [o.item_id for o in report.with_status("done")] == ["here"]

    def test_a_pipe_is_no_video(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.mp4")
        (tmp_path / "list.csv").write_text("path\npipe.mp4\n")
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], Selection(videos=tmp_path / "list.csv"))
        assert "no plain file" in report.with_status("failed")[0].reason

    def test_a_file_that_becomes_unreadable_fails_as_its_item_and_the_run_goes_on(self, folder, tmp_path, monkeypatch):
        read = decoding.item_info

        def gone_meanwhile(item_id, path, **found):
            if item_id == "v01.mp4":
                raise PermissionError(13, "Permission denied", str(path))
            return read(item_id, path, **found)

        monkeypatch.setattr(decoding, "item_info", gone_meanwhile)
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}", LOUDNESS], of_folder(folder))
        assert report.failures == ["v01.mp4"]
        assert {o.reason for o in report.with_status("failed")} == {
            "PermissionError: [Errno 13] Permission denied: 'v01.mp4'"
        }
        assert len(report.with_status("done")) == 8

    def test_an_error_of_the_decoding_thread_is_never_lost(self):
        def made():
            yield 1
            raise ValueError("a fault of our own")

        with RunAhead(made(), size_of=lambda item: 1, capacity_bytes=10) as ahead:
            assert ahead.take(5.0) == 1
            ahead._thread.join(5.0)  # the error has come before anybody asks
            assert not ahead.exhausted
            with pytest.raises(ValueError, match="a fault of our own"):
                ahead.take(5.0)

    def test_an_error_of_the_store_ends_the_run_and_leaves_nothing_half_done(self, folder, tmp_path, monkeypatch):
        written = []

        def full(self, stream, item_id, *rows, **more):
            written.append(item_id)
            raise StoreError("no space is left")

        with monkeypatch.context() as patched:
            patched.setattr(ZarrWriter, "write", full)
            with pytest.raises(StoreError, match="no space is left"):
                extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder))
        assert written == ["v00.mp4"]
        with open_store(tmp_path / "s.zarr") as store:
            assert store.items() == []
        assert len(extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder)).with_status("done")) == 5


class TestBehind:
    """Writing behind the encoders."""

    def test_order_is_kept_and_leaving_waits_for_all(self):
        taken = []

        def slow(item):
            time.sleep(0.001)
            taken.append(item)

        behind = RunBehind(slow, size_of=lambda item: 1, capacity_bytes=2)

        def leave_in_a_hurry():
            with behind:
                for item in range(50):
                    behind.put(item)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            leave_in_a_hurry()
        assert taken == list(range(50))
        assert behind.wait_s > 0.02  # two may wait, the others had to be waited for

    def test_an_error_of_the_sink_reaches_whoever_puts_and_whoever_leaves(self):
        def refuse(item):
            raise StoreError(f"no room for {item}")

        with pytest.raises(StoreError, match="no room for 1"), RunBehind(refuse, size_of=int, capacity_bytes=9) as one:
            one.put(1)
        late = RunBehind(refuse, size_of=int, capacity_bytes=9)

        def put_two():
            with late:
                late.put(1)
                late._thread.join(5.0)
                late.put(2)

        with pytest.raises(StoreError, match="no room for 1"):
            put_two()


class TestTiming:
    def test_the_report_says_where_the_time_went(self, tmp_path):
        videos = write_folder(tmp_path / "videos", 3, size=(320, 240))
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}:delay_s=0.01", LOUDNESS], of_folder(videos))
        seconds = report.as_json()["seconds"]
        assert seconds["encode"]["colour"] >= 0.01 * report.rows["colour"]
        assert seconds["decode"] > 0
        assert seconds["preprocess"] > 0
        assert seconds["write"] > 0
        assert seconds["wait_for_decoder"] + seconds["encode"]["colour"] <= seconds["wall"]
        assert f"preprocess {report.timing.prepare_s:.1f} s" in report.lines()[1]


class TestResume:
    def test_a_further_encoder_does_its_own_rows_only(self, folder, tmp_path):
        extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder))
        again = extract(tmp_path / "s.zarr", [f"colour={COLOUR}", LOUDNESS], of_folder(folder))
        assert again.rows["colour"] == 0
        assert {o.stream for o in again.outcomes} == {"loudness"}
        extract(tmp_path / "once.zarr", [f"colour={COLOUR}", LOUDNESS], of_folder(folder))
        assert digests(tmp_path / "s.zarr") == digests(tmp_path / "once.zarr")
        with open_store(tmp_path / "s.zarr") as store:
            info = store.info("v01.mp4")  # facts of both passes, side by side
        assert (info.num_frames, info.sample_rate_hz) == (13, 8000)

    def test_rows_of_two_files_are_not_put_into_one_item(self, tmp_path):
        videos = write_folder(tmp_path / "videos", 1)
        extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(videos))
        before = digests(tmp_path / "s.zarr")
        original = (videos / "v00.mp4").read_bytes()
        write_video(videos / "v00.mp4", seconds=3.0, seed=9)
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}", LOUDNESS], of_folder(videos))
        assert [(o.stream, o.status, o.num_rows) for o in report.outcomes] == [("loudness", "failed", 0)]
        assert "not the one that its rows of colour were made from" in report.outcomes[0].reason
        with open_store(tmp_path / "s.zarr") as store:
            assert store.info("v00.mp4").duration_s == 1.0
            assert store.entry("colour", "v00.mp4").digest == before["colour", "v00.mp4"]
        (videos / "v00.mp4").write_bytes(original)
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}", LOUDNESS], of_folder(videos))
        assert [(o.stream, o.status) for o in report.outcomes] == [("loudness", "done")]

    def test_nothing_to_do_is_said_and_writes_nothing(self, folder, tmp_path):
        extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder))
        before = digests(tmp_path / "s.zarr")
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder))
        assert (report.outcomes, report.already_done) == ((), 5)
        assert digests(tmp_path / "s.zarr") == before

    def test_parts_are_disjoint_and_their_union_is_the_whole(self, folder, tmp_path):
        extract(tmp_path / "all.zarr", [f"colour={COLOUR}"], of_folder(folder))
        for k in (1, 2):
            extract(tmp_path / f"{k}.zarr", [f"colour={COLOUR}"], of_folder(folder, part=parse_part(f"{k}/2")))
        first, second = digests(tmp_path / "1.zarr"), digests(tmp_path / "2.zarr")
        assert not set(first) & set(second)
        assert first | second == digests(tmp_path / "all.zarr")

    def test_a_part_beyond_the_items_has_nothing_to_do(self, folder, tmp_path):
        report = extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder, part=parse_part("7/7")))
        assert report.outcomes == ()


class TestInterrupts:
    @pytest.fixture(autouse=True)
    def listening(self):
        """Shells start background jobs with Ctrl-C ignored, and Python leaves it so."""
        earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, earlier)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_item_at_hand_is_finished_and_the_rest_is_left(self, folder, tmp_path, number):
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        # Five videos of 2 or 3 rows: the third sample belongs to the second one.
        report = extract(
            tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder), progress=Signals(number, after=3)
        )
        assert report.interrupted_by == number
        assert [o.item_id for o in report.outcomes] == ["v00.mp4", "v01.mp4"]
        assert report.not_reached == 3
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder))
        extract(tmp_path / "whole.zarr", [f"colour={COLOUR}"], of_folder(folder))
        assert digests(tmp_path / "s.zarr") == digests(tmp_path / "whole.zarr")

    def test_a_stopped_hdf5_run_leaves_its_rows_beside_the_file_and_goes_on(self, folder, tmp_path):
        arguments = (tmp_path / "s.h5", [f"colour={COLOUR}"], of_folder(folder))
        report = extract(*arguments, progress=Signals(signal.SIGTERM, after=3))
        assert report.staged
        assert f"vidloc store finish {tmp_path / 's.h5'}" in report.lines()[-1]
        assert not (tmp_path / "s.h5").exists()
        with open_store(tmp_path / "s.h5") as store:
            assert store.items() == ["v00.mp4", "v01.mp4"]
        assert plan_extraction(*arguments).already_done == 2
        extract(*arguments)
        assert not staging_of(tmp_path / "s.h5").exists()
        extract(tmp_path / "whole.zarr", *arguments[1:])
        assert digests(tmp_path / "s.h5") == digests(tmp_path / "whole.zarr")

    def test_a_store_stopped_while_it_was_begun_is_planned_and_made(self, folder, tmp_path):
        (tmp_path / "s.zarr").mkdir()
        (tmp_path / "s.zarr" / "lock").write_text(stale_lock())
        arguments = (tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder))
        assert len(plan_extraction(*arguments).work) == 5
        assert len(extract(*arguments).with_status("done")) == 5

    def test_an_item_that_takes_longer_than_the_grace_is_dropped_whole(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(extract_module, "Interrupts", lambda: Interrupts(grace_s=0.0))
        encoders = [f"colour={COLOUR}:delay_s=0.01"]
        report = extract(tmp_path / "s.zarr", encoders, of_folder(folder), progress=Signals(signal.SIGTERM, after=4))
        assert [o.item_id for o in report.outcomes] == ["v00.mp4"]
        assert report.not_reached == 4
        with open_store(tmp_path / "s.zarr") as store:
            assert store.items() == ["v00.mp4"]

    def test_a_second_ctrl_c_stops_at_once_and_loses_no_commit(self, folder, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            extract(
                tmp_path / "s.zarr",
                [f"colour={COLOUR}"],
                of_folder(folder),
                progress=Signals(signal.SIGINT, signal.SIGINT, after=3),
            )
        with open_store(tmp_path / "s.zarr") as store:
            assert store.items() == ["v00.mp4"]
        assert not extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder)).failures


class TestRefusals:
    """Everything that can be known before the first frame is decoded stops the run there."""

    @pytest.mark.parametrize(
        ("encoders", "error", "message"),
        [
            ([], OptionError, "no encoder was named"),
            (["nonsense"], UnknownNameError, "no encoder called 'nonsense'"),
            ([f"{COLOUR}:frames=3"], OptionError, "encoder '.*mean_colour.py' has no option 'frames'"),
            ([f"{COLOUR}:num_frames=0"], OptionError, "option 'num_frames': .*greater than or equal to 1"),
            ([COLOUR, f"mean_colour={LOUDNESS}"], OptionError, "two encoders write the stream 'mean_colour'"),
            (["slowfast_r50:weights=none.pyth"], WeightsError, "there is no checkpoint 'none.pyth'"),
        ],
    )
    def test_wrong_encoders(self, folder, tmp_path, encoders, error, message):
        with pytest.raises(error, match=message):
            extract(tmp_path / "s.zarr", encoders, of_folder(folder))
        assert not (tmp_path / "s.zarr").exists()

    def test_missing_published_weights_name_the_line_that_gets_them(self, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path / "empty"))
        with pytest.raises(WeightsError, match="vidloc weights fetch slowfast_r50"):
            extract(tmp_path / "s.zarr", ["slowfast_r50"], of_folder(folder))
        assert not (tmp_path / "s.zarr").exists()

    def test_rows_of_another_origin(self, folder, tmp_path):
        extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder))
        before = digests(tmp_path / "s.zarr")
        for request in (extract, plan_extraction):
            with pytest.raises(ProvenanceError, match="options"):
                request(tmp_path / "s.zarr", [f"colour={COLOUR}:num_frames=5"], of_folder(folder))
            with pytest.raises(ProvenanceError, match="sampling"):
                request(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder), stride_s=Fraction(1))
        assert digests(tmp_path / "s.zarr") == before

    def test_a_store_that_another_writer_holds(self, folder, tmp_path):
        with append_to_store(tmp_path / "s.zarr"), pytest.raises(StoreError, match=str(os.getpid())):
            extract(tmp_path / "s.zarr", [f"colour={COLOUR}"], of_folder(folder))

    def test_devices(self, folder, tmp_path):
        with pytest.raises(OptionError, match="'gpu7' is not auto, cpu, cuda"):
            extract(tmp_path / "s.zarr", [COLOUR], of_folder(folder), device="gpu7")
        with pytest.raises(OptionError, match="'cuda:99' was asked for, but torch sees"):
            extract(tmp_path / "s.zarr", [COLOUR], of_folder(folder), device="cuda:99")

    def test_selections_that_name_nothing(self, folder, tmp_path):
        with pytest.raises(UnknownNameError, match=r"no item matches 'v1\*'"):
            extract(tmp_path / "s.zarr", [COLOUR], of_folder(folder, patterns=["v1*"]))
        with pytest.raises(MediaError, match="holds nothing to work on"):
            extract(tmp_path / "s.zarr", [COLOUR], of_folder(DATA))
        with pytest.raises(OptionError, match="say where the videos are"):
            extract(tmp_path / "s.zarr", [COLOUR], Selection())
        with pytest.raises(OptionError, match="either --videos or --root"):
            extract(tmp_path / "s.zarr", [COLOUR], of_folder(folder, videos=Path("list.csv")))


class TestPlan:
    def test_plan_counts_rows_bytes_and_what_is_missing_without_writing(self, corpus, tmp_path):
        plan = plan_extraction(tmp_path / "s.zarr", [f"colour={COLOUR}:weights=random:7"], corpus)
        assert not (tmp_path / "s.zarr").exists()
        assert [item.item_id for item in plan.work] == ["v00", "v01"]
        assert plan.missing == ("v09",)
        (stream,) = plan.streams
        assert stream.num_rows == 2 + 3  # 1.0 s and 1.3 s, every half second
        assert stream.num_rows * stream.dense_bytes_per_row == 5 * 3 * 2
        text = "\n".join(plan.lines())
        assert "2 items found; 0 done already, 2 to do" in text
        assert "Missing: 1 videos that the annotations name: v09." in text
        assert "windows of 1 s (4 frames from 10) every 0.5 s (5 frames at 10 fps)" in text
        assert "stored as features[3] float16 (option dtype=float32 keeps full precision)" in text
        assert "WEIGHTS ARE RANDOM (random:7)" in text
