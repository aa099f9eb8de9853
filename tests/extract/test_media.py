"""Every awkward or broken file of the collection ends as its table says; every real clip gives what was measured."""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidloc.core.timeline import center_grid, num_center_rows
from vidloc.errors import MediaError
from vidloc.extract.base import AudioInput, ClipInput, FrameSize, Sample
from vidloc.extract.facts import item_info
from vidloc.extract.frames import VideoPass, VideoReport
from vidloc.extract.media import TrackDecoder, open_media, probe, video_track
from vidloc.extract.pictures import PictureMaker
from vidloc.extract.sound import AudioPass, AudioReport

SHARED = Path(os.environ.get("VIDLOC_SHARED", Path(__file__).parents[3] / "shared"))
STRIDE = Fraction(1, 2)
CLIP = ClipInput(8, Fraction(16, 30), FrameSize(32, 28))
SOUND = AudioInput(4000, 8000)


def table(folder: str, name: str) -> list[dict[str, str]]:
    """Rows of a collection's csv; one empty row where the collection is absent, so that the tests show as skipped."""
    path = SHARED / "data" / folder / name
    if not path.is_file():
        return [{"file": "absent", "kind": "absent"}]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


BAD = table("videos_bad", "bad.csv")
GOOD = table("videos", "videos.csv")
DECODES = [row for row in BAD if row["kind"] in ("ok", "care", "edge", "partial")]


def passes(path: Path) -> tuple[VideoReport | None, AudioReport | None, list[Sample], list[Sample]]:
    """Both tracks of a file, small."""
    video = audio = None
    pictures: list[Sample] = []
    sounds: list[Sample] = []
    tracks = probe(path)
    if tracks.has_video:
        seen = VideoPass(path, {"clip": (CLIP, center_grid(CLIP.window_s, STRIDE))})
        pictures = [sample for _, _, sample in seen]
        video = seen.report
    if tracks.has_audio:
        span = {} if video is None else {"origin_s": video.origin_s, "duration_s": video.duration_s}
        heard = AudioPass(path, {"sound": (SOUND, center_grid(Fraction(1, 2), STRIDE))}, **span)
        sounds = [sample for _, _, sample in heard]
        audio = heard.report
    return video, audio, pictures, sounds


@pytest.mark.parametrize("row", DECODES, ids=lambda row: row["file"])
def test_a_file_that_decodes_gives_what_was_measured(row: dict[str, str], shared: Path) -> None:
    video, audio, pictures, sounds = passes(shared / "data/videos_bad" / row["file"])
    assert video is not None
    assert (audio is not None) == bool(row["acodec"])
    assert len(pictures) == num_center_rows(STRIDE, video.duration_s)
    assert all(s.data.shape == (8, 28, 28, 3) and s.data.dtype == np.uint8 for s in pictures)
    assert video.rotation_deg == int(row["rotation"])
    assert float(video.origin_s) == pytest.approx(float(row["first_frame_s"]), abs=1e-3)
    turned = video.rotation_deg in (90, -90)
    stored = int(row["width"]), int(row["height"])
    assert (video.width_px, video.height_px) == (stored[::-1] if turned else stored)
    if row["kind"] != "partial":
        assert video.damage is None
        assert video.num_frames == int(row["frames_decoded"])
        if row["video_span_s"]:
            # The table lets the last frame last for the smallest gap; ours lasts as long as the file says.
            assert float(video.duration_s) == pytest.approx(float(row["video_span_s"]), abs=float(row["max_gap_s"]))
    if audio is not None and row["audio_error"] != "yes":
        assert audio.damage is None
        assert audio.sample_rate_hz == int(row["audio_rate"])
        assert audio.num_samples / audio.sample_rate_hz == pytest.approx(float(row["audio_decoded_s"]), abs=1e-3)
        start_s = float(row["audio_start_s"]) - float(row["first_frame_s"])
        # The first packet of these codecs only primes the decoder, so that the sound begins after its stated start.
        late_s = {"wmav2": 0.092, "vorbis": 0.003}.get(row["acodec"], 0.0)
        assert float(audio.extent_s[0]) == pytest.approx(start_s + late_s, abs=2e-3)
    if audio is not None:
        assert len(sounds) == len(pictures)
        assert all(np.isfinite(s.data).all() and s.data.shape == (4000,) for s in sounds)


