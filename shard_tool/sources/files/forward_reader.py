"""Reads a stream by offset, as long as offsets only grow.

The standard library reads a stream either in sequence (`tarfile`) or by offset from a file that can
seek; the walk over a tar needs offsets from a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ForwardReader:
    """A `format.tar.ReadAt` over the parts of a stream; holds one or two of them in memory.

    Args:
        parts: The bytes of the stream, from its beginning.
        seen: Called with each part when it arrives, to hash it for example.
    """

    def __init__(self, parts: Iterator[bytes], seen: Callable[[bytes], object]) -> None:
        self._parts, self._seen = parts, seen
        self._held, self._start = b"", 0
        self.num_bytes = 0
        """Bytes read from the stream so far."""

    def __call__(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`; fewer only at the end of the stream.

        Raises:
            ValueError: `offset` lies before the bytes still in memory.
        """
        if offset < self._start:
            raise ValueError(f"byte {offset} has passed; the first one held is {self._start}")
        while self.num_bytes < offset + length and self._advance(keep_from=offset):
            pass
        at = offset - self._start
        return self._held[at : at + length]

    def drain(self) -> None:
        """Read the rest of the stream."""
        while self._advance(keep_from=self.num_bytes):
            pass

    def _advance(self, *, keep_from: int) -> bool:
        """Read the next part and drop bytes before `keep_from`; False at the end."""
        part = next(self._parts, None)
        if part is None:
            return False
        kept = self._held[max(0, keep_from - self._start) :]
        self._start = self.num_bytes - len(kept)
        self._held = kept + part if kept else part
        self.num_bytes += len(part)
        self._seen(part)
        return True
