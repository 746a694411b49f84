"""Make a dataset of WebDataset tars somebody else wrote, where they lie.

Nothing is copied or rewritten: DEST gets a manifest that names the tars, and an index for each.
Every tar is one task, read once from front to back; what is wrong with any of them is found in one
go, and then nothing is committed. The samples are what webdataset makes of the same tars.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from braceexpand import alphabet, braceexpand

from shard_tool.dataset.publication import BAD_RECORDS_NAME, OnExisting, publishing
from shard_tool.dataset.scan import MAX_EXTENSIONS, ScannedShard, printable, scan_stored
from shard_tool.dataset.shard_urls import (
    folder_of,
    link_to,
    local_path,
    options_for,
    where_seen,
)
from shard_tool.errors import DataError, ObjectExists, ObjectMissing, OptionError, ShardError
from shard_tool.format.manifest import GENERIC, MANIFEST_NAME, Manifest, ShardEntry, Split
from shard_tool.format.sample import VOC_CLASSES, parse_sample
from shard_tool.format.tar import INDEX_SUFFIX
from shard_tool.release import RELEASE
from shard_tool.storage.location import Folder, public_url
from shard_tool.storage.manifest_file import JOURNAL_NAME, load_manifest
from shard_tool.storage.ranges import ObjectReplacedError
from shard_tool.storage.uploads import PARTIAL
from shard_tool.tasks.engines import LOCAL, check_engine
from shard_tool.tasks.pool import open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from shard_tool.dataset.publication import Journal, Publication
    from shard_tool.storage.location import StoredObject
    from shard_tool.tasks.pool import Pool

log = logging.getLogger(__name__)

NEEDED = {
    GENERIC: (),
    "detection": ("jpg", "json"),
    "segmentation": ("jpg", "json", "class.png"),
}
"""Members every sample must have, by task."""

_MAX_SHARDS = 1_000_000
_BRACES = re.compile(r"\\.|[{},]", re.DOTALL)
"""What means something in a pattern, and what is escaped."""
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.-?(\d+))?")
_IN_FLIGHT = 16
"""Shards that are asked for their size at a time."""
_TIMES = 3
"""Times a shard that changes while it is read is read again."""
_MAX_PROBLEMS_OF_SHARD = 5
"""More bad samples of one shard than this are not listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptOptions:
    """Which tars to adopt, as what, and how.

    Raises:
        OptionError: A value that cannot be used.
    """

    shards: tuple[str, ...]
    """Paths and URLs; in each braces stand for several (``a-{000..017}.tar``), then ``*`` and ``?``
    for whatever there is. Their order is the dataset's; what a pattern matches is sorted."""
    dest: str
    """Folder of the manifest and the indexes: created where it is missing."""
    split: str = "train"
    name: str = "adopted"
    task: str = GENERIC
    """'generic': members by extension, whatever they are. 'detection' or 'segmentation': samples of
    the kind `convert` writes, whose JSON is read and counted."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that read shards; 1: this one."""
    engine: str = LOCAL
    on_existing: OnExisting = "fail"
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """Of DEST, and of shards of the same kind (see `links.options_for`)."""

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
        if not re.fullmatch(r"[A-Za-z0-9_+-]+", self.split):
            raise OptionError("--split", f"{self.split!r} cannot name shards")
        check_engine(self.engine)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptProgress:
    """How far an indexing is."""

    shards: int
    total_shards: int
    samples: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptReport:
    """What an indexing did."""

    manifest: Manifest
    left_out: tuple[str, ...]
    """Shards without any sample."""
    seconds: float


