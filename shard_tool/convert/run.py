"""Turn VOC sources into a dataset of shards.

Decides in `plan`, acts here: every shard is written by one task, in a pool of processes or on a
cluster, hashed as it is written and published whole; the manifest comes last (`publication`). The
result does not depend on who wrote what, nor on how often the conversion was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from shard_tool.convert.plan import ConversionPlan, ShardTask, plan_conversion, resolve_splits
from shard_tool.convert.source_digests import FileDigests, archive_sha256, source_entries
from shard_tool.dataset.disk_space import check_disk_space
from shard_tool.dataset.publication import (
    BAD_RECORDS_NAME,
    OnExisting,
    check_shards_are_own,
    publishing,
)
from shard_tool.errors import DataError, ObjectExists, OptionError
from shard_tool.format.counts import SplitCounts
from shard_tool.format.manifest import Manifest, ShardEntry, Split
from shard_tool.format.tar import INDEX_SUFFIX, ShardWriter
from shard_tool.pictures.reencode import Reencoding
from shard_tool.release import RELEASE
from shard_tool.sources.voc.devkit import open_devkit
from shard_tool.sources.voc.imagesets import TASK_FOLDERS
from shard_tool.sources.voc.record import LABELS, build_sample, check_record
from shard_tool.storage.location import Folder
from shard_tool.tasks.engines import LOCAL, check_engine
from shard_tool.tasks.pool import open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shard_tool.dataset.journal import Journal
    from shard_tool.dataset.publication import Publication
    from shard_tool.sources.voc.devkit import FileSpan, Source
    from shard_tool.sources.voc.record import BuiltSample, Record
    from shard_tool.tasks.pool import Pool

_FETCHED_TOGETHER = 32
"""Records whose files are asked for at once where the archive lies elsewhere."""

OnBadRecord = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What to convert, into what, and how.

    Raises:
        OptionError: A value that cannot be used.
    """

    source: str | Sequence[str]
    """A VOC tar, read in place from a path or URL, or a folder that holds a devkit; or several."""
    dest: str
    """Folder or URL of the dataset: created where it is missing."""
    task: str = "detection"
    splits: tuple[str, ...] = ()
    """Empty: train, val and test, as far as the sources have them."""
    name: str | None = None
    """Name of the dataset; None: 'voc' and the year, or 'voc07+12' for several years."""
    shard_bytes: int = 64 << 20
    """A shard is closed before the record that would pass this size; one record may exceed it."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes of the local engine that write shards; 1 writes them in this one."""
    engine: str = "local"
    """'local', or the address of a Dask scheduler ('tcp://host:8786')."""
    seed: int = 0
    """Of the order in which samples go into shards."""
    on_existing: OnExisting = "fail"
    on_bad_record: OnBadRecord = "fail"
    max_bad_records: int | None = None
    """With on_bad_record 'skip': more than this is an error; None: no limit."""
    resize: int | None = None
    """Pixels the longer side may have; larger pictures are made smaller. None: none are."""
    quality: int | None = None
    """JPEG quality, 1 to 100, of every picture, which is then encoded anew; None: only with
    `resize`, and 90."""
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec's options for `dest`, and for sources reached by the same protocol."""
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec's options for sources alone, where they are other ones."""

    def __post_init__(self) -> None:
        if not self.sources or "" in self.sources:
            raise OptionError("SOURCE", "is empty" if self.sources else "none is given")
        if not self.dest:
            raise OptionError("DEST", "is empty")
        _check_choice("--task", self.task, tuple(TASK_FOLDERS))
        _check_choice("--on-existing", self.on_existing, get_args(OnExisting))
        _check_choice("--on-bad-record", self.on_bad_record, get_args(OnBadRecord))
        if self.workers < 1:
            raise OptionError("--workers", f"{self.workers} is below 1")
        if self.shard_bytes < 1:
            raise OptionError("--shard-size", f"{self.shard_bytes} bytes are below 1")
        if self.max_bad_records is not None and self.max_bad_records < 0:
            raise OptionError("--max-bad-records", f"{self.max_bad_records} is below 0")
        if self.max_bad_records is not None and self.on_bad_record != "skip":
            problem = "no record may be bad unless it is skipped"
            raise OptionError("--max-bad-records", problem, "add --on-bad-record skip")
        if self.name == "":
            raise OptionError("--name", "is empty")
        for number, split in enumerate(self.splits):
            if split in self.splits[:number]:
                raise OptionError("--split", f"{split!r} is given twice")
            if not re.fullmatch(r"[A-Za-z0-9_+-]+", split):
                raise OptionError("--split", f"{split!r} cannot name a list and its shards")
        check_engine(self.engine)
        self.reencoding()  # its own checks

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, one or several."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source)

    def reencoding(self) -> Reencoding | None:
        """What happens to pictures; None: nothing."""
        if self.resize is None and self.quality is None:
            return None
        return Reencoding(longer_side=self.resize, quality=self.quality)

    def options_of(self, source: str) -> dict[str, Any]:
        """Storage options for a source: its own, or those of DEST where they may be meant."""
        protocol, elsewhere, _ = source.partition("://")
        if not elsewhere or self.source_options:
            return self.source_options if elsewhere else {}
        of_dest, is_url, _ = self.dest.partition("://")
        is_same = of_dest.replace("s3a", "s3") == protocol.replace("s3a", "s3")
        return self.storage_options if is_same or not is_url else {}


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
    num_kept_shards: int = 0
    """Shards an earlier run had finished, which were not written again."""


