"""Whether a disk has room for a dataset, asked before anything is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from shard_tool.errors import StoreError

if TYPE_CHECKING:
    from shard_tool.dataset.publication import OnExisting
    from shard_tool.storage.location import Folder


def check_disk_space(dest: Folder, num_bytes: int, on_existing: OnExisting) -> None:
    """Say before the start that a disk cannot hold what is going to be written.

    Args:
        dest: Where. Elsewhere than on a local disk nobody knows, and nothing is said.
        num_bytes: Of all that will be there in the end.
        on_existing: Unless 'fail', what is there already stays or makes room.

    Raises:
        StoreError: It cannot.
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
        raise StoreError(str(dest), problem, "make room or choose another DEST")
