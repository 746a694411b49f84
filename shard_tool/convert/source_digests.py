"""Hashes what was read of the sources and describes them for the manifest."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from shard_tool.sources.voc.split_lists import lists_of, numbered_lists_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from shard_tool.convert.plan import ConversionPlan
    from shard_tool.sources.voc.devkit import Devkit

_HASH_CHUNK_BYTES = 1 << 23
_DIGEST_BYTES = 32


class FileDigests:
    """Collects the SHA-256 of each converted file of a folder, in 33 bytes a file."""

    def __init__(self, plan: ConversionPlan) -> None:
        self._plan = plan
        self._of: dict[tuple[int, str], tuple[NDArray[np.uint8], NDArray[np.bool_]]] = {}

    def add(self, number: int, report: dict[str, Any]) -> None:
        """Add the digests in a shard's report: those of its good records, in order."""
        if not report["digests"]:
            return
        bad = {record["key"] for record in report["bad_records"]}
        digests = np.frombuffer(bytes.fromhex(report["digests"]), np.uint8)
        rows = iter(digests.reshape(-1, _DIGEST_BYTES))
        for record in self._plan.shard_task(number).records:
            files = self._plan.devkits[record.source].files
            if self._plan.devkits[record.source].source.is_archive or record.key in bad:
                continue
            for span in record.spans:
                folder, _, name = span.name.rpartition("/")
                stem = np.array([name[:-4].encode("utf-8", "surrogateescape")], np.bytes_)
                row = int(files.rows(folder, stem)[0])
                found, is_used = self._columns(record.source, folder)
                found[row], is_used[row] = next(rows), True

    def sha256(self, devkit: Devkit, task: str, splits: Sequence[str]) -> tuple[int, str]:
        """Digest all that was read of a folder.

        Returns:
            (number of files, digest of their names, sizes and digests): first the lists that decide
            what is converted, then the converted files by folder and name.
        """
        total, count = hashlib.sha256(), 0
        lists = {*lists_of(devkit, splits).values(), *numbered_lists_of(devkit, task, splits)}
        for span in sorted(lists):
            digest = hashlib.sha256(devkit.read(span)).hexdigest()
            total.update(f"{span.name} {span.size} {digest}\n".encode())
            count += 1
        number = devkit.source.number
        for folder in sorted(name for source, name in self._of if source == number):
            digests, is_used = self._of[number, folder]
            files = devkit.files.folders[folder]
            for row in np.flatnonzero(is_used).tolist():
                name = folder.encode() + b"/" + bytes(files.stems[row])
                size, digest = int(files.sizes[row]), digests[row].tobytes().hex()
                total.update(name + f" {size} {digest}\n".encode())
                count += 1
        return count, total.hexdigest()

    def _columns(self, source: int, folder: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        columns = self._of.get((source, folder))
        if columns is None:
            length = len(self._plan.devkits[source].files.folders[folder].stems)
            columns = (np.zeros((length, _DIGEST_BYTES), np.uint8), np.zeros(length, np.bool_))
            self._of[source, folder] = columns
        return columns


@contextmanager
def source_entries(
    devkits: Sequence[Devkit],
) -> Iterator[Callable[[FileDigests, str, Sequence[str]], list[dict[str, Any]]]]:
    """Describe the sources for the manifest; hash local archives in a thread meanwhile.

    Leaving the block early cancels the hashing.

    Yields:
        A function of (digests of files, task, splits) that returns the manifest's entries.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        hashed = {
            devkit.source.number: thread.submit(_sha256, path, stop)
            for devkit in devkits
            if devkit.source.is_archive
            and devkit.sha256 is None
            and (path := devkit.source.archive.local) is not None
        }

        def entry(
            devkit: Devkit, digests: FileDigests, task: str, splits: Sequence[str]
        ) -> dict[str, Any]:
            if not devkit.source.is_archive:
                count, digest = digests.sha256(devkit, task, splits)
                found = {"kind": "folder", "year": devkit.year, "num_files": count}
                return {**found, "sha256": digest}
            found = {"kind": "archive", "year": devkit.year, "num_bytes": devkit.num_bytes}
            return {**found, "sha256": devkit.sha256 or hashed[devkit.source.number].result()}

        try:
            yield lambda digests, task, splits: [
                entry(devkit, digests, task, splits) for devkit in devkits
            ]
        finally:
            stop.set()


def archive_sha256(devkit: Devkit) -> str:
    """SHA-256 of an archive, as hex digits; reads a local one for it."""
    path = devkit.source.archive.local
    if devkit.sha256 or path is None:
        return devkit.sha256 or ""
    return _sha256(path, threading.Event())


def _sha256(path: Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while not stop.is_set() and (chunk := file.read(_HASH_CHUNK_BYTES)):
            digest.update(chunk)
    return digest.hexdigest()
