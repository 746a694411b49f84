"""Tells whether sources still hold what a finished dataset was made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shard_tool.convert.source_digests import ReadFiles, archive_sha256, folder_sha256
from shard_tool.errors import ObjectExists

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from shard_tool.convert.plan import ConversionPlan
    from shard_tool.format.manifest import Manifest
    from shard_tool.storage.location import Folder

_RECORDS_AT_A_TIME = 512


def check_sources(
    dest: Folder,
    plan: ConversionPlan,
    manifest: Manifest,
    bad_records: Iterable[dict[str, Any]],
) -> None:
    """Check that a finished dataset was made from these archives and files; reads all of them.

    Raises:
        ObjectExists: It was made from others.
    """
    bad = {record["key"] for record in bad_records if "object" not in record}
    files = _files_of_folders(plan, bad)
    for source, entry in zip(plan.sources, manifest.sources, strict=True):
        if source.files.is_archive:
            found = archive_sha256(source)
        else:
            splits = [split.split for split in plan.splits]
            found = folder_sha256(source, files, plan.rules.task, splits)[1]
        if found != entry["sha256"]:
            problem = f"the dataset there was made of other content than {source.files.shown} has"
            raise ObjectExists(str(dest), problem, "use --on-existing overwrite, or another DEST")


def _files_of_folders(plan: ConversionPlan, bad: Collection[str]) -> ReadFiles:
    """Read all pictures of folders again, but those of bad records, which no shard holds."""
    files = ReadFiles()
    files.merge(plan.surveyed.files.as_json())
    folders = {source.files.number: source.files for source in plan.sources}
    for task in plan.chunks(_RECORDS_AT_A_TIME):
        for record in (read.record for read in task.reads()):
            source = folders[record.source]
            if not source.is_archive and record.key not in bad:
                with source.opened() as read:
                    files.add(source, record.pictures, read(record.pictures))
    return files
