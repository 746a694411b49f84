"""Makes small folders as people have them, and reads what became of them from the shards."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any
from zlib import crc32

from PIL import Image

from tests.kit.datasets.converted import manifest_of, samples_of
from tests.kit.datasets.voc_tools import tag, values
from tests.kit.datasets.voc_tree import write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Item = tuple[str, tuple[float, float, float, float]]
Size = tuple[int, int]

ANT: Item = ("ant", (2, 3, 10, 8))
BEE: Item = ("bee", (0, 0, 20, 10))
CORNER_TAGS = ("xmin", "ymin", "xmax", "ymax")


def xml(size_wh: Size | None, *items: Item, database: str = "") -> bytes:
    """An annotation with the numbers as given; no `size` without a size."""
    objects = [
        tag(
            "object",
            tag("name", name),
            tag("bndbox", values(list(zip(CORNER_TAGS, corners, strict=True)))),
        )
        for name, corners in items
    ]
    size = "" if size_wh is None else tag("size", values(_sides(size_wh)))
    source = tag("source", tag("database", database)) if database else ""
    return tag("annotation", source, size, *objects).encode()


def _sides(size_wh: Size) -> list[tuple[str, object]]:
    return [("width", size_wh[0]), ("height", size_wh[1]), ("depth", 3)]


def picture(
    size_wh: Size = (20, 10), kind: str = "JPEG", *, shade: int = 0, exif: int | None = None
) -> bytes:
    """A picture whose eight turned forms all differ; with an EXIF orientation, if asked."""
    image = Image.new("RGB", size_wh, (shade % 256, shade // 7 % 256, shade // 31 % 256))
    for x in range(size_wh[0] // 2):
        for y in range(size_wh[1] // 3):
            image.putpixel((x, y), (250, 40 + 7 * x % 180, 10 + 11 * y % 180))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if exif is not None:
        block = Image.Exif()
        block[0x0112] = exif
        options["exif"] = block
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def folder(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write files by their paths below a folder."""
    for name, content in files.items():
        write(root / name, content.encode() if isinstance(content, str) else content)
    return root


def pairs(
    *stems: str,
    pictures: str = "",
    annotations: str = "",
    suffix: str = ".jpg",
    items: Sequence[Item] = (ANT,),
) -> dict[str, bytes]:
    """Pictures of 20 x 10 px, no two alike, and their annotations, each in its folder."""
    found: dict[str, bytes] = {}
    for stem in stems:
        shade = crc32(f"{pictures}{stem}".encode())
        found[f"{pictures}{stem}{suffix}"] = picture(shade=shade)
        found[f"{annotations}{stem}.xml"] = xml((20, 10), *items)
    return found


def documents(dest: Path, split: str = "train") -> dict[str, dict[str, Any]]:
    """Key to the JSON of each sample of a split."""
    return {
        key: json.loads(members["json"]) for key, members in sorted(samples_of(dest, split).items())
    }


def boxes(dest: Path, split: str = "train") -> dict[str, list[tuple[str, list[float]]]]:
    """Key to (class, box) of each object."""
    return {
        key: [(item["name"], item["bbox"]) for item in document["objects"]]
        for key, document in documents(dest, split).items()
    }


def counted(dest: Path) -> dict[str, int]:
    """Code of the manifest's report to its count."""
    return {code: its["count"] for code, its in manifest_of(dest).get("report", {}).items()}


def classes(dest: Path) -> dict[str, int]:
    """Name to label, as the manifest says."""
    return {its["name"]: its["label"] for its in manifest_of(dest)["classes"]}
