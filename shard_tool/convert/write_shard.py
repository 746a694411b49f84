"""Writes one shard and its index: the task of a worker."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.convert.build import Builder
from shard_tool.convert.source_digests import ReadFiles
from shard_tool.errors import DataError
from shard_tool.format.counts import SplitCounts
from shard_tool.format.tar import INDEX_SUFFIX, ShardWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shard_tool.convert.build import BuiltSample
    from shard_tool.convert.packed import Read
    from shard_tool.convert.plan import ShardTask
    from shard_tool.convert.rules import Rules
    from shard_tool.dataset.journal import Journal
    from shard_tool.sources.files.archive import FileSpan, SourceFiles
    from shard_tool.sources.source import Record
    from shard_tool.storage.location import Folder

_FETCHED_TOGETHER = 32
"""Records whose files are requested together from a remote archive."""
_HEADER_BYTES = 1 << 16
"""So many bytes of a picture hold its header and EXIF, mostly; else all are read."""

Readers = "Sequence[Callable[[Sequence[FileSpan]], list[bytes]]]"


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What all tasks of a conversion share; pickled, it goes to the workers."""

    rules: Rules
    sources: tuple[SourceFiles, ...]
    journal: Journal


def make_shard(
    job: ShardJob, task: ShardTask, known: dict[str, Any] | None
) -> tuple[dict[str, Any], bool]:
    """Write one shard and its index, unless a good one exists. Runs in a worker.

    Args:
        job: What all tasks share.
        task: The shard.
        known: The report of an earlier run that wrote it to a local disk; None: it was not written.

    Returns:
        The shard's report (sizes, entry, counts, bad records, what was dropped or read otherwise,
        digests of a folder's files), and whether the existing shard was kept.
    """
    if known is not None and _is_as_recorded(job.journal.folder, known):
        return known, True
    report = _write_shard(job, task)
    job.journal.record(task.shard_name, report)
    return report, False


def check_records(
    rules: Rules, sources: tuple[SourceFiles, ...], task: ShardTask
) -> dict[str, Any]:
    """Check records without writing a shard. Runs in a worker.

    Returns:
        What `make_shard` would report of bad records, and of what is dropped or read otherwise.
    """
    builder, counts = Builder(rules, sources), SplitCounts(rules.task)
    bad_records = list[dict[str, Any]]()
    with ExitStack() as stack:
        readers = [stack.enter_context(source.opened()) for source in sources]
        for read in task.reads():
            try:
                counts.add(_checked(builder, readers, read))
            except DataError as exc:
                bad_records.append(_described(task.split, read.record, exc) | {"hint": exc.hint})
    return {
        "split": task.split,
        "num_records": len(task.records),
        "bad_records": bad_records,
        "dropped": builder.dropped,
        "notes": builder.report.as_json(),
        **counts.as_json(),
    }


def _checked(builder: Builder, readers: Any, read: Read) -> Any:
    if read.error is not None:
        raise read.error
    spans = read.record.pictures
    heads = list(spans)  # masks are small, and read whole
    if builder.sources[read.record.source].is_archive and spans[0].packed is None:
        heads[0] = spans[0]._replace(size=min(spans[0].size, _HEADER_BYTES), crc=None)
    try:
        return builder.checked(read.record, read.annotation, readers[read.record.source](heads))
    except DataError:
        if heads == spans:
            raise
    # The header may be longer than expected.
    return builder.checked(read.record, read.annotation, readers[read.record.source](spans))


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


def _described(split: str, record: Record, exc: DataError) -> dict[str, Any]:
    # Without the hint, which is to skip the record.
    return {"split": split, "key": record.key, "error": f"{exc.place}: {exc.problem}"}


def _write_shard(job: ShardJob, task: ShardTask) -> dict[str, Any]:
    rules, builder = job.rules, Builder(job.rules, job.sources)
    counts, bad_records = SplitCounts(rules.task), list[dict[str, Any]]()
    files = ReadFiles()

    def bad(record: Record, exc: DataError) -> None:
        if not rules.skips:
            raise exc
        bad_records.append(_described(task.split, record, exc))

    built = _built(job, builder, task, bad)
    with suppress(_NothingToPublishError), job.journal.publish(task.shard_name) as file:
        writer = ShardWriter(file)
        for record, contents, sample in built:
            writer.write(record.key, sample.members)
            counts.add(sample.sample)
            source = job.sources[record.source]
            if not source.is_archive:
                files.add(source, record.pictures, contents)
        written = writer.finish()
        if not written.num_samples:
            raise _NothingToPublishError
    builder.report.shorten(source.place("") for source in job.sources)
    report: dict[str, Any] = {
        "sizes": {},
        "entry": None,
        **counts.as_json(),
        "bad_records": bad_records,
        "dropped": [{"split": task.split, **dropped} for dropped in builder.dropped],
        "notes": builder.report.as_json(),
        "files": files.as_json(),
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
    job: ShardJob, builder: Builder, task: ShardTask, bad: Callable[[Record, DataError], None]
) -> Iterator[tuple[Record, list[bytes], BuiltSample]]:
    """Yield each good record of a task with its pictures' bytes and its sample, in order."""
    is_local = all(source.is_local for source in job.sources)
    together = 1 if is_local else _FETCHED_TOGETHER
    reads, labels = task.reads(), task.labels or (None,) * len(task.records)
    with ExitStack() as stack:
        readers = [stack.enter_context(source.opened()) for source in job.sources]
        for first in range(0, len(reads), together):
            some = reads[first : first + together]
            contents = iter(_contents(readers, [read.record for read in some if not read.error]))
            for read, its_labels in zip(some, labels[first : first + together], strict=True):
                try:
                    if read.error is not None:
                        raise read.error
                    its = next(contents)
                    built = builder.built(read.record, read.annotation, its, its_labels)
                except DataError as exc:
                    bad(read.record, exc)
                else:
                    yield read.record, its, built


def _contents(readers: Any, records: Sequence[Record]) -> Iterator[list[bytes]]:
    """Yield the bytes of each record's pictures; requests all files of a source together."""
    wanted: dict[int, list[FileSpan]] = {}
    for record in records:
        wanted.setdefault(record.source, []).extend(record.pictures)
    found = {source: iter(readers[source](spans)) for source, spans in wanted.items()}
    for record in records:
        yield [next(found[record.source]) for _ in record.pictures]
