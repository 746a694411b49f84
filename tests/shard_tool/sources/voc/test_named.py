"""The archives of a year are downloaded by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from datamodules.reading.cache import default_folder
from shard_tool.errors import StoreError
from shard_tool.sources.voc import official
from shard_tool.sources.voc.named import archives_folder, download_archives, wanted_archives
from shard_tool.sources.voc.official import Archive
from tests.kit.servers.archive_download import (
    ARCHIVE,
    CONTENT,
    FILE,
    MD5,
    OF_2099,
    SIZE,
    names,
    set_free,
)
from tests.kit.servers.http_server import serve

if TYPE_CHECKING:
    from pathlib import Path


TRAINVAL = Archive(year="2099", set_="trainval", file="VOCtrainval.tar", md5=MD5, num_bytes=SIZE)


@pytest.fixture
def _a_year_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "ARCHIVES", (TRAINVAL, ARCHIVE))


@pytest.mark.usefixtures("_a_year_of_two")
def test_a_year_is_downloaded_and_each_step_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    steps: dict[str, tuple[int, int | None]] = {}
    with serve(CONTENT) as server:
        paths = download_archives(
            "2099",
            tmp_path,
            mirrors=[server.url],
            on_progress=lambda what, *got: steps.update({what: got}),
        )
    assert paths == [tmp_path / "VOCtrainval.tar", tmp_path / FILE]
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert steps == {
        "downloading VOCtrainval.tar": (SIZE, SIZE),
        f"checking {FILE}": (SIZE, SIZE),
    }
    assert server.paths == ["/voc2099/VOCtrainval.tar"]


@pytest.mark.usefixtures("_a_year_of_two")
def test_one_set_of_a_year_can_be_downloaded(tmp_path: Path) -> None:
    with serve(CONTENT) as server:
        paths = download_archives("2099", tmp_path, set_="test", mirrors=[server.url])
    assert names(tmp_path) == [path.name for path in paths] == [FILE]


@pytest.mark.usefixtures("_a_year_of_two")
def test_wanted_archives_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    folder, mirror = tmp_path / "new", "https://me:s3cret@m.org/voc/?key=hunter2"
    trainval, test = wanted_archives("2099", folder, mirrors=[mirror])
    assert (trainval.archive, trainval.path) == (TRAINVAL, folder / "VOCtrainval.tar")
    assert test.url == f"https://m.org/voc{OF_2099}"
    assert (trainval.is_there, trainval.num_bytes_there) == (False, 0)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "num_bytes", "is_there", "num_bytes_there"),
    [
        pytest.param(FILE, SIZE, True, SIZE, id="whole"),
        pytest.param(FILE, SIZE - 1, False, 0, id="of another length"),
        pytest.param(f"{FILE}.part", 9, False, 9, id="interrupted"),
    ],
)
@pytest.mark.usefixtures("_a_year_of_two")
def test_existing_archive_is_found_by_name_and_length(
    tmp_path: Path, name: str, num_bytes: int, is_there: bool, num_bytes_there: int
) -> None:
    (tmp_path / name).write_bytes(bytes(num_bytes))
    (test,) = wanted_archives("2099", tmp_path, set_="test", mirrors=["http://m.org"])
    assert (test.is_there, test.num_bytes_there) == (is_there, num_bytes_there)


@pytest.mark.usefixtures("_a_year_of_two")
def test_a_disk_too_small_for_both_archives_is_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:200])
    set_free(monkeypatch, 2 * SIZE - 201)
    with serve(CONTENT) as server, pytest.raises(StoreError) as caught:
        download_archives("2099", tmp_path, mirrors=[server.url])
    assert str(caught.value) == (
        f"{tmp_path}: {2 * SIZE - 201} bytes free, VOCtrainval.tar and {FILE} need "
        f"{2 * SIZE - 200} more; free some space or choose another folder"
    )
    assert server.requests == []
    set_free(monkeypatch, 2 * SIZE - 200)
    with serve(CONTENT) as server:
        download_archives("2099", tmp_path / "new", set_="test", mirrors=[server.url])
        download_archives("2099", tmp_path, mirrors=[server.url])


def test_archives_folder_lies_beside_the_cache_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/big/cache")
    assert str(archives_folder()) == "/big/cache/voc-shards/archives"
    assert archives_folder().parent == default_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(archives_folder()) == "/home/me/.cache/voc-shards/archives"
