"""Writes VOC's devkit: `Annotations`, `ImageSets`, `JPEGImages`, `SegmentationClass` and `…Object`.

Boxes count from 1 with both corners inside where the dataset's do so at their source; else they are
corners from 0, as labelImg writes them. `convert` takes the first for VOC's classes and the second
for others; an option says it where that would be wrong.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from shard_tool.errors import DataError
from shard_tool.export.exported import exif_option
from shard_tool.format.class_names import classes_option
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.sources.boxes import CORNERS, DEVKIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shard_tool.export.exported import Exported, Target
    from shard_tool.format.sample import Box, SampleObject

_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


class VocWriter:
    """Writes VOC's format; see `exported.Writer`."""

    blanks = True
    shares_folders = True

    def __init__(self, target: Target) -> None:
        self._target, self._split = target, ""
        manifest = target.manifest
        self._is_voc = tuple(manifest.classes) == VOC_CLASSES
        is_devkit = manifest.options.get("boxes") == DEVKIT
        self._convention = DEVKIT if is_devkit else CORNERS
        self._first = 1 if is_devkit else 0
        self._names: dict[str, list[str]] = {}
        self._turned: set[bool] = set()
        self._used: set[str] = set()
        self._has_masks = False

    def begin(self, split: str) -> None:
        """Begin a split."""
        self._split = split
        self._names = {"Main": [], "Segmentation": []}

    def add(self, its: Exported) -> int:
        """Write a sample."""
        target = self._target
        if target.has_pictures:
            target.put(f"JPEGImages/{its.picture_name}", its.members[its.extension])
            for member, folder in (
                ("class", "SegmentationClass"),
                ("object", "SegmentationObject"),
            ):
                if (mask := its.members.get(f"{member}.png")) is not None:
                    target.put(f"{folder}/{its.name}.png", mask)
        target.losses.note_picture(its.sample, its.place, loses_masks=False)
        if its.sample.raw:
            target.losses.add("fields-lost", its.place)
        if its.has_untold_turn(says_size=True):
            target.losses.add("exif-untold", its.place)
            self._turned.add(its.is_upright)
        self._names["Main"].append(its.name)
        if its.has_masks:
            self._names["Segmentation"].append(its.name)
            self._has_masks = True
        objects = list(self._objects(its))
        text = "".join([*self._head(its), *objects, "</annotation>\n"])
        if _NOT_IN_XML.search(text):
            raise DataError(its.place, "has a name with characters that XML cannot hold")
        target.put(f"Annotations/{its.name}.xml", text.encode())
        return len(objects)

    def _head(self, its: Exported) -> Iterator[str]:
        sample = its.sample
        yield "<annotation>\n"
        yield f"  <filename>{escape(its.picture_name.rpartition('/')[2])}</filename>\n"
        yield f"  <source><database>{escape(self._target.manifest.name)}</database></source>\n"
        size = {"width": sample.width, "height": sample.height, "depth": 3}
        yield f"  <size>{_tags(size)}</size>\n"
        if sample.segmented is not None:
            yield f"  <segmented>{sample.segmented:d}</segmented>\n"

    def _objects(self, its: Exported) -> Iterator[str]:
        losses = self._target.losses
        for item in its.sample.objects:
            if item.bbox is None and item.point is None:
                losses.add("object-without-box", its.place)
                continue
            if item.polygons or item.rle is not None:
                losses.add("outline-lost", its.place)
            if item.raw:
                losses.add("fields-lost", its.place)
            if item.crowd:
                losses.add("crowd-as-difficult", its.place)
            if item.number is not None and "object.png" in its.members:
                losses.add("numbers-lost", its.place)
            self._used.add(item.name)
            yield "  <object>\n" + "".join(self._object(item)) + "  </object>\n"

    def _object(self, item: SampleObject) -> Iterator[str]:
        yield f"    <name>{escape(item.name)}</name>\n"
        if item.pose is not None:
            yield f"    <pose>{escape(item.pose)}</pose>\n"
        is_difficult = True if item.crowd else item.difficult
        flags = {"truncated": item.truncated, "occluded": item.occluded, "difficult": is_difficult}
        for tag, flag in flags.items():
            if flag is not None:
                yield f"    <{tag}>{flag:d}</{tag}>\n"
        if item.bbox is not None:
            yield f"    {self._box(item.bbox)}\n"
        if item.point is not None:
            x, y = (_number(value + self._first) for value in item.point)
            yield f"    <point>{_tags({'x': x, 'y': y})}</point>\n"
        for part in item.parts or ():
            box = self._box(part.bbox)
            yield f"    <part><name>{escape(part.name)}</name>{box}</part>\n"
        if item.actions:
            yield f"    <actions>{_tags({name: int(on) for name, on in item.actions.items()})}"
            yield "</actions>\n"

    def _box(self, box: Box) -> str:
        x0, y0, x1, y1 = box
        corners = (x0 + self._first, y0 + self._first, x1, y1)
        named = zip(("xmin", "ymin", "xmax", "ymax"), map(_number, corners), strict=True)
        return f"<bndbox>{_tags(dict(named))}</bndbox>"

    def end(self) -> dict[str, Any]:
        """End the split: write its lists."""
        for folder, names in self._names.items():
            if names:
                lines = "".join(f"{name}\n" for name in names)
                self._target.put(f"ImageSets/{folder}/{self._split}.txt", lines.encode())
        return {}

    def finish(self) -> list[str]:
        """Say the options with which `convert` reads the same."""
        classes = [*self._target.manifest.classes]
        found = exif_option(self._turned)
        if self._has_masks and self._target.manifest.task == "segmentation":
            found.append("--task segmentation")
        if self._convention != (DEVKIT if self._is_voc else CORNERS):
            found.append(f"--boxes {self._convention}")
        if not self._is_voc and (self._has_masks or classes != sorted(self._used)):
            found.append(classes_option(classes))
        return found


def _tags(values: dict[str, Any]) -> str:
    return "".join(f"<{tag}>{value}</{tag}>" for tag, value in values.items())


def _number(value: float) -> str:
    """The shortest text that stands for exactly this number."""
    return repr(value).removesuffix(".0")