def adopt(
    options: AdoptOptions, *, on_progress: Callable[[AdoptProgress], None] | None = None
) -> AdoptReport:
    """Make a dataset of tars as `options` say.

    Raises:
        ShardError: A tar is missing, damaged, cut short, or holds a sample nobody can read; says so
            of every such tar. Nothing is committed.
        ShardToolError: Bad options or destination; storage failed.
    """
    began = time.monotonic()
    dest = Folder(options.dest, options.storage_options)
    links = _links(options.shards, dest)
    tasks = [
        _Task(name=f"{options.split}-{number:06d}.tar", link=link, kind=options.task)
        for number, link in enumerate(links)
    ]
    workers = _workers(options, tasks, dest)
    if options.on_existing == "overwrite":  # else nothing is lost, and all that is bad told at once
        _check_there(tasks, dest)
    own = _own_part(dest, tasks, options)
    plan = _plan(options, links)
    making = publishing(
        own,
        plan,
        verb="index",
        on_existing=options.on_existing,
        is_shard=partial(_is_named_as_ours, options.split),
        of_manifest=lambda manifest: {"first_shard": links[0]} | _plan_of(manifest),
    )
    with ExitStack() as stack:  # the pool is there before anything is cleared
        pool = stack.enter_context(open_pool(options.engine, workers))
        with making as publication, stack.pop_all():  # and has ended before the lock is given up
            left_out: tuple[str, ...] = ()
            manifest = publication.manifest
            if manifest is None:
                reports = _indexed(tasks, dest, publication, pool, on_progress)
                left_out = _left_out(tasks, reports, dest)
                manifest = _manifest(options, plan, tasks, reports)
                publication.commit(manifest)
    return AdoptReport(manifest=manifest, left_out=left_out, seconds=time.monotonic() - began)


_PLANNED_OPTIONS = ("num_shards", "shards_sha256")


def _plan(options: AdoptOptions, links: Sequence[str]) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join(links).encode()).hexdigest()
    return {
        "name": options.name,
        "task": options.task,
        "split": options.split,
        "release": RELEASE,
        "first_shard": links[0],
        "num_shards": len(links),
        "shards_sha256": digest,
    }


def _plan_of(manifest: Manifest) -> dict[str, Any]:
    """What a finished dataset tells of its plan, whatever made it.

    Not which shard was given first: it may have been left out; the digest tells of it, too.
    """
    return {
        "name": manifest.name,
        "task": manifest.task,
        "split": next(iter(manifest.splits), ""),
        "release": manifest.release,
        **{name: manifest.options.get(name) for name in _PLANNED_OPTIONS},
    }


# Which shards -------------------------------------------------------------------------------


def _links(patterns: Sequence[str], dest: Folder) -> list[str]:
    """What the manifest will call each shard, in order.

    Raises:
        OptionError: A pattern matches nothing, or cannot be one; a shard is named twice, or by a
            URL that holds a secret.
    """
    links: dict[str, str] = {}
    for pattern in patterns:
        shown = _shown(pattern)
        for place in _expanded(pattern, dest):
            link = link_to(place, dest)
            if link in links:
                both = dict.fromkeys([links[link], shown])  # one, where it is the same pattern
                problem = f"is named twice, by {' and by '.join(map(repr, both))}"
                raise OptionError(f"shard {link!r}", problem, "every shard must be given once")
            links[link] = shown
    if not links:
        raise OptionError("SHARDS", "there are none")
    if len(links) > _MAX_SHARDS:
        problem = f"{len(links)} are more than {_MAX_SHARDS}"
        raise OptionError("SHARDS", problem, "adopt them as several datasets")
    return list(links)


def _expanded(pattern: str, dest: Folder) -> list[str]:
    path = local_path(pattern)
    if path is not None and path.is_dir():
        raise OptionError(repr(pattern), "is a folder", f"give its shards: {pattern}/*.tar")
    if path is not None and path.exists():  # whatever its name looks like
        return [pattern]
    try:
        num = _num_texts(pattern)
        texts = list(islice(braceexpand(pattern), _MAX_SHARDS + 1)) if num <= _MAX_SHARDS else []
    except ValueError:  # whose text and traceback hold the pattern as it was given
        raise OptionError(f"shards {_shown(pattern)!r}", "braces do not pair up") from None
    if num > _MAX_SHARDS:
        problem = f"are {num}, more than {_MAX_SHARDS}"
        hint = "adopt them as several datasets"
        raise OptionError(f"shards {_shown(pattern)!r}", problem, hint)
    return [place for text in texts for place in _matching(text, dest)]


def _num_texts(pattern: str) -> int:
    """How many texts a pattern with braces stands for; nobody could wait for all of some.

    >>> _num_texts("{a,b{00..99}}-{0..9..3}{z..a}.tar")
    10504
    """
    levels = [_Level(0)]
    for found in _BRACES.finditer(pattern):
        level, is_inside = levels[-1], len(levels) > 1
        if found[0] == "{":
            levels.append(_Level(found.end()))
        elif found[0] == "," and is_inside:
            level.finished, level.product = level.finished + level.product, 1
        elif found[0] == "}" and is_inside:
            levels.pop()
            num = _num_of_range(pattern[level.start : found.start()])
            levels[-1].product *= num or level.finished + level.product
    return levels[0].product


