"""Zips that are damaged, hostile or of a kind that cannot be read: an error that names the member.

The values at positions of headers are those of APPNOTE.TXT 6.3.10, sections 4.3.7 and 4.3.12.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import warnings
import zipfile
import zlib
from stat import S_IFIFO, S_IFLNK
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_tool.errors import SourceError, StoreError
from shard_tool.sources.files.file_span import FileSpan
from shard_tool.sources.files.zip_members import note_zip_members
from tests.kit.clock import only_pauses_count
from tests.kit.datasets.archives import SOME, contents_of, scanned, written, zip_with
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

A = "JPEGImages/a.jpg"
TEXT = b"<annotation/>" * 100
ENTRY = b"PK\x01\x02"
"""Begins a member's entry in the directory."""


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def in_entry(content: bytes, at: int, value: bytes) -> bytes:
    """Overwrite bytes of the first entry of the directory."""
    return patched(content, content.index(ENTRY) + at, value)


def refusal(tmp_path: Path, content: bytes) -> str:
    """The error of a scan, or of reading all members, without the path."""
    path = written(tmp_path, "a.zip", content)
    with pytest.raises(SourceError) as caught:
        contents_of(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def size(value: int) -> bytes:
    return value.to_bytes(4, "little")


# What cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")]
)
def test_another_method_is_named(tmp_path: Path, method: int, name: str) -> None:
    assert refusal(tmp_path, zip_with({A: TEXT}, method)) == (
        f": member {A!r} is compressed by {name}; Deflate can be read; "
        "extract it and give the folder"
    )


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    content = in_entry(zip_with({A: TEXT}), 10, b"\x77\0")
    assert f"member {A!r} is compressed by method 119;" in refusal(tmp_path, content)


@pytest.mark.skipif(shutil.which("zip") is None, reason="there is no zip program")
def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    written(tmp_path, "a.jpg", TEXT)
    subprocess.run(["zip", "-q", "-P", "pw", "e.zip", "a.jpg"], cwd=tmp_path, check=True)
    assert refusal(tmp_path, (tmp_path / "e.zip").read_bytes()) == (
        ": member 'a.jpg' is encrypted; extract it and give the folder"
    )


@pytest.mark.parametrize("kind", ["7z", "RAR"])
def test_another_kind_of_archive_is_named(tmp_path: Path, kind: str) -> None:
    mark = {"7z": b"7z\xbc\xaf\x27\x1c", "RAR": b"Rar!\x1a\x07\x01"}[kind]
    assert refusal(tmp_path, mark + bytes(99)) == (
        f": is a {kind} archive; extract it and give the folder"
    )


# Hostile members ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b", "/etc/passwd", "..\\a.jpg", "\\a.jpg"])
def test_a_member_that_leads_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, zip_with({name: TEXT}))
    assert message.startswith(f": member {name!r} leads out of the archive")


@pytest.mark.parametrize(
    ("mode", "kind"), [(S_IFLNK, "a symbolic link"), (S_IFIFO, "a device or pipe")]
)
def test_a_member_that_is_no_file_is_refused(tmp_path: Path, mode: int, kind: str) -> None:
    file, entry = io.BytesIO(), zipfile.ZipInfo(A)
    entry.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    assert f": member {A!r} is {kind}, not a file" in refusal(tmp_path, file.getvalue())


def test_a_bomb_is_stopped_at_the_size_that_it_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = in_entry(zip_with({A: bytes(50 << 20)}), 24, size(1000))
    inflated = list[int]()
    real = zlib.decompressobj

    class Inflating:
        def __init__(self, bits: int) -> None:
            self.real = real(bits)

        def decompress(self, packed: bytes, most: int) -> bytes:
            found = self.real.decompress(packed, most)
            inflated.append(len(found))
            return found

    monkeypatch.setattr(zlib, "decompressobj", Inflating)
    assert refusal(tmp_path, content).startswith(f":{A}: 1001 bytes, 1000 expected")
    assert inflated == [1001]


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """One kernel of compressed bytes for many members is how a zip of kilobytes holds terabytes."""
    content = zip_with({"a.jpg": TEXT, "b.jpg": TEXT})
    content = in_entry(content, 20, size(len(content) - 150))
    assert "member 'a.jpg' does not lie where the directory says" in refusal(tmp_path, content)


def test_members_named_twice_are_both_noted(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr(A, b"one")
        archive.writestr(A, b"two")
    source, spans, _ = scanned(written(tmp_path, "a.zip", file.getvalue()))
    assert [span.name for span in spans] == [A, A]
    assert [source.read(span) for span in spans] == [b"one", b"two"]


# Damage ---------------------------------------------------------------------------------------


def test_a_wrong_crc_names_the_member(tmp_path: Path) -> None:
    content = zip_with({A: TEXT}, zipfile.ZIP_STORED)
    content = content.replace(b"<annotation/>", b"<annotatiom/>", 1)
    crc, found = zlib.crc32(TEXT), zlib.crc32(TEXT.replace(b"on/", b"om/", 1))
    assert refusal(tmp_path, content) == (
        f":{A}: its CRC-32 is {found:08x}, {crc:08x} expected; download or copy the archive again"
    )


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        pytest.param(0, b"XX", "there is no zip header where it should be", id="mark"),
        pytest.param(8, b"\x0c", "its header names method 12", id="method"),
        pytest.param(26, b"\xff\xff", "0 bytes, 1300 expected", id="length of the name"),
        pytest.param(46, b"\xff" * 9, "its compressed bytes are damaged (Error -3", id="content"),
    ],
)
def test_a_damaged_member_is_named(tmp_path: Path, at: int, value: bytes, problem: str) -> None:
    content = zip_with({"first.txt": b"", A: TEXT})
    start = content.index(b"PK\x03\x04", 4)
    message = refusal(tmp_path, patched(content, start + at, value))
    assert message.startswith(f":{A}: {problem}")
    assert message.endswith("; download or copy the archive again")


