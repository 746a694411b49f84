"""Records which shards of an unfinished dataset are finished, and publishes objects for workers.

The journal is the folder ``DEST/.conversion``. It holds the plan, which decides whether a later run
may go on, and a record of each finished shard. A record is published after its shard and its index.
So whenever a process is killed, a shard that has a record is there, and a shard that has none is
made again. The journal is removed when the manifest is there.

A worker may be lost: it was killed, or it stopped, or it lost its cluster and is still alive. On a
local disk, workers write into a staging folder inside the journal, and a rename gives each finished
file its name in DEST. Once the staging folder is removed, no worker of the run can publish
anything, however late it is: it can open nothing there and rename nothing out of there. Object
stores have no such means. There a worker checks the writer's lock before each object; `writer_lock`
says what that cannot prevent.
"""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from shard_tool.errors import ObjectMissing, StoreError
from shard_tool.storage.manifest_file import JOURNAL_NAME
from shard_tool.storage.uploads import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from shard_tool.dataset.writer_lock import WriterLock
    from shard_tool.storage.location import Folder

PLAN_NAME = "plan.json"
_STAGING, _REMOVED = "writing-", "removed-"
"""What the names of staging folders begin with."""
_RECORD_SUFFIX = ".tar.json"
_READ_AT_A_TIME = 4096
"""How many records are read together."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Publishes objects and records shards; a small value that travels to workers."""

    folder: Folder
    """The dataset's folder."""
    lock: WriterLock
    staging: str | None = None
    """This run's staging folder, below `folder`; None where `folder` is not local."""

    @contextmanager
    def publish(self, name: str) -> Iterator[IO[bytes]]:
        """Write an object of the dataset that becomes visible, whole, when the block ends.

        Raises:
            StoreError: Storage failed, this run has ended, or another one took over.
        """
        with self.folder.publish(name, staging=self.staging) as file:
            yield file
            self.lock.check()

    def put(self, name: str, content: bytes) -> None:
        """Make or replace one small object of the dataset.

        Raises:
            StoreError: As for `publish`.
        """
        self.lock.check()
        self.folder.put(name, content, staging=self.staging)

    def record(self, name: str, report: Mapping[str, Any]) -> None:
        """Record that a shard and its index are there.

        Args:
            name: Name of the shard.
            report: What a later run needs to know of the shard, as JSON. ``sizes`` has the bytes of
                each object that was published for it.

        Raises:
            StoreError: As for `publish`.
        """
        self.put(f"{JOURNAL_NAME}/{name}.json", json.dumps(report).encode())


# The staging folder -------------------------------------------------------------------------


def make_staging(dest: Folder) -> str | None:
    """Make the staging folder of one run; its path in `dest`, or None where that is not local.

    Raises:
        StoreError: The disk refused.
    """
    if (path := dest.local) is None:
        return None
    name = f"{JOURNAL_NAME}/{_STAGING}{secrets.token_hex(4)}"
    try:
        (path / name).mkdir(parents=True)
    except OSError as exc:
        raise StoreError(dest.place(name), f"cannot be made: {exc.strerror}") from exc
    return name


def remove_staging(dest: Folder) -> None:
    """Remove all staging folders, so that no worker can publish, of this run or an earlier one.

    Raises:
        StoreError: The disk refused.
    """
    if (folder := dest.child(JOURNAL_NAME).local) is None:
        return
    for path in folder.glob(f"{_REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{_STAGING}*"):
        try:
            _remove_folder(path)
        except OSError as exc:
            raise StoreError(str(path), f"cannot be removed: {exc.strerror}") from exc


def _remove_folder(path: Path) -> None:
    """Remove a folder in which workers may still write; after the rename none can publish."""
    gone = path.with_name(f"{_REMOVED}{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)  # network disks keep a name for an open file


# The plan and the records -------------------------------------------------------------------


def put_plan(dest: Folder, plan: Mapping[str, Any], clearing: tuple[str, ...] = ()) -> None:
    """Write the plan, and in `clearing` the names that are about to be removed."""
    document = {"plan": dict(plan), **({"clearing": clearing} if clearing else {})}
    dest.child(JOURNAL_NAME).put(PLAN_NAME, json.dumps(document, indent=1).encode())


def read_plan(dest: Folder) -> dict[str, Any]:
    """Read ``plan`` and ``clearing``; an empty dict where there is no plan.

    Raises:
        StoreError: The plan is damaged, or storage failed.
    """
    try:
        content = dest.child(JOURNAL_NAME).read(PLAN_NAME)
    except ObjectMissing:
        return {}  # the journal's folder holds a lock alone
    try:
        document = json.loads(content)
        return {"plan": dict(document["plan"]), "clearing": tuple(document.get("clearing", ()))}
    except (ValueError, KeyError, TypeError) as exc:
        place = dest.child(JOURNAL_NAME).place(PLAN_NAME)
        hint = "use --on-existing overwrite to start again, or another DEST"
        raise StoreError(place, f"is damaged: {exc}", hint) from exc


def recorded_shards(dest: Folder) -> set[str]:
    """Names of the shards that have a record."""
    names = dest.child(JOURNAL_NAME).names()
    return {name.removesuffix(".json") for name in names if _is_record(name)}


def read_records(dest: Folder) -> dict[str, dict[str, Any]]:
    """Read the record of each shard whose objects are all there in the recorded sizes."""
    journal, there = dest.child(JOURNAL_NAME), dest.sizes()
    records = {name: size for name, size in journal.sizes().items() if _is_record(name)}
    found: dict[str, dict[str, Any]] = {}
    names = sorted(records)
    for first in range(0, len(names), _READ_AT_A_TIME):
        some = names[first : first + _READ_AT_A_TIME]
        contents = journal.read_ranges([(name, 0, records[name]) for name in some])
        for name, content in zip(some, contents, strict=True):
            report = _parsed(content)
            if report is not None and report["sizes"].items() <= there.items():
                found[name.removesuffix(".json")] = report
    return found


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        report = json.loads(content)
        return report if isinstance(report["sizes"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None  # the shard is made again


def remove_records(dest: Folder) -> None:
    """Remove all records."""
    journal = dest.child(JOURNAL_NAME)
    journal.remove_all([name for name in journal.names() if _is_record(name)])


def remove_journal(dest: Folder) -> None:
    """Remove the journal; its plan goes last, for it tells what the rest is."""
    remove_staging(dest)
    journal = dest.child(JOURNAL_NAME)
    partial = [name for name in journal.names() if PARTIAL in name]  # a plan, not published
    remove_records(dest)
    journal.remove_all(partial)
    journal.remove(PLAN_NAME)
    if (folder := journal.local) is not None:
        with suppress(OSError):  # where a disk has no locks, heartbeats are in it
            folder.rmdir()


def _is_record(name: str) -> bool:
    return name.endswith(_RECORD_SUFFIX)
