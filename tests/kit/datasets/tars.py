"""Makes tars with our writer, with tarfile and by hand; reads them with webdataset."""

from __future__ import annotations

import io
import itertools
import tarfile
from typing import TYPE_CHECKING

from webdataset.tariterators import group_by_keys, tar_file_expander

from shard_tool.format.tar import Member, ShardWriter, WrittenShard, read_at_of, walk
from tests.kit.datasets.voc_tree import Picture, annotation, jpeg

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Records = dict[str, dict[str, bytes]]
"""Key to extension to content."""

END = bytes(1024)
TWO: Records = {
    "000005": {"json": b'{"key":"000005"}\n', "jpg": bytes(range(256)) * 3, "class.png": b""},
    "2008_000001": {"jpg": b"x" * 512, "json": b"{}"},
}


def written(records: Records) -> tuple[bytes, WrittenShard]:
    """A shard from our writer, and the writer's report of it."""
    file = io.BytesIO()
    writer = ShardWriter(file)
    for key, members in records.items():
        writer.write(key, members)
    result = writer.finish()
    return file.getvalue(), result


def members_of(content: bytes, *, check: bool = True, whole: bool = True) -> list[Member]:
    """All members that our walk finds; fails if the walk does not end."""
    most = len(content) // 512 + 1
    walked = walk(read_at_of(content), 0, len(content), place="a.tar", check=check, whole=whole)
    found = list(itertools.islice(walked, most))
    assert len(found) < most, "more members than fit: the walk does not end"
    return found


def tar_of(members: Iterable[tarfile.TarInfo], format_: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar from the standard library; file n holds the byte n `size` times."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as tar:
        for number, member in enumerate(members):
            tar.addfile(member, io.BytesIO(bytes([number]) * member.size))
    return file.getvalue()


def info(
    name: str, size: int = 0, *, type_: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None
) -> tarfile.TarInfo:
    """The header of a member, with its PAX records."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.pax_headers = size, type_, pax or {}
    return member


def patched(content: bytes, at: int, value: bytes, *, header: int = 0) -> bytes:
    """Overwrite bytes at `at` of the header that starts at `header`, and fix its checksum."""
    tar = bytearray(content)
    tar[header + at : header + at + len(value)] = value
    tar[header + 148 : header + 156] = b" " * 8
    checksum = sum(tar[header : header + 512])
    tar[header + 148 : header + 156] = b"%06o\0 " % checksum
    return bytes(tar)


def webdataset_samples(content: bytes) -> list[tuple[str, dict[str, bytes]]]:
    """(key, extension to content) of each sample, as webdataset reads the tar."""
    source = [{"url": "a.tar", "stream": io.BytesIO(content)}]
    return [
        (sample["__key__"], {name: data for name, data in sample.items() if name[0] != "_"})
        for sample in group_by_keys(tar_file_expander(source))
    ]


def many_pictures(path: Path, num: int) -> Path:
    """A VOC archive of `num` pictures that differ only in their ids."""
    keys = [f"{number:06d}" for number in range(num)]
    picture = jpeg((20, 10))
    contents = {f"JPEGImages/{key}.jpg": picture for key in keys}
    contents |= {f"Annotations/{key}.xml": annotation(Picture(key=key)) for key in keys}
    contents["ImageSets/Main/train.txt"] = "\n".join(keys).encode()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in contents.items():
            tar.addfile(info(f"VOCdevkit/VOC2012/{name}", len(content)), io.BytesIO(content))
    return path
