"""Writes COCO's JSON: `annotations/instances_<split>.json`, pictures in `<split>/`.

Boxes are x, y, width and height such that x + width is the sample's x1 again. Ids are the source's
where each picture and each object has one of its own; else they are numbered.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from shard_tool.export.exported import exif_option
from shard_tool.format.coco_boxes import area_of, written_box
from shard_tool.format.source_ids import SourceId, category_ids, image_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shard_tool.export.exported import Exported, Target
    from shard_tool.format.sample import SampleObject

_COPIED_BYTES = 1 << 20
_BIGGEST = 2**53
"""Above it not every whole number is a double."""


class CocoWriter:
    """Writes COCO's format; see `exported.Writer`."""

    blanks = True
    shares_folders = False

    def __init__(self, target: Target) -> None:
        self._target, self._split = target, ""
        manifest = target.manifest
        self._category_ids = category_ids(manifest.classes, manifest.sources)
        self._turned: set[bool] = set()

    def begin(self, split: str) -> None:
        """Begin a split."""
        self._split = split
        self._images, self._annotations = _Rows(self._target), _Rows(self._target)
        self._num_objects, self._sample_ids = array("q"), array("q")

    def add(self, its: Exported) -> int:
        """Write a sample."""
        target, sample = self._target, its.sample
        if target.has_pictures:
            target.put(f"{self._split}/{its.picture_name}", its.members[its.extension])
        target.losses.note_picture(its.sample, its.place, loses_masks=its.has_masks)
        if its.has_untold_turn(says_size=True):
            target.losses.add("exif-untold", its.place)
            self._turned.add(its.is_upright)
        own_id = image_id(sample)
        image = {"id": own_id, "file_name": its.picture_name}
        image |= {"width": sample.width, "height": sample.height}
        self._images.add({**image, **_others(sample.raw, image)}, own_id)
        count = 0
        for item in sample.objects:
            if item.bbox is None:
                target.losses.add("object-without-box", its.place)
                continue
            self._add_object(its, item, own_id)
            count += 1
        self._sample_ids.append(its.sample_id)
        self._num_objects.append(count)
        return count

    def _add_object(self, its: Exported, item: SampleObject, own_id: SourceId | None) -> None:
        assert item.bbox is not None
        losses = self._target.losses
        losses.note_flags(item, its.place)
        box = written_box(item, its.sample)
        width, height = its.sample.width, its.sample.height
        if (min(box[0] + box[2], width), min(box[1] + box[3], height)) != item.bbox[2:]:
            losses.add("box-rounded", its.place)
        id_ = (item.raw or {}).get("id")
        id_ = id_ if type(id_) in (int, str) else None
        annotation = {
            "id": id_,
            "image_id": own_id,
            "category_id": self._category_ids[item.name],
            "segmentation": _segmentation(item),
            "area": _plain(_area(item, box)),
            "bbox": [_plain(value) for value in box],
            "iscrowd": int(bool(item.crowd)),
        }
        self._annotations.add({**annotation, **_others(item.raw, annotation)}, id_)

    def end(self) -> dict[str, Any]:
        """End the split: put the file together."""
        images, annotations = self._images, self._annotations
        has_image_ids, has_ids = images.have_ids, annotations.have_ids
        path = self._target.folder / "annotations" / f"instances_{self._split}.json"
        path.parent.mkdir(exist_ok=True)
        head = {
            "info": {"description": f"{self._target.manifest.name}, {self._split}"},
            "licenses": [],
            "categories": [{"id": its, "name": name} for name, its in self._category_ids.items()],
        }
        with path.open("wb") as file:
            file.write(json.dumps(head)[:-1].encode() + b', "images": [')
            if has_image_ids:
                images.copy_to(file)
            else:
                _write(file, self._numbered_images())
            file.write(b'], "annotations": [')
            if has_image_ids and has_ids:
                annotations.copy_to(file)
            else:
                _write(file, self._numbered_objects(keeps_image=has_image_ids, keeps_id=has_ids))
            file.write(b"]}\n")
        images.close()
        annotations.close()
        return {"image_ids": "source" if has_image_ids else "numbered"}

    def _numbered_images(self) -> Iterator[dict[str, Any]]:
        for number, image in zip(self._sample_ids, self._images, strict=True):
            yield {**image, "id": number + 1}

    def _numbered_objects(self, *, keeps_image: bool, keeps_id: bool) -> Iterator[dict[str, Any]]:
        found, number = iter(self._annotations), 0
        for sample_id, count in zip(self._sample_ids, self._num_objects, strict=True):
            for _ in range(count):
                annotation, number = next(found), number + 1
                annotation |= {} if keeps_id else {"id": number}
                yield annotation if keeps_image else {**annotation, "image_id": sample_id + 1}

    def finish(self) -> list[str]:
        """Nothing is about all splits; an option for `convert` may be needed."""
        return exif_option(self._turned)


class _Rows:
    """JSON objects in a file without a name, one a line, and whether each has an id of its own."""

    def __init__(self, target: Target) -> None:
        its = tempfile.TemporaryFile(dir=target.folder)  # noqa: SIM115
        self._file: IO[bytes] = target.closing.enter_context(its)
        self._ids = array("q")
        self._lack = False

    def add(self, row: dict[str, Any], own_id: SourceId | None) -> None:
        """Add one."""
        self._file.write((b",\n" if self._ids else b"\n") + json.dumps(row).encode())
        self._ids.append(hash(own_id))
        self._lack |= own_id is None

    @property
    def have_ids(self) -> bool:
        """Whether all have ids, and no two the same."""
        return not self._lack and len(np.unique(np.array(self._ids))) == len(self._ids)

    def copy_to(self, file: IO[bytes]) -> None:
        """Write all into another file."""
        self._file.seek(0)
        while part := self._file.read(_COPIED_BYTES):
            file.write(part)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        for line in self._file:
            if text := line.strip().removesuffix(b","):
                yield json.loads(text)

    def close(self) -> None:
        """Remove them."""
        self._file.close()


def _write(file: IO[bytes], rows: Iterator[dict[str, Any]]) -> None:
    separator = b"\n"
    for row in rows:
        file.write(separator + json.dumps(row).encode())
        separator = b",\n"


def _others(raw: dict[str, Any] | None, ours: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (raw or {}).items() if name not in ours}


def _segmentation(item: SampleObject) -> Any:
    if item.rle is not None:
        return item.rle
    return [[_plain(value) for value in polygon] for polygon in item.polygons or ()]


def _area(item: SampleObject, box: tuple[float, float, float, float]) -> float:
    """The area of an object: the source's, else that of its polygons, else that of its box."""
    if "area" in (item.raw or {}) or not item.polygons:
        return area_of(item, box)
    return sum(map(_area_of_polygon, item.polygons))


def _area_of_polygon(polygon: tuple[float, ...]) -> float:
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


def _plain(value: float) -> float:
    """A whole number without its '.0', as COCO's files have it."""
    return int(value) if value.is_integer() and abs(value) < _BIGGEST else value
