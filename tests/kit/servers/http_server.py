"""A real HTTP server on this machine that behaves as well, or as badly, as a test scripts it."""

from __future__ import annotations

import re
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How the server answers one request; by default with the content, or the range asked for."""

    status: int = 200
    has_ranges: bool = True
    """False: a Range header is ignored and the whole content sent, as some servers do."""
    body: bytes | None = None
    """Instead of the server's content."""
    cut_after: int | None = None
    """Close the connection after that many bytes of the body."""
    is_reset: bool = False
    """Cut with a TCP reset instead of an orderly close."""
    stall_after: int | None = None
    """Fall silent after that many bytes of the body, until the server is stopped."""
    content_length: int | None = None
    """A lie."""
    content_range: str | None = None
    """A lie."""
    is_chunked: bool = False
    """Send in chunks, without a Content-Length."""
    location: str | None = None


def unavailable(status: int = 503) -> Reply:
    return Reply(status=status, body=b"try later")


def not_found(status: int = 404) -> Reply:
    return Reply(status=status, body=b"<html>no such page</html>")


def redirect(location: str | None, status: int = 302) -> Reply:
    return Reply(status=status, body=b"", location=location)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived."""

    path: str
    range_: str | None
    headers: dict[str, str] = field(compare=False, default_factory=dict)


class ScriptedServer:
    """Answers the n-th request with the n-th reply of its script; the last one is repeated."""

    def __init__(self, content: bytes, script: list[Reply]) -> None:
        self.content, self.script = content, script
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self._http = _HTTPServer(("127.0.0.1", 0), _Handler)
        self._http.scripted = self
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of every request so far."""
        return [request.range_ for request in self.requests]

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def next_reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            return self.script[min(len(self.requests), len(self.script)) - 1]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()  # waits for the handlers, too


@contextmanager
def serve(content: bytes, *script: Reply) -> Iterator[ScriptedServer]:
    server = ScriptedServer(content, list(script) or [Reply()])
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = False
    scripted: ScriptedServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HTTPServer

    def do_GET(self) -> None:
        scripted = self.server.scripted
        request = Request(self.path, self.headers.get("Range"), dict(self.headers.items()))
        reply = scripted.next_reply(request)
        with suppress(ConnectionError):  # a client may leave as it likes
            self._send(reply, scripted.content if reply.body is None else reply.body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep test output quiet."""

    def _send(self, reply: Reply, body: bytes) -> None:
        status, body, content_range = self._ranged(reply, body)
        self.send_response(status)
        self.send_header("Connection", "close")
        for name, value in {
            "Content-Range": reply.content_range or content_range,
            "Location": reply.location,
            "Transfer-Encoding": "chunked" if reply.is_chunked else None,
            "Content-Length": None if reply.is_chunked else reply.content_length or len(body),
        }.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self._send_body(reply, body)

    def _ranged(self, reply: Reply, body: bytes) -> tuple[int, bytes, str | None]:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not (match and reply.has_ranges and reply.status == 200):
            return reply.status, body, None
        start, total = int(match[1]), len(body)
        if start >= total:
            return 416, b"", f"bytes */{total}"
        return 206, body[start:], f"bytes {start}-{total - 1}/{total}"

    def _send_body(self, reply: Reply, body: bytes) -> None:
        stop = reply.cut_after if reply.stall_after is None else reply.stall_after
        part = body[:stop]
        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if reply.is_chunked else part)
        if reply.is_chunked and stop is None:
            self.wfile.write(b"0\r\n\r\n")
        if reply.stall_after is not None:
            self.server.scripted.stopped.wait()
        if reply.is_reset:
            linger_0 = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)
            self.connection.close()
