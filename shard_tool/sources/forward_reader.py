"""A stream that only goes forward, read as if it were a file: for headers passing by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ForwardReader:
    """A `tarshard.ReadAt` over parts that come one after another; holds one or two of them.

    Args:
        parts: The stream's bytes from its beginning.
        seen: Called with each part as it comes: hashes it, say.
    """

    def __init__(self, parts: Iterator[bytes], seen: Callable[[bytes], object]) -> None:
        self._parts, self._seen = parts, seen
        self._held, self._start = b"", 0
        self.num_bytes = 0
        """Bytes that have come so far."""

    def __call__(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; fewer only where the stream ends.

        Raises:
            ValueError: `offset` lies before what is still held.
        """
        if offset < self._start:
            raise ValueError(f"byte {offset} has passed; the first one held is {self._start}")
        while self.num_bytes < offset + length and self._advance(keep_from=offset):
            pass
        at = offset - self._start
        return self._held[at : at + length]

    def drain(self) -> None:
        """Let the rest pass."""
        while self._advance(keep_from=self.num_bytes):
            pass

    def _advance(self, *, keep_from: int) -> bool:
        """Take the next part and let go of what lies before `keep_from`; False at the end."""
        part = next(self._parts, None)
        if part is None:
            return False
        kept = self._held[max(0, keep_from - self._start) :]
        self._start = self.num_bytes - len(kept)
        self._held = kept + part if kept else part
        self.num_bytes += len(part)
        self._seen(part)
        return True
