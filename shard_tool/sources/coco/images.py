"""Puts the images of several COCO JSON files and their pictures together, sorted by path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.coco.pictures import Pictures, find_pictures
from shard_tool.sources.coco.splits import is_absolute, names_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.coco.content import CocoJson
    from shard_tool.sources.files.listing import Listing


@dataclass(frozen=True, eq=False)
class Images:
    """The images of all files of a source."""

    listing: Listing
    files: tuple[CocoJson, ...]
    splits: tuple[str, ...]
    """Of each file; '' where lists of the user say it."""
    pictures: Pictures
    numbers: tuple[NDArray[np.int64], ...]
    """Of each file: number of each image's picture; -1 for a missing one."""

    @classmethod
    def of(cls, listing: Listing, files: Sequence[CocoJson], splits: Sequence[str]) -> Images:
        """Find the pictures.

        Raises:
            SourceError: Two images of a file have one picture, a written path may mean several, or
                two pictures have one name.
        """
        pictures = Pictures(listing.table, listing.files.shown)
        asked = [
            (its.span.name, split, its.paths) for its, split in zip(files, splits, strict=True)
        ]
        numbers = find_pictures(pictures, asked)
        listing.check_twice(set().union(*map(pictures.folders_of, numbers)))
        found = cls(listing, tuple(files), tuple(splits), pictures, tuple(numbers))
        for at in range(len(files)):
            found.check(at)
        return found

    def expected(self, at: int, row: int) -> str:
        """Path at which the picture of an image is looked for."""
        written = self.files[at].paths[row]
        names = names_in(written) or [self.files[at].image_ids[row]]
        base = "" if is_absolute(written) else self._bases[at]
        return "/".join([base, *names] if base else names)

    @cached_property
    def _bases(self) -> list[str]:
        """Of each file: the folder from which its written paths go, by the first that was found."""
        found = list[str]()
        for its, numbers in zip(self.files, self.numbers, strict=True):
            base = its.span.name.rpartition("/")[0]
            rows = np.flatnonzero(numbers >= 0)[:1]
            for span in self.pictures.spans(numbers[rows]):
                assert span is not None
                folder = span.name.rpartition("/")[0]
                inner = "/".join(names_in(its.paths[int(rows[0])])[:-1])
                base = folder
                if inner and f"/{folder}".endswith(f"/{inner}"):
                    base = folder[: -len(inner)].rstrip("/")
            found.append(base)
        return found

    def ids(self, at: int) -> NDArray[np.bytes_]:
        """Path of each image's picture without its suffix, UTF-8."""
        ids = list(self.pictures.ids(self.numbers[at]))
        for row in np.flatnonzero(self.numbers[at] < 0).tolist():
            path = self.expected(at, row)
            folder, slash, name = path.rpartition("/")
            stem, dot, _ = name.rpartition(".")
            ids[row] = f"{folder}{slash}{stem if dot and stem else name}".encode(
                "utf-8", "surrogateescape"
            )
        return np.array(ids, np.bytes_)

    def check(self, at: int) -> None:
        """Check that each image of a file has a picture of its own.

        Raises:
            SourceError: Two have one.
        """
        ids = self.ids(at)
        order = np.argsort(ids, kind="stable")
        again = np.flatnonzero(ids[order][1:] == ids[order][:-1])
        if not len(again):
            return
        one, other = int(order[again[0]]), int(order[again[0] + 1])
        its = self.files[at]
        told = [f"{its.image_ids[row]} ({its.paths[row]!r})" for row in (one, other)]
        more = f" (and {len(again) - 1} more)" if len(again) > 1 else ""
        problem = f"the images {' and '.join(told)} have one picture{more}"
        hint = "give their annotations to one of them, and remove the other"
        raise SourceError(its.place, problem, hint)

    def note_unlisted(self, is_taken: Sequence[NDArray[np.bool_]] | None = None) -> None:
        """Count pictures that no file lists, and listed ones that no list of the user names.

        Args:
            is_taken: Of each file, which of its images are in a list; None: all are taken.
        """
        report, place = self.listing.report, self.listing.files.place
        is_free = np.ones(self.pictures.count, np.bool_)
        for numbers in self.numbers:
            is_free[numbers[numbers >= 0]] = False
        folders, first = set().union(*map(self.pictures.folders_of, self.numbers)), 0
        for folder, files in self.pictures.folders.items():
            rows = np.flatnonzero(is_free[first : first + len(files)])
            first += len(files)
            if len(rows):
                code = "in-no-list" if folder in folders else "picture-apart"
                report.add(code, place(files.span(int(rows[0]))), len(rows))
        for at, taken in enumerate(is_taken or ()):
            rows = np.flatnonzero(~taken)
            if len(rows):
                file = self.files[at]
                report.add("in-no-list", f"{file.place}#{file.image_ids[rows[0]]}", len(rows))
