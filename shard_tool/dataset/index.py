"""Makes a dataset of existing WebDataset tars where they lie, by a manifest and an index for each.

No tar is copied or changed. Each tar is a task, which reads it once from front to back
(`index_task`). All bad tars are reported at once, and then nothing is committed. The samples are
those that webdataset reads from the same tars.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from shard_tool.dataset.index_task import NEEDED, IndexTask, index_shard
from shard_tool.dataset.own_files import is_shard_name, own_files
from shard_tool.dataset.publication import OnExisting, publishing
from shard_tool.dataset.scan import MAX_EXTENSIONS, printable
from shard_tool.dataset.shard_patterns import shards_matching
from shard_tool.dataset.shard_urls import locate_shard
from shard_tool.errors import DataError, ObjectMissing, OptionError, ShardError
from shard_tool.format.manifest import GENERIC, Manifest, ShardEntry, Split
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.release import RELEASE
from shard_tool.storage.location import Folder
from shard_tool.tasks.engines import LOCAL, check_engine
from shard_tool.tasks.pool import open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shard_tool.dataset.publication import Publication

log = logging.getLogger(__name__)

_IN_FLIGHT = 16
"""How many shards are asked for their size at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """Which tars become a dataset, of which task, and how.

    Raises:
        OptionError: A value that cannot be used.
    """

    shards: tuple[str, ...]
    """Paths and URLs. Braces stand for several names (``a-{000..017}.tar``), ``*`` and ``?`` for
    whatever matches. Their order is the dataset's order; the matches of a pattern are sorted."""
    dest: str
    """Folder of the manifest and the indexes; made where it is missing."""
    split: str = "train"
    name: str = "adopted"
    task: str = GENERIC
    """'generic': samples whose members are known by their extensions alone. 'detection' or
    'segmentation': samples such as `convert` writes, whose JSON is read and counted."""
    classes: tuple[str, ...] = ()
    """Names in label order; empty: those that the samples hold."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes of the local engine; 1 means this process."""
    engine: str = LOCAL
    on_existing: OnExisting = "fail"
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec's options for DEST, and for the shards that may get them
    (`shard_urls.storage_options_for`)."""

    def __post_init__(self) -> None:
        if self.task not in NEEDED:
            raise OptionError("--task", f"{self.task!r} is not one of {', '.join(NEEDED)}")
        if self.on_existing not in get_args(OnExisting):
            choices = ", ".join(get_args(OnExisting))
            raise OptionError("--on-existing", f"{self.on_existing!r} is not one of {choices}")
        if self.workers < 1:
            raise OptionError("--workers", f"{self.workers} is below 1")
        if not self.name:
            raise OptionError("--name", "is empty")
        if self.classes and self.task == GENERIC:
            raise OptionError("--classes", "generic samples have none", "add --task detection")
        if "" in self.classes or len(set(self.classes)) < len(self.classes):
            raise OptionError("--classes", "a name is empty or given twice")
        if not re.fullmatch(r"[A-Za-z0-9_+-]+", self.split):
            raise OptionError("--split", f"{self.split!r} cannot name shards")
        check_engine(self.engine)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexProgress:
    """How far a run is."""

    shards: int
    total_shards: int
    samples: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What a run did."""

    manifest: Manifest
    left_out: tuple[str, ...]
    """Shards that hold no sample."""
    seconds: float


def index_tars(
    options: IndexOptions, *, on_progress: Callable[[IndexProgress], None] | None = None
) -> IndexReport:
    """Make a dataset of tars.

    Args:
        options: Which tars, and how.
        on_progress: Called after each tar.

    Raises:
        ShardError: Tars are missing, damaged or cut short, or hold samples that cannot be read. The
            message names all of them. Nothing is committed.
        ShardToolError: Options or destination are bad, or storage failed.
    """
    began = time.monotonic()
    dest = Folder(options.dest, options.storage_options)
    urls = shards_matching(options.shards, dest)
    tasks = [
        IndexTask(
            name=f"{options.split}-{number:06d}.tar",
            url=url,
            kind=options.task,
            classes=options.classes,
        )
        for number, url in enumerate(urls)
    ]
    workers = _workers(options, tasks, dest)
    if options.on_existing == "overwrite":  # other runs remove nothing before they read
        _check_there(tasks, dest)
    own = own_files(
        dest,
        {task.name: task.url for task in tasks},
        split=options.split,
        on_existing=options.on_existing,
    )
    plan = _plan(options, urls)
    making = publishing(
        own,
        plan,
        verb="index",
        on_existing=options.on_existing,
        is_shard=partial(is_shard_name, options.split),
        of_manifest=lambda manifest: {"first_shard": urls[0]} | _plan_of(manifest),
        pool=open_pool(options.engine, workers),
    )
    with making as publication:
        left_out: tuple[str, ...] = ()
        manifest = publication.manifest
        if manifest is None:
            reports = _indexed(tasks, dest, publication, on_progress)
            left_out = _left_out(tasks, reports, dest)
            manifest = _manifest(options, plan, tasks, reports)
            publication.commit(manifest)
    return IndexReport(manifest=manifest, left_out=left_out, seconds=time.monotonic() - began)