@pytest.mark.parametrize("row", [r for r in BAD if r["kind"] == "partial"], ids=lambda row: row["file"])
def test_a_damaged_file_says_what_is_missing(row: dict[str, str], shared: Path) -> None:
    video, audio, _, _ = passes(shared / "data/videos_bad" / row["file"])
    assert video is not None
    said = video.damage or ""
    expected = {
        "bit_errors.mp4": "of 79 frames decode with errors",
        "real_corrupted_decord.mp4": "1 of 50 picture packets could not be decoded",
        "starts_mid_gop.ts": "the first 24 packets come before any key frame",
        "truncated_60pct_faststart.mp4": r"header promises 79 frames and 4.03 s, but 4\d frames and 2.\d\d s decode",
    }
    assert re.search(expected[row["file"]], said)
    assert "\n" not in said
    # Behind a packet that cannot be decoded there may be more that can.
    assert video.num_frames >= int(row["frames_decoded"])
    if row["audio_error"] == "yes":
        assert audio is not None
        assert "11 of 174 sound packets could not be decoded" in (audio.damage or "")
        assert float(audio.extent_s[1]) == pytest.approx(4.017, abs=0.03)


@pytest.mark.parametrize("row", [r for r in BAD if r["kind"] == "audio_only"], ids=lambda row: row["file"])
def test_a_sound_file_has_sound_rows_and_no_picture(row: dict[str, str], shared: Path) -> None:
    path = shared / "data/videos_bad" / row["file"]
    video, audio, _, sounds = passes(path)
    assert video is None
    assert audio is not None
    assert audio.damage is None
    assert float(audio.duration_s) == pytest.approx(float(row["audio_decoded_s"]), abs=1e-3)
    assert audio.extent_s == (0, audio.duration_s)
    assert len(sounds) == num_center_rows(STRIDE, audio.duration_s)
    with pytest.raises(MediaError, match="has no picture track"):
        list(VideoPass(path, {}))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("real_tiny_header_only.wmv", "has no frame that can be decoded: the track is empty"),
        ("real_tiny_no_frames.avi", "has no frame that can be decoded: the track is empty"),
        ("text_file.mp4", "no video or sound was recognised in it"),
        ("truncated_60pct_no_moov.mp4", "no video or sound was recognised in it"),
        ("zero_bytes.mp4", "the file is empty"),
        ("not_there.mp4", "there is no such file"),
        ("", "it is a folder"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(name: str, reason: str, shared: Path) -> None:
    path = shared / "data/videos_bad" / name
    with pytest.raises(MediaError, match=reason) as refused:
        passes(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_table_of_refusals_is_complete() -> None:
    assert {row["kind"] for row in BAD} <= {"ok", "care", "edge", "partial", "audio_only", "reject", "absent"}
    refused = {row["file"] for row in BAD if row["kind"] == "reject"}
    assert refused <= {
        "real_tiny_header_only.wmv",
        "real_tiny_no_frames.avi",
        "text_file.mp4",
        "truncated_60pct_no_moov.mp4",
        "zero_bytes.mp4",
    }


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row["file"])
def test_a_real_clip_gives_what_was_measured(row: dict[str, str], shared: Path) -> None:
    path = shared / "data/videos" / row["file"]
    seen = VideoPass(path, {})
    assert list(seen) == []
    video = seen.report
    assert video.damage is None
    assert video.num_frames == int(row["n_frames"])
    assert video.rotation_deg == int(row["rotation"])
    assert video.variable_rate == (row["variable_frame_rate"] == "yes")
    assert Fraction(video.fps_nominal or 0) == Fraction(row["avg_rate"])
    assert float(video.origin_s) == pytest.approx(float(row["video_start_s"]), abs=1e-4)
    assert (video.width_px, video.height_px) == (int(row["width"]), int(row["height"]))


def test_probe_reads_the_header(shared: Path) -> None:
    found = probe(shared / "data/videos_bad/rotated_displaymatrix_90.mp4")
    assert (found.has_video, found.has_audio, found.fps_nominal, found.num_frames) == (True, True, "981/50", 79)
    assert (found.rotation_deg, found.width_px, found.height_px, found.sample_rate_hz) == (90, 240, 320, 44100)
    assert found.duration_s == pytest.approx(4.0265, abs=1e-3)


def test_probe_takes_a_cover_picture_for_no_video(shared: Path) -> None:
    found = probe(shared / "data/videos_bad/audio_with_cover_art.m4a")
    assert (found.has_video, found.has_audio, found.width_px) == (False, True, None)
    assert found.duration_s == pytest.approx(4.0, abs=0.02)


def test_facts_of_an_item(shared: Path) -> None:
    path = shared / "data/videos_bad/video_starts_0.8s_late.mp4"
    video, audio, _, _ = passes(path)
    info = item_info("P01/late", path, video=video, audio=audio)
    assert info.item_id == "P01/late"
    assert info.origin_s == pytest.approx(0.8, abs=1e-4)
    assert info.duration_s == pytest.approx(4.0265, abs=1e-4)
    assert (info.fps_nominal, info.num_frames, info.variable_rate, info.sample_rate_hz) == ("981/50", 79, False, 44100)
    assert info.fps_measured == pytest.approx(19.62, abs=1e-3)
    assert (info.source_name, info.source_bytes) == (path.name, path.stat().st_size)
    assert info.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) - 7, 2 << 20, (2 << 20) + 1, 3 << 20])
