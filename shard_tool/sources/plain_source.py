"""What sources of most formats have in common: a base for classes that are `source.Source`s."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from shard_tool.errors import OptionError, SourceError
from shard_tool.sources.boxes import CORNERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from shard_tool.pictures.masks import Color
    from shard_tool.sources.files.archive import FileSpan, SourceFiles
    from shard_tool.sources.files.listing import Listing
    from shard_tool.sources.report import Report


@dataclass(frozen=True, kw_only=True)
class PlainSource:
    """A source without VOC's lists, masks and years.

    A subclass adds `format`, `parser`, `class_ids`, `split_names` and `records`.
    """

    listing: Listing = field(repr=False)
    evidence: str
    split_files: Mapping[str, str] = field(default_factory=dict)
    """Split to the path of a local list of its pictures."""

    @property
    def files(self) -> SourceFiles:
        """Reads its files."""
        return self.listing.files

    @property
    def report(self) -> Report:
        """What was odd about names and files."""
        return self.listing.report

    @property
    def num_bytes(self) -> int | None:
        """Length of the archive; None for a folder."""
        return self.listing.num_bytes

    @property
    def sha256(self) -> str | None:
        """Digest of the archive, if the scan read all of it."""
        return self.listing.sha256

    @property
    def year(self) -> str:
        """It is none of VOC's sets."""
        return "unknown"

    @property
    def is_listed(self) -> bool:
        """Whether lists name its records one by one."""
        return bool(self.split_files)

    @property
    def colors(self) -> tuple[tuple[str, Color], ...]:
        """None: it has no masks of classes."""
        return ()

    @property
    def void_colors(self) -> tuple[Color, ...]:
        """None, likewise."""
        return ()

    @property
    def conventions(self) -> tuple[str, ...]:
        """Corners count from zero."""
        return (CORNERS,)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that have pictures, in their order."""
        raise NotImplementedError

    def splits(self, task: str) -> tuple[str, ...]:
        """The splits that have pictures, whatever the task."""
        del task
        return self.split_names

    def lists_folder(self, task: str) -> str:
        """Names the source in messages."""
        del task
        return ""

    def split_place(self, task: str, split: str) -> str:
        """What names the pictures of a split, for messages."""
        del task
        return self.split_files.get(split, self.files.shown)

    def check_split(self, task: str, split: str) -> None:
        """Check that there is a split of this name.

        Raises:
            SourceError: There is none; names those there are.
        """
        if split not in self.splits(task):
            there = ", ".join(self.splits(task)) or "none"
            raise SourceError(self.files.shown, f"has no split {split!r}", f"splits: {there}")

    def class_labels(
        self, split: str, ids: NDArray[np.bytes_], classes: Sequence[str]
    ) -> NDArray[np.int8] | None:
        """None: the objects of a picture tell its classes."""
        del split, ids, classes
        return None

    def other_splits(self, task: str) -> tuple[str, ...]:
        """None: all splits are taken unless some are named."""
        del task
        return ()

    def check_unlisted(self, task: str, splits: Sequence[str]) -> None:
        """Report what is left out whatever is converted; a subclass knows what."""
        del task, splits

    def identity_sha256(self) -> str:
        """Digest of names, offsets and sizes, and of what shows a change of content."""
        its = self.listing
        found = f"{its.table.sha256()} {its.sha256 or its.files.state or its.stamp}"
        for split, path in sorted(self.split_files.items()):
            found += f" {split} {sha256(self.read_list(split, path)).hexdigest()}"
        return sha256(found.encode()).hexdigest()

    def lists(self, task: str, splits: Sequence[str]) -> list[FileSpan]:
        """Files beside annotations and pictures that decide what a conversion takes."""
        del task, splits
        return []

    @staticmethod
    def read_list(split: str, path: str) -> bytes:
        """Read a local list of a split.

        Raises:
            OptionError: It cannot be read.
        """
        try:
            return Path(path).read_bytes()
        except OSError as exc:
            problem = f"cannot be read: {exc.strerror or exc}"
            raise OptionError(f"--split-file {split}={path}", problem) from exc
