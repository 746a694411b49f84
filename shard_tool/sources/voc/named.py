"""Named sources: ``voc2007`` … ``voc2012`` become archives in a folder.

Says where they are kept, what would be fetched, and fetches it. How bytes get here and what makes
them right is `download`'s business, which archives there are that of `archives`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shard_tool.errors import StoreError
from shard_tool.sources.partial_file import part_of
from shard_tool.sources.voc.download import download_archive, sources_of
from shard_tool.sources.voc.official import archives_of
from shard_tool.storage.location import public_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shard_tool.sources.voc.official import Archive


def archives_folder() -> Path:
    """``$XDG_CACHE_HOME/voc-shards/archives``, else ``~/.cache/voc-shards/archives``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "voc-shards" / "archives"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedArchive:
    """An official archive, and how much of it lies in a folder. Nothing was asked or hashed."""

    archive: Archive
    path: Path
    url: str
    """Where it would be looked for first; without user, password and query."""
    num_bytes_there: int
    """Length of the file, else of what an interrupted download left of it."""
    is_there: bool
    """A file of its name and length is there; whether its bytes are right shows when it is used."""


def wanted_archives(
    year: str, folder: Path, *, set_: str | None = None, mirrors: Sequence[str] = ()
) -> list[WantedArchive]:
    """What `fetched_archives` with the same arguments would see to.

    Raises:
        OptionError: There is no such year or set, or a mirror is not an http or https URL.
        StoreError: The folder cannot be looked into.
    """
    return [_wanted(archive, folder, mirrors) for archive in archives_of(year, set_)]


def fetched_archives(
    year: str,
    folder: Path,
    *,
    set_: str | None = None,
    mirrors: Sequence[str] = (),
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> list[Path]:
    """Make sure that the archives of a year lie in a folder, whole and with the right digests.

    Args:
        year: '2007' … '2012'.
        folder: Where to put them; made if missing.
        set_: 'trainval' or 'test'; None for every set the year has.
        mirrors: As in `download_archive`.
        on_progress: Called with (what goes on, such as 'downloading VOCtest_06-Nov-2007.tar', its
            bytes so far, all its bytes or None). 'checking …' reads what is there already.

    Returns:
        The files, trainval first.

    Raises:
        OptionError: As `wanted_archives`.
        StoreError: There is no room for all of them, or one could not be downloaded.
    """
    wanted = wanted_archives(year, folder, set_=set_, mirrors=mirrors)
    _check_space(wanted, folder)
    tell = on_progress or (lambda *_: None)
    return [
        download_archive(
            item.archive,
            folder,
            mirrors=mirrors,
            on_progress=partial(tell, f"downloading {item.archive.file}"),
            on_check=partial(tell, f"checking {item.archive.file}"),
        )
        for item in wanted
    ]


def _wanted(archive: Archive, folder: Path, mirrors: Sequence[str]) -> WantedArchive:
    path = folder / archive.file
    size = _size(path)
    is_there = size is not None and archive.num_bytes in (None, size)
    urls = [url for urls in sources_of(archive, mirrors) for url in urls]
    return WantedArchive(
        archive=archive,
        path=path,
        url=public_url(urls[0]),
        num_bytes_there=(size if is_there else _size(part_of(path))) or 0,
        is_there=is_there,
    )


def _check_space(wanted: Sequence[WantedArchive], folder: Path) -> None:
    """All archives of a year at once: each alone might still fit.

    Those of unknown size are looked at when the server has said it.
    """
    missing = [item for item in wanted if not item.is_there and item.archive.num_bytes is not None]
    needed = sum(max(0, (item.archive.num_bytes or 0) - item.num_bytes_there) for item in missing)
    free = _free_bytes(folder)
    if needed > free:
        names = " and ".join(item.archive.file for item in missing)
        verb = "needs" if len(missing) == 1 else "need"
        problem = f"{free} bytes free, {names} {verb} {needed} more"
        raise StoreError(str(folder), problem, "make room or choose another folder")


def _free_bytes(folder: Path) -> int:
    """Of the disk that holds a folder, or will hold it."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(str(path), f"disk trouble: {exc.strerror or exc}") from exc
