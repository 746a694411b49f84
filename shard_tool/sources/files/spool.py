"""Keeps the records of a conversion in a temporary file, so that memory does not grow with them.

A record with its parsed annotation takes a kilobyte or two, and the plan of a shard needs only its
place here: 12 bytes.
"""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING, NamedTuple

from shard_tool.errors import StoreError

if TYPE_CHECKING:
    import numpy as np

_IN_MEMORY_BYTES = 64 << 20
"""A conversion of so many bytes of records needs no file."""


class Spans(NamedTuple):
    """Where records lie."""

    offsets: np.ndarray[tuple[int], np.dtype[np.int64]]
    lengths: np.ndarray[tuple[int], np.dtype[np.int32]]


class Spool:
    """A growing file of byte strings; gone with its last user or its process."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115
        self._end = 0

    def add(self, content: bytes) -> int:
        """Append a string.

        Returns:
            Its offset.

        Raises:
            StoreError: The disk of temporary files is full.
        """
        offset = self._end
        try:
            self._file.seek(offset)
            self._file.write(content)
        except OSError as exc:
            folder = tempfile.gettempdir()
            problem = f"cannot keep the annotations there: {exc.strerror or exc}"
            raise StoreError(folder, problem, "free some space, or set TMPDIR") from exc
        self._end += len(content)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """Read a string back."""
        self._file.seek(offset)
        return self._file.read(length)

    def __del__(self) -> None:
        """Drop all strings."""
        self._file.close()