def test_the_fingerprint_covers_the_first_and_last_mib_once(size: int, tmp_path: Path) -> None:
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    mib = 1 << 20
    read = content if size <= 2 * mib else content[:mib] + content[-mib:]
    assert item_info("a", path).source_sha256 == hashlib.sha256(read).hexdigest()


def test_a_playlist_is_not_followed(shared: Path, tmp_path: Path) -> None:
    target = shared / "data/videos_bad/one_frame.mp4"
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nhttp://127.0.0.1:9/{target.name}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match="cannot be opened"):
        probe(playlist)


@pytest.mark.parametrize(
    ("name", "tag", "unknown", "word"),
    [("one_frame.mp4", b"avc1", b"zzzz", "picture"), ("matroska_named.mp4", b"A_AAC", b"A_ZZZ", "sound")],
)
def test_a_track_that_no_decoder_knows_is_named(
    name: str, tag: bytes, unknown: bytes, word: str, shared: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    # The last mention is the one in the track's description; the others only name the brand of the file.
    path.write_bytes(unknown.join((shared / "data/videos_bad" / name).read_bytes().rsplit(tag, 1)))
    found = probe(path)
    assert (found.has_video, found.has_audio) == (True, word == "sound")
    with pytest.raises(MediaError, match=f"{name} has a {word} track in a format that no decoder here knows"):
        passes(path)


def test_a_track_that_appears_midway_does_not_lose_what_was_read(shared: Path) -> None:
    class TrackAppears:
        """A container at whose end PyAV looks for a track that was not there when it was opened."""

        def __init__(self, container: Any) -> None:
            self._container = container

        def demux(self, track: Any) -> Iterator[Any]:
            yield from (packet for packet in self._container.demux(track) if packet.size)
            raise IndexError("list index out of range")

    with open_media(shared / "data/videos_bad/good_reference_4s.mp4") as container:
        track = video_track(container)
        decoder: TrackDecoder[Any] = TrackDecoder(TrackAppears(container), track)
        assert len(list(decoder)) == 79
        assert decoder.failures() == []


def test_a_read_error_midway_keeps_what_was_read(shared: Path) -> None:
    class Breaks:
        def __init__(self, container: Any) -> None:
            self._container = container

        def demux(self, track: Any) -> Iterator[Any]:
            yield from itertools.islice(self._container.demux(track), 40)
            raise av.error.OSError(5, "Input/output error")

    with open_media(shared / "data/videos_bad/good_reference_4s.mp4") as container:
        decoder: TrackDecoder[Any] = TrackDecoder(Breaks(container), video_track(container))
        assert len(list(decoder)) >= 38
        assert decoder.failures() == ["reading stopped early: Input/output error"]


def test_colours_that_cannot_be_converted_are_named() -> None:
    frame = av.VideoFrame(32, 16, "yuv420p")
    frame.colorspace = 8
    with pytest.raises(MediaError, match="pixel format yuv420p and colour matrix 8 cannot be converted to RGB"):
        PictureMaker(frame).rgb(frame)
