"""Tells which files in a folder belong to an indexed dataset, and so may be removed with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shard_tool.dataset.publication import BAD_RECORDS_NAME
from shard_tool.dataset.shard_urls import find_same_folder, locate_shard
from shard_tool.errors import ObjectExists
from shard_tool.format.manifest import MANIFEST_NAME
from shard_tool.format.tar import INDEX_SUFFIX
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import JOURNAL_NAME, load_manifest
from shard_tool.storage.uploads import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from shard_tool.dataset.publication import OnExisting


@dataclass(frozen=True, slots=True)
class OwnFiles(Folder):
    """A folder that shows only the dataset's own objects, so that nothing else can be removed.

    The rest is somebody else's, above all the shards, which may lie in the same folder.
    """

    split: str = ""
    known: frozenset[str] = frozenset()
    """Names that the manifest in the folder says are its dataset's."""

    def names(self) -> list[str]:
        """Names of the dataset's own objects."""
        return [name for name in Folder.names(self) if self.is_own(name)]

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove those of some objects that are the dataset's own."""
        Folder.remove_all(self, [name for name in names if self.is_own(name)])

    def abort_uploads(self, is_ours: Callable[[str], bool]) -> int:
        """Abort unfinished uploads of those objects that are the dataset's own."""
        return Folder.abort_uploads(self, lambda name: self.is_own(name) and is_ours(name))

    def is_own(self, name: str) -> bool:
        """Tell whether an object is the dataset's, or one that `index` writes, finished or not."""
        return name in self.known or _is_written_by_index(self.split, name)


def own_files(
    dest: Folder, shards: Mapping[str, str], *, split: str, on_existing: OnExisting
) -> OwnFiles:
    """Make the view of a folder that shows the dataset's own objects.

    Args:
        dest: The folder of its manifest and indexes.
        shards: Name in the manifest of each shard that will be indexed, to its URL.
        split: The split, with which the shards' names begin.
        on_existing: What to do with a dataset that is there.

    Raises:
        ObjectExists: The folder holds other things, and no shard lies in it or below; or it holds a
            tar to which an index that will be made would seem to belong.
    """
    there = dest.names()
    known = load_manifest(dest).objects_beside if MANIFEST_NAME in there else set[str]()
    tars = {name for name in known.intersection(there) if not name.endswith(INDEX_SUFFIX)}
    has_tars_of_dest = any("/" not in url for url in shards.values())
    if tars and not has_tars_of_dest and on_existing == "overwrite":
        has_tars_of_dest = _are_reached(tars, shards.values(), dest)
    if has_tars_of_dest:  # the old dataset loses its indexes, but no tar
        known -= tars
    own = OwnFiles(dest.url, dest.options, dest.timeout_s, split=split, known=frozenset(known))
    strange = {name for name in there if not own.is_own(name)}
    is_shared = has_tars_of_dest or any(map(_is_inside, shards.values()))
    if strange and not is_shared and JOURNAL_NAME not in there:
        problem = f"is not empty ({min(strange)!r} is there) and holds no dataset"
        raise ObjectExists(str(dest), problem, "give an empty or a new folder")
    for name, url in shards.items():
        if name in strange and url != name:
            problem = f"{name!r} is there, and the index of {url!r} would be called so"
            raise ObjectExists(str(dest), problem, "give another DEST or another --split")
    return own


def _are_reached(tars: set[str], urls: Collection[str], dest: Folder) -> bool:
    """Tell whether shards are tars of `dest` under other names: symbolic links, or URLs."""
    paths = [path for name in tars if (path := dest.object(name).local) is not None]
    places = [locate_shard(url, dest) for url in urls]
    shards = (folder.object(name).local for folder, name in places)
    if {_file_of(path) for path in shards if path is not None} & {_file_of(path) for path in paths}:
        return True
    folders = {folder.url: folder for folder, _ in places}
    return find_same_folder(dest, folders.values()) is not None


def _file_of(path: Path) -> tuple[int, int]:
    """Identify the file that a path leads to; a path to no file gets an identity of its own."""
    try:
        state = path.stat()
    except OSError:
        return (-1, hash(path))
    return (state.st_dev, state.st_ino)


def _is_inside(url: str) -> bool:
    return not ("://" in url or url.startswith(("/", "../")))


def is_shard_name(split: str, name: str) -> bool:
    """Tell whether a name is one that `index` gives to a shard of this split."""
    return bool(re.fullmatch(rf"{re.escape(split)}-\d{{6}}\.tar", name))


def _is_written_by_index(split: str, name: str) -> bool:
    if PARTIAL in name:
        name = name.partition(PARTIAL)[0].removeprefix(".")
    if name in (MANIFEST_NAME, BAD_RECORDS_NAME, JOURNAL_NAME):
        return True
    return name.endswith(INDEX_SUFFIX) and is_shard_name(split, name.removesuffix(INDEX_SUFFIX))
