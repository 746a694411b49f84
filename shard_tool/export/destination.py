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
    from collections.abc import Iterator

MARK = ".shard-tool-export"
"""File in an export that lists what belongs to it: --on-existing overwrite removes nothing else."""


@contextmanager
def appearing(out: str, on_existing: str) -> Iterator[Path]:
    """A folder beside OUT that gets its name when the block ends without an exception.

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
    partial = place.with_name(f".{place.name}{PARTIAL}{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
        names = sorted(path.name for path in partial.iterdir())
        (partial / MARK).write_text(json.dumps({"files": names}), "utf-8")
        check_free(place, out, on_existing)
        _swap(partial, place)
    except OSError as exc:
        if isinstance(exc, StoreError | ObjectExists):
            raise
        problem = f"cannot be written: {exc.strerror or type(exc).__name__}"
        raise StoreError(str(exc.filename or out), problem) from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(place: Path, shown: str, on_existing: str) -> None:
    """Refuse a place that holds something else than an export that may be overwritten.

    Raises:
        ObjectExists: It does.
    """
    if not place.exists():
        return
    hint = "give an empty or a new folder"
    if not place.is_dir():
        raise ObjectExists(shown, "is a file", hint)
    names = {path.name for path in place.iterdir()}
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
