"""Copies a dataset to another place, byte for byte, and checks every byte on the way.

Each shard with its index is a task (`copy_task`). An object is published only if its length and
SHA-256 are those in the manifest, so damaged bytes never arrive. The manifest comes last
(`publication`), with the same bytes as that of the source.

One kind of dataset gets another manifest. A dataset that `index` made names shards that lie
elsewhere. Its copy has these shards in its own folder, under the names of the manifest, so its
manifest holds no URLs. The fingerprint, the indexes and the order of samples stay the same.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from shard_tool.dataset.copy_task import CopyJob, copy_shard, index_bytes, is_recorded, objects_of
from shard_tool.dataset.disk_space import check_disk_space
from shard_tool.dataset.publication import (
    BAD_RECORDS_NAME,
    OnExisting,
    check_shards_are_own,
    publishing,
)
from shard_tool.dataset.shard_urls import find_same_folder, locate_shard, with_usual_protocol
from shard_tool.errors import ObjectMissing, OptionError, StoreError
from shard_tool.format.manifest import MANIFEST_NAME, encode_manifest, parse_manifest
from shard_tool.format.tar import INDEX_SUFFIX
from shard_tool.storage.backoff import Backoff
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import JOURNAL_NAME, load_manifest
from shard_tool.tasks.engines import LOCAL, check_engine
from shard_tool.tasks.pool import open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shard_tool.dataset.publication import Publication
    from shard_tool.format.manifest import Manifest, ShardEntry

_FEWEST_READINGS = 3
"""How many times an object without a digest is read again, however slow storage is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """What to copy, where to, and how.

    Raises:
        OptionError: A value that cannot be used.
    """

    source: str
    """Folder or URL of a dataset."""
    dest: str
    """Folder or URL of the copy; made where it is missing."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes of the local engine; 1 means this process."""
    engine: str = LOCAL
    """'local', or the address of a Dask scheduler ('tcp://host:8786')."""
    on_existing: OnExisting = "fail"
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec's options for `dest`, and for a source of the same protocol."""
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec's options for `source`; if there are any, it gets no others."""

    def __post_init__(self) -> None:
        if self.on_existing not in get_args(OnExisting):
            choices = ", ".join(get_args(OnExisting))
            raise OptionError("--on-existing", f"{self.on_existing!r} is not one of {choices}")
        if self.workers < 1:
            raise OptionError("--workers", f"{self.workers} is below 1")
        check_engine(self.engine)

    @property
    def source_folder(self) -> Folder:
        """The folder of the dataset."""
        protocol, elsewhere, _ = self.source.partition("://")
        of_dest, is_url, _ = self.dest.partition("://")
        is_meant = elsewhere and (not is_url or of_dest == protocol)
        return Folder(
            self.source, self.source_options or (self.storage_options if is_meant else {})
        )

    @property
    def dest_folder(self) -> Folder:
        """The folder of the copy."""
        return Folder(self.dest, self.storage_options)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """What is going to be copied."""

    manifest: Manifest
    """The manifest of the copy."""
    content: bytes = field(repr=False)
    """The bytes of this manifest: the source's, unless its shards have URLs."""
    entries: tuple[ShardEntry, ...] = field(repr=False)
    """The source's shards, in order."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(entry.num_bytes for entry in self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProgress:
    """How far a copy is."""

    shards: int
    total_shards: int
    num_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy did."""

    manifest: Manifest
    seconds: float
    num_kept_shards: int = 0
    """Shards that an earlier run had finished; they were not written again."""


def plan_copy(options: CopyOptions) -> CopyPlan:
    """Read the source's manifest and check the destination; nothing is written.

    Raises:
        OptionError: Source and destination are the same folder, or overlap.
        ShardToolError: There is no dataset, or its manifest cannot be read.
    """
    source, dest = options.source_folder, options.dest_folder
    load_manifest(source)  # its error says why there is no dataset
    content = _read_twice(source, MANIFEST_NAME)
    manifest = parse_manifest(content, place=source.place(MANIFEST_NAME))
    entries = tuple(entry for split in manifest.splits.values() for entry in split.shards)
    _check_apart(source, dest, entries)
    if any(entry.url is not None for entry in entries):
        manifest = _with_shards_beside(manifest)
        content = encode_manifest(manifest)
    return CopyPlan(manifest=manifest, content=content, entries=entries)


