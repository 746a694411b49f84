"""Makes the photographs that every contender reads, and knows where each keeps its copy of them.

Photographs come from the archive in `VOC_SAMPLE_DIR`, repeated under new keys. Without it, pictures
are drawn, and every result says so. All copies hold the same JPEG bytes in the same order.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.mini_voc import draw_archive
from shard_tool import ConvertOptions, convert
from shard_tool.errors import ManifestError
from shard_tool.format.manifest import parse_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shard_tool.format.manifest import Manifest

ARCHIVE = "VOCtrainval_sample-2007.tar"
DEVKIT = "VOCdevkit/VOC2007"
_FACTS = "data.json"


@dataclass(frozen=True, slots=True)
class Size:
    """How much data a run uses."""

    copies: int
    """Times the real archive is repeated under new keys."""
    drawn: int
    """Pictures drawn where there is no real archive."""
    shard_bytes: int
    """Of our shards, and of every peer's own unit."""


FULL = Size(copies=11, drawn=600, shard_bytes=8 << 20)
TOY = Size(copies=0, drawn=300, shard_bytes=1 << 20)


@dataclass(frozen=True, slots=True)
class Data:
    """The copies, and what is known of them."""

    folder: Path
    num_samples: int
    jpeg_bytes: int
    """Sum over all pictures."""
    shard_bytes: int
    source: str
    """Where the pictures are from, in words."""
    source_sha256: str

    @property
    def shards(self) -> Path:
        """Our dataset."""
        return self.folder / "shards"

    @property
    def loose(self) -> Path:
        """Loose files: a root for torchvision, and each sample's JSON beside it."""
        return self.folder / "loose"

    def copy_of(self, name: str) -> Path:
        """Where a peer keeps its own format."""
        return self.folder / name

    def manifest(self) -> Manifest:
        """Our dataset's manifest."""
        path = self.shards / "manifest.json"
        return parse_manifest(path.read_bytes(), place=str(path))

    def shard_paths(self) -> list[Path]:
        """Our shards, in manifest order."""
        return [self.shards / entry.name for entry in self.manifest().splits["train"].shards]

    def samples(self) -> Iterator[tuple[str, bytes, bytes]]:
        """(key, JPEG, JSON) of every sample, in manifest order, read by `tarfile`."""
        for path in self.shard_paths():
            with tarfile.open(path, "r:") as tar:
                members = {member.name: member for member in tar}
                for name in members:
                    if name.endswith(".jpg"):
                        key = name.removesuffix(".jpg")
                        yield key, content(tar, name), content(tar, f"{key}.json")

    def facts(self) -> dict[str, object]:
        """What a result says about its data."""
        shards = self.manifest().splits["train"].shards
        facts = asdict(self) | {"num_shards": len(shards)}
        del facts["folder"]
        return facts


def open_data(folder: Path) -> Data:
    """The data made in a folder before."""
    return Data(folder=folder, **json.loads((folder / _FACTS).read_text()))


def make_data(folder: Path, size: Size) -> Data:
    """Make our dataset and the loose files, unless the folder holds them already."""
    if (folder / _FACTS).exists():
        data = open_data(folder)
        with suppress(ManifestError):  # of a release before this one: made again
            data.manifest()
            return data
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder.parent / ".gitignore").write_text("*\n")
    archive, source, digest = _make_archive(folder, size)
    convert(
        ConvertOptions(
            source=str(archive),
            dest=str(folder / "shards"),
            splits=("train",),
            shard_bytes=size.shard_bytes,
        )
    )
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "loose", filter="data")
    archive.unlink()
    facts = {"shard_bytes": size.shard_bytes, "source": source, "source_sha256": digest}
    data = Data(folder=folder, num_samples=0, jpeg_bytes=0, **facts)  # type: ignore[arg-type]
    jpeg_bytes = _put_json_beside(data)
    facts |= {"num_samples": data.manifest().splits["train"].num_samples, "jpeg_bytes": jpeg_bytes}
    (folder / _FACTS).write_text(json.dumps(facts, indent=1))
    return open_data(folder)


def content(tar: tarfile.TarFile, name: str) -> bytes:
    """The bytes of a file in a tar."""
    file = tar.extractfile(name)
    assert file is not None, f"{name} is no file"
    return file.read()


def _put_json_beside(data: Data) -> int:
    """Each sample's JSON as a loose file, so that all contenders read the same target."""
    folder, jpeg_bytes = data.loose / "json", 0
    folder.mkdir()
    for key, jpeg, text in data.samples():
        (folder / f"{key}.json").write_bytes(text)
        jpeg_bytes += len(jpeg)
    return jpeg_bytes


def _make_archive(folder: Path, size: Size) -> tuple[Path, str, str]:
    """A devkit of one year as a tar; where its pictures are from; the source's SHA-256."""
    path, place = folder / "devkit.tar", os.environ.get("VOC_SAMPLE_DIR")
    real = Path(place) / ARCHIVE if place else None
    if size.copies and real is not None and real.exists():
        _repeat(real, path, size.copies)
        digest = hashlib.sha256(real.read_bytes()).hexdigest()
        return path, f"real photographs of {ARCHIVE}, {size.copies} times under new keys", digest
    draw_archive(path, num_pictures=size.drawn, year="2007")
    why = "asked for a toy" if not size.copies else "VOC_SAMPLE_DIR names no real ones"
    return path, f"drawn pictures, {why}", hashlib.sha256(path.read_bytes()).hexdigest()


def _repeat(source: Path, dest: Path, copies: int) -> None:
    """Copy a devkit's pictures and XMLs `copies` times under new keys, all in one Main list."""
    keys = list[str]()
    with tarfile.open(source) as old, tarfile.open(dest, "w", format=tarfile.USTAR_FORMAT) as new:
        pictures = sorted(n for n in old.getnames() if re.fullmatch(rf"{DEVKIT}/JPEG.*\.jpg", n))
        for number in range(copies):
            for name in pictures:
                key = Path(name).stem
                other = f"{number + 1}{key}"
                xml = content(old, f"{DEVKIT}/Annotations/{key}.xml")
                xml = xml.replace(f"{key}.jpg".encode(), f"{other}.jpg".encode())
                _add(new, f"{DEVKIT}/Annotations/{other}.xml", xml)
                _add(new, f"{DEVKIT}/JPEGImages/{other}.jpg", content(old, name))
                keys.append(other)
        text = "".join(f"{key}\n" for key in keys)
        _add(new, f"{DEVKIT}/ImageSets/Main/train.txt", text.encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
