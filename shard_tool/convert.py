"""Turn a VOC source into a dataset of shards.

Decides in `plan`, acts here: every shard is written by one task in a pool of processes, hashed as
it is written and published whole; the manifest comes last. The result does not depend on the
number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from shard_tool.errors import DataError, ObjectExists, OptionError
from shard_tool.manifest import MANIFEST_NAME, Manifest, ShardEntry, Split, encode_manifest
from shard_tool.plan import ShardTask, lists_of, plan_conversion, resolve_splits
from shard_tool.pool import process_pool
from shard_tool.release import RELEASE
from shard_tool.storage import PARTIAL, Folder, load_manifest
from shard_tool.tarshard import INDEX_SUFFIX, ShardWriter
from shard_tool.voc.devkit import Devkit, FileSpan, open_devkit
from shard_tool.voc.imagesets import TASK_FOLDERS
from shard_tool.voc.record import LABELS, BuiltSample, build_sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor, Future

BAD_RECORDS_NAME = "bad_records.jsonl"
_HASH_CHUNK_BYTES = 1 << 23

OnExisting = Literal["fail", "overwrite"]
OnBadRecord = Literal["fail", "skip"]

_PARTIAL_OF_OURS = re.compile(
    rf"\.(?:[A-Za-z0-9_+-]+-\d{{6}}\.tar(?:\.idx)?|{MANIFEST_NAME}|{BAD_RECORDS_NAME}){PARTIAL}\w+"
)
_SHARD_LIKE = re.compile(r"[A-Za-z0-9_+-]+-\d{6}\.tar")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What to convert, into what, and how.

    Raises:
        OptionError: A value that cannot be used.
    """

    source: str
    """A VOC tar, read in place, or a folder that holds a devkit."""
    dest: str
    """Folder of the dataset: created where it is missing."""
    task: str = "detection"
    splits: tuple[str, ...] = ()
    """Empty: train, val and test, as far as the source has them."""
    name: str | None = None
    """Name of the dataset; None: 'voc' and the year."""
    shard_bytes: int = 64 << 20
    """A shard is closed before the record that would pass this size; one record may exceed it."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that write shards; 1 writes them in this one."""
    seed: int = 0
    """Of the order in which samples go into shards."""
    on_existing: OnExisting = "fail"
    on_bad_record: OnBadRecord = "fail"
    max_bad_records: int | None = None
    """With on_bad_record 'skip': more than this is an error; None: no limit."""
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_choice("--task", self.task, tuple(TASK_FOLDERS))
        _check_choice("--on-existing", self.on_existing, get_args(OnExisting))
        _check_choice("--on-bad-record", self.on_bad_record, get_args(OnBadRecord))
        if self.workers < 1:
            raise OptionError("--workers", f"{self.workers} is below 1")
        if self.shard_bytes < 1:
            raise OptionError("--shard-size", f"{self.shard_bytes} bytes are below 1")
        if self.max_bad_records is not None and self.max_bad_records < 0:
            raise OptionError("--max-bad-records", f"{self.max_bad_records} is below 0")
        if self.name == "":
            raise OptionError("--name", "is empty")
        for number, split in enumerate(self.splits):
            if split in self.splits[:number]:
                raise OptionError("--split", f"{split!r} is given twice")
            if not re.fullmatch(r"[A-Za-z0-9_+-]+", split):
                raise OptionError("--split", f"{split!r} cannot name a list and its shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertProgress:
    """How far a conversion is."""

    samples: int
    total_samples: int
    num_bytes: int
    shards: int
    total_shards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """What a conversion did."""

    manifest: Manifest
    bad_records: tuple[dict[str, str], ...]
    seconds: float


@dataclass(slots=True)
class _ShardResult:
    """What came of one task."""

    entry: ShardEntry | None = None  # None: every record of it was bad
    objects: Counter[str] = field(default_factory=Counter)
    difficult: Counter[str] = field(default_factory=Counter)
    bad_records: list[dict[str, str]] = field(default_factory=list)
    file_digests: list[str] = field(default_factory=list)  # of the files a folder gave

    def count(self, built: BuiltSample, devkit: Devkit) -> None:
        self.objects.update(item.name for item in built.sample.objects)
        self.difficult.update(item.name for item in built.sample.objects if item.difficult)
        if not devkit.is_archive:
            self.file_digests += [_digest_line(span, content) for span, content in built.read]


def convert(
    options: ConvertOptions, *, on_progress: Callable[[ConvertProgress], None] | None = None
) -> ConvertReport:
    """Convert a source as `options` say.

    Nothing of an existing dataset is touched before the source was scanned and found usable. Until
    the manifest is there, DEST is no dataset.

    Raises:
        ShardToolError: Bad options, source, record (unless skipped) or destination; shards already
            published stay, nothing is committed.
    """
    began = time.monotonic()
    devkit = open_devkit(options.source)
    splits = resolve_splits(devkit, options.task, options.splits)
    tasks = plan_conversion(
        devkit,
        task=options.task,
        splits=splits,
        shard_bytes=options.shard_bytes,
        seed=options.seed,
    )
    dest = Folder(options.dest, options.storage_options)
    _prepare(dest, options.on_existing, splits)
    workers = 1 if dest.is_of_one_process else min(options.workers, len(tasks))
    with process_pool(workers) as pool, _archive_source(devkit) as archive:
        results = list(_results(pool, devkit, tasks, dest, options, on_progress))
        lists = list(lists_of(devkit, splits).values())
        source = archive.result() if archive else _folder_source(devkit, lists, results)
    bad_records = tuple(bad for result in results for bad in result.bad_records)
    if bad_records:
        with dest.publish(BAD_RECORDS_NAME) as file:
            file.writelines(json.dumps(bad).encode() + b"\n" for bad in bad_records)
    manifest = _manifest(options, devkit, source, splits, tasks, results)
    with dest.publish(MANIFEST_NAME) as file:
        file.write(encode_manifest(manifest))
    return ConvertReport(
        manifest=manifest, bad_records=bad_records, seconds=time.monotonic() - began
    )


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(option, f"{value!r} is not one of {', '.join(choices)}")


# Destination --------------------------------------------------------------------------------


def _prepare(dest: Folder, on_existing: OnExisting, splits: Sequence[str]) -> None:
    """Make sure `dest` is ours to write: empty, or cleared of the dataset it holds."""
    names = dest.names()
    if on_existing == "fail" and names:
        hint = "use --on-existing overwrite to replace it, or another DEST"
        if MANIFEST_NAME in names:
            raise ObjectExists(str(dest), "already holds a dataset", hint)
        shards = [name for name in names if _SHARD_LIKE.fullmatch(name)]
        if shards or any(PARTIAL in name for name in names):
            problem = f"holds {len(shards)} shards of a conversion that did not finish"
            raise ObjectExists(str(dest), problem, hint)
        problem = f"is not empty ({names[0]!r} is there) and holds no dataset"
        raise ObjectExists(str(dest), problem, "give an empty or a new folder")
    ours = _files_of_dataset(dest, names, splits)
    dest.remove(MANIFEST_NAME)  # first: from here on nobody mistakes what is left for a dataset
    for name in names:
        if name in ours or _PARTIAL_OF_OURS.fullmatch(name):
            dest.remove(name)


def _files_of_dataset(dest: Folder, names: list[str], splits: Sequence[str]) -> set[str]:
    """What overwriting may delete: what the manifest names, else what we are about to write.

    Raises:
        ManifestError: There is a manifest nobody can read, so nobody knows what is its own.
    """
    if MANIFEST_NAME in names:
        manifest = load_manifest(dest)
        shards = [entry.name for split in manifest.splits.values() for entry in split.shards]
    else:
        shard = re.compile(rf"({'|'.join(map(re.escape, splits))})-\d{{6}}\.tar")
        shards = [name for name in names if shard.fullmatch(name.removesuffix(INDEX_SUFFIX))]
        shards = [name.removesuffix(INDEX_SUFFIX) for name in shards]
    return {BAD_RECORDS_NAME, *shards, *(name + INDEX_SUFFIX for name in shards)}


# The pool -----------------------------------------------------------------------------------


def _results(
    pool: Executor,
    devkit: Devkit,
    tasks: list[ShardTask],
    dest: Folder,
    options: ConvertOptions,
    on_progress: Callable[[ConvertProgress], None] | None,
) -> Iterator[_ShardResult]:
    """Run every task; results come in the order of the shards."""
    source = replace(devkit, files={})  # a task's records say where their files lie
    skip = options.on_bad_record == "skip"
    futures = [pool.submit(_write_shard, source, task, dest, skip) for task in tasks]
    samples = num_bytes = num_bad = 0
    total = sum(len(task.records) for task in tasks)
    for number, (task, future) in enumerate(zip(tasks, futures, strict=True), start=1):
        result = future.result()
        samples += len(task.records)
        num_bytes += result.entry.num_bytes if result.entry else 0
        num_bad += len(result.bad_records)
        if options.max_bad_records is not None and num_bad > options.max_bad_records:
            first = result.bad_records[0]
            problem = f"{num_bad} bad records exceed --max-bad-records {options.max_bad_records}"
            raise DataError(str(devkit.path), f"{problem}; among them: {first['error']}")
        if on_progress:
            on_progress(
                ConvertProgress(
                    samples=samples,
                    total_samples=total,
                    num_bytes=num_bytes,
                    shards=number,
                    total_shards=len(tasks),
                )
            )
        yield result


def _write_shard(devkit: Devkit, task: ShardTask, dest: Folder, skip: bool) -> _ShardResult:  # noqa: FBT001
    """Write one shard and its index. Runs in a worker; depends on its arguments alone."""
    result = _ShardResult()
    with dest.publish(task.shard_name) as file:
        writer = ShardWriter(file)
        for record in task.records:
            try:
                built = build_sample(devkit, record)
            except DataError as exc:
                if not skip:
                    raise
                error = f"{exc.place}: {exc.problem}"  # the hint is to skip it, which we do
                bad = {"split": task.split, "key": record.key, "error": error}
                result.bad_records.append(bad)
                continue
            writer.write(record.key, built.members)
            result.count(built, devkit)
        written = writer.finish()
    if not written.num_samples:
        dest.remove(task.shard_name)  # a shard holds at least one sample
        return result
    index = written.index.to_bytes()
    with dest.publish(task.shard_name + INDEX_SUFFIX) as file:
        file.write(index)
    result.entry = ShardEntry(
        name=task.shard_name,
        num_samples=written.num_samples,
        num_bytes=written.num_bytes,
        sha256=written.sha256,
        index_sha256=hashlib.sha256(index).hexdigest(),
    )
    return result


# The manifest -------------------------------------------------------------------------------


def _manifest(
    options: ConvertOptions,
    devkit: Devkit,
    source: dict[str, Any],
    splits: tuple[str, ...],
    tasks: list[ShardTask],
    results: list[_ShardResult],
) -> Manifest:
    of_split: dict[str, list[_ShardResult]] = {split: [] for split in splits}
    for task, result in zip(tasks, results, strict=True):
        of_split[task.split].append(result)
    for split, its_results in of_split.items():
        if not any(result.entry for result in its_results):
            problem = f"every record of split {split!r} is bad; see {BAD_RECORDS_NAME}"
            raise DataError(str(devkit.path), problem)
    return Manifest(
        name=options.name or f"voc{devkit.year}",
        task=options.task,
        classes=LABELS,
        sources=(source,),
        release=RELEASE,
        options={
            "shard_bytes": options.shard_bytes,
            "seed": options.seed,
            "on_bad_record": options.on_bad_record,
        },
        splits={split: _split(its_results) for split, its_results in of_split.items()},
        num_bad_records=sum(len(result.bad_records) for result in results),
    )


def _split(results: list[_ShardResult]) -> Split:
    entries = tuple(result.entry for result in results if result.entry)
    objects: Counter[str] = sum((result.objects for result in results), Counter())
    difficult: Counter[str] = sum((result.difficult for result in results), Counter())
    return Split(
        shards=entries,
        num_samples=sum(entry.num_samples for entry in entries),
        num_bytes=sum(entry.num_bytes for entry in entries),
        objects={name: objects[name] for name in LABELS if name in objects},
        difficult={name: difficult[name] for name in LABELS if name in difficult},
    )


@contextmanager
def _archive_source(devkit: Devkit) -> Iterator[Future[dict[str, Any]] | None]:
    """An archive's entry in the manifest: hashed whole, in a thread, while the block runs.

    Leaving the block before the result was asked for gives the hashing up.
    """
    if not devkit.is_archive:
        yield None
        return
    stop = threading.Event()

    def entry() -> dict[str, Any]:
        sha256, size = hashlib.sha256(), 0
        with devkit.path.open("rb", buffering=0) as file:
            while not stop.is_set() and (chunk := file.read(_HASH_CHUNK_BYTES)):
                sha256.update(chunk)
                size += len(chunk)
        digest = sha256.hexdigest()
        return {"kind": "archive", "year": devkit.year, "num_bytes": size, "sha256": digest}

    with ThreadPoolExecutor(1) as thread:
        try:
            yield thread.submit(entry)
        finally:
            stop.set()


def _folder_source(
    devkit: Devkit, lists: list[FileSpan], results: list[_ShardResult]
) -> dict[str, Any]:
    """A folder's entry: a digest over the sorted names, sizes and digests of the files used."""
    used = [_digest_line(span, devkit.read(span)) for span in lists]
    used += [line for result in results for line in result.file_digests]
    digest = hashlib.sha256("".join(sorted(used)).encode()).hexdigest()
    return {"kind": "folder", "year": devkit.year, "num_files": len(used), "sha256": digest}


def _digest_line(span: FileSpan, content: bytes) -> str:
    return f"{span.name} {span.size} {hashlib.sha256(content).hexdigest()}\n"
