"""Makes a dataset where there is none, or waits for the process that is making it.

For programs that want a dataset rather than a conversion: any number of processes and machines may
ask for the same one at the same time. One of them makes it. One that comes after a crash goes on
with what the dead process left.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from shard_tool.convert.options import ConvertOptions
from shard_tool.convert.run import convert
from shard_tool.dataset.writer_lock import hold_writer_lock, wait_until_free
from shard_tool.errors import ObjectBusy, ObjectMissing, OptionError
from shard_tool.sources.voc.download import download_archive
from shard_tool.sources.voc.official import archives_of
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest

if TYPE_CHECKING:
    from shard_tool.format.manifest import Manifest

log = logging.getLogger(__name__)


def make_dataset(
    dest: str,
    *,
    source: str | None,
    year: str,
    task: str = "detection",
    storage_options: dict[str, Any] | None = None,
) -> Manifest:
    """Make a dataset unless DEST holds one; where another process is making it, wait for its end.

    Args:
        dest: Folder or URL of the dataset.
        source: The archive or folder to convert; None: the official trainval archive of `year`,
            which is downloaded into ``<dest>.archives``.
        year: '2007' … '2012'; used only without `source`.
        task: What the dataset is for, as in `ConvertOptions`.
        storage_options: fsspec's options for `dest`.

    Returns:
        The manifest of the dataset.

    Raises:
        OptionError: An archive is to be downloaded, and `dest` is no local folder.
        ObjectExists: `dest` holds other files, or an unfinished conversion with other options.
        ShardToolError: The source, a record or storage is at fault.
    """
    folder = Folder(dest, storage_options or {})
    while True:
        try:
            return load_manifest(folder)
        except ObjectMissing:
            pass
        try:
            archive = source or _downloaded(year, dest)
            options = ConvertOptions(
                source=archive,
                dest=dest,
                task=task,
                on_existing="resume",  # goes on after a crash, and touches nothing of others
                storage_options=storage_options or {},
            )
            return convert(options).manifest
        except ObjectBusy as exc:
            log.warning("%s: %s; waiting for its end", exc.place, exc.problem)
            wait_until_free(folder)


def _downloaded(year: str, dest: str) -> str:
    """Path of the official trainval archive of a year, downloaded where it is missing."""
    archives = Folder(f"{dest.rstrip('/')}.archives")
    if archives.local is None:
        hint = "download and convert with shard-tool, then give the URL"
        raise OptionError(
            str(Folder(dest)), "an archive can be downloaded for a local folder only", hint
        )
    (archive,) = archives_of(year, "trainval")
    with hold_writer_lock(archives):  # works on disks without file locks, too
        return str(download_archive(archive, archives.local))
