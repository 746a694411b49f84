"""Reads a user's lists of the pictures of a split: file names, paths or ids of COCO's images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import OptionError
from shard_tool.sources.files.file_span import slashed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from shard_tool.sources.coco.images import Images

Image = tuple[int, int]
"""Number of a file, and row of an image in it."""


def listed_images(
    images: Images, split_files: Mapping[str, str]
) -> dict[str, list[NDArray[np.int64]]]:
    """Split to the rows of its images in each file, rising.

    Counts names that a list has twice.

    Raises:
        OptionError: A list cannot be read, or a line names no image, or several.
    """
    if not split_files:
        return {}
    names = _Names(images)
    found: dict[str, list[NDArray[np.int64]]] = {}
    for split, path in split_files.items():
        option = f"--split-file {split}={path}"
        rows: list[set[int]] = [set() for _ in images.files]
        unknown = list[str]()
        for number, line in _lines(option, path):
            its = names.find(line, option, number)
            if its is None:
                unknown.append(f"{line!r} (line {number})")
            elif its[1] in rows[its[0]]:
                images.listing.report.add("list-name-twice", f"{Path(path).name}: {line}")
            else:
                rows[its[0]].add(its[1])
        if unknown:
            problem = f"{len(unknown)} lines name no image of the JSON, such as {unknown[0]}"
            raise OptionError(option, problem, "lines are file names, paths or image ids")
        if not any(rows):
            raise OptionError(option, "names no picture")
        found[split] = [np.array(sorted(its), np.int64) for its in rows]
    return found


def _lines(option: str, path: str) -> Iterator[tuple[int, str]]:
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as exc:
        raise OptionError(option, f"cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise OptionError(option, f"is not a text file: {exc}") from exc
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


class _Names:
    """The names that images have: exact ones, and shorter ones that may be of several."""

    def __init__(self, images: Images) -> None:
        self._exact: dict[str, set[Image]] = {}
        self._loose: dict[str, set[Image]] = {}
        self._images = images
        for at, file in enumerate(images.files):
            spans = images.pictures.spans(images.numbers[at])
            for row, (span, written) in enumerate(zip(spans, file.paths, strict=True)):
                path = images.expected(at, row) if span is None else span.name
                for name in {path, slashed(written)}:
                    self._exact.setdefault(name, set()).add((at, row))
                base = path.rpartition("/")[2]
                for name in {_stem(path), base, _stem(base), _stem(slashed(written))}:
                    self._loose.setdefault(name, set()).add((at, row))
                self._loose.setdefault(file.image_ids[row], set()).add((at, row))

    def find(self, line: str, option: str, number: int) -> Image | None:
        """The image that a line means; None if there is none.

        Raises:
            OptionError: It may mean several.
        """
        for name in dict.fromkeys((slashed(line).removeprefix("./"), line.split()[0])):
            found = self._exact.get(name) or self._loose.get(name)
            if not found:
                continue
            if len(found) > 1:
                told = " or ".join(self._told(its) for its in sorted(found)[:2])
                problem = f"line {number}, {line!r}, may mean {told}"
                raise OptionError(option, problem, "give paths with their suffix")
            return next(iter(found))
        return None

    def _told(self, image: Image) -> str:
        file = self._images.files[image[0]]
        return f"image {file.image_ids[image[1]]} ({file.paths[image[1]]!r}) of {file.span.name}"


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot and stem else name}"
