"""Checks that a disk has enough free space for a dataset, before anything is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from shard_tool.errors import StoreError

if TYPE_CHECKING:
    from shard_tool.dataset.publication import OnExisting
    from shard_tool.storage.location import Folder


def check_disk_space(dest: Folder, num_bytes: int, on_existing: OnExisting) -> None:
    """Check that a local disk can hold the dataset.

    Args:
        dest: Folder of the dataset. Only a local folder is checked.
        num_bytes: Bytes of the finished dataset.
        on_existing: Unless 'fail', bytes already in `dest` are kept or freed, and so do not count.

    Raises:
        StoreError: The disk has too little free space.
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
