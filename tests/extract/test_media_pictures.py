"""Numbered pictures in folders and tar archives: the same rows as a video of the same frames, and nothing unsafe."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numbered_frames import encoded, frames, named, write_folder, write_lossless, write_tar
from PIL import Image

from vidloc.core.numbered_pictures import FrameRate
from vidloc.core.timeline import TimeGrid, center_grid
from vidloc.errors import MediaError
from vidloc.extract.base import ClipInput, FrameInput, FrameSize, Sample
from vidloc.extract.facts import item_info
from vidloc.extract.frames import VideoPass, VideoReport
from vidloc.extract.picture_files import Numbers, numbers_of
from vidloc.extract.track_times import TrackTimes, track_times

HALF = Fraction(1, 2)
WANTS = {
    "clip": (ClipInput(4, Fraction(8, 15), FrameSize(24, 16)), center_grid(Fraction(8, 15), Fraction(1, 4))),
    "frame": (FrameInput(), center_grid(1, HALF)),
    "start": (ClipInput(3, Fraction(3, 25), FrameSize(16)), TimeGrid(Fraction(3, 25), Fraction(1, 7))),
}


def rate(fps: Fraction | int, duration_s: float | None = None) -> FrameRate:
    return FrameRate(Fraction(fps), "the test", duration_s)


def rows_of(path: Path, frame_rate: FrameRate | None = None) -> tuple[dict[str, list[Sample]], VideoReport]:
    seen = VideoPass(path, WANTS, frame_rate=frame_rate)
    rows: dict[str, list[Sample]] = {name: [] for name in WANTS}
    for name, row, sample in seen:
        assert row == len(rows[name])
        rows[name].append(sample)
    return rows, seen.report


def assert_same_rows(found: Mapping[str, list[Sample]], expected: Mapping[str, list[Sample]]) -> None:
    for name, rows in expected.items():
        assert len(found[name]) == len(rows)
        for ours, theirs in zip(found[name], rows, strict=True):
            np.testing.assert_array_equal(ours.data, theirs.data)
            np.testing.assert_array_equal(ours.pts_s, theirs.pts_s)
            assert (ours.span, ours.image_size) == (theirs.span, theirs.image_size)


def damage_of(path: Path, frame_rate: FrameRate) -> str:
    return rows_of(path, frame_rate)[1].damage or ""


class TestAsAVideo:
    @pytest.mark.parametrize("fps", [Fraction(60), Fraction(50), Fraction(30_000, 1001)])
    def test_rows_equal_those_of_a_video_of_the_same_frames(self, fps, tmp_path):
        pictures = frames(75)
        video, expected = rows_of(write_lossless(tmp_path / "a.nut", pictures, fps=fps))
        files = named(pictures, ending=".png")
        shuffled = dict(sorted(files.items(), key=lambda pair: hashlib.sha256(pair[0].encode()).digest()))
        for path in (
            write_folder(tmp_path / "folder", files),
            write_tar(tmp_path / "sorted.tar", {f"./{name}": content for name, content in files.items()}),
            write_tar(tmp_path / "shuffled.tar", {f"P01_01/{name}": content for name, content in shuffled.items()}),
            write_tar(tmp_path / "zipped.tar.gz", files),
        ):
            rows, report = rows_of(path, rate(fps, duration_s=float(75 / fps)))
            assert_same_rows(rows, video)
            assert (report.duration_s, report.num_frames, report.damage) == (75 / fps, 75, None)
            assert (report.fps_nominal, report.origin_s) == (expected.fps_nominal, 0)
            assert (report.variable_rate, report.rotation_deg) == (False, 0)
            assert track_times(path, rate(fps)) == TrackTimes(75, 75 / fps, fps)

    def test_pixels_are_those_of_pillow(self, tmp_path):
        colour, gray = frames(2)
        turned = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown a quarter turn clockwise
        Image.fromarray(np.rot90(colour)).save(turned, "JPEG", exif=exif, quality=95)
        mono, alpha = io.BytesIO(), io.BytesIO()
        Image.fromarray(gray).convert("L").save(mono, "PNG")
        Image.fromarray(gray).convert("RGBA").save(alpha, "PNG")
        contents = [encoded(colour), mono.getvalue(), alpha.getvalue(), turned.getvalue()]
        names = ("1.jpg", "2.png", "3.PNG", "4.jpeg")
        folder = write_folder(tmp_path / "a", dict(zip(names, contents, strict=True)))
        grid = TimeGrid(Fraction(1, 10), Fraction(1, 10))
        shown = [s.data for _, _, s in VideoPass(folder, {"a": (FrameInput(), grid)}, frame_rate=rate(10))]
        np.testing.assert_array_equal(shown[0], np.array(Image.open(io.BytesIO(contents[0]))))
        np.testing.assert_array_equal(shown[1], np.array(Image.open(io.BytesIO(contents[1])).convert("RGB")))
        np.testing.assert_array_equal(shown[2], gray)
        np.testing.assert_array_equal(shown[3], np.rot90(np.array(Image.open(turned)), -1))

    def test_numbers_may_begin_at_0_and_have_any_length(self, tmp_path):
        files = {f"{k}.png": encoded(p, ".png") for k, p in enumerate(frames(12))}
        from_0, report = rows_of(write_folder(tmp_path / "a", files), rate(10))
        from_1 = {f"img{int(name[:-4]) + 1:05d}.png": content for name, content in files.items()}
        assert_same_rows(from_0, rows_of(write_folder(tmp_path / "b", from_1), rate(10))[0])
        assert (report.duration_s, report.damage) == (Fraction(12, 10), None)

    def test_other_files_are_left_alone(self, tmp_path):
        files = named(frames(3)) | {"notes.txt": b"", ".frame_7.jpg": b"", "._frame_0000000001.jpg": b""}
        folder = write_folder(tmp_path / "a", files)
        (folder / "u").mkdir()
        assert rows_of(folder, rate(10))[1].num_frames == 3
        assert rows_of(write_tar(tmp_path / "a.tar", files), rate(10))[1].num_frames == 3


class TestDamage:
    def test_missing_frames_shift_nothing(self, tmp_path):
        pictures = frames(40)
        files = named(pictures, ending=".png")
        lost = (1, 2, 9, 20, 21, 22, 30, 33, 35, 37)
        kept = {name: content for name, content in files.items() if int(name[6:16]) not in lost}
        rows, report = rows_of(write_folder(tmp_path / "a", kept), rate(20))
        # What a video shows in which the frame before stays on screen, or the first one where there is none before.
        shown, last = [], 2
        for k in range(40):
            last = k if k + 1 not in lost else last
            shown.append(last)
        expected = rows_of(write_lossless(tmp_path / "a.nut", [pictures[k] for k in shown], fps=20))[0]
        for name in WANTS:
            for ours, theirs in zip(rows[name], expected[name], strict=True):
                np.testing.assert_array_equal(ours.data, theirs.data)
                assert ours.span == theirs.span
        assert report.duration_s == 2
        assert report.num_frames == 30
        assert report.damage == "10 frames are missing: number 1-2, 9, 20-22, 30, 33, ..."

    def test_pictures_that_cannot_be_decoded_are_counted(self, tmp_path):
        files = named(frames(8))
        names = list(files)
        files[names[2]] = files[names[2]][:300]
        files[names[3]] = b""
        files[names[7]] = b"GIF89a"
        deep = io.BytesIO()
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(deep, "PNG")
        files[names[5]] = deep.getvalue()
        report = rows_of(write_tar(tmp_path / "a.tar", files), rate(10))[1]
        assert (report.num_frames, report.duration_s) == (4, Fraction(8, 10))
        assert report.damage.startswith("4 of 8 pictures could not be decoded (first: number 3, ")
        broken = write_folder(tmp_path / "a", dict.fromkeys(names, b"no picture"))
        with pytest.raises(MediaError, match=r"no frame that can be decoded: 8 of 8 pictures could not be decoded"):
            rows_of(broken, rate(10))

    def test_a_picture_may_not_be_huge(self, tmp_path, monkeypatch):
        wide = io.BytesIO()
        Image.new("1", (8193, 8192)).save(wide, "PNG")
        files = named(frames(3))
        files["frame_0000000002.jpg"] = wide.getvalue()
        folder = write_folder(tmp_path / "a", files)
        assert "number 2, 8193x8192 pixels are more than a frame may have" in damage_of(folder, rate(10))
        monkeypatch.setattr("vidloc.extract.picture_files._MAX_FILE_BYTES", 5000)
        assert re.search(r"number 2, it has \d,\d{3} bytes, more than any video frame", damage_of(folder, rate(10)))

    def test_a_duration_that_contradicts_the_corpus_is_said(self, tmp_path):
        folder = write_folder(tmp_path / "a", named(frames(60)))
        assert damage_of(folder, rate(30, duration_s=2.9)) == ""
        assert damage_of(folder, rate(30, duration_s=4.0)) == (
            "the annotations state a duration of 4.00 s, but 60 frames at 30 fps last 2.00 s: frames are missing or "
            "too many, or their rate is another"
        )

    def test_numbers_that_jump_end_the_pass(self, tmp_path):
        files = named(frames(4))
        files["frame_0000020000.jpg"] = files["frame_0000000001.jpg"]
        report = rows_of(write_folder(tmp_path / "a", files), rate(30))[1]
        assert report.num_frames == 4
        assert report.damage == (
            "the numbers jump from 4 to 20000, by more than 10 minutes, and what follows was left out"
        )
        with pytest.raises(MediaError, match="the numbers jump from 0 to 20240501"):
            rows_of(write_folder(tmp_path / "b", {"20240501.jpg": encoded(frames(1)[0])}), rate(30))

    @pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
    def test_an_archive_that_is_cut_off_gives_what_it_holds(self, ending, tmp_path):
        path = write_tar(tmp_path / f"a{ending}", named(frames(30, size=(320, 240)), ending=".png"))
        content = path.read_bytes()
        for share in (0.3, 0.55, 0.9):
            path.write_bytes(content[: int(len(content) * share)])
            report = rows_of(path, rate(10))[1]
            assert 0 < report.num_frames < 30
            assert "cut off" in report.damage
            assert 0 < numbers_of(path).count <= report.num_frames + 1

    def test_an_archive_without_its_end_mark_or_with_rubbish_inside_is_damaged(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", named(frames(4)))
        content = path.read_bytes()
        with tarfile.open(path) as archive:
            third = archive.getmembers()[2].offset
        path.write_bytes(content[:third])
        assert damage_of(path, rate(10)) == "the archive is cut off or damaged after 'frame_0000000002.jpg'"
        path.write_bytes(content[:third] + b"x" * 512 + content[third + 512 :])
        assert damage_of(path, rate(10)) == "the archive is cut off or damaged after 'frame_0000000002.jpg'"


def hostile(path: Path, *members: tarfile.TarInfo) -> Path:
    """An archive of one picture and of members that are headers alone."""
    picture = encoded(frames(1)[0])
    good = tarfile.TarInfo("frame_1.jpg")
    good.size = len(picture)
    with path.open("wb") as file:
        file.write(good.tobuf() + picture + bytes(-len(picture) % 512))
        for member in members:
            file.write(member.tobuf(format=tarfile.GNU_FORMAT))
        file.write(bytes(1024))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, *, size: int = 0, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, target
    return made


class TestUnsafeArchives:
    @pytest.mark.parametrize(
        ("added", "message"),
        [
            (member("../x/frame_2.jpg"), r"holds the name '\.\./x/frame_2\.jpg', which leads out of the archive"),
            (member("/etc/frame_2.jpg"), r"holds the name '/etc/frame_2\.jpg', which leads out"),
            (member("frame_2.jpg", tarfile.SYMTYPE, target="/etc/passwd"), r"holds 'frame_2\.jpg', which is a link"),
            (member("frame_2.jpg", tarfile.LNKTYPE, target="frame_1.jpg"), "which is a link. Pack the pictures"),
            (member("frame_2.jpg", tarfile.CHRTYPE), "which is no plain file"),
            (member("frame_2.jpg", tarfile.FIFOTYPE), "which is no plain file"),
            (member("frame_2.jpg", size=-512), r"states -512 bytes for 'frame_2\.jpg'"),
            (member("x", tarfile.XHDTYPE, size=2**40), "has a header of 1099511627776 bytes"),
            (member("x", tarfile.GNUTYPE_LONGNAME, size=-1024), "has a header of -"),
        ],
    )
    @pytest.mark.parametrize("zipped", [False, True])
    def test_what_no_archive_of_pictures_holds_is_refused(self, added, message, zipped, tmp_path):
        path = hostile(tmp_path / "a.tar", added)
        if zipped:
            path.write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(MediaError, match=message):
            rows_of(path, rate(10))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]

    def test_a_size_beyond_the_archive_is_never_read(self, tmp_path):
        path = hostile(tmp_path / "a.tar", member("frame_2.jpg", size=2**40))
        assert damage_of(path, rate(10)) == "the archive is cut off in 'frame_2.jpg'"
        path.write_bytes(gzip.compress(path.read_bytes()))
        assert "it has 1,099,511,627,776 bytes, more than any video frame" in damage_of(path, rate(10))

    @pytest.mark.parametrize(
        "content",
        [b"", b"no archive" * 100, gzip.compress(b"no archive" * 100, mtime=0), b"\x1f\x8b\x08"],
        ids=["empty", "text", "gzipped text", "cut gzip"],
    )
    def test_what_is_no_archive_is_refused(self, content, tmp_path):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(MediaError, match=r"a\.tar is no tar archive, or cut off at once"):
            rows_of(tmp_path / "a.tar", rate(10))


class TestUnclearPictures:
    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["u/frame_1.jpg", "v/frame_1.jpg"], "holds several series of pictures: 'u/frame_' and 'v/frame_'"),
            (["img_1.jpg", "flow_x_1.jpg"], "holds several series of pictures"),
            (["f1.jpg", "f01.jpg"], "holds two pictures of number 1"),
            (["f1.jpg", "f1.png"], "holds two pictures of number 1"),
            (["f1.jpg", "cover.jpg"], r"holds the picture 'cover\.jpg', whose name has no number"),
            (["notes.txt"], r"holds no numbered pictures such as frame_0000000001\.jpg"),
        ],
    )
    def test_of_a_folder_and_of_an_archive(self, names, message, tmp_path):
        content = encoded(frames(1)[0])
        paths = [write_tar(tmp_path / f"a{ending}", dict.fromkeys(names, content)) for ending in (".tar", ".tar.gz")]
        if not any("/" in name for name in names):
            paths.append(write_folder(tmp_path / "a", dict.fromkeys(names, content)))
        for path in paths:
            with pytest.raises(MediaError, match=message):
                rows_of(path, rate(10))

    def test_a_zipped_archive_must_be_in_order(self, tmp_path):
        content = encoded(frames(1)[0])
        path = write_tar(tmp_path / "a.tgz", {"f2.jpg": content, "f1.jpg": content})
        with pytest.raises(MediaError, match=r"compressed and not in order: picture 1 comes after 2\. Unzip it"):
            rows_of(path, rate(10))

    def test_of_what_is_neither(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"")
        with pytest.raises(MediaError, match=r"should be a folder or a tar archive .* but that is neither"):
            rows_of(tmp_path / "a.mp4", rate(10))
        with pytest.raises(MediaError, match=r"but there is nothing of that name"):
            rows_of(tmp_path / "b.tar", rate(10))


def test_numbers_are_told_without_reading(tmp_path):
    files = dict.fromkeys(("f5.jpg", "f7.jpg", "f10.jpg"), b"")
    for path in (write_folder(tmp_path / "a", files), write_tar(tmp_path / "a.tar", files)):
        assert numbers_of(path) == Numbers(5, 10, 3)
        assert track_times(path, rate(5)) == TrackTimes(10, Fraction(2), Fraction(5))


def test_a_folder_is_recognised_by_its_pictures(tmp_path):
    large = b"\x00" * (1 << 20) + b"\x01" * (1 << 20) + b"\x02" * (1 << 20)
    files = {"f1.jpg": large, "f2.jpg": b"two", "f3.jpg": b"three", "notes.txt": b"left alone"}
    folder = write_folder(tmp_path / "P01_01", files)
    info = item_info("P01_01", folder)
    assert (info.source_name, info.source_bytes) == ("P01_01", (3 << 20) + 8)
    lines = b"f1.jpg\t3145728\nf2.jpg\t3\nf3.jpg\t5\n"
    ends = large[: 1 << 20] + large[-(1 << 20) :] + b"three"
    assert info.source_sha256 == hashlib.sha256(lines + ends).hexdigest()
    archive = write_tar(tmp_path / "P01_01.tar", {"f1.jpg": b"one"})
    assert item_info("P01_01", archive).source_sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