def prepare(
    options: ConvertOptions, *, on_scan: Callable[[str, int, int], None] | None = None
) -> ConversionPlan:
    """Scan the sources and decide what goes where; nothing is written.

    Args:
        options: What to convert.
        on_scan: Called with (source, bytes, all bytes) while an archive elsewhere is streamed.

    Raises:
        ShardToolError: A source is missing or unusable.
    """
    devkits = []
    for number, source in enumerate(options.sources):

        def scanned(done: int, total: int, source: str = source) -> None:
            if on_scan:
                on_scan(source, done, total)

        its_options = options.options_of(source)
        devkits.append(open_devkit(source, options=its_options, number=number, on_progress=scanned))
    return plan_conversion(
        devkits,
        task=options.task,
        splits=resolve_splits(devkits, options.task, options.splits),
        shard_bytes=options.shard_bytes,
        seed=options.seed,
    )


def convert(
    options: ConvertOptions,
    *,
    plan: ConversionPlan | None = None,
    on_progress: Callable[[ConvertProgress], None] | None = None,
) -> ConvertReport:
    """Convert sources as `options` say.

    Nothing of an existing dataset is touched before the sources were scanned and found usable.
    Until the manifest is there, DEST is no dataset.

    Args:
        options: What to convert, into what, and how.
        plan: What `prepare` made of the same options; None: made here.
        on_progress: Called with each shard that is finished.

    Raises:
        ShardToolError: Bad options, source, record (unless skipped) or destination; shards already
            published stay, nothing is committed.
    """
    began = time.monotonic()
    plan = plan or prepare(options)
    dest = Folder(options.dest, options.storage_options)
    check_disk_space(dest, plan.num_bytes, options.on_existing)
    names = {name for _, name in plan.shard_names()}
    if options.on_existing == "overwrite":
        check_shards_are_own(dest, names)
    if dest.is_of_one_process and options.engine != LOCAL:
        problem = f"workers of {options.engine} cannot write into this process's memory"
        raise OptionError(str(dest), problem, "choose another DEST")
    workers = 1 if dest.is_of_one_process else min(options.workers, max(1, plan.num_shards))
    making = publishing(
        dest,
        _identity(options, plan),
        verb="convert",
        on_existing=options.on_existing,
        is_shard=lambda name: name in names or _is_of_splits(name, plan),
        of_manifest=_identity_of,
        pool=open_pool(options.engine, workers),
    )
    with making as publication:
        if publication.manifest is None:
            results = _convert(publication.pool, options, plan, publication, on_progress)
            manifest, bad_records = results.committed, results.bad_records()
            num_kept = results.num_kept
        else:
            manifest, bad_records = publication.manifest, _bad_records_of(dest)
            _check_sources(dest, plan, manifest)
            num_kept = sum(len(split.shards) for split in manifest.splits.values())
    return ConvertReport(
        manifest=manifest,
        bad_records=bad_records,
        seconds=time.monotonic() - began,
        num_kept_shards=num_kept,
    )


