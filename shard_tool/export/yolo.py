"""Writes YOLO's text: `data.yaml`, `labels/<split>/`, pictures in `images/<split>/`.

A folder `images` within a split has its labels beside it, where ultralytics looks for them.

Numbers are doubles, written so that they can be read back: a corner comes again to nine decimals
of a pixel, which is what `convert` takes of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from shard_tool.export.exported import exif_option
from shard_tool.sources.boxes import in_pixels

if TYPE_CHECKING:
    from shard_tool.export.exported import Exported, Target
    from shard_tool.format.sample import Box, SampleObject


class YoloWriter:
    """Writes YOLO's format; see `exported.Writer`."""

    blanks = True
    shares_folders = False

    def __init__(self, target: Target) -> None:
        self._target, self._split = target, ""
        self._splits: list[str] = []
        self._turned: set[bool] = set()

    def begin(self, split: str) -> None:
        """Begin a split."""
        self._split = split
        self._splits.append(split)

    def add(self, its: Exported) -> int:
        """Write a sample."""
        target, split = self._target, self._split
        if target.has_pictures:
            target.put(f"images/{split}/{its.picture_name}", its.members[its.extension])
        target.losses.note_picture(its.sample, its.place, loses_masks=its.has_masks)
        if its.sample.raw:
            target.losses.add("fields-lost", its.place)
        rows = [row for item in its.sample.objects if (row := self._row(its, item))]
        target.losses.add("object-twice", its.place, len(rows) - len(set(rows)))
        if its.has_untold_turn(says_size=False):
            target.losses.add("exif-untold", its.place)
            self._turned.add(its.is_upright)
        target.put(_labels_of(f"images/{split}/{its.name}"), "".join(rows).encode())
        return len(rows)

    def _row(self, its: Exported, item: SampleObject) -> str:
        """The line of an object; empty if it is left out."""
        losses = self._target.losses
        if item.bbox is None:
            losses.add("object-without-box", its.place)
            return ""
        if item.crowd:
            losses.add("crowd-left-out", its.place)
            return ""
        losses.note_flags(item, its.place)
        if item.raw:
            losses.add("fields-lost", its.place)
        size_wh = (its.sample.width, its.sample.height)
        label = self._target.manifest.classes[item.name] - 1
        polygons = item.polygons or ()
        if len(polygons) == 1 and self._target.shapes == "polygons":
            numbers = _normalized(polygons[0], size_wh)
            found = in_pixels(numbers, size_wh)
            hull = (min(found[::2]), min(found[1::2]), max(found[::2]), max(found[1::2]))
            if max(abs(a - b) for a, b in zip(hull, item.bbox, strict=True)) > 1e-9:
                losses.add("box-of-polygon", its.place)
        else:
            if polygons or item.rle is not None:
                losses.add("outline-lost", its.place)
            numbers = _centred(item.bbox, size_wh)
            if in_pixels(_corners(numbers), size_wh) != item.bbox:
                losses.add("box-rounded", its.place)
        return " ".join([str(label), *map(repr, numbers)]) + "\n"

    def end(self) -> dict[str, Any]:
        """End the split."""
        return {}

    def finish(self) -> list[str]:
        """Write `data.yaml`."""
        names = {label - 1: name for name, label in self._target.manifest.classes.items()}
        document: dict[str, Any] = {split: f"images/{split}" for split in self._splits}
        document |= {"nc": max(names, default=-1) + 1, "names": dict(sorted(names.items()))}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        self._target.put("data.yaml", text.encode())
        return exif_option(self._turned)


def _labels_of(picture: str) -> str:
    """Where readers look for the labels of a picture: the last folder `images` is `labels` there.

    Args:
        picture: Its path, without suffix.

    >>> _labels_of("images/train/a"), _labels_of("images/train/site/images/a")
    ('labels/train/a.txt', 'images/train/site/labels/a.txt')
    """
    before, _, after = f"/{picture}".rpartition("/images/")
    return f"{before}/labels/{after}.txt".removeprefix("/")


def _normalized(values: tuple[float, ...], size_wh: tuple[int, int]) -> tuple[float, ...]:
    return tuple([value / size_wh[at % 2] for at, value in enumerate(values)])


def _centred(box: Box, size_wh: tuple[int, int]) -> tuple[float, ...]:
    """Centre x and y, width and height, in parts of the picture."""
    x0, y0, x1, y1 = box
    return _normalized(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), size_wh)


def _corners(numbers: tuple[float, ...]) -> tuple[float, float, float, float]:
    x, y, width, height = numbers
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
