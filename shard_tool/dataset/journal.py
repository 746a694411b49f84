"""Keeps the journal of a dataset that is being made, and lets workers publish by way of it.

``DEST/.conversion`` holds the journal: the plan, which decides whether a later run may go on, and
for each finished shard what was found out while writing it. A record is published after its shard
and index. So whenever a process is killed, a shard that has a record is there, and one
that has none is made again. The journal goes when the manifest is there.

A worker may be lost: killed, or stopped, or cut off from its cluster and still alive. On a local
disk workers write in a folder of the journal, and what is whole gets its name in DEST by a rename.
To remove that folder takes the right to publish from every worker of the run, however late it is:
nothing can be opened in it or renamed out of it any more. Object stores have nothing like it. There
a worker checks the writer's lock before each object (`writer_lock` says what that cannot prevent).
"""

from __future__ import annotations

import errno
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
_STAGING = "writing-"
"""What the names of the folders begin with in which workers write."""
_RECORD_SUFFIX = ".tar.json"
_READ_AT_A_TIME = 4096
"""Records that are read together."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What a worker needs to publish objects and to record shards; a small value."""

    folder: Folder
    """The dataset's."""
    lock: WriterLock
    staging: str | None = None
    """On a local disk: the folder below `folder` in which this run's workers write."""

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
        """Note that a shard and its index are there.

        Args:
            name: The shard's.
            report: What a later run needs to know of it, as JSON; ``sizes`` has the bytes of each
                object that was published for it.

        Raises:
            StoreError: As for `publish`.
        """
        self.put(f"{JOURNAL_NAME}/{name}.json", json.dumps(report).encode())


# The folder workers write in ----------------------------------------------------------------


def make_staging(dest: Folder) -> str | None:
    """Make the folder in which the workers of one run write; None where `dest` is not local.

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
    """Take the right to publish from all workers of this run and of earlier ones.

    Raises:
        StoreError: The disk refused.
    """
    if (folder := dest.child(JOURNAL_NAME).local) is None:
        return
    for path in folder.glob(f"{_STAGING}*"):
        try:
            _remove_folder(path)
        except OSError as exc:
            raise StoreError(str(path), f"cannot be removed: {exc.strerror}") from exc


def _remove_folder(path: Path) -> None:
    """Remove a folder, also while workers open and remove files in it."""
    while path.exists():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue  # a file was gone before it could be removed
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:  # else a file was opened since it was listed
                raise


# The plan and the records -------------------------------------------------------------------


def put_plan(dest: Folder, plan: Mapping[str, Any], clearing: tuple[str, ...] = ()) -> None:
    """Write the plan, and what is being taken away if anything is."""
    document = {"plan": dict(plan), **({"clearing": clearing} if clearing else {})}
    dest.child(JOURNAL_NAME).put(PLAN_NAME, json.dumps(document, indent=1).encode())


def read_plan(dest: Folder) -> dict[str, Any]:
    """Read ``plan`` and ``clearing``; nothing where there is no plan.

    Raises:
        StoreError: The plan is damaged, or storage failed.
    """
    try:
        content = dest.child(JOURNAL_NAME).read(PLAN_NAME)
    except ObjectMissing:
        return {}  # a lock alone
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
    """The record of each shard whose objects are there in the size that was recorded."""
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
        return None  # its shard is made again


def remove_records(dest: Folder) -> None:
    """Forget every finished shard."""
    journal = dest.child(JOURNAL_NAME)
    journal.remove_all([name for name in journal.names() if _is_record(name)])


def remove_journal(dest: Folder) -> None:
    """Remove the journal, the plan last: without it nobody would know what the rest is."""
    remove_staging(dest)
    journal = dest.child(JOURNAL_NAME)
    partial = [name for name in journal.names() if PARTIAL in name]  # plans, never published
    remove_records(dest)
    journal.remove_all(partial)
    journal.remove(PLAN_NAME)
    if (folder := journal.local) is not None:
        with suppress(OSError):  # signs of life lie there where a disk has no locks
            folder.rmdir()


def _is_record(name: str) -> bool:
    return name.endswith(_RECORD_SUFFIX)
