"""HTTP clients for tests: one that follows the headers, one that reads until the end."""

from __future__ import annotations

import socket
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as a client got it; `end`: fin, reset, or silence (the client gave up)."""

    status: int
    headers: dict[str, str]
    body: bytes
    end: str = ""


@contextmanager
def connected(url: str) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=5)) as connection:
        yield connection


def ask(
    connection: HTTPConnection,
    path: str = "/a.tar",
    method: str = "GET",
    body: Any = None,
    **headers: str,
) -> Answer:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return Answer(answer.status, dict(answer.headers.items()), answer.read())


def fetch(url: str, path: str = "/a.tar", method: str = "GET", **headers: str) -> Answer:
    with connected(url) as connection:
        return ask(connection, path, method, **headers)


def watch(url: str, *, pause_s: float = 0.0) -> Answer:
    """Read until the connection ends, trusting no header; status 0: nothing came."""
    at = urlsplit(url)
    content, end = b"", "fin"
    with socket.create_connection((at.hostname, at.port), timeout=0.2) as sock:
        sock.sendall(b"GET /a.tar HTTP/1.1\r\nHost: store\r\n\r\n")
        time.sleep(pause_s)
        try:
            while data := sock.recv(1 << 20):
                content += data
        except TimeoutError:
            end = "silence"
        except ConnectionResetError:
            end = "reset"
    if not content:
        return Answer(0, {}, b"", end)
    head, _, body = content.partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Answer(int(start.split()[1]), headers, body, end)
