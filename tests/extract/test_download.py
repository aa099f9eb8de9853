"""Downloads from a server of this machine that behaves, breaks off, lies, or is busy."""

from __future__ import annotations

import errno
import http.server
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import pytest

from vidloc.errors import WeightsError
from vidloc.extract import download as module
from vidloc.extract.download import download

CONTENT = bytes(range(256)) * 2000  # half a MiB


@dataclass
class Site:
    """How the server answers; `requests` are the ranges that were asked for, in order."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    etag: str = '"1"'
    length: bool = True
    cut_after: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    redirect: str = ""
    requests: list[str | None] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        asked = self.headers.get("Range")
        site.requests.append(asked)
        if site.answers and (code := site.answers.pop(0)) != 200:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if site.redirect:
            self.send_response(302)
            self.send_header("Location", site.redirect)
            self.end_headers()
            return
        start = 0
        if asked and site.ranges and self.headers.get("If-Range", site.etag) == site.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        else:
            self.send_response(200)
        body = site.content[start:]
        if site.length:
            self.send_header("Content-Length", str(len(body)))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        self.wfile.write(body[: site.cut_after.pop(0)] if site.cut_after else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = Site(f"http://127.0.0.1:{server.server_address[1]}/some.pth")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    return waits


@pytest.fixture
def get(site, tmp_path):
    def get(**options):
        told = []
        chosen = {"judge": lambda path: None, "resume_unknown": False} | options
        fetched = download(site.url, tmp_path / "some.pth", progress=lambda *p: told.append(p), **chosen)
        assert fetched
        assert (tmp_path / "some.pth").read_bytes() == site.content
        assert left(tmp_path) == ["some.pth"]
        return told

    return get


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_comes_once(site, get, tmp_path):
    told = get()
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert not download(site.url, tmp_path / "some.pth", judge=pytest.fail, resume_unknown=False)
    assert site.requests == [None]


def test_a_server_may_not_say_how_much_it_is(site, get):
    site.length = False
    assert get()[-1] == (len(CONTENT), None)


def test_after_a_cut_the_rest_is_asked_for(site, get, no_waiting):
    site.cut_after = [1000, 70_000, 1]
    get()
    assert site.requests == [None, "bytes=1000-", "bytes=71000-", "bytes=71001-"]
    assert no_waiting == [1, 1, 1]


def test_a_server_without_ranges_is_asked_for_the_whole_again(site, get):
    site.ranges, site.cut_after = False, [1000]
    get()
    assert site.requests == [None, "bytes=1000-"]


def test_a_server_that_marks_no_version_is_gone_on_with_only_where_a_mixture_would_show(site, get):
    site.etag, site.cut_after = "", [1000]
    get()
    assert site.requests == [None, None]


def test_and_then_it_is(site, get):
    site.etag, site.cut_after = "", [1000]
    get(resume_unknown=True)
    assert site.requests == [None, "bytes=1000-"]


def test_another_process_goes_on_where_one_was_killed(site, get, tmp_path, monkeypatch):
    site.cut_after = [1000] + [0] * 4
    with pytest.raises(WeightsError, match=r"ended after 1,000 of 512,000 bytes \(5 attempts\)\. 1,000 bytes are here"):
        get()
    assert left(tmp_path) == ["some.pth.part", "some.pth.part.json"]
    site.requests.clear()
    get()
    assert site.requests == ["bytes=1000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(site, get):
    site.cut_after = [1000] + [0] * 4
    with pytest.raises(WeightsError, match="run the same again to go on"):
        get()
    site.etag, site.content = '"2"', CONTENT[::-1]
    get()


def test_a_part_of_another_address_is_not_gone_on_with(site, get, tmp_path):
    (tmp_path / "some.pth.part").write_bytes(b"x" * 1000)
    (tmp_path / "some.pth.part.json").write_text('{"url": "https://example.org/some.pth", "version": "\\"1\\""}')
    get()
    assert site.requests == [None]


@pytest.mark.parametrize("facts", ["", "[]", "{}", '{"url": 1}'])
def test_a_part_of_which_nothing_is_known_is_begun_anew(site, get, tmp_path, facts):
    (tmp_path / "some.pth.part").write_bytes(b"x" * 1000)
    (tmp_path / "some.pth.part.json").write_text(facts)
    get()
    assert site.requests == [None]


@pytest.mark.parametrize(("extra", "requests"), [(0, 1), (9, 2)])
def test_a_part_that_was_whole_or_too_long(site, get, tmp_path, extra, requests):
    (tmp_path / "some.pth.part").write_bytes(CONTENT + b"x" * extra)
    (tmp_path / "some.pth.part.json").write_text(f'{{"url": "{site.url}", "version": "\\"1\\""}}')
    get()
    assert len(site.requests) == requests


def test_a_busy_server_is_asked_later(site, get, no_waiting, caplog):
    site.answers = [503, 500, 429]
    get()
    assert no_waiting == [1, 2, 4]
    assert "the server answers 503 Service Unavailable; trying again in 1 s" in caplog.text


def test_a_server_that_stays_busy_is_given_up(site, get, no_waiting):
    site.answers = [503] * 9
    with pytest.raises(WeightsError, match=r"answers 503 .*\(5 attempts\).*put it here as .*some\.pth$"):
        get()
    assert no_waiting == [1, 2, 4, 8]


def test_a_file_that_is_not_there_is_not_asked_for_twice(site, get):
    site.answers = [404]
    with pytest.raises(WeightsError, match="the server answers 404 Not Found"):
        get()
    assert len(site.requests) == 1


def test_a_wrong_file_is_not_kept(site, get, tmp_path):
    def judge(path):
        assert path.read_bytes() == CONTENT
        raise WeightsError("another hash")

    with pytest.raises(WeightsError, match="another hash"):
        get(judge=judge)
    assert not left(tmp_path)


def test_a_full_disk_is_said_and_what_came_is_kept(site, get, tmp_path, monkeypatch):
    def full(file, data):
        file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write_all", full)
        with pytest.raises(WeightsError, match=r"no space is left at .* VIDLOC_CACHE"):
            get()
    assert (tmp_path / "some.pth.part").stat().st_size == 100
    get()
    assert site.requests == [None, "bytes=100-"]


def test_room_is_looked_for_before_anything_is_written(site, get, monkeypatch, tmp_path):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(WeightsError, match=r"512,000 more bytes, but 1,000 are free"):
        get()


def test_a_folder_that_cannot_be_written(site, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(WeightsError, match=r"cannot be written: (File exists|Not a directory)"):
        download(site.url, tmp_path / "cache" / "a.pth", judge=lambda path: None, resume_unknown=False)


@pytest.mark.parametrize(
    "url", ["http://example.org/a.pth", "ftp://example.org/a.pth", "/etc/passwd", "http://[::2]/a"]
)
def test_other_ways_than_https_are_refused(url, tmp_path):
    with pytest.raises(WeightsError, match="only https is"):
        download(url, tmp_path / "a.pth", judge=lambda path: None, resume_unknown=False)


@pytest.mark.parametrize(
    ("target", "reason"), [("http://example.org/a.pth", "is not fetched"), ("file:///etc/passwd", "is not allowed")]
)
def test_nobody_is_sent_to_them_either(site, get, target, reason):
    site.redirect = target
    with pytest.raises(WeightsError, match=reason):
        get()


def test_no_network_is_said_at_once(tmp_path, no_waiting):
    with pytest.raises(WeightsError, match="no such host"):
        download("https://host.invalid/a.pth", tmp_path / "a.pth", judge=lambda path: None, resume_unknown=False)
    assert no_waiting == []


def test_files_of_this_machine_come_likewise(tmp_path):
    (tmp_path / "source.pth").write_bytes(CONTENT)
    target = tmp_path / "a.pth"
    assert download((tmp_path / "source.pth").as_uri(), target, judge=lambda path: None, resume_unknown=False)
    assert target.read_bytes() == CONTENT
    with pytest.raises(WeightsError, match=r"gone\.pth cannot be read: No such file"):
        download((tmp_path / "gone.pth").as_uri(), tmp_path / "b.pth", judge=pytest.fail, resume_unknown=False)


def test_two_processes_fetch_it_once(site, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from vidloc.extract.download import download\n"
        "judge = lambda path: time.sleep(1)\n"
        "print(download(sys.argv[1], Path(sys.argv[2]), judge=judge, resume_unknown=False))"
    )
    command = [sys.executable, "-c", code, site.url, str(tmp_path / "some.pth")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert sorted(out.strip() for out, _ in results) == ["False", "True"], results
    assert site.requests == [None]
    assert (tmp_path / "some.pth").read_bytes() == CONTENT
