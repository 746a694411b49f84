"""Makes archives to convert in the official layout: of photographs, or of a million tiny records.

Photographs come from the archive in `VOC_SAMPLE_DIR`, encoded again at a quality that makes files
as large as the originals, and repeated under new keys; without it, pictures are drawn. Each file
has bytes of its own: a comment holds its key. Order and tags are those of the official archives:
annotations first, then lists, then pictures. An archive is made once; `data.json` beside it
describes it.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from benchmarks.data import ARCHIVE, content
from scripts.mini_voc import draw_archive
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.format.tar import BLOCK, RECORD, member_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

INNER = "VOCdevkit/VOC2012"
"""The year's folder of every archive made here."""
_KEY_DIGITS = 7
_STAMPED_AT_A_TIME = 1 << 14
_CHECKSUM = slice(148, 154)
"""Of a tar header: six octal digits, then NUL and a blank."""

Kind = Literal["photographs", "tiny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DevkitSize:
    """What an archive is made of."""

    kind: Kind
    num_pictures: int
    quality: int = 97
    """Of photographs: 97 makes files as large as VOC2007's (86 KB in the median), 99 as VOC2012's
    (2 GB for 17,125)."""
    drawn: int = 600
    """Different pictures drawn where there are no photographs."""

    @property
    def name(self) -> str:
        """Of its folder."""
        quality = f"-q{self.quality}" if self.kind == "photographs" else ""
        return f"{self.kind}-{self.num_pictures}{quality}"


@dataclass(frozen=True, slots=True)
class DevkitFacts:
    """What is known of an archive."""

    num_pictures: int
    num_bytes: int
    """Of the archive."""
    pictures: str
    """Where they are from, in words."""


@dataclass(frozen=True, slots=True)
class Devkit:
    """An archive that is there."""

    path: Path
    facts: DevkitFacts


def make_devkit(parent: Path, size: DevkitSize) -> Devkit:
    """Make an archive in a folder of its own below `parent`, unless it is there already."""
    folder = parent / size.name
    path, facts = folder / "devkit.tar", folder / "data.json"
    if not facts.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (parent / ".gitignore").write_text("*\n")
        make = _make_photographs if size.kind == "photographs" else _make_tiny
        pictures = make(path, size)
        found = DevkitFacts(size.num_pictures, path.stat().st_size, pictures)
        facts.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return Devkit(path, DevkitFacts(**json.loads(facts.read_text())))


# Photographs --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Picture:
    """One of the pictures that are repeated."""

    key: str
    jpeg: bytes
    xml: bytes

    def under(self, key: str) -> _Picture:
        """The same under another key, with other bytes."""
        name = f"{key}.jpg".encode()
        return _Picture(
            key, _commented(self.jpeg, key), self.xml.replace(f"{self.key}.jpg".encode(), name)
        )

    def classes(self) -> dict[str, int]:
        """VOC's number for each class it shows: 1, or 0 where all of them are difficult."""
        found: dict[str, int] = {}
        for node in ElementTree.fromstring(self.xml).iter("object"):
            name = node.findtext("name") or ""
            found[name] = max(found.get(name, 0), int(node.findtext("difficult") != "1"))
        return found


def _make_photographs(path: Path, size: DevkitSize) -> str:
    pictures, source = _photographs(size)
    keys = [f"2012_{number:06d}" for number in range(size.num_pictures)]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("Annotations", "JPEGImages"):
            for number, key in enumerate(keys):
                picture = pictures[number % len(pictures)].under(key)
                is_xml = folder == "Annotations"
                content, suffix = (picture.xml, ".xml") if is_xml else (picture.jpeg, ".jpg")
                _add(tar, f"{folder}/{key}{suffix}", content)
            if folder == "Annotations":
                for name, content in _lists(keys, [picture.classes() for picture in pictures]):
                    _add(tar, f"ImageSets/Main/{name}.txt", content)
    return source


def _photographs(size: DevkitSize) -> tuple[list[_Picture], str]:
    """The pictures that are repeated, and where they are from."""
    folder = os.environ.get("VOC_SAMPLE_DIR")
    real = Path(folder) / ARCHIVE if folder else None
    if real is not None and real.exists():
        found = [
            _Picture(picture.key, _encoded(picture.jpeg, size.quality), picture.xml)
            for picture in _read(real, size.num_pictures)
        ]
        return found, f"{len(found)} photographs of {ARCHIVE} at quality {size.quality}, repeated"
    with tempfile.TemporaryDirectory() as name:
        drawn = Path(name) / "drawn.tar"
        draw_archive(drawn, num_pictures=min(size.drawn, size.num_pictures), year="2012")
        found = list(_read(drawn, size.num_pictures))
    return found, f"{len(found)} drawn pictures, repeated: VOC_SAMPLE_DIR names no real ones"


def _read(path: Path, limit: int) -> Iterator[_Picture]:
    """Pictures with what everybody's script expects of an annotation."""
    with tarfile.open(path) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))
        found = (_picture(tar, name) for name in names)
        yield from islice((picture for picture in found if _is_plain(picture.xml)), limit)


