"""Checks that a disk has enough free space for a dataset, before anything is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from shard_tool.errors import StoreError

if TYPE_CHECKING:
    from shard_tool.dataset.publication import OnExisting
    from shard_tool.storage.location import Folder


def check_disk_space(dest: Folder, num_bytes: int, on_existing: OnExisting) -> None:
    """Refuse a destination whose disk is too small.

    Args:
        dest: The destination. Only a local disk is checked: others do not tell.
        num_bytes: Bytes of everything that will be there in the end.
        on_existing: Unless it is 'fail', the bytes that are there already count as free.

    Raises:
        StoreError: The disk has too few free bytes.
    """
    folder = dest.local
    if folder is None:
        return
    there = 0 if on_existing == "fail" else sum(dest.sizes().values())
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, num_bytes - there
    if needed > free:
        problem = f"{free} bytes free, the dataset needs about {needed} more"
        raise StoreError(str(dest), problem, "free some space or choose another DEST")
