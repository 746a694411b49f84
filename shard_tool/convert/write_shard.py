"""Writes one shard and its index: the task of a worker."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.errors import DataError
from shard_tool.format.counts import SplitCounts
from shard_tool.format.tar import INDEX_SUFFIX, ShardWriter
from shard_tool.sources.voc.record import build_sample, check_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shard_tool.convert.plan import ShardTask
    from shard_tool.dataset.journal import Journal
    from shard_tool.pictures.reencode import Reencoding
    from shard_tool.sources.archive import FileSpan, SourceFiles
    from shard_tool.sources.voc.record import BuiltSample, Record
    from shard_tool.storage.location import Folder

_FETCHED_TOGETHER = 32
"""Records whose files are requested together from a remote archive."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What all tasks of a conversion share; pickled, it goes to the workers."""

    task: str
    sources: tuple[SourceFiles, ...]
    journal: Journal
    skip: bool
    reencoding: Reencoding | None


def make_shard(
    job: ShardJob, task: ShardTask, known: dict[str, Any] | None
) -> tuple[dict[str, Any], bool]:
    """Write one shard and its index, unless a good one exists. Runs in a worker.

    Args:
        job: What all tasks share.
        task: The shard.
        known: The report of an earlier run that wrote it to a local disk; None: it was not written.

    Returns:
        The shard's report (sizes, entry, counts, bad records, digests of a folder's files), and
        whether the existing shard was kept.
    """
    if known is not None and _is_as_recorded(job.journal.folder, known):
        return known, True
    report = _write_shard(job, task)
    job.journal.record(task.shard_name, report)
    return report, False


def _is_as_recorded(folder: Folder, known: dict[str, Any]) -> bool:
    """Whether a shard and its index on a local disk have the recorded digests."""
    entry, path = known["entry"], folder.local
    if entry is None or path is None:
        return True
    for name, digest in (
        (entry["name"], entry["sha256"]),
        (entry["name"] + INDEX_SUFFIX, entry["index_sha256"]),
    ):
        with (path / name).open("rb", buffering=0) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return False
    return True


def _write_shard(job: ShardJob, task: ShardTask) -> dict[str, Any]:
    counts, bad_records, digests = SplitCounts(job.task), list[dict[str, str]](), list[str]()

    def bad(record: Record, exc: DataError) -> None:
        if not job.skip:
            raise exc
        error = f"{exc.place}: {exc.problem}"  # without the hint, which is to skip the record
        bad_records.append({"split": task.split, "key": record.key, "error": error})

    built = _built(job, task, bad)
    with suppress(_NothingToPublishError), job.journal.publish(task.shard_name) as file:
        writer = ShardWriter(file)
        for record, contents, sample in built:
            writer.write(record.key, sample.members)
            counts.add(sample.sample)
            if not job.sources[record.source].is_archive:
                digests += [hashlib.sha256(content).hexdigest() for content in contents]
        written = writer.finish()
        if not written.num_samples:
            raise _NothingToPublishError
    report: dict[str, Any] = {
        "sizes": {},
        "entry": None,
        **counts.as_json(),
        "bad_records": bad_records,
        "digests": "".join(digests),
    }
    if written.num_samples:
        index = written.index.to_bytes()
        job.journal.put(task.shard_name + INDEX_SUFFIX, index)
        report["sizes"] = {
            task.shard_name: written.num_bytes,
            task.shard_name + INDEX_SUFFIX: len(index),
        }
        report["entry"] = {
            "name": task.shard_name,
            "num_samples": written.num_samples,
            "num_bytes": written.num_bytes,
            "sha256": written.sha256,
            "index_sha256": hashlib.sha256(index).hexdigest(),
        }
    return report


class _NothingToPublishError(Exception):
    """Every record of a shard was bad; an empty shard is not published."""


def _built(
    job: ShardJob, task: ShardTask, bad: Callable[[Record, DataError], None]
) -> Iterator[tuple[Record, list[bytes], BuiltSample]]:
    """Yield each good record of a task with its files' bytes and its sample, in order."""
    is_local = all(source.is_local for source in job.sources)
    together = 1 if is_local else _FETCHED_TOGETHER
    with ExitStack() as stack:
        readers = [stack.enter_context(source.opened()) for source in job.sources]
        for first in range(0, len(task.records), together):
            some, problems = task.records[first : first + together], dict[int, DataError]()
            for at, record in enumerate(some):
                try:
                    check_record(job.sources[record.source], record)
                except DataError as exc:
                    problems[at] = exc
            good = [record for at, record in enumerate(some) if at not in problems]
            contents = iter(_contents(readers, good))
            for at, record in enumerate(some):
                try:
                    if at in problems:
                        raise problems[at]
                    its, source = next(contents), job.sources[record.source]
                    built = build_sample(source, record, its, job.reencoding)
                except DataError as exc:
                    bad(record, exc)
                else:
                    yield record, its, built


def _contents(
    readers: Sequence[Callable[[Sequence[FileSpan]], list[bytes]]], records: Sequence[Record]
) -> Iterator[list[bytes]]:
    """Yield the bytes of each record's files; requests all files of a source together."""
    wanted: dict[int, list[FileSpan]] = {}
    for record in records:
        wanted.setdefault(record.source, []).extend(record.spans)
    found = {source: iter(readers[source](spans)) for source, spans in wanted.items()}
    for record in records:
        yield [next(found[record.source]) for _ in record.spans]
