"""HTTP/1.1 messages as bytes on sockets: enough to pass them on as they are, or spoilt."""

from __future__ import annotations

import fcntl
import math
import socket
import struct
import sys
import termios
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Chunk = bytes | memoryview

BUFFER_BYTES = 256 << 10
MAX_HEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Head:
    """The first line and the fields of a message."""

    start: str
    fields: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, content: bytes) -> Head:
        start, *lines = content.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(start, tuple((name, value.strip()) for name, _, value in pairs))

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split(" ")[1])

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with this message."""
        connection = self.get("connection").lower()
        return connection == "close" or ("HTTP/1.0" in self.start and connection != "keep-alive")

    @property
    def is_chunked(self) -> bool:
        return self.get("transfer-encoding").lower() == "chunked"

    def get(self, name: str) -> str:
        """A field's value by its lower-case name; empty if there is none."""
        return next((value for key, value in self.fields if key.lower() == name), "")

    def changed(self, changes: Mapping[str, str | None]) -> Head:
        """With fields replaced, added, or by None removed; `changes` has lower-case names."""
        kept = tuple((name, value) for name, value in self.fields if name.lower() not in changes)
        new = tuple((name, value) for name, value in changes.items() if value is not None)
        return Head(self.start, kept + new)

    def to_bytes(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.fields), "", ""]
        return "\r\n".join(lines).encode("latin-1")


class Stream:
    """A connected socket, and what was read ahead of it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._ahead = b""
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def head(self) -> Head | None:
        """The next message's; None at the end of the stream."""
        content = self._until(b"\r\n\r\n")
        return Head.parse(content) if content else None

    def body(self, num_bytes: float) -> Iterator[Chunk]:
        """So many bytes, or with `math.inf` all that come; a chunk is valid until the next.

        Raises:
            ConnectionError: They end before.
        """
        while num_bytes > 0:
            most = int(min(num_bytes, BUFFER_BYTES))
            if self._ahead:
                chunk: Chunk = self._ahead[:most]
                self._ahead = self._ahead[most:]
            else:
                chunk = self._buffer[: self.sock.recv_into(self._buffer[:most])]
            if not chunk and num_bytes == math.inf:
                return
            if not chunk:
                raise ConnectionError("the body ended early")
            num_bytes -= len(chunk)
            yield chunk

    def chunks(self) -> Iterator[Chunk]:
        """A chunked body with its framing, as it is.

        Raises:
            ConnectionError: It ends before its last chunk does.
        """
        size = -1
        while size:
            yield (line := self._line())
            size = int(line.partition(b";")[0], 16)
            yield from self.body(size + 2 if size else 0)
        while line != b"\r\n":
            yield (line := self._line())

    def send(self, chunk: Chunk) -> None:
        self.sock.sendall(chunk)

    def peek(self) -> bytes | None:
        """Empty when the other side has closed; None when nothing has come."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""

    def reset(self) -> None:
        """Close without a goodbye, as soon as what was sent has arrived."""
        while self.peek() is None and self._num_unsent():
            time.sleep(0.001)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _num_unsent(self) -> int:
        content = fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(content, sys.byteorder)

    def _line(self) -> bytes:
        if not (line := self._until(b"\r\n")):
            raise ConnectionError("the body ended early")
        return line

    def _until(self, end: bytes) -> bytes:
        """Everything up to `end`, and that; empty at the end of the stream."""
        while (found := self._ahead.find(end)) < 0:
            data = self.sock.recv(MAX_HEAD_BYTES)
            if not data or len(self._ahead) > MAX_HEAD_BYTES:
                return b""
            self._ahead += data
        stop = found + len(end)
        content, self._ahead = self._ahead[:stop], self._ahead[stop:]
        return content
