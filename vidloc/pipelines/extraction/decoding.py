"""Decoding: every item's tracks once, as one sequence of samples for all encoders, each item closed by its outcome.

Released flow, picture and sound are decoded one after the other, each opened anew, so that a badly interleaved file
is never held in memory. What goes wrong with a file is an outcome of its item and never ends the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from vidloc.core.records import ItemInfo, Status
from vidloc.core.timeline import TimeGrid
from vidloc.core.windows import Windows
from vidloc.extract import media
from vidloc.extract.base import AudioInput, ClipInput, FlowInput, FrameInput, Sample
from vidloc.extract.facts import item_info, source_mark
from vidloc.extract.frames import PictureRows, PlannedRows, VideoPass, VideoReport, VideoWants
from vidloc.extract.sound import AudioPass, AudioReport, AudioWants, SoundRows
from vidloc.extract.track_times import TrackTimes, track_times
from vidloc.pipelines.extraction.encoders import StreamEncoder
from vidloc.pipelines.extraction.item_work import ItemWork
from vidloc.pipelines.extraction.layout import RowLayout
from vidloc.pipelines.extraction.report import reason_of
from vidloc.pipelines.extraction.segment_views import SegmentClips, SegmentLayout
from vidloc.stores.tables import WITH_ROWS

# A sample without its data: two fractions, two arrays and what holds them together.
_OBJECT_BYTES = 1024
# Between a stream and the number of a crop, where several crops are fed of it; no name of a stream holds it.
_CROP_MARK = "/"


@dataclass(frozen=True, eq=False)
class Arrived:
    """A sample for one stream; those of one (item, stream) arrive in the order of rows.

    Attributes:
        grid: on which the item's rows of this stream lie; `None` where each row's own span is stored.
    """

    item_id: str
    stream: str
    sample: Sample
    grid: TimeGrid | None = None


@dataclass(frozen=True)
class TrackEnd:
    """How decoding ended for one stream of an item.

    Attributes:
        status: `done`; `partial` (damage, said in `reason`); `absent` (no such track, or no room for a row); `failed`.
        num_rows: samples that were made.
        extent: start and end of the track, seconds.
        as_asked: absent because of the layout that was asked for (`tail=drop` on a short video), and no failure of the
            item even where it has no other stream.
        clips: the segments that rows answer, whose views the samples were.
    """

    status: Status
    num_rows: int = 0
    reason: str = ""
    extent: tuple[float, float] | None = None
    as_asked: bool = False
    clips: SegmentClips | None = None


@dataclass(frozen=True)
class Ended:
    """All samples of an item have been made.

    Attributes:
        tracks: how that ended, for each of its streams.
        info: facts of its file.
        prepare_s: of the time it took, seconds spent on colour, size and sample rate.
    """

    item_id: str
    tracks: Mapping[str, TrackEnd]
    info: ItemInfo | None
    prepare_s: float = 0.0


def size_of(event: Arrived | Ended) -> int:
    """Bytes that an event holds: decoded data, and about what Python needs to keep it."""
    data = event.sample.data if isinstance(event, Arrived) else None
    return _OBJECT_BYTES + (data.nbytes if isinstance(data, np.ndarray) else 0)


def decode_items(
    work: Iterable[ItemWork], encoders: Mapping[str, StreamEncoder], *, threads: int = 0
) -> Iterator[Arrived | Ended]:
    """Samples of all items in order; after an item's last sample comes its `Ended`.

    Args:
        threads: that a decoder of pictures may use; 0 is one per core.
    """
    for item in work:
        decoder = _ItemDecoder(item, {name: encoders[name] for name in item.streams}, threads=threads)
        yield from decoder.samples()
        info = decoder.info()
        yield Ended(item.item_id, decoder.tracks, info, decoder.prepare_s)


@dataclass(frozen=True)
class _Clock:
    origin_s: Fraction
    duration_s: Fraction


class _ItemDecoder:
    """One item: its sentences, its released flow, its picture track and its sound track, each once.

    Attributes:
        tracks: outcome by stream, complete once all samples were taken.
        prepare_s: seconds spent on colour, size and sample rate.
    """

    def __init__(self, item: ItemWork, encoders: Mapping[str, StreamEncoder], *, threads: int) -> None:
        self.tracks: dict[str, TrackEnd] = {}
        self.prepare_s = 0.0
        self._item = item
        self._threads = threads
        self._counts = dict.fromkeys(encoders, 0)
        self._texts = [name for name, encoder in encoders.items() if encoder.rows is None]
        self._layouts: dict[str, RowLayout] = {}
        self._of_segments: dict[str, SegmentLayout] = {}
        self._pictures: dict[str, ClipInput | FrameInput] = {}
        self._flows: dict[str, FlowInput] = {}
        self._sounds: dict[str, AudioInput] = {}
        for name, encoder in encoders.items():
            self._sort_in(name, encoder.rows)
        self._windows: dict[str, Windows] = {}
        self._clips: dict[str, SegmentClips] = {}
        self._video: VideoReport | None = None
        self._audio: AudioReport | None = None
        self._flow: VideoReport | None = None

    def _sort_in(self, stream: str, layout: RowLayout | SegmentLayout | None) -> None:
        if layout is None:
            return
        if isinstance(layout, RowLayout):
            self._layouts[stream] = layout
        elif self._item.segments:
            self._of_segments[stream] = layout
        else:
            self._end([stream], TrackEnd("absent", reason="the annotations hold no segment of it", as_asked=True))
            return
        if isinstance(layout.wanted, AudioInput):
            self._sounds[stream] = layout.wanted
        elif isinstance(layout.wanted, FlowInput):
            self._flows[stream] = layout.wanted
        else:
            self._pictures[stream] = layout.wanted

    def samples(self) -> Iterator[Arrived]:
        """All samples of the item."""
        yield from self._said()
        yield from self._moved()
        timed = (*self._pictures, *self._sounds)
        if not timed:
            return
        path = self._item.path
        if path is None:
            besides = " but its flow pictures" if self._item.flow is not None else ""
            self._end(timed, TrackEnd("failed", reason=f"no file was found for it{besides}"))
            return
        if self._item.frame_rate is not None:
            if self._pictures:
                yield from self._seen(path)
            self._end(self._sounds, TrackEnd("absent", reason="numbered pictures have no sound"))
            return
        try:
            found = media.probe(path)
        except Exception as error:  # noqa: BLE001  (whatever a decoder raises fails this item, not the run)
            self._end(timed, self._failed(error))
            return
        clock = None
        if found.has_video:
            clock = yield from self._seen(path)
        else:
            self._end(self._pictures, TrackEnd("absent", reason="the file has no picture track"))
        if found.has_audio:
            yield from self._heard(path, clock)
        else:
            self._end(self._sounds, TrackEnd("absent", reason="the file has no sound track"))

    def info(self) -> ItemInfo | None:
        """Facts of the file, `None` where it cannot be read: rows of a file that went away meanwhile are failed."""
        path, timed = self._item.path, (*self._pictures, *self._flows, *self._sounds)
        if not timed or (path is None and self._flow is None):
            return None
        try:
            if path is not None and not (path.is_file() or (path.is_dir() and self._item.frame_rate is not None)):
                raise FileNotFoundError(f"{path} is not there, or no plain file")
            return item_info(self._item.item_id, path, video=self._video, audio=self._audio, flow=self._flow)
        except OSError as error:
            self._end([name for name in timed if self.tracks[name].status in WITH_ROWS], self._failed(error))
            return None

    def _said(self) -> Iterator[Arrived]:
        for narration in self._item.narrations if self._texts else ():
            start, end = (Fraction(float(seconds)) for seconds in narration.span)
            sample = Sample((start, end), narration.text, np.empty(0), key=narration.id, item_id=self._item.item_id)
            for stream in self._texts:
                self._counts[stream] += 1
                yield Arrived(self._item.item_id, stream, sample)
        absent = TrackEnd("absent", reason="the annotations hold no sentence of it")
        self._end(self._texts, TrackEnd("done") if self._item.narrations else absent)

    def _seen(self, path: Path) -> Generator[Arrived, None, _Clock | None]:
        """Samples of the picture track; returns its clock, by which the sound is laid out."""
        video = None
        try:
            if not self._pictures and (known := self._known_clock(path)) is not None:
                return known
            rate = self._item.frame_rate
            wants = self._picture_wants(self._pictures, partial(track_times, path, rate))
            video = VideoPass(path, wants, threads=self._threads, frame_rate=rate)
            yield from self._taken(video)
        except Exception as error:  # noqa: BLE001  (as above)
            self._end(self._pictures, self._failed(error))
            return None
        finally:
            self.prepare_s += video.prepare_s if video is not None else 0.0
        report = video.report
        for name in self._pictures:
            self._end([name], self._ended(name, report))
        self._video = report
        return _Clock(report.origin_s, report.duration_s)

    def _moved(self) -> Iterator[Arrived]:
        """Samples of the released flow."""
        if not self._flows:
            return
        if self._item.flow is None:
            reason = "no flow pictures were found for it; without flow=released, flow is computed from its frames"
            self._end(self._flows, TrackEnd("failed", reason=reason))
            return
        path, rate = self._item.flow.path, self._item.flow.rate
        flow = None
        try:
            wants = self._picture_wants(self._flows, partial(track_times, path, rate, pairs=True))
            flow = VideoPass(path, wants, threads=self._threads, frame_rate=rate, pairs=True)
            yield from self._taken(flow)
        except Exception as error:  # noqa: BLE001  (as above)
            self._end(self._flows, self._failed(error))
            return
        finally:
            self.prepare_s += flow.prepare_s if flow is not None else 0.0
        self._flow = flow.report
        for name in self._flows:
            self._end([name], self._ended(name, flow.report))

    def _heard(self, path: Path, clock: _Clock | None) -> Iterator[Arrived]:
        if not self._sounds:
            return
        sound = AudioPass(
            path,
            self._sound_wants(clock),
            origin_s=clock.origin_s if clock else None,
            duration_s=clock.duration_s if clock else None,
        )
        try:
            yield from self._taken(sound)
        except Exception as error:  # noqa: BLE001  (as above)
            self._end(self._sounds, self._failed(error))
            return
        finally:
            self.prepare_s += sound.prepare_s
        report = sound.report
        for name in self._sounds:
            self._end([name], self._ended(name, report))
        self._audio = report

    def _taken(self, samples: Iterable[tuple[str, int, Sample]]) -> Iterator[Arrived]:
        for name, row, sample in samples:
            stream, _, crop = name.partition(_CROP_MARK)
            self._counts[stream] += 1
            item_id = self._item.item_id
            if crop:
                place = self._clips[stream].place(row, int(crop))
                yield Arrived(item_id, stream, replace(sample, item_id=item_id, place=place))
            else:
                grid = None if self._layouts[stream].irregular else self._windows[stream].grid
                yield Arrived(item_id, stream, replace(sample, item_id=item_id), grid)

    def _picture_wants(
        self, streams: Mapping[str, ClipInput | FrameInput], times_of_track: Callable[[], TrackTimes]
    ) -> VideoWants:
        """What each stream of a track is fed; where that depends on its length or rate, its packets are read."""
        planned = any(name in self._of_segments or self._layouts[name].needs_times for name in streams)
        times = times_of_track() if planned else None
        wants: dict[str, tuple[ClipInput | FrameInput, PictureRows]] = {}
        for name, wanted in streams.items():
            if name in self._layouts:
                wants[name] = self._layouts[name].fed(wanted, times), self._rows(name, times)
                continue
            clips = self._cut_out(name, times.duration_s if times is not None else None)
            for crop in range(len(clips.layout.views.places)):
                wants[f"{name}{_CROP_MARK}{crop}"] = clips.layout.seen(wanted, crop), clips.windows
        return wants

    def _sound_wants(self, clock: _Clock | None) -> AudioWants:
        wants: dict[str, tuple[AudioInput, SoundRows]] = {}
        for name, wanted in self._sounds.items():
            if name in self._layouts:
                wants[name] = wanted, self._laid_out(name, None)
            else:
                clips = self._cut_out(name, clock.duration_s if clock is not None else None)
                wants[f"{name}{_CROP_MARK}0"] = wanted, clips.windows
        return wants

    def _cut_out(self, stream: str, duration_s: Fraction | None) -> SegmentClips:
        self._clips[stream] = SegmentClips.of(self._of_segments[stream], self._item.segments, duration_s)
        return self._clips[stream]

    def _rows(self, stream: str, times: TrackTimes | None) -> TimeGrid | PlannedRows:
        windows = self._laid_out(stream, times)
        if times is None or not self._layouts[stream].needs_times:
            return windows.grid
        return PlannedRows(windows, times.duration_s)

    def _laid_out(self, stream: str, times: TrackTimes | None) -> Windows:
        self._windows[stream] = self._layouts[stream].windows(times)
        return self._windows[stream]

    def _known_clock(self, path: Path) -> _Clock | None:
        """The picture's clock as an earlier run measured it on this file, so that sound alone decodes no picture."""
        info = self._item.info
        if info is None or info.duration_s is None or info.origin_s is None or info.num_frames is None:
            return None
        if (info.source_bytes, info.source_sha256) != astuple(source_mark(path)):
            return None
        return _Clock(_exact(info.origin_s), _exact(info.duration_s))

    def _ended(self, stream: str, report: VideoReport | AudioReport) -> TrackEnd:
        extent = (float(report.extent_s[0]), float(report.extent_s[1]))
        if stream in self._clips:
            return self._ended_segments(self._clips[stream], report.damage, extent)
        windows = self._windows[stream]
        if not report.damage and not self._counts[stream] and windows.tail == "drop":
            window_s = windows.grid.window_s
            return TrackEnd(
                "absent",
                reason=f"its {float(report.duration_s):.2f} s have no room for a window of {float(window_s):.2f} s "
                "(tail=drop; with tail=pad it would have one padded row)",
                as_asked=True,
            )
        return TrackEnd("partial" if report.damage else "done", 0, report.damage or "", extent)

    def _ended_segments(self, clips: SegmentClips, damage: str | None, extent: tuple[float, float]) -> TrackEnd:
        said = [damage] if damage else []
        if clips.num_beyond:
            said.append(f"{clips.num_beyond} of {len(self._item.segments)} segments lie beyond its end and have no row")
        return TrackEnd("partial" if said else "done", 0, "; ".join(said), extent, clips=clips)

    def _failed(self, error: Exception) -> TrackEnd:
        # A store travels; where the file lay on this machine should not travel with it.
        reason = reason_of(error)
        for path in (self._item.path, self._item.flow.path if self._item.flow is not None else None):
            if path is not None:
                reason = reason.replace(str(path), path.name)
        return TrackEnd("failed", reason=reason)

    def _end(self, streams: Iterable[str], end: TrackEnd) -> None:
        for name in streams:
            self.tracks[name] = replace(end, num_rows=self._counts[name])


def _exact(seconds: float) -> Fraction:
    """The fraction that a stored time was rounded from; clocks of files count in at most a millionth of a second."""
    fraction = Fraction(seconds).limit_denominator(1_000_000)
    return fraction if float(fraction) == seconds else Fraction(seconds)