_PLANNED_OPTIONS = ("num_shards", "shards_sha256", "classes")


def _plan(options: IndexOptions, urls: Sequence[str]) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join(urls).encode()).hexdigest()
    return {
        "name": options.name,
        "task": options.task,
        "split": options.split,
        "release": RELEASE,
        "classes": list(options.classes) or None,
        "first_shard": urls[0],
        "num_shards": len(urls),
        "shards_sha256": digest,
    }


def _plan_of(manifest: Manifest) -> dict[str, Any]:
    """The part of a plan that a finished dataset's manifest can tell, whichever verb made it.

    It does not tell the first shard, which may have been left out. The digest covers that shard.
    """
    return {
        "name": manifest.name,
        "task": manifest.task,
        "split": next(iter(manifest.splits), ""),
        "release": manifest.release,
        **{name: manifest.options.get(name) for name in _PLANNED_OPTIONS},
    }


# Running the tasks ---------------------------------------------------------------------------


def _places(tasks: Sequence[IndexTask], dest: Folder) -> Iterator[tuple[Folder, str]]:
    """Yield (folder, name there) of each shard."""
    return (locate_shard(task.url, dest) for task in tasks)


def _check_there(tasks: Sequence[IndexTask], dest: Folder) -> None:
    """Check that all shards exist and are not empty.

    Raises:
        ShardError: Some are missing or empty; the message names all of them.
        StoreError: Storage failed.
    """

    def report(place: tuple[Folder, str]) -> dict[str, Any]:
        shard = place[0].object(place[1])
        try:
            is_empty = not shard.num_bytes()
        except ObjectMissing as exc:
            return {"problems": [str(exc)]}
        return {"problems": [f"{shard.place}: has no bytes"]} if is_empty else {}

    with ThreadPoolExecutor(_IN_FLIGHT) as threads:
        reports = list(threads.map(report, _places(tasks, dest)))
    _refuse_bad(reports, dest, "put them there, or leave them out; nothing in DEST was changed")


def _indexed(
    tasks: Sequence[IndexTask],
    dest: Folder,
    publication: Publication,
    on_progress: Callable[[IndexProgress], None] | None,
) -> list[dict[str, Any]]:
    """Run all tasks; returns their reports in order.

    Raises:
        ShardError: Some shards cannot be indexed; the message names all of them.
    """
    reports: list[dict[str, Any]] = [{}] * len(tasks)
    journal = replace(publication.journal, folder=dest)
    known = publication.reports
    arguments = ((replace(task, known=known.get(task.name)), journal) for task in tasks)
    done = publication.pool.run(
        index_shard, arguments, label=lambda task, _: f"the index of {task.url!r}"
    )
    samples = num_bytes = 0
    for count, (number, report) in enumerate(done, start=1):
        reports[number] = report
        samples += report.get("num_samples", 0)
        num_bytes += report.get("num_bytes", 0)
        if on_progress:
            on_progress(
                IndexProgress(
                    shards=count, total_shards=len(tasks), samples=samples, num_bytes=num_bytes
                )
            )
    hint = "repair them and use --on-existing resume, or leave them out and use overwrite"
    _refuse_bad(reports, dest, hint)
    return reports


def _workers(options: IndexOptions, tasks: Sequence[IndexTask], dest: Folder) -> int:
    """How many processes the local engine gets.

    Raises:
        OptionError: Workers of another engine cannot reach this process's memory.
    """
    folders = {folder.url: folder for folder, _ in _places(tasks, dest)}.values()
    in_memory = [folder for folder in folders if folder.is_of_one_process]
    if options.engine != LOCAL:
        problem = f"workers of {options.engine} cannot {{}} this process's memory"
        if dest.is_of_one_process:
            raise OptionError(str(dest), problem.format("write into"), "choose another DEST")
        if in_memory:
            raise OptionError(str(in_memory[0]), problem.format("read"), "choose other SHARDS")
    return 1 if dest.is_of_one_process or in_memory else min(options.workers, len(tasks))


def _refuse_bad(reports: Sequence[dict[str, Any]], dest: Folder, hint: str) -> None:
    if not (problems := [text for report in reports for text in report.get("problems", ())]):
        return
    num_bad = sum(1 for report in reports if report.get("problems"))
    what = f"{num_bad} of {len(reports)} shards cannot be indexed"
    raise ShardError(str(dest), "\n".join([f"{what}:", *map(printable, problems)]), hint)


# The manifest ------------------------------------------------------------------------------