def copy_dataset(
    options: CopyOptions,
    *,
    plan: CopyPlan | None = None,
    on_progress: Callable[[CopyProgress], None] | None = None,
) -> CopyReport:
    """Copy a dataset.

    DEST is no dataset until its manifest is there. Files that do not belong to a dataset stay as
    they are.

    Args:
        options: What to copy, where to, and how.
        plan: The result of `plan_copy` for the same options; None: it is made here.
        on_progress: Called after each shard.

    Raises:
        ShardError: A shard or an index is not what the manifest says, also when it is fetched
            again. Finished shards stay, and nothing is committed.
        ShardToolError: Options, source or destination are bad; as above.
    """
    began = time.monotonic()
    plan = plan or plan_copy(options)
    source, dest = options.source_folder, options.dest_folder
    check_disk_space(
        dest, plan.num_bytes + sum(map(index_bytes, plan.entries)), options.on_existing
    )
    if options.on_existing == "overwrite":
        _check_nothing_is_lost(source, dest, plan.entries)
    names = {entry.name for entry in plan.entries}
    making = publishing(
        dest,
        _identity(plan.manifest, plan.content),
        verb="copy",
        on_existing=options.on_existing,
        is_shard=names.__contains__,
        of_manifest=lambda manifest: _identity(manifest, _read_twice(dest, MANIFEST_NAME)),
        pool=open_pool(options.engine, _workers(options, plan)),
    )
    with making as publication:
        num_kept = len(plan.entries)
        if publication.manifest is None:
            num_kept = _copy(options, plan, publication, on_progress)
    seconds = time.monotonic() - began
    return CopyReport(manifest=plan.manifest, seconds=seconds, num_kept_shards=num_kept)


def _copy(
    options: CopyOptions,
    plan: CopyPlan,
    publication: Publication,
    on_progress: Callable[[CopyProgress], None] | None,
) -> int:
    """Copy what is not there yet, and commit; returns how many shards were there."""
    source, dest = options.source_folder, publication.journal.folder
    shards = num_bytes = num_kept = 0
    for entry, is_kept in _copied(source, plan, publication):
        shards, num_bytes = shards + 1, num_bytes + entry.num_bytes
        num_kept += is_kept
        if on_progress:
            on_progress(
                CopyProgress(
                    shards=shards,
                    total_shards=len(plan.entries),
                    num_bytes=num_bytes,
                    total_bytes=plan.num_bytes,
                )
            )
    if (bad_records := _bad_records_of(source, plan.manifest)) is not None:
        with dest.publish(BAD_RECORDS_NAME) as file:
            file.write(bad_records)
    publication.commit(plan.manifest, plan.content)
    return num_kept


def _identity(manifest: Manifest, content: bytes) -> dict[str, Any]:
    """What must be equal if a later run is to go on with this one."""
    return {
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "the manifest's sha256": hashlib.sha256(content).hexdigest(),
    }


def _with_shards_beside(manifest: Manifest) -> Manifest:
    """Make the manifest of the same dataset with all shards in its own folder."""
    splits = {
        name: replace(split, shards=tuple(replace(entry, url=None) for entry in split.shards))
        for name, split in manifest.splits.items()
    }
    return replace(manifest, splits=splits)


def _bad_records_of(source: Folder, manifest: Manifest) -> bytes | None:
    """Read the list of skipped records; None if there is none."""
    if not manifest.num_bad_records:
        return None
    try:
        return _read_twice(source, BAD_RECORDS_NAME)
    except ObjectMissing:
        return None


def _read_twice(folder: Folder, name: str) -> bytes:
    """Read an object that has no digest; from elsewhere, until two readings agree."""
    content = folder.read(name)
    if folder.local is not None:
        return content
    backoff = Backoff(folder.timeout_s, at_least=_FEWEST_READINGS)
    while (again := folder.read(name)) != content:
        content = again
        if not backoff.pause():
            problem = f"differs each time it is read ({backoff.failed + 1} times)"
            hint = "wait until nobody writes there, then repeat"
            raise StoreError(folder.place(name), problem, hint)
    return content


# Two places ---------------------------------------------------------------------------------


