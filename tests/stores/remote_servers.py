"""Servers on loopback for tests of stores that lie elsewhere: files over HTTP, counted and hurt on purpose."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer(ThreadingHTTPServer):
    """Serves a folder and keeps an account.

    Attributes:
        ranges: whether `Range` is answered; else the whole file comes with status 200.
        faults: what is done to the next requests of a path's end, one each: `503`, `reset`, `cut` (fewer bytes than
            announced), `short` (fewer bytes, honestly announced), `flip` (a wrong byte).
        sent: bytes of bodies, by path; requests: how often each was asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        self.ranges = ranges
        self.faults: dict[str, list[str]] = {}
        self.sent: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.account = threading.Lock()
        super().__init__(("127.0.0.1", 0), partial(_Files, folder))
        self.url = f"http://127.0.0.1:{self.server_port}"

    def fault_of(self, path: str) -> str:
        with self.account:
            self.requests[path] += 1
            for end, faults in self.faults.items():
                if path.endswith(end) and faults:
                    return faults.pop(0)
        return ""

    def forget(self) -> None:
        self.sent.clear()
        self.requests.clear()

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up early is none of the test's business."""


class _Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, *args) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.folder / self.path.lstrip("/")
        fault = self.server.fault_of(self.path) if with_body else ""
        if not path.is_file() or fault == "503":
            self.send_response(503 if fault else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
            return
        data, status = path.read_bytes(), 200
        if self.server.ranges and (asked := self.headers.get("Range")):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            status, size = 206, len(data)
            data = data[int(first) : int(last or size) + 1]
        if fault == "short":
            data = data[:-1]
        if fault == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{size}")
        self.end_headers()
        if fault == "cut":
            data, self.close_connection = data[: len(data) // 2], True
        if with_body:
            with self.server.account:
                self.server.sent[self.path] += len(data)
            self.wfile.write(data)

    def log_message(self, *args) -> None:
        """Nothing."""


@contextmanager
def file_server(folder: Path, *, ranges: bool = True):
    server = FileServer(folder, ranges=ranges)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