@dataclass(slots=True)
class _Level:
    """Open braces of a pattern, and how many texts they stand for up to a place inside them."""

    start: int
    finished: int = 0
    """Texts of alternatives before the last comma."""
    product: int = 1
    """Texts of the one since then."""


def _num_of_range(text: str) -> int:
    """Texts of what stands between braces where that is a range; else 0."""
    if not (found := _RANGE.fullmatch(text)) or found[1].isalpha() is not found[2].isalpha():
        return 0
    find = alphabet.index if found[1].isalpha() else int
    return abs(find(found[2]) - find(found[1])) // max(1, int(found[3] or 1)) + 1


def _matching(text: str, dest: Folder) -> list[str]:
    """The places a text with ``*`` and ``?`` stands for, sorted; without them, itself."""
    is_web = _is_web(text)
    if not re.search("[*]" if is_web else "[*?]", text):
        return [text]
    link_to(re.sub("[*?]" if not is_web else "[*]", "_", text), dest)  # before it is listed
    path = local_path(text)
    if path is not None:
        places = sorted(glob.glob(str(path)))  # noqa: PTH207  (Path's takes no absolute pattern)
        found = [place for place in places if Path(place).is_file()]
    else:
        found = list(_matching_urls(text, dest))
    if not found:
        hint = "a web server may not list its folders: use braces" if is_web else ""
        raise OptionError(f"shards {_shown(text)!r}", "match nothing", hint)
    return found


def _is_web(pattern: str) -> bool:
    """Whether '?' begins a query."""
    return pattern.startswith(("http://", "https://"))


def _shown(pattern: str) -> str:
    """What messages call a pattern: without its secrets, with its wildcards."""
    if _is_web(pattern):
        return public_url(pattern)
    return public_url(pattern.replace("?", "\0")).replace("\0", "?")


def _matching_urls(text: str, dest: Folder) -> Iterator[str]:
    protocol, _, rest = text.partition("://")
    host, *parts = rest.split("/")
    if parts:
        yield from _below(f"{protocol}://{host}", parts, options_for(text, dest))


def _below(url: str, parts: Sequence[str], options: Mapping[str, Any]) -> Iterator[str]:
    """URLs below `url` that match a path, component by component."""
    part, rest = parts[0], parts[1:]
    if not rest or re.search("[*?]", part):
        names = [name for name in Folder(url, options).names() if fnmatchcase(name, part)]
    else:
        names = [part]
    for name in names:
        found = f"{url}/{name}"
        if rest:
            yield from _below(found, rest, options)
        else:
            yield found


# Destination --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _OwnPart(Folder):
    """A folder in which only what belongs to the dataset is seen, and so can be cleared away.

    The rest is somebody else's: above all the shards, which may lie in the very folder.
    """

    split: str = ""
    known: frozenset[str] = frozenset()
    """Names a manifest that is there says are its dataset's."""

    def names(self) -> list[str]:
        """Names of the dataset's own objects."""
        return [name for name in Folder.names(self) if self.is_own(name)]

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove the dataset's own objects among some."""
        Folder.remove_all(self, [name for name in names if self.is_own(name)])

    def is_own(self, name: str) -> bool:
        """Whether an object is the dataset's, or one an indexing makes, finished or not."""
        return name in self.known or _is_of_index(self.split, name)