def _left_out(
    tasks: Sequence[IndexTask], reports: Sequence[dict[str, Any]], dest: Folder
) -> tuple[str, ...]:
    """The shards without samples; logs them, and other oddities, once for all shards.

    Raises:
        DataError: No shard holds a sample.
    """
    both = list(zip(tasks, reports, strict=True))
    empty = tuple(task.url for task, report in both if not report["num_samples"])
    if len(empty) == len(tasks):
        raise DataError(str(dest), f"none of {len(tasks)} shards holds a sample")
    if empty:
        text = "%d shards hold no sample and are left out: %s"
        log.warning(text, len(empty), _some(empty))
    if continued := [task.url for task, report in both if report["has_more"]]:
        text = (
            "%d shards hold more after their end marker, which nobody reads (tars put one after "
            "the other?): %s"
        )
        log.warning(text, len(continued), _some(continued))
    repeated = [(task.url, count) for task, report in both if (count := report["num_repeated"])]
    if repeated:
        text = (
            "%d samples have the key of an earlier one in their shard, as in %r: each run of "
            "members is a sample, as for webdataset"
        )
        log.warning(text, sum(count for _, count in repeated), repeated[0][0])
    return empty


def _some(urls: Sequence[str]) -> str:
    return ", ".join(map(repr, urls[:5])) + (", …" if len(urls) > 5 else "")


def _manifest(
    options: IndexOptions,
    plan: dict[str, Any],
    tasks: Sequence[IndexTask],
    reports: Sequence[dict[str, Any]],
) -> Manifest:
    both = [pair for pair in zip(tasks, reports, strict=True) if pair[1]["num_samples"]]
    entries = tuple(
        ShardEntry(
            name=task.name,
            num_samples=report["num_samples"],
            num_bytes=report["num_bytes"],
            sha256=report["sha256"],
            index_sha256=report["index_sha256"],
            url=task.url,
        )
        for task, report in both
    )
    reports = [report for _, report in both]
    classes = _classes(reports, options)
    _check_highest_id(classes, reports, options.dest)
    return Manifest(
        name=options.name,
        task=options.task,
        classes=classes,
        sources=({"kind": "adopted", "num_shards": len(tasks)},),
        release=RELEASE,
        options={name: plan[name] for name in _PLANNED_OPTIONS if plan[name] is not None},
        splits={
            options.split: Split(
                shards=entries,
                num_samples=sum(entry.num_samples for entry in entries),
                num_bytes=sum(entry.num_bytes for entry in entries),
                objects=_of_classes(classes, reports, "objects"),
                difficult=_of_classes(classes, reports, "difficult"),
                counts=_counts(reports) if options.task == GENERIC else {},
            )
        },
    )


def _counts(reports: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Count the samples that have a member of each extension; empty if there are too many."""
    if any(report["members"] is None for report in reports):
        return {}
    total = sum((Counter(report["members"]) for report in reports), Counter[str]())
    return {"members": dict(sorted(total.items()))} if len(total) <= MAX_EXTENSIONS else {}


def _classes(reports: Sequence[dict[str, Any]], options: IndexOptions) -> dict[str, int]:
    """Class names and labels of all samples.

    The names given; else VOC's twenty where there are no others; else the labels that the samples
    say, which must be 1 … K; else, where they say none, the names in sorted order.

    Raises:
        DataError: A class has two labels, two classes have the same label, or labels leave gaps.
    """
    if options.classes:
        return {name: label for label, name in enumerate(options.classes, start=1)}
    labels: dict[str, int] = {}
    for report in reports:
        for name, label in report.get("labels", {}).items():
            if labels.setdefault(name, label) != label:
                problem = (
                    f"class {name!r} has label {labels[name]} in one shard, {label} in another"
                )
                raise DataError(options.dest, problem)
    if not labels:
        return {} if "labels" not in reports[0] else dict(_VOC_LABELS)
    if labels.keys() <= _VOC_LABELS.keys() and all(
        label in (0, _VOC_LABELS[name]) for name, label in labels.items()
    ):
        return dict(_VOC_LABELS)
    if not any(labels.values()):
        return {name: label for label, name in enumerate(sorted(labels), start=1)}
    by_label = {label: name for name, label in labels.items()}
    if len(by_label) < len(labels):
        name = next(name for name, label in labels.items() if by_label[label] != name)
        problem = f"classes {name!r} and {by_label[labels[name]]!r} both have label {labels[name]}"
        raise DataError(options.dest, problem)
    if sorted(by_label) != list(range(1, len(by_label) + 1)):
        told = ", ".join(f"{name!r} {label}" for label, name in sorted(by_label.items())[:10])
        problem = f"labels are not 1 … {len(by_label)}: {told}"
        raise DataError(options.dest, problem, "give all names in label order by --classes")
    return {name: label for label, name in sorted(by_label.items())}


def _check_highest_id(
    classes: dict[str, int], reports: Sequence[dict[str, Any]], dest: str
) -> None:
    """Refuse masks that hold more classes than the samples name."""
    highest = max((report.get("highest_id", 0) for report in reports), default=0)
    if highest > len(classes):
        problem = f"masks hold class {highest}, and there are {len(classes)} classes"
        raise DataError(dest, problem, "give all names in label order by --classes")


def _of_classes(
    classes: dict[str, int], reports: Sequence[dict[str, Any]], what: str
) -> dict[str, int]:
    total = sum((Counter(report.get(what, {})) for report in reports), Counter[str]())
    return {name: total[name] for name in classes if total[name]}


_VOC_LABELS = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}