def _check_apart(source: Folder, dest: Folder, entries: Sequence[ShardEntry]) -> None:
    """Refuse a destination that is the source's folder, or holds shards of the source.

    Raises:
        OptionError: It does.
    """
    for folder, option in ((source, "SRC"), (dest, "DEST")):
        if JOURNAL_NAME in folder.url.split("/"):
            problem = f"'{folder}' lies in {JOURNAL_NAME}, which goes when a dataset is finished"
            raise OptionError(option, problem, "give another folder")
    for folder in _folders_of(source, entries):
        if _is_same(folder, dest):
            raise _not_apart(source, dest, is_source=folder is source)


def _not_apart(source: Folder, dest: Folder, *, is_source: bool) -> OptionError:
    what = "the same folder as SRC" if is_source else "where shards of SRC lie"
    return OptionError("DEST", f"'{dest}' is {what} ('{source}')", "give another folder")


def _folders_of(source: Folder, entries: Sequence[ShardEntry]) -> list[Folder]:
    """The source's folder, and each folder in which its shards with URLs lie."""
    urls = {entry.url.rpartition("/")[0]: entry.url for entry in entries if entry.url is not None}
    return [source, *(locate_shard(url, source)[0] for url in urls.values())]


def _is_same(one: Folder, other: Folder) -> bool:
    """Tell whether two folders are one, as far as their names tell."""
    here, there = one.local, other.local
    if here is None or there is None:
        return here is there and _parts_of_url(one) == _parts_of_url(other)
    try:
        return here.samefile(there)
    except OSError:  # one of them is missing
        return False


def _parts_of_url(folder: Folder) -> tuple[str, str, Any]:
    protocol, _, path = with_usual_protocol(str(folder)).partition("://")
    return protocol, path.rstrip("/"), folder.options.get("endpoint_url")


def _check_nothing_is_lost(source: Folder, dest: Folder, entries: Sequence[ShardEntry]) -> None:
    """Refuse to overwrite objects that are going to be copied, or that are somebody else's.

    Raises:
        OptionError: Objects of the source would be removed.
        ObjectExists: A shard would take the place of an object that is not the dataset's.
    """
    if not (names := set(dest.names())):
        return
    check_shards_are_own(dest, [entry.name for entry in entries])
    if (folder := find_same_folder(dest, _folders_of(source, entries))) is not None:
        raise _not_apart(source, dest, is_source=folder is source)
    if (root := dest.local) is None:
        return
    root = Path(os.path.realpath(root))
    there = [entry for entry in entries if {entry.name, entry.name + INDEX_SUFFIX} & names]
    for item in (item for entry in there for item in objects_of(source, entry)):
        path = item.source.local
        if path is not None and Path(os.path.realpath(path)).parent == root:
            raise OptionError("DEST", f"'{dest}' is where {item.source} links to", "give another")


# Tasks --------------------------------------------------------------------------------------


def _workers(options: CopyOptions, plan: CopyPlan) -> int:
    """How many processes the local engine gets.

    Raises:
        OptionError: Workers of another engine cannot reach this process's memory.
    """
    dest, source = options.dest_folder, options.source_folder
    in_memory = [item for item in _folders_of(source, plan.entries) if item.is_of_one_process]
    if options.engine != LOCAL:
        problem = f"workers of {options.engine} cannot {{}} this process's memory"
        if dest.is_of_one_process:
            raise OptionError(str(dest), problem.format("write into"), "choose another DEST")
        if in_memory:
            raise OptionError(str(in_memory[0]), problem.format("read"), "choose another SRC")
    is_of_one_process = dest.is_of_one_process or in_memory
    return 1 if is_of_one_process else min(options.workers, max(1, len(plan.entries)))


def _copied(
    source: Folder, plan: CopyPlan, publication: Publication
) -> Iterator[tuple[ShardEntry, bool]]:
    """Yield (shard, whether an earlier run had finished it) as soon as each is there."""
    reports, dest = publication.reports, publication.journal.folder
    job = CopyJob(source, publication.journal)
    left: list[ShardEntry] = []
    for entry in plan.entries:
        # An object store holds what was put there. A disk may have lost data with its power.
        if dest.local is None and is_recorded(entry, reports.get(entry.name)):
            yield entry, True
        else:
            left.append(entry)
    tasks = ((job, entry, reports.get(entry.name)) for entry in left)
    for number, is_kept in publication.pool.run(
        copy_shard, tasks, label=lambda _, entry, __: entry.name
    ):
        yield left[number], is_kept