def _convert(
    pool: Pool,
    options: ConvertOptions,
    plan: ConversionPlan,
    publication: Publication,
    on_progress: Callable[[ConvertProgress], None] | None,
) -> _Results:
    dest, results = publication.journal.folder, _Results(plan, options, on_progress)
    with source_entries(plan.devkits) as entries:
        for number, report, is_kept in _reports(pool, plan, options, publication):
            results.add(number, report, is_kept=is_kept)
        splits = [split.split for split in plan.splits]
        sources = entries(results.digests, options.task, splits)
    bad_records = results.bad_records()
    if bad_records:
        with dest.publish(BAD_RECORDS_NAME) as file:
            file.writelines(json.dumps(bad).encode() + b"\n" for bad in bad_records)
    for devkit in plan.devkits:
        devkit.source.check_unchanged()
    results.committed = results.manifest(sources)
    publication.commit(results.committed)
    return results


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(option, f"{value!r} is not one of {', '.join(choices)}")


def _check_sources(dest: Folder, plan: ConversionPlan, manifest: Manifest) -> None:
    """Make sure that a finished dataset was made of these very archives.

    Raises:
        ObjectExists: It was not.
    """
    for devkit, entry in zip(plan.devkits, manifest.sources, strict=True):
        if devkit.source.is_archive and archive_sha256(devkit) != entry["sha256"]:
            problem = f"the dataset there was made of other content than {devkit.source.shown} has"
            raise ObjectExists(str(dest), problem, "use --on-existing overwrite, or another DEST")


def _is_of_splits(name: str, plan: ConversionPlan) -> bool:
    """Whether it may be a shard of another run with the same splits."""
    split, dash, rest = name.rpartition("-")
    is_known = split in {its.split for its in plan.splits}
    return bool(is_known and dash and re.fullmatch(r"\d{6,}\.tar", rest))


def _bad_records_of(dest: Folder) -> tuple[dict[str, str], ...]:
    if BAD_RECORDS_NAME not in dest.names():
        return ()
    return tuple(json.loads(line) for line in dest.read(BAD_RECORDS_NAME).splitlines())


# What is the same conversion ----------------------------------------------------------------


_NO_CHANGE = dict.fromkeys(("resize", "quality", "reencoded", "encoder"))
"""What a manifest leaves out where pictures are as they were."""


def _identity(options: ConvertOptions, plan: ConversionPlan) -> dict[str, Any]:
    """What must be equal for a later run to go on with this one."""
    found = {
        "release": RELEASE,
        "--task": options.task,
        "--split": [split.split for split in plan.splits],
        "--name": _name_of(options, plan),
        **{_shown(name): value for name, value in (_NO_CHANGE | _byte_options(options)).items()},
    }
    for devkit in plan.devkits:
        kind = "archive" if devkit.source.is_archive else "folder"
        number = devkit.source.number + 1
        found[f"source {number}"] = _spelled(kind, devkit.year, devkit.num_bytes)
        found[f"source {number}'s files"] = devkit.identity_sha256()
    return found


