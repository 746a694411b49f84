"""Keeps the journal of a dataset that is being made, from which a later run goes on.

``DEST/.conversion`` holds the journal: the plan, which decides whether a later run may go on, and
for each finished shard what was found out while writing it. A record is published after its shard
and index. So whatever moment a process is killed at, a shard that has a record is there, and one
that has none is made again. The journal goes when the manifest is there.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ObjectMissing, StoreError
from shard_tool.storage.location import JOURNAL_NAME, PARTIAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shard_tool.dataset.writer_lock import WriterLock
    from shard_tool.storage.location import Folder

PLAN_NAME = "plan.json"
_RECORD_SUFFIX = ".tar.json"
_READ_AT_A_TIME = 4096
"""Records that are read together."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What a worker needs to publish objects and to record shards; a small value."""

    folder: Folder
    """The dataset's."""
    lock: WriterLock

    def check(self) -> None:
        """Make sure that nobody else has taken over.

        Raises:
            StoreError: Somebody has.
        """
        self.lock.check()

    def record(self, name: str, report: Mapping[str, Any]) -> None:
        """Note that a shard and its index are there.

        Args:
            name: The shard's.
            report: What a later run needs to know of it, as JSON; ``sizes`` has the bytes of each
                object that was published for it.
        """
        self.folder.child(JOURNAL_NAME).put(f"{name}.json", json.dumps(report).encode())


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
    remove_records(dest)
    journal = dest.child(JOURNAL_NAME)
    journal.remove(PLAN_NAME)
    if (folder := journal.local) is not None:
        for path in folder.glob(f".*{PARTIAL}*"):  # records that were never published
            path.unlink(missing_ok=True)
        with suppress(OSError):  # signs of life lie there where a disk has no locks
            folder.rmdir()


def _is_record(name: str) -> bool:
    return name.endswith(_RECORD_SUFFIX)
