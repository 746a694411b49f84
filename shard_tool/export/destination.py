"""Lets an export appear as a whole, and replaces an earlier one only if nothing else is lost."""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shard_tool.errors import ObjectExists, OptionError, StoreError
from shard_tool.storage.uploads import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MARK = ".shard-tool-export"
"""File in an export that lists what belongs to it: --on-existing overwrite removes nothing else."""


@contextmanager
def appearing(out: str, on_existing: str) -> Iterator[Path]:
    """A folder beside OUT that gets its name when the block ends without an exception.

    If OUT is an empty folder, it stays the folder that it is, and all is made inside it: it may be
    where a shell stands, or where a disk is mounted.

    Args:
        out: Path of the export.
        on_existing: 'fail' or 'overwrite'.

    Raises:
        OptionError: It is a URL.
        ObjectExists: There is something that may not be replaced.
        StoreError: The disk fails.
    """
    if "://" in out:
        problem = "is a URL, and files are exported to a folder of this machine"
        raise OptionError("OUT", problem, "copy it from there")
    place = Path(out).resolve()  # a link stays one
    check_free(place, out, on_existing)
    hidden = f".{place.name}{PARTIAL}{secrets.token_hex(4)}"
    is_inside = place.is_dir() and not any(place.iterdir())
    partial = place / hidden if is_inside else place.with_name(hidden)
    try:
        partial.mkdir(parents=True)
        yield partial
        names = sorted(path.name for path in partial.iterdir())
        (partial / MARK).write_text(json.dumps({"files": names}), "utf-8")
        check_free(place, out, on_existing, but=hidden)
        if is_inside:
            _move_up(partial, place, [*names, MARK])
        else:
            _swap(partial, place)
    except OSError as exc:
        if isinstance(exc, StoreError | ObjectExists):
            raise
        problem = f"cannot be written: {exc.strerror or type(exc).__name__}"
        raise StoreError(str(exc.filename or out), problem) from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(place: Path, shown: str, on_existing: str, *, but: str = "") -> None:
    """Refuse a place that holds something else than an export that may be overwritten.

    Args:
        place: The folder.
        shown: Its name in messages.
        on_existing: 'fail' or 'overwrite'.
        but: Name of a file in it that does not count.

    Raises:
        ObjectExists: It does.
    """
    if not place.exists():
        return
    hint = "give an empty or a new folder"
    if not place.is_dir():
        raise ObjectExists(shown, "is a file", hint)
    names = {path.name for path in place.iterdir()} - {but}
    if not names:
        return
    if MARK not in names:
        problem = f"is not empty ({min(names)!r} is there) and holds no export"
        raise ObjectExists(shown, problem, hint)
    if on_existing != "overwrite":
        raise ObjectExists(shown, "holds an export", "add --on-existing overwrite to replace it")
    strange = names - {MARK} - set(_names_of(place / MARK))
    if strange:
        problem = f"holds {min(strange)!r}, which is not of the export that is there"
        raise ObjectExists(shown, problem, "move it elsewhere, or give a new folder")


def _names_of(mark: Path) -> list[str]:
    try:
        found = json.loads(mark.read_text("utf-8"))["files"]
        return [name for name in found if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _move_up(partial: Path, place: Path, names: Sequence[str]) -> None:
    """Move files one folder up, in this order."""
    moved = list[Path]()
    try:
        for name in names:
            moved.append((partial / name).rename(place / name))
    except BaseException:
        for path in moved:
            path.rename(partial / path.name)
        raise


def _swap(partial: Path, place: Path) -> None:
    """Give a folder its name; what is there goes."""
    if not place.exists():
        partial.rename(place)
        return
    old = place.with_name(f"{partial.name}-old")
    place.rename(old)
    try:
        partial.rename(place)
    except BaseException:
        old.rename(place)
        raise
    shutil.rmtree(old)
