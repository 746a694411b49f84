"""Converts sources into a dataset: surveys, plans, writes the shards in a pool, publishes.

`survey` reads all annotations, `plan` decides what each shard holds. One task writes one shard, on
a process of this machine or of a cluster; `publication` publishes the manifest last. The bytes
depend neither on who wrote which shard nor on how often the conversion was interrupted.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from shard_tool.convert.changed import check_sources
from shard_tool.convert.decide import decide_rules
from shard_tool.convert.identity import identity, identity_of_manifest
from shard_tool.convert.plan import ConversionPlan, plan_splits
from shard_tool.convert.results import ConvertReport, Results
from shard_tool.convert.source_digests import source_entries
from shard_tool.convert.survey import survey
from shard_tool.convert.write_shard import ShardJob, make_shard
from shard_tool.dataset.disk_space import check_disk_space
from shard_tool.dataset.publication import BAD_RECORDS_NAME, check_shards_are_own, publishing
from shard_tool.errors import OptionError
from shard_tool.sources.files.spool import Spool
from shard_tool.sources.open import open_source, resolve_splits
from shard_tool.sources.source import Source
from shard_tool.storage.location import Folder
from shard_tool.tasks.engines import LOCAL
from shard_tool.tasks.pool import open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shard_tool.convert.options import ConvertOptions
    from shard_tool.convert.results import ConvertProgress
    from shard_tool.dataset.publication import Publication
    from shard_tool.errors import DataError
    from shard_tool.tasks.pool import Pool


def prepare(
    options: ConvertOptions,
    *,
    on_scan: Callable[[str, int, int], None] | None = None,
    on_survey: Callable[[int], None] | None = None,
    asks: bool = True,
) -> ConversionPlan:
    """Scan the sources, read all annotations and plan the shards; writes nothing.

    Args:
        options: What to convert.
        on_scan: Called with (source, bytes read, all bytes) while a remote archive is streamed.
        on_survey: Called with the number of annotations read.
        asks: Whether what the user has to decide, and bad annotations, are errors; else the plan
            says so (`ConversionPlan.questions`), for a report of everything at once.

    Raises:
        ShardToolError: A source is missing or unusable.
    """
    sources = list[Source]()
    for source in options.sources:

        def scanned(done: int, total: int, source: str = source) -> None:
            if on_scan:
                on_scan(source, done, total)

        sources += open_source(
            source,
            options=options.options_of(source),
            number=len(sources),
            split_files=options.split_files,
            format_=options.format,
            on_progress=scanned,
        )
    splits = options.splits or tuple(options.split_files)
    splits = resolve_splits(sources, options.task, splits)
    for its in sources:
        its.check_unlisted(options.task, splits)
    spool = Spool()
    columns, surveyed = survey(
        sources,
        splits,
        task=options.task,
        unlabelled=options.choices.unlabelled,
        spool=spool,
        workers=options.workers,
        on_progress=on_survey,
    )
    rules, questions = decide_rules(options, sources, surveyed)
    if asks and questions:
        raise questions[0]
    if asks and surveyed.errors and not rules.skips:
        raise _with_more(surveyed.errors[0], surveyed.num_errors - 1)
    planned, duplicates = plan_splits(
        sources,
        splits,
        columns,
        spool,
        rules=rules,
        report=surveyed.report,
        shard_bytes=options.shard_bytes,
        seed=options.seed,
        problems=None if asks else questions,
    )
    return ConversionPlan(
        tuple(sources), rules, planned, surveyed, spool, duplicates, tuple(questions)
    )


def _with_more(error: DataError, num_more: int) -> DataError:
    """The first error, which says how many more there are."""
    if num_more:
        more = f"{num_more} more annotations cannot be read: --dry-run lists them all by kind"
        error.hint = f"{error.hint}; {more}" if error.hint else more
    return error


def convert(
    options: ConvertOptions,
    *,
    plan: ConversionPlan | None = None,
    on_progress: Callable[[ConvertProgress], None] | None = None,
) -> ConvertReport:
    """Convert sources into a dataset.

    An existing dataset is not touched until all sources are scanned and found usable. DEST is no
    dataset until its manifest is there.

    Args:
        options: What to convert, where to, and how.
        plan: The result of `prepare` for the same options; None: planned here.
        on_progress: Called after each finished shard.

    Raises:
        ShardToolError: An option, a source, a record (unless skipped) or the destination is bad.
            Published shards stay; there is no manifest.
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
    for source in plan.sources:
        if source.files.is_here_only and options.engine != LOCAL:
            problem = f"was decompressed into a file that workers of {options.engine} cannot read"
            raise OptionError(source.files.shown, problem, "decompress it and give the tar")
    workers = 1 if dest.is_of_one_process else min(options.workers, max(1, plan.num_shards))
    making = publishing(
        dest,
        identity(options, plan),
        verb="convert",
        on_existing=options.on_existing,
        is_shard=lambda name: name in names or _is_of_splits(name, plan),
        of_manifest=identity_of_manifest,
        pool=open_pool(options.engine, workers),
    )
    with making as publication:
        if publication.manifest is None:
            results = _convert(publication.pool, options, plan, publication, on_progress)
            manifest, bad_records = results.committed, results.bad_records()
            num_kept = results.num_kept
        else:
            manifest, bad_records = publication.manifest, _bad_records_of(dest)
            check_sources(dest, plan, manifest, bad_records)
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
) -> Results:
    dest, results = publication.journal.folder, Results(plan, options, on_progress)
    with source_entries(plan.sources) as entries:
        for number, report, is_kept in _reports(pool, plan, publication):
            results.add(number, report, is_kept=is_kept)
        splits = [split.split for split in plan.splits]
        sources = entries(results.files, options.task, splits)
    bad_records = results.bad_records()
    if bad_records:
        with dest.publish(BAD_RECORDS_NAME) as file:
            file.writelines(json.dumps(bad).encode() + b"\n" for bad in bad_records)
    for source in plan.sources:
        source.files.check_unchanged()
    results.committed = results.manifest(sources)
    publication.commit(results.committed)
    return results


def _reports(
    pool: Pool, plan: ConversionPlan, publication: Publication
) -> Iterator[tuple[int, dict[str, Any], bool]]:
    """Write the shards and yield (number, report, whether it existed) as each is finished."""
    sources = tuple(source.files for source in plan.sources)
    job = ShardJob(plan.rules, sources, publication.journal)
    is_local = publication.journal.folder.local is not None
    numbers = []
    for number, (_, name) in enumerate(plan.shard_names()):
        # Remote storage keeps what was put there; a local disk may have lost power.
        if name in publication.reports and not is_local:
            yield number, publication.reports[name], True
        else:
            numbers.append(number)
    names = [name for _, name in plan.shard_names()]
    tasks = ((job, plan.shard_task(n), publication.reports.get(names[n])) for n in numbers)
    made = pool.run(make_shard, tasks, label=lambda _, task, __: task.shard_name)
    for at, (report, is_kept) in made:
        yield numbers[at], report, is_kept


def _is_of_splits(name: str, plan: ConversionPlan) -> bool:
    """Whether another run with the same splits may have written a shard of this name."""
    split, dash, rest = name.rpartition("-")
    is_known = split in {its.split for its in plan.splits}
    return bool(is_known and dash and re.fullmatch(r"\d{6,}\.tar", rest))


def _bad_records_of(dest: Folder) -> tuple[dict[str, Any], ...]:
    if BAD_RECORDS_NAME not in dest.names():
        return ()
    return tuple(json.loads(line) for line in dest.read(BAD_RECORDS_NAME).splitlines())
