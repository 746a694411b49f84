"""Makes the datasets that training asks for where there are none, and says which nodes must."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shard_tool.errors import ObjectMissing
from shard_tool.storage.location import Folder, load_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence


def make_missing_datasets(
    roots: Sequence[str],
    *,
    source: str | None,
    download: bool,
    year: str,
    task: str | None,
    storage_options: dict[str, Any],
) -> None:
    """Make each dataset that is missing; see `shard_tool.convert.make`.

    Args:
        roots: Folders or URLs of datasets.
        source: The VOC archive or folder to convert.
        download: Whether the official archive of `year` is downloaded where no source is given.
        year: '2007' … '2012'.
        task: What a dataset is made for; None: detection.
        storage_options: fsspec's options for `roots`.

    Raises:
        ObjectMissing: There is no dataset, no source and no permission to download.
        ShardToolError: As `make_dataset` raises.
    """
    for root in roots:
        try:
            load_manifest(Folder(root, storage_options))
        except ObjectMissing:
            if source is None and not download:
                raise
            # Here, not above: training alone needs nothing of the converter.
            from shard_tool.convert.make import make_dataset

            make_dataset(
                root,
                source=source,
                year=year,
                task=task or "detection",
                storage_options=storage_options,
            )


def is_needed_on_each_node(roots: Sequence[str]) -> bool:
    """Whether some root is a path: each node may have a disk of its own. Asks nothing of storage.

    >>> is_needed_on_each_node(["s3://bucket/voc"]), is_needed_on_each_node(["s3://b/voc", "voc"])
    (False, True)
    """
    return any("://" not in root or root.startswith(("file://", "local://")) for root in roots)