def _own_part(dest: Folder, tasks: Sequence[_Task], options: AdoptOptions) -> _OwnPart:
    """The dataset's part of `dest`.

    Raises:
        ObjectExists: There are other things in it, and no shard lies there or below; or a file
            there is called as if an index that will be made were its own.
    """
    there = dest.names()
    known = load_manifest(dest).objects_beside if MANIFEST_NAME in there else set[str]()
    tars = {name for name in known.intersection(there) if not name.endswith(INDEX_SUFFIX)}
    is_adopting_them = any("/" not in task.link for task in tasks)
    if tars and not is_adopting_them and options.on_existing == "overwrite":
        is_adopting_them = _are_reached(tars, tasks, dest)
    if is_adopting_them:  # then the old dataset loses what was made for it, and no tar at all
        known -= tars
    own = _OwnPart(
        dest.url, dest.options, dest.timeout_s, split=options.split, known=frozenset(known)
    )
    strange = {name for name in there if not own.is_own(name)}
    is_shared = is_adopting_them or any(_is_inside(task.link) for task in tasks)
    if strange and not is_shared and JOURNAL_NAME not in there:
        problem = f"is not empty ({min(strange)!r} is there) and holds no dataset"
        raise ObjectExists(str(dest), problem, "give an empty or a new folder")
    for task in tasks:
        if task.name in strange and task.link != task.name:
            problem = f"{task.name!r} is there, and the index of {task.link!r} would be called so"
            raise ObjectExists(str(dest), problem, "give another DEST or another --split")
    return own


def _are_reached(tars: set[str], tasks: Sequence[_Task], dest: Folder) -> bool:
    """Whether shards may be tars of `dest`, whatever they are called: links, or a server's."""
    paths = [path for name in tars if (path := dest.object(name).local) is not None]
    shards = (folder.object(name).local for folder, name in _places(tasks, dest))
    if {_file_of(path) for path in shards if path is not None} & {_file_of(path) for path in paths}:
        return True
    folders = {folder.url: folder for folder, _ in _places(tasks, dest)}
    return where_seen(dest, folders.values()) is not None


def _file_of(path: Path) -> tuple[int, int]:
    """Which file a path leads to; of its own kind, where to none."""
    try:
        state = path.stat()
    except OSError:
        return (-1, hash(path))
    return (state.st_dev, state.st_ino)


def _places(tasks: Sequence[_Task], dest: Folder) -> Iterator[tuple[Folder, str]]:
    """The folder of each shard, and its name there."""
    return (folder_of(task.link, dest) for task in tasks)


def _check_there(tasks: Sequence[_Task], dest: Folder) -> None:
    """Ask every shard for its size.

    Raises:
        ShardError: Some are not there, or hold nothing; names all of them.
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
    _refuse_bad(reports, dest, "put them there, or leave them out; what is in DEST was not touched")


def _is_inside(link: str) -> bool:
    return not ("://" in link or link.startswith(("/", "../")))


def _is_named_as_ours(split: str, name: str) -> bool:
    return bool(re.fullmatch(rf"{re.escape(split)}-\d{{6}}\.tar", name))


def _is_of_index(split: str, name: str) -> bool:
    if PARTIAL in name:
        name = name.partition(PARTIAL)[0].removeprefix(".")
    if name in (MANIFEST_NAME, BAD_RECORDS_NAME, JOURNAL_NAME):
        return True
    return name.endswith(INDEX_SUFFIX) and _is_named_as_ours(split, name.removesuffix(INDEX_SUFFIX))


# The pool -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One shard to read."""

    name: str
    """Of its entry in the manifest."""
    link: str
    kind: str
    """The task its samples are for."""
    known: dict[str, Any] | None = None
    """What an earlier run found out, if it did."""


def _indexed(
    tasks: Sequence[_Task],
    dest: Folder,
    publication: Publication,
    pool: Pool,
    on_progress: Callable[[AdoptProgress], None] | None,
) -> list[dict[str, Any]]:
    """What each task found out.

    Raises:
        ShardError: Some shards cannot be adopted; names all of them.
    """
    reports: list[dict[str, Any]] = [{}] * len(tasks)
    journal = replace(publication.journal, folder=dest)
    known = publication.reports
    arguments = ((replace(task, known=known.get(task.name)), journal) for task in tasks)
    done = pool.run(index_shard, arguments, label=lambda task, _: f"the index of {task.link!r}")
    samples = num_bytes = 0
    for count, (number, report) in enumerate(done, start=1):
        reports[number] = report
        samples += report.get("num_samples", 0)
        num_bytes += report.get("num_bytes", 0)
        if on_progress:
            on_progress(
                AdoptProgress(
                    shards=count, total_shards=len(tasks), samples=samples, num_bytes=num_bytes
                )
            )
    hint = "repair them and use --on-existing resume, or leave them out and use overwrite"
    _refuse_bad(reports, dest, hint)
    return reports


