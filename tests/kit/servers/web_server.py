"""A plain web server of one folder: what a dataset on https:// is read from."""

from __future__ import annotations

import ssl
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tests.kit.faults.kinds import parse_range

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def web_server(
    folder: Path, *, has_ranges: bool = True, certificate: Path | None = None
) -> Iterator[str]:
    """Serve the files of a folder; gives the folder's URL.

    Args:
        folder: Read at each request.
        has_ranges: False: a Range header is ignored and the whole file sent, as some servers do.
        certificate: A PEM file with key and certificate: speak TLS.
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.has_ranges = folder, has_ranges
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake is the handler thread's: a client that is slow or fails holds up no other.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        scheme = "http" if certificate is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()  # waits for the handlers, too


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128
    folder: Path
    has_ranges: bool


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        with suppress(ConnectionError, ssl.SSLError):  # a client may leave as it likes
            self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Keep test output quiet."""

    def _answer(self) -> None:
        path = self.server.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if not path.is_file():
            self._send(404, b"<html>no such page</html>")
            return
        content = path.read_bytes()
        start, stop = parse_range(self.headers.get("Range", "")) or (-1, None)
        if start < 0 or not self.server.has_ranges:
            self._send(200, content)
        elif start >= len(content):
            self._send(416, b"", f"bytes */{len(content)}")
        else:
            part = content[start:stop]
            self._send(206, part, f"bytes {start}-{start + len(part) - 1}/{len(content)}")

    def _send(self, status: int, body: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Connection", "close")  # so that no thread waits for a client
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)