def _identity_of(manifest: Manifest) -> dict[str, Any]:
    """As far as a finished dataset tells it."""
    found = {
        "release": manifest.release,
        "--task": manifest.task,
        "--split": list(manifest.splits),
        "--name": manifest.name,
        **{_shown(name): value for name, value in (_NO_CHANGE | manifest.options).items()},
    }
    for number, source in enumerate(manifest.sources, start=1):
        size = source.get("num_bytes")
        found[f"source {number}"] = _spelled(source.get("kind"), source.get("year"), size)
    return found


def _spelled(kind: object, year: object, num_bytes: object) -> str:
    return f"{kind} of {year}" + ("" if num_bytes is None else f", {num_bytes} bytes")


def _shown(name: str) -> str:
    return {"shard_bytes": "--shard-size"}.get(name, f"--{name.replace('_', '-')}")


def _byte_options(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide bytes, as the manifest has them."""
    reencoding = options.reencoding()
    return {
        "shard_bytes": options.shard_bytes,
        "seed": options.seed,
        "on_bad_record": options.on_bad_record,
        **(reencoding.describe() if reencoding else {}),
    }


def _name_of(options: ConvertOptions, plan: ConversionPlan) -> str:
    years = sorted({devkit.year for devkit in plan.devkits})
    if options.name:
        return options.name
    return f"voc{years[0]}" if len(years) == 1 else "voc" + "+".join(year[-2:] for year in years)


# Tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """What every task needs to know; travels to workers."""

    task: str
    sources: tuple[Source, ...]
    journal: Journal
    skip: bool
    reencoding: Reencoding | None


def _reports(
    pool: Pool, plan: ConversionPlan, options: ConvertOptions, publication: Publication
) -> Iterator[tuple[int, dict[str, Any], bool]]:
    """(number of the shard, what came of it, whether it was there), as they are finished."""
    sources = tuple(devkit.source for devkit in plan.devkits)
    skip = options.on_bad_record == "skip"
    job = _Job(options.task, sources, publication.journal, skip, options.reencoding())
    is_local = publication.journal.folder.local is not None
    numbers = []
    for number, (_, name) in enumerate(plan.shard_names()):
        # What storage elsewhere holds is what was put there; a disk may have lost power meanwhile.
        if name in publication.reports and not is_local:
            yield number, publication.reports[name], True
        else:
            numbers.append(number)
    names = [name for _, name in plan.shard_names()]
    tasks = ((job, plan.shard_task(n), publication.reports.get(names[n])) for n in numbers)
    made = pool.run(_make_shard, tasks, label=lambda _, task, __: task.shard_name)
    for at, (report, is_kept) in made:
        yield numbers[at], report, is_kept


def _make_shard(
    job: _Job, task: ShardTask, known: dict[str, Any] | None
) -> tuple[dict[str, Any], bool]:
    """Write one shard and its index. Runs in a worker; depends on its arguments alone.

    Args:
        job: What all tasks share.
        task: The shard.
        known: What an earlier run recorded of it, on a local disk.

    Returns:
        What is recorded of it (sizes, entry, counts, bad records, digests of a folder's files), and
        whether it was kept.
    """
    if known is not None and _is_as_recorded(job.journal.folder, known):
        return known, True
    report = _write_shard(job, task)
    job.journal.record(task.shard_name, report)
    return report, False


def _is_as_recorded(folder: Folder, known: dict[str, Any]) -> bool:
    """Whether a shard on a local disk still has the bytes that were written there."""
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


def _write_shard(job: _Job, task: ShardTask) -> dict[str, Any]:
    counts, bad_records, digests = SplitCounts(job.task), list[dict[str, str]](), list[str]()

    def bad(record: Record, exc: DataError) -> None:
        if not job.skip:
            raise exc
        error = f"{exc.place}: {exc.problem}"  # the hint is to skip it, which we do
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
    """Every record of a shard was bad; a shard holds at least one sample."""


def _built(
    job: _Job, task: ShardTask, bad: Callable[[Record, DataError], None]
) -> Iterator[tuple[Record, list[bytes], BuiltSample]]:
    """The task's records in order, with their files' bytes and the sample made of them."""
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
    """The bytes of each record's files; all files of one source are asked for together."""
    wanted: dict[int, list[FileSpan]] = {}
    for record in records:
        wanted.setdefault(record.source, []).extend(record.spans)
    found = {source: iter(readers[source](spans)) for source, spans in wanted.items()}
    for record in records:
        yield [next(found[record.source]) for _ in record.spans]


# What came of it ----------------------------------------------------------------------------


class _Results:
    """What all tasks together found; grows with the shards, not with the records."""

    def __init__(
        self,
        plan: ConversionPlan,
        options: ConvertOptions,
        on_progress: Callable[[ConvertProgress], None] | None,
    ) -> None:
        self.digests = FileDigests(plan)
        self.num_kept = 0
        """Shards that an earlier run had finished."""
        self.committed: Manifest
        """The manifest, once it is there."""
        self._plan, self._options, self._on_progress = plan, options, on_progress
        self._names = list(plan.shard_names())
        self._entries: dict[int, ShardEntry] = {}
        self._tallies = {split.split: SplitCounts(options.task) for split in plan.splits}
        self._bad: dict[int, list[dict[str, str]]] = {}
        self._samples = self._num_bytes = self._num_bad = self._shards = 0

    def add(self, number: int, report: dict[str, Any], *, is_kept: bool) -> None:
        """Take in what came of one shard.

        Raises:
            DataError: Too many records are bad.
        """
        if report["entry"]:
            self._entries[number] = ShardEntry(**report["entry"])
        self._tallies[self._names[number][0]].merge(report)
        if report["bad_records"]:
            self._bad[number] = report["bad_records"]
        self.digests.add(number, report)
        self._check_bad(report["bad_records"])
        self._samples += self._plan.num_records_of(number)
        self._num_bytes += report["entry"]["num_bytes"] if report["entry"] else 0
        self._shards += 1
        self.num_kept += is_kept
        if self._on_progress:
            self._on_progress(
                ConvertProgress(
                    samples=self._samples,
                    total_samples=self._plan.num_records,
                    num_bytes=self._num_bytes,
                    shards=self._shards,
                    total_shards=len(self._names),
                )
            )

    def bad_records(self) -> tuple[dict[str, str], ...]:
        """Skipped records in the order of the shards."""
        return tuple(bad for number in sorted(self._bad) for bad in self._bad[number])

    def manifest(self, sources: Sequence[dict[str, Any]]) -> Manifest:
        """The commit record.

        Raises:
            DataError: A split has no good record.
        """
        plan, options = self._plan, self._options
        return Manifest(
            name=_name_of(options, plan),
            task=options.task,
            classes=LABELS,
            sources=tuple(sources),
            release=RELEASE,
            options=_byte_options(options),
            splits={split.split: self._split(split.split) for split in plan.splits},
            num_bad_records=self._num_bad,
            duplicates=plan.duplicates,
        )

    def _check_bad(self, bad: list[dict[str, str]]) -> None:
        self._num_bad += len(bad)
        limit = self._options.max_bad_records
        if limit is not None and self._num_bad > limit:
            problem = f"{self._num_bad} bad records exceed --max-bad-records {limit}"
            raise DataError(self._place(), f"{problem}; among them: {bad[0]['error']}")

    def _place(self) -> str:
        return ", ".join(devkit.source.shown for devkit in self._plan.devkits)

    def _split(self, split: str) -> Split:
        entries = tuple(
            self._entries[number]
            for number, (name, _) in enumerate(self._names)
            if name == split and number in self._entries
        )
        if not entries:
            problem = f"every record of split {split!r} is bad; see {BAD_RECORDS_NAME}"
            raise DataError(self._place(), problem)
        return Split(
            shards=entries,
            num_samples=sum(entry.num_samples for entry in entries),
            num_bytes=sum(entry.num_bytes for entry in entries),
            **self._tallies[split].as_json(),
        )
