"""Holds one sample on its way out, and says what writers of formats are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from shard_tool.export.losses import Losses
    from shard_tool.format.manifest import Manifest
    from shard_tool.format.sample import Sample
    from shard_tool.pictures.header import Header

_SUFFIXES = {
    "jpg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png",),
    "webp": (".webp",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A sample, checked."""

    sample: Sample
    sample_id: int
    """Number of the sample in the manifest."""
    split: str
    place: str
    """The sample in messages."""
    name: str
    """Relative path of its files, without suffix; safe to write."""
    extension: str
    """Of its picture: a key of `format.sample.PICTURES`."""
    header: Header
    members: Mapping[str, bytes] = field(repr=False)
    """Extension to content: the picture and the masks."""

    @property
    def picture_name(self) -> str:
        """Path of its picture; with the suffix that the source had, where that is right."""
        suffix = "." + (self.sample.file or "").rpartition(".")[2]
        is_right = suffix.lower() in _SUFFIXES[self.extension]
        return self.name + (suffix if is_right else f".{self.extension}")

    @property
    def has_masks(self) -> bool:
        """Whether it has masks of its own."""
        return "class.png" in self.members or "object.png" in self.members

    @property
    def is_upright(self) -> bool:
        """Whether its boxes are of the picture as EXIF turns it."""
        return self.sample.orientation != 1

    def has_untold_turn(self, *, says_size: bool) -> bool:
        """Whether EXIF turns its picture, and the format does not tell whether its boxes follow.

        Args:
            says_size: Whether the format says width and height, of which the longer side tells.
        """
        header = self.header
        is_told = says_size and header.is_transposed and header.size_wh[0] != header.size_wh[1]
        return header.orientation != 1 and bool(self.sample.objects) and not is_told


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What writers write into, and what they need to know."""

    folder: Path
    manifest: Manifest
    losses: Losses
    has_pictures: bool
    """Whether pictures and masks are written, too."""
    shapes: str
    """YOLO: 'polygons' or 'boxes'."""
    closing: ExitStack
    """Closes what writers open, however the export ends."""

    def put(self, path: str, content: bytes) -> None:
        """Write one file; its folders are made."""
        where = self.folder / path
        where.parent.mkdir(parents=True, exist_ok=True)
        with where.open("xb") as file:
            file.write(content)


def exif_option(turned: set[bool]) -> list[str]:
    """The option with which `convert` turns pictures as it did before.

    Args:
        turned: Whether boxes follow EXIF, of pictures of which the format does not tell it. Of
            both kinds there is no option for all.
    """
    if len(turned) != 1:
        return []
    return [f"--exif {'upright' if turned == {True} else 'stored'}"]


class Writer(Protocol):
    """Writes one format."""

    blanks: bool
    """Whether names of files may hold blanks."""
    shares_folders: bool
    """Whether files of all splits lie in the same folders."""

    def __init__(self, target: Target) -> None: ...

    def begin(self, split: str) -> None:
        """Begin a split."""

    def add(self, its: Exported) -> int:
        """Write a sample of the split; returns how many objects were written."""

    def end(self) -> dict[str, Any]:
        """End the split; returns what is to be told of it."""

    def finish(self) -> list[str]:
        """Write what is about all splits; returns options for `convert`, as a shell takes them."""