def _picture(tar: tarfile.TarFile, name: str) -> _Picture:
    folder, _, file = name.rpartition("/JPEGImages/")
    key = file.removesuffix(".jpg")
    xml = content(tar, f"{folder}/Annotations/{key}.xml")
    return _Picture(key, content(tar, name), xml)


def _is_plain(xml: bytes) -> bool:
    """Whether it has a size, and every object a box; drawn ones are odd now and then."""
    root = ElementTree.fromstring(xml)
    has_boxes = all(node.find("bndbox") is not None for node in root.iter("object"))
    return root.find("size/width") is not None and has_boxes


def _encoded(jpeg: bytes, quality: int) -> bytes:
    """The picture at another quality, no colours left out."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        encoded = io.BytesIO()
        picture.save(encoded, "jpeg", quality=quality, subsampling=0)
    return encoded.getvalue()


def _commented(jpeg: bytes, comment: str) -> bytes:
    """The same picture with a comment segment behind its first marker."""
    text = comment.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def _lists(keys: Sequence[str], classes: Sequence[dict[str, int]]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of Main's lists: the splits, and each class's; every other picture is val."""
    for split, rows in _splits(len(keys)).items():
        yield split, "".join(f"{keys[row]}\n" for row in rows).encode()
        for name in VOC_CLASSES:
            labels = (classes[row % len(classes)].get(name, -1) for row in rows)
            lines = (f"{keys[row]} {label:2}\n" for row, label in zip(rows, labels, strict=True))
            yield f"{name}_{split}", "".join(lines).encode()


def _splits(num_pictures: int) -> dict[str, range]:
    return {
        "train": range(0, num_pictures, 2),
        "val": range(1, num_pictures, 2),
        "trainval": range(num_pictures),
    }


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"{INNER}/{name}")
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))


# Tiny records -------------------------------------------------------------------------------

_TINY_XML = """<annotation>
\t<filename>{key}.jpg</filename>
\t<size><width>16</width><height>16</height><depth>3</depth></size>
\t<segmented>0</segmented>
\t<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>\
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>14</xmax><ymax>15</ymax></bndbox></object>
</annotation>
"""


def _make_tiny(path: Path, size: DevkitSize) -> str:
    """One picture of 16 x 16 pixels under all keys, its comment being the key."""
    encoded, key = io.BytesIO(), "0" * _KEY_DIGITS
    Image.new("RGB", (16, 16), (200, 40, 90)).save(encoded, "jpeg", quality=50)
    jpeg = _commented(encoded.getvalue(), key)
    xml = _TINY_XML.format(key=key).encode()
    numbers = np.arange(size.num_pictures)
    with path.open("wb") as file:
        _write_stamped(file, f"{INNER}/Annotations/{key}.xml", xml, numbers)
        for split, rows in _splits(size.num_pictures).items():
            lines = np.full((len(rows), _KEY_DIGITS + 1), ord("\n"), np.uint8)
            lines[:, :-1] = _digits(numbers[rows.start :: rows.step])
            file.write(member_block(f"{INNER}/ImageSets/Main/{split}.txt", lines.tobytes()))
        _write_stamped(file, f"{INNER}/JPEGImages/{key}.jpg", jpeg, numbers)
        end = file.tell()
        file.write(bytes(-(-(end + 2 * BLOCK) // RECORD) * RECORD - end))
    return "one picture of 16 x 16 pixels and one annotation, each with its key written into it"


def _write_stamped(file: IO[bytes], name: str, content: bytes, numbers: NDArray[np.int64]) -> None:
    """One member for each number, which takes the place of zeros in name and content.

    A tar of millions of members in seconds: they differ in a few digits and the header's checksum.
    """
    block = member_block(name, content)
    template, key = np.frombuffer(block, np.uint8), b"0" * _KEY_DIGITS
    places = [found.start() for found in re.finditer(key, block[:BLOCK].partition(b"\0")[0])]
    places += [BLOCK + found.start() for found in re.finditer(key, content)]
    octal_shifts = np.arange(15, -1, -3)
    for first in range(0, len(numbers), _STAMPED_AT_A_TIME):
        digits = _digits(numbers[first : first + _STAMPED_AT_A_TIME])
        rows = np.tile(template, (len(digits), 1))
        for at in places:
            rows[:, at : at + _KEY_DIGITS] = digits
        sums = int(block[_CHECKSUM], 8) + (digits - ord("0")).sum(axis=1, dtype=np.int64)
        rows[:, _CHECKSUM] = (sums[:, None] >> octal_shifts & 7) + ord("0")
        file.write(rows.data)


def _digits(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 [numbers, digits]: their decimal digits as text."""
    powers = 10 ** np.arange(_KEY_DIGITS - 1, -1, -1)
    return (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)