def _workers(options: AdoptOptions, tasks: Sequence[_Task], dest: Folder) -> int:
    """Processes for the local engine.

    Raises:
        OptionError: The engine's workers would not see what is in this process's memory.
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
    what = f"{num_bad} of {len(reports)} shards cannot be adopted"
    raise ShardError(str(dest), "\n".join([f"{what}:", *map(printable, problems)]), hint)


def index_shard(task: _Task, journal: Journal) -> dict[str, Any]:
    """Read one shard and publish its index. Runs in a worker; depends on its arguments alone.

    Returns:
        What is recorded of it; or, where it cannot be adopted, ``{"problems": [text, …]}``.
    """
    folder, name = folder_of(task.link, journal.folder)
    shard = folder.object(name)
    checks = _Checks(task.kind, shard.place)
    try:
        size = shard.num_bytes()
        version: list[int | str] = [size, *shard.version()]  # told before a byte is read
        if task.known is not None and _is_as_recorded(task, version, journal.folder):
            return task.known
        scanned = _scanned(shard, size, checks)
    except (ShardError, ObjectMissing) as exc:
        return {"problems": [str(exc)]}
    if checks.problems:
        return {"problems": checks.shown_problems}
    report = _published(task, scanned, journal) | checks.counts | {"version": version}
    if report["num_samples"]:  # else there is nothing a later run could go on with
        journal.record(task.name, report)
    return report


def _is_as_recorded(task: _Task, version: list[int | str], dest: Folder) -> bool:
    """Whether a shard is that of the record; its index, too, on a disk that may have lost power."""
    known = task.known or {}
    if known.get("version") != version:
        return False
    if dest.local is None:
        return True
    index_sha256: str = known["index_sha256"]
    return hashlib.sha256(dest.read(task.name + INDEX_SUFFIX)).hexdigest() == index_sha256


def _published(task: _Task, scanned: ScannedShard, journal: Journal) -> dict[str, Any]:
    index, name = scanned.index.to_bytes(), task.name + INDEX_SUFFIX
    num_samples = len(scanned.index)
    journal.check()
    if num_samples:
        journal.folder.put(name, index)
    return {
        "sizes": {name: len(index)} if num_samples else {},
        "num_samples": num_samples,
        "num_bytes": scanned.num_bytes,
        "sha256": scanned.sha256,
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "members": scanned.members,
        "num_repeated": scanned.num_repeated,
        "has_more": scanned.has_more,
    }


def _scanned(shard: StoredObject, size: int, checks: _Checks) -> ScannedShard:
    for _ in range(_TIMES - 1):
        try:
            return scan_stored(shard, size, on_sample=checks.check, keep=checks.kept)
        except ObjectReplacedError:
            checks.begin_again()
            size = shard.num_bytes()
    try:
        return scan_stored(shard, size, on_sample=checks.check, keep=checks.kept)
    except ObjectReplacedError as exc:
        raise ShardError(exc.place, f"{exc.problem}, {_TIMES} times") from exc


class _Checks:
    """What samples of one shard must have for a task, and what is counted of them."""

    def __init__(self, task: str, place: str) -> None:
        self._task, self._place = task, place
        self.kept = ("json",) if task != GENERIC else ()
        """Extensions whose content is looked at."""
        self.begin_again()

    def begin_again(self) -> None:
        """Forget all samples."""
        self.problems: list[str] = []
        self._labels: dict[str, int] = {}
        self._objects, self._difficult = Counter[str](), Counter[str]()

    @property
    def shown_problems(self) -> list[str]:
        """The first few."""
        shown = self.problems[:_MAX_PROBLEMS_OF_SHARD]
        more = len(self.problems) - len(shown)
        return shown + ([f"{self._place}: and {more} samples more"] if more else [])

    @property
    def counts(self) -> dict[str, Any]:
        """Of objects; empty for generic samples."""
        if self._task == GENERIC:
            return {}
        return {
            "labels": self._labels,
            "objects": dict(self._objects),
            "difficult": dict(self._difficult),
        }

    def check(self, key: str, extensions: Collection[str], kept: dict[str, bytes]) -> None:
        """Look at one sample."""
        if self._task == GENERIC:
            return
        place = f"{self._place}: sample {key!r}"
        try:
            self._check(key, extensions, kept, place)
        except DataError as exc:
            self.problems.append(str(exc))

    def _check(
        self, key: str, extensions: Collection[str], kept: dict[str, bytes], place: str
    ) -> None:
        if missing := [name for name in NEEDED[self._task] if name not in extensions]:
            raise DataError(place, f"has no {missing[0]} member, which {self._task} needs")
        sample = parse_sample(kept["json"], place=f"{place}.json")
        if sample.key != key:
            raise DataError(f"{place}.json", f"its key is {sample.key!r}")
        for item in sample.objects:
            if self._labels.setdefault(item.name, item.label) != item.label:
                labels = f"{item.label} and {self._labels[item.name]}"
                raise DataError(f"{place}.json", f"class {item.name!r} has labels {labels}")
            self._objects[item.name] += 1
            self._difficult[item.name] += bool(item.difficult)


# The manifest -------------------------------------------------------------------------------


def _left_out(
    tasks: Sequence[_Task], reports: Sequence[dict[str, Any]], dest: Folder
) -> tuple[str, ...]:
    """Shards without samples; says so, and what else is odd, once.

    Raises:
        DataError: All of them.
    """
    both = list(zip(tasks, reports, strict=True))
    empty = tuple(task.link for task, report in both if not report["num_samples"])
    if len(empty) == len(tasks):
        raise DataError(str(dest), f"none of {len(tasks)} shards holds a sample")
    if empty:
        text = "%d shards hold no sample and are left out: %s"
        log.warning(text, len(empty), _some(empty))
    if continued := [task.link for task, report in both if report["has_more"]]:
        text = (
            "%d shards hold more after their end marker, which nobody reads (tars put one after "
            "the other?): %s"
        )
        log.warning(text, len(continued), _some(continued))
    repeated = [(task.link, count) for task, report in both if (count := report["num_repeated"])]
    if repeated:
        text = (
            "%d samples have the key of an earlier one in their shard, as in %r: each run of "
            "members is a sample, as for webdataset"
        )
        log.warning(text, sum(count for _, count in repeated), repeated[0][0])
    return empty


def _some(links: Sequence[str]) -> str:
    return ", ".join(map(repr, links[:5])) + (", …" if len(links) > 5 else "")


def _manifest(
    options: AdoptOptions,
    plan: dict[str, Any],
    tasks: Sequence[_Task],
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
            url=task.link,
        )
        for task, report in both
    )
    reports = [report for _, report in both]
    classes = _classes(reports, options.dest)
    return Manifest(
        name=options.name,
        task=options.task,
        classes=classes,
        sources=({"kind": "adopted", "num_shards": len(tasks)},),
        release=RELEASE,
        options={name: plan[name] for name in _PLANNED_OPTIONS},
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
    """Samples with a member of each extension; nothing where they are too many to tell."""
    if any(report["members"] is None for report in reports):
        return {}
    total = sum((Counter(report["members"]) for report in reports), Counter[str]())
    return {"members": dict(sorted(total.items()))} if len(total) <= MAX_EXTENSIONS else {}


def _classes(reports: Sequence[dict[str, Any]], dest: str) -> dict[str, int]:
    """Class names and labels of all samples; VOC's twenty where all are of these.

    Raises:
        DataError: Shards give a class different labels, or two classes one.
    """
    labels: dict[str, int] = {}
    for report in reports:
        for name, label in report.get("labels", {}).items():
            if labels.setdefault(name, label) != label:
                problem = (
                    f"class {name!r} has label {labels[name]} in one shard, {label} in another"
                )
                raise DataError(dest, problem)
    if not labels:
        return {} if "labels" not in reports[0] else dict(_VOC_LABELS)
    if labels.items() <= _VOC_LABELS.items():
        return dict(_VOC_LABELS)
    by_label = {label: name for name, label in labels.items()}
    if len(by_label) < len(labels):
        name = next(name for name, label in labels.items() if by_label[label] != name)
        problem = f"classes {name!r} and {by_label[labels[name]]!r} both have label {labels[name]}"
        raise DataError(dest, problem)
    return {name: label for label, name in sorted(by_label.items())}


def _of_classes(
    classes: dict[str, int], reports: Sequence[dict[str, Any]], what: str
) -> dict[str, int]:
    total = sum((Counter(report.get(what, {})) for report in reports), Counter[str]())
    return {name: total[name] for name in classes if total[name]}


_VOC_LABELS = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}
