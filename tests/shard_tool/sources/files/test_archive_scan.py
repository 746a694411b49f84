"""What a scan tells of any archive: names with slashes, contents that pass by, and what it is."""

from __future__ import annotations

import tarfile
import zlib
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import SourceError
from shard_tool.sources.files.archive import FileSpan, is_clutter, scan_archive
from shard_tool.storage.location import StoredObject
from tests.kit.datasets.archives import (
    SOME,
    Contents,
    contents_of,
    counting_server,
    read_back,
    scanned,
    tar_with,
    written,
    zip_with,
)
from tests.kit.datasets.tars import info, tar_of

if TYPE_CHECKING:
    from pathlib import Path

WINDOWS = {
    "VOCdevkit\\VOC2007\\JPEGImages\\a.jpg": b"one",
    "VOCdevkit/VOC2007/JPEGImages/b.jpg": b"two",
    "VOCdevkit\\VOC2007/JPEGImages\\c.jpg": b"three",
}


@pytest.mark.parametrize("pack", [tar_with, zip_with])
def test_backslashes_become_slashes_and_are_counted(tmp_path: Path, pack: object) -> None:
    content = tar_with(WINDOWS) if pack is tar_with else zip_with(WINDOWS)
    source, spans, scan = scanned(written(tmp_path, "a", content))
    assert [span.name for span in spans] == [
        f"VOCdevkit/VOC2007/JPEGImages/{letter}.jpg" for letter in "abc"
    ]
    assert [*read_back(source, spans[::-1]).values()] == [b"one", b"two", b"three"]
    assert scan.num_backslashed == 2
    assert scanned(written(tmp_path, "b", tar_with(SOME)))[2].num_backslashed == 0


@pytest.mark.parametrize("name", ["..\\a.jpg", "a\\..\\..\\b.jpg", "\\a.jpg", "../a.jpg", "/a.jpg"])
def test_a_member_of_a_tar_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, "a.tar", tar_of([info(name)]))
    with pytest.raises(SourceError) as caught:
        scanned(path)
    assert str(caught.value).startswith(f"{path}: member {name!r} leads out of the archive; ")


def test_wanted_contents_of_a_remote_tar_pass_by_while_it_is_streamed() -> None:
    """So 100,000 XML files are not requested one by one."""
    got: Contents = {}
    noted = list[FileSpan]()

    def kept(span: FileSpan, content: bytes) -> None:
        assert noted[-1] == span
        assert zlib.crc32(content) == span.crc
        got[span.name] = content

    with counting_server(tar_with(SOME)) as server:
        archive = StoredObject(f"{server.url}/a.tar")
        scan = scan_archive(
            archive, noted.append, keep=lambda span: span.name.endswith(".xml"), kept=kept
        )
        source, spans, same = scanned(f"{server.url}/a.tar")
        assert (noted, scan) == (spans, same)
        assert {span.name: span.crc for span in spans} == {
            n: zlib.crc32(c) for n, c in SOME.items()
        }
        assert read_back(source, spans) == SOME
    assert got == {name: content for name, content in SOME.items() if name.endswith(".xml")}


def test_nothing_passes_by_where_it_is_read_cheaply_later(tmp_path: Path) -> None:
    def unwanted(*_: object) -> bool:
        raise AssertionError

    path = written(tmp_path, "a.tar", tar_with(SOME))
    _, spans, _ = scanned(path, keep=unwanted, kept=unwanted)
    assert len(spans) == len(SOME)
    with counting_server(zip_with(SOME)) as server:
        _, spans, _ = scanned(f"{server.url}/a.zip", keep=unwanted, kept=unwanted)
    assert len(spans) == len(SOME)


@pytest.mark.parametrize("name", ["BZh9.jpg", "PK.jpg", "7zip.jpg", "Rar!.jpg"])
def test_a_tar_whose_first_name_looks_like_another_kind_is_a_tar(tmp_path: Path, name: str) -> None:
    assert contents_of(written(tmp_path, "a.zip", tar_with({name: b"x"}))) == {name: b"x"}


def test_the_name_of_an_archive_tells_nothing(tmp_path: Path) -> None:
    assert contents_of(written(tmp_path, "a.tar.gz", zip_with(SOME))) == SOME
    with counting_server(tar_with(SOME)) as server:
        assert contents_of(f"{server.url}/a.zip") == SOME


def test_an_empty_zip_has_no_members(tmp_path: Path) -> None:
    assert contents_of(written(tmp_path, "a.zip", zip_with({}))) == {}
    with counting_server(zip_with({})) as server:
        assert contents_of(f"{server.url}/a") == contents_of(f"{server.url}/a.zip") == {}


def test_folders_of_an_archive_end_with_a_slash(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(info("d", type_=tarfile.DIRTYPE))
        tar.addfile(info("d/a.jpg"))
    assert [span.name for span in scanned(path)[1]] == ["d/", "d/a.jpg"]
    path = written(tmp_path, "a.zip", zip_with({"d/": b"", "d/a.jpg": b""}))
    assert [span.name for span in scanned(path)[1]] == ["d/", "d/a.jpg"]


@pytest.mark.parametrize(
    "name", ["__MACOSX/a.jpg", "a/._b.jpg", ".DS_Store", "a/thumbs.db", "desktop.ini", ".git/HEAD"]
)
def test_clutter_is_known(name: str) -> None:
    assert is_clutter(name)


@pytest.mark.parametrize("name", ["./a.jpg", "../a", "a.b/c.d", "a/", "a__MACOSX/b", "a./b"])
def test_files_of_people_are_no_clutter(name: str) -> None:
    assert not is_clutter(name)