@pytest.mark.parametrize("declared", [len(TEXT) - 1, len(TEXT) + 1, 0, 2**32 - 2])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_size_in_the_directory_is_an_error(
    tmp_path: Path, declared: int, method: int
) -> None:
    content = in_entry(zip_with({A: TEXT}, method), 24, size(declared))
    assert f":{A}: " in refusal(tmp_path, content)


@pytest.mark.parametrize("start", [1, 2**32 - 2])
def test_a_wrong_position_in_the_directory_is_an_error(tmp_path: Path, start: int) -> None:
    assert A in refusal(tmp_path, in_entry(zip_with({A: TEXT}), 42, size(start)))


def test_a_directory_that_would_begin_before_the_zip_is_an_error(tmp_path: Path) -> None:
    content = zip_with(SOME)
    content = patched(content, len(content) - 10, size(2**31))  # the length of the directory
    assert refusal(tmp_path, content).startswith(": is a zip that is damaged or cut short (")
    with web_server(tmp_path) as url, pytest.raises(SourceError, match="that is damaged or cut"):
        contents_of(f"{url}/a.zip")


def test_a_cut_zip_is_an_error(tmp_path: Path) -> None:
    content = zip_with(SOME)
    for cut in range(10, len(content), 7):
        message = refusal(tmp_path, content[:cut])
        assert message.startswith(": is a zip that is damaged or cut short (")
        assert message.endswith("; download or copy the archive again")


@pytest.mark.slow
@given(st.data())
@settings(max_examples=300)
def test_any_damage_is_an_error_of_ours_or_changes_no_content(data: st.DataObject) -> None:
    """Nothing but a CRC-32 that fits makes content, and nothing raises what is not ours."""
    content = bytearray(zip_with(SOME))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    spans = list[FileSpan]()
    try:
        note_zip_members("a.zip", io.BytesIO(bytes(content)), len(content), spans.append)
    except SourceError:
        return
    with memory_file(bytes(content)) as path:
        source, spans, _ = scanned(path)
        for span in spans:
            try:
                found = source.read(span)
            except SourceError:
                continue
            assert zlib.crc32(found) == span.crc
            assert len(found) == span.size


class memory_file:  # noqa: N801  (used like a function)
    """A path of a file that lies in memory."""

    def __init__(self, content: bytes) -> None:
        self._descriptor = os.memfd_create("a.zip")
        os.write(self._descriptor, content)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def test_damage_on_the_web_is_told_from_a_bad_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_pauses_count(monkeypatch)
    content = zip_with({A: TEXT})
    written(tmp_path, "bad.zip", patched(content, 46, b"\xff" * 9))
    written(tmp_path, "cut.zip", content[:-30])
    with web_server(tmp_path) as url:
        with pytest.raises(SourceError, match=r"its compressed bytes are damaged .* 2 fetches\)"):
            contents_of(f"{url}/bad.zip")
        with pytest.raises(SourceError, match=r"cut\.zip: is a zip that is damaged or cut short"):
            contents_of(f"{url}/cut.zip")
    way = "ignores Range: download the archive and give its path"
    with web_server(tmp_path, has_ranges=False) as url, pytest.raises(SourceError, match=way):
        contents_of(f"{url}/bad.zip")
    with pytest.raises(StoreError):
        contents_of(f"{url}/gone.zip")


def test_a_zip_that_was_replaced_is_an_error(tmp_path: Path) -> None:
    source, spans, _ = scanned(written(tmp_path, "a.zip", zip_with({A: TEXT})))
    source.check_unchanged()
    written(tmp_path, "a.zip", zip_with({A: TEXT + b" "}))
    for action in (source.check_unchanged, lambda: source.read(spans[0])):
        with pytest.raises(SourceError, match="was changed or replaced since it was scanned"):
            action()


# Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "flags", "name"),
    [
        pytest.param("gr\u00fcn.jpg".encode(), b"\0\x08", "gr\u00fcn.jpg", id="UTF-8"),
        pytest.param("gr\u00fcn.jpg".encode(), b"\0\0", "gr\u00fcn.jpg", id="UTF-8, not said"),
        pytest.param("gr\u00fcn.jpg".encode("cp437"), b"\0\0", "gr\u00fcn.jpg", id="cp437"),
        pytest.param(b"d\\a.jpg", b"\0\0", "d/a.jpg", id="backslash"),
    ],
)
def test_names_are_read(tmp_path: Path, raw: bytes, flags: bytes, name: str) -> None:
    plain = "x" * len(raw)
    content = zip_with({plain: TEXT}).replace(plain.encode(), raw)
    content = patched(in_entry(content, 8, flags), 6, flags)
    source, spans, scan = scanned(written(tmp_path, "a.zip", content))
    assert [span.name for span in spans] == [name]
    assert source.read(spans[0]) == TEXT
    assert scan.num_backslashed == (b"\\" in raw)


def test_a_name_that_is_not_the_utf_8_it_says_is_an_error(tmp_path: Path) -> None:
    content = zip_with({"gr\u00fcn.jpg": TEXT}).replace("\u00fc".encode(), b"\xfc\xfc")
    assert "is a zip that is damaged" in refusal(tmp_path, content)
