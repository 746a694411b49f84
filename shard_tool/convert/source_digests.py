"""Hashes what was read of the sources and describes them for the manifest."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from shard_tool.sources.archive import FileSpan, SourceFiles
    from shard_tool.sources.source import Source

_HASH_CHUNK_BYTES = 1 << 23
_MODULUS = 2**256


class ReadFiles:
    """Counts and digests the files that were read of folders, in any order and in a few bytes."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[int, int]] = {}

    def add(self, files: SourceFiles, spans: Sequence[FileSpan], contents: Sequence[bytes]) -> None:
        """Add files: the digest is a sum over those of name below the dataset and content."""
        source = files.number
        count, total = self._of.get(source, (0, 0))
        for span, content in zip(spans, contents, strict=True):
            inner = span.name.removeprefix(f"{files.inner}/")
            name = inner.encode("utf-8", "surrogateescape")
            digest = hashlib.sha256(name + b"\0" + hashlib.sha256(content).digest())
            total = (total + int.from_bytes(digest.digest(), "big")) % _MODULUS
            count += 1
        self._of[source] = count, total

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add the files of another `as_json`."""
        for source, (count, total) in other.items():
            its = self._of.get(int(source), (0, 0))
            self._of[int(source)] = its[0] + count, (its[1] + int(total, 16)) % _MODULUS

    def as_json(self) -> dict[str, Any]:
        """The counts and digests as plain values."""
        return {str(source): [count, f"{total:x}"] for source, (count, total) in self._of.items()}

    def of(self, source: int) -> tuple[int, str]:
        """(number of files, digest) of one source."""
        count, total = self._of.get(source, (0, 0))
        return count, f"{total:064x}"


@contextmanager
def source_entries(
    sources: Sequence[Source],
) -> Iterator[Callable[[ReadFiles, str, Sequence[str]], list[dict[str, Any]]]]:
    """Describe the sources for the manifest; hash local archives in a thread meanwhile.

    Leaving the block early cancels the hashing.

    Yields:
        A function of (files read, task, splits) that returns the manifest's entries.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        paths = {path for source in sources if (path := _to_hash(source))}
        hashed = {path: thread.submit(_sha256, path, stop) for path in sorted(paths)}

        def entry(
            source: Source, files: ReadFiles, task: str, splits: Sequence[str]
        ) -> dict[str, Any]:
            found = {"kind": "archive" if source.files.is_archive else "folder"}
            found |= {"year": source.year} if source.year != "unknown" else {}
            found |= (
                {}
                if source.format == "voc" and source.year != "unknown"
                else {"format": source.format}
            )
            if source.files.is_archive:
                path = _to_hash(source)
                digest = hashed[path].result() if path else source.sha256
                return {**found, "num_bytes": source.num_bytes, "sha256": digest}
            number = source.files.number
            lists = source.lists(task, splits)
            files.add(source.files, lists, [source.files.read(span) for span in lists])
            count, digest = files.of(number)
            return {**found, "num_files": count, "sha256": digest}

        try:
            yield lambda files, task, splits: [
                entry(source, files, task, splits) for source in sources
            ]
        finally:
            stop.set()


def _to_hash(source: Source) -> Path | None:
    """Path of a local archive that no scan has hashed."""
    if not source.files.is_archive or source.sha256 is not None:
        return None
    return source.files.archive.local


def archive_sha256(source: Source) -> str:
    """SHA-256 of an archive, as hex digits; reads a local one for it."""
    path = _to_hash(source)
    return (source.sha256 or "") if path is None else _sha256(path, threading.Event())


def _sha256(path: Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while not stop.is_set() and (chunk := file.read(_HASH_CHUNK_BYTES)):
            digest.update(chunk)
    return digest.hexdigest()
