"""An HTTP server with one object: it answers whole, by ranges, or as the path asks."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.kit.faults.kinds import parse_range

CONTENT = b"".join(bytes([block]) * 512 for block in range(4))
HALF = len(CONTENT) // 2


class Store(BaseHTTPRequestHandler):
    """Answers with the content; a path such as /204 selects another answer."""

    protocol_version = "HTTP/1.1"
    server: StoreServer

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        content = self.server.content
        if self.path == "/chunked":
            self.reply(200, {"Transfer-Encoding": "chunked"})
            self.wfile.write(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: z\r\n\r\n")
        elif self.path == "/broken":
            self.reply(200, {"Transfer-Encoding": "chunked"})
            self.wfile.write(b"3\r\nabc\r\n")
            self.close_connection = True
        elif self.path == "/unframed":
            self.reply(200, {"Connection": "close"}, b"abc")
        elif self.path[1:].isdecimal():
            self.reply(int(self.path[1:]), {"Content-Length": "0"})
        elif range_ := parse_range(self.headers.get("Range", "")):
            part = content[slice(*range_)]
            place = f"bytes {range_[0]}-{range_[0] + len(part) - 1}/{len(content)}"
            self.reply(206, {"Content-Range": place, "Content-Length": str(len(part))}, part)
        else:
            fields = {"Content-Length": str(len(content)), "X-Host": self.headers["Host"]}
            self.reply(200, fields, content)
        self.close_connection |= self.path == "/leave"  # without announcing it

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        digest = hashlib.sha256(body).hexdigest().encode()
        self.reply(200, {"Content-Length": str(len(digest))}, digest)

    def handle_expect_100(self) -> bool:
        if self.path == "/refused":
            self.reply(403, {"Content-Length": "2"}, b"no")
            return False
        return super().handle_expect_100()

    def reply(self, status: int, fields: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep test output quiet."""


class StoreServer(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Store)
        self.content = CONTENT
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that leave early: tests make them do so."""
