"""Hashes what was read of the sources and describes them for the manifest."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from shard_tool.sources.files.archive import FileSpan, SourceFiles
    from shard_tool.sources.source import Source

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
    """Describe the sources for the manifest; hash archives in a thread meanwhile.

    Leaving the block early cancels the hashing.

    Yields:
        A function of (files read, task, splits) that returns the manifest's entries.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        to_hash = {source.files.where: source for source in sources if _is_to_hash(source)}
        hashed = {
            where: thread.submit(source.files.sha256, stop.is_set)
            for where, source in sorted(to_hash.items())
        }

        def entry(
            source: Source, files: ReadFiles, task: str, splits: Sequence[str]
        ) -> dict[str, Any]:
            found: dict[str, Any] = {"kind": "archive" if source.files.is_archive else "folder"}
            found |= {"year": source.year} if source.year != "unknown" else {}
            found |= (
                {}
                if source.format == "voc" and source.year != "unknown"
                else {"format": source.format}
            )
            if source.class_ids:
                found |= {"class_ids": dict(source.class_ids)}
            if source.files.is_archive:
                hashing = hashed.get(source.files.where)
                digest = hashing.result() if hashing else source.sha256
                return {**found, "num_bytes": source.num_bytes, "sha256": digest}
            count, digest = folder_sha256(source, files, task, splits)
            return {**found, "num_files": count, "sha256": digest}

        try:
            yield lambda files, task, splits: [
                entry(source, files, task, splits) for source in sources
            ]
        finally:
            stop.set()


def _is_to_hash(source: Source) -> bool:
    """Whether it is an archive that no scan has read as a whole."""
    return source.files.is_archive and source.sha256 is None


def folder_sha256(
    source: Source, files: ReadFiles, task: str, splits: Sequence[str]
) -> tuple[int, str]:
    """(number of files, digest) of a folder: annotations and pictures read, and its lists."""
    lists = source.lists(task, splits)
    files.add(source.files, lists, [source.files.read(span) for span in lists])
    return files.of(source.files.number)


def archive_sha256(source: Source) -> str:
    """SHA-256 of an archive, as hex digits; reads it where the scan did not."""
    return source.sha256 or source.files.sha256()
