"""Downloads the archives of a year by its name, ``voc2007`` … ``voc2012``, into a cache folder.

`official` lists the archives; `download` downloads and verifies one.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shard_tool.errors import StoreError
from shard_tool.sources.files.partial_file import part_of
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
    """An official archive and how much of it is in a folder, judged by name and length alone."""

    archive: Archive
    path: Path
    url: str
    """The first URL to try, without user, password and query."""
    num_bytes_there: int
    """Length of the file, or of the unfinished part of it."""
    is_there: bool
    """Whether a file of its name and length is there; its MD5 was not checked."""


def wanted_archives(
    year: str, folder: Path, *, set_: str | None = None, mirrors: Sequence[str] = ()
) -> list[WantedArchive]:
    """List the archives that `download_archives` would download or verify; requests nothing.

    Raises:
        OptionError: There is no such year or set, or a mirror is not an http or https URL.
        StoreError: The folder cannot be read.
    """
    return [_wanted(archive, folder, mirrors) for archive in archives_of(year, set_)]


def download_archives(
    year: str,
    folder: Path,
    *,
    set_: str | None = None,
    mirrors: Sequence[str] = (),
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> list[Path]:
    """Make sure that the archives of a year are in a folder, complete and with the right MD5s.

    Args:
        year: '2007' … '2012'.
        folder: Folder for the files; created if missing.
        set_: 'trainval' or 'test'; None for all sets of the year.
        mirrors: As in `download_archive`.
        on_progress: Called with (step, bytes so far, all bytes or None); a step is called
            'downloading VOCtest_06-Nov-2007.tar', or 'checking …' while an existing file is hashed.

    Returns:
        The files, trainval first.

    Raises:
        OptionError: As `wanted_archives`.
        StoreError: The disk has too little space for all, or a download failed.
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
    """Check the space for all archives together; each alone might still fit.

    An archive of unknown size is checked once the server tells its size.
    """
    missing = [item for item in wanted if not item.is_there and item.archive.num_bytes is not None]
    needed = sum(max(0, (item.archive.num_bytes or 0) - item.num_bytes_there) for item in missing)
    free = _free_bytes(folder)
    if needed > free:
        names = " and ".join(item.archive.file for item in missing)
        verb = "needs" if len(missing) == 1 else "need"
        problem = f"{free} bytes free, {names} {verb} {needed} more"
        raise StoreError(str(folder), problem, "free some space or choose another folder")


def _free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
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
        raise StoreError(str(path), f"disk error: {exc.strerror or exc}") from exc
