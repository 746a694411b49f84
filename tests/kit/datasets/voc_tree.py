"""Makes tiny, complete VOC devkits; tests then break single files of them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CAT = ("cat", (1, 2, 3, 4))
DOG = ("dog", (5, 1, 20, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of a tree, with its annotation and, if asked, its masks."""

    key: str
    split: str = "train"
    size_wh: tuple[int, int] = (20, 10)
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...] = (CAT, DOG)
    """Name and (xmin, ymin, xmax, ymax) as VOC writes them; every second one is difficult."""
    has_mask: bool = False


def pictures(num: int, *, split: str = "train", first: int = 1) -> list[Picture]:
    """`num` pictures of one split with the ids 000001, 000002 …."""
    return [Picture(key=f"{first + i:06d}", split=split) for i in range(num)]


def voc_tree(root: Path, records: Iterable[Picture], *, year: str = "2012") -> Path:
    """Write ``root/VOCdevkit/VOC<year>``.

    Returns:
        The year's folder. It has a Main list a split, a Segmentation list of those with masks, and
        no two pictures with the same bytes.
    """
    folder = root / "VOCdevkit" / f"VOC{year}"
    lists: dict[str, list[str]] = {}
    for shade, record in enumerate(records):
        write(folder / f"JPEGImages/{record.key}.jpg", jpeg(record.size_wh, shade))
        write(folder / f"Annotations/{record.key}.xml", annotation(record, year))
        lists.setdefault(f"Main/{record.split}", []).append(record.key)
        if record.has_mask:
            lists.setdefault(f"Segmentation/{record.split}", []).append(record.key)
            for kind in ("Class", "Object"):
                write(folder / f"Segmentation{kind}/{record.key}.png", mask(record.size_wh, shade))
    for name, keys in lists.items():
        write(folder / f"ImageSets/{name}.txt", "".join(f"{key}\n" for key in keys).encode())
    return folder


def voc_tar(path: Path, root: Path) -> Path:
    """Pack everything below `root` into the plain tar `path`, folders first, in a fixed order."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(root.rglob("*"), key=lambda file: (file.is_file(), str(file))):
            tar.add(file, file.relative_to(root).as_posix(), recursive=False)
    return path


def write(path: Path, content: bytes) -> None:
    """Write a file and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def annotation(record: Picture, year: str = "2012") -> bytes:
    """The XML of a picture."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{number % 2}</difficult><bndbox>"
        f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        "</bndbox></object>\n"
        for number, (name, (xmin, ymin, xmax, ymax)) in enumerate(record.objects)
    )
    width, height = record.size_wh
    return (
        f"<annotation><folder>VOC{year}</folder><filename>{record.key}.jpg</filename>\n"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"<segmented>{int(record.has_mask)}</segmented>\n{objects}</annotation>\n"
    ).encode()


def jpeg(size_wh: tuple[int, int], shade: int = 0) -> bytes:
    """A JPEG of a gradient, so that cutting it short loses pixels."""
    ramp = Image.linear_gradient("L").resize(size_wh).point(lambda value: (value + 9 * shade) % 256)
    return _encoded(ramp.convert("RGB"), "JPEG")


def mask(size_wh: tuple[int, int], shade: int = 0) -> bytes:
    """A palette PNG like VOC's masks."""
    image = Image.new("P", size_wh, shade % 21)
    image.putpalette(bytes(range(256)) * 3)
    return _encoded(image, "PNG")


def _encoded(image: Image.Image, format_: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()
