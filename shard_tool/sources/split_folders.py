"""Tells the split of pictures by the names of the folders they lie in."""

from __future__ import annotations

from os.path import commonpath
from typing import TYPE_CHECKING

from shard_tool.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folder name in lower case to the name of its split."""


def split_of(folder: str) -> str | None:
    """The split that the first name of a path that names one says.

    >>> split_of("data/Valid/images"), split_of("data")
    ('val', None)
    """
    splits = [SPLIT_FOLDERS.get(name.casefold()) for name in folder.split("/")]
    return next((split for split in splits if split), None)


def common_folder(folders: Iterable[str]) -> str:
    """The deepest folder that holds all of these."""
    return commonpath([f"/{folder}" for folder in folders]).strip("/")


def splits_of(folders: Collection[str], place: str, *, needs_splits: bool = True) -> dict[str, str]:
    """Map each folder to its split: 'train' for all where no name of a folder says a split.

    Args:
        folders: Folders of pictures; at least one.
        place: The source, for messages.
        needs_splits: Whether the folders have to say the split of all pictures, or of none.

    Raises:
        SourceError: Some folders are of splits and others are not.
    """
    common = common_folder(folders)
    found = {folder: split_of(folder[len(common) :]) for folder in folders}
    if set(found.values()) == {None}:  # perhaps all lie in the folder of one split
        return dict.fromkeys(folders, split_of(common) or "train")
    if needs_splits and None in found.values():
        loose = next(folder for folder, split in found.items() if split is None)
        problem = f"the pictures in {loose or '.'!r} are in no folder of a split, and others are"
        raise SourceError(place, problem, "name the pictures by --split-file train=LIST")
    return {folder: split or "train" for folder, split in found.items()}
