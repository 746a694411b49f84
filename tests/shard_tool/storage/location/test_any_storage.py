"""Objects come and go whole, in a folder of any storage."""

from __future__ import annotations

import os
import pickle
import stat
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import ObjectMissing, ShardError, StoreError
from shard_tool.storage import uploads
from shard_tool.storage.location import Folder
from tests.kit.clock import only_pauses_count
from tests.kit.servers.published import CONTENT, TIMEOUT_S, publish

if TYPE_CHECKING:
    from pathlib import Path


def test_options_may_be_nested() -> None:
    folder = Folder("memory://nested", {"client_kwargs": {"endpoint_url": "http://127.0.0.1"}})
    assert folder.names() == []


@pytest.mark.slow
def test_what_is_put_is_there(folder: Folder) -> None:
    assert folder.names() == []
    assert folder.sizes() == {}
    folder.put("b", b"small")
    publish(folder, "a.tar", CONTENT)
    publish(folder, "empty", b"")
    folder.child("below").put("c", b"deeper")
    assert folder.names() == ["a.tar", "b", "below", "empty"]
    assert folder.sizes() == {"a.tar": len(CONTENT), "b": 5, "empty": 0}
    assert folder.child("below").sizes() == {"c": 6}
    assert folder.read("a.tar") == CONTENT
    assert folder.child("below").read("c") == b"deeper"


def test_what_is_put_again_is_replaced(folder: Folder) -> None:
    for content in (b"longer than", b"then"):
        folder.put("a", content)
        publish(folder, "b", content)
    assert folder.read("a") == folder.read("b") == b"then"


def test_an_object_is_visible_only_when_it_is_complete(folder: Folder) -> None:
    with folder.publish("a") as file:
        file.write(CONTENT)
        file.flush()
        assert folder.sizes().keys() & {"a"} == set()
        with pytest.raises(ObjectMissing):
            folder.object("a").num_bytes()
    assert folder.sizes() == {"a": len(CONTENT)}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StoreError("a", "b")])
def test_a_failed_write_leaves_nothing(folder: Folder, error: Any) -> None:
    folder.put("a", b"before")

    def give_up() -> None:
        with folder.publish("a") as file:
            file.write(CONTENT)
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        give_up()
    assert folder.names() == ["a"]
    assert folder.read("a") == b"before"


def test_many_objects_are_removed_together(folder: Folder) -> None:
    folder.remove_all([])
    folder.remove_all(["never"])
    for name in "abcd":
        folder.put(name, b"x")
    folder.child("a b").put("e", b"x")
    folder.remove_all(["a", "never", "b"])
    folder.remove("c")
    folder.remove("c")
    assert folder.names() == ["a b", "d"]


@pytest.mark.slow
def test_an_object_is_read_by_itself(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    only_pauses_count(monkeypatch)
    folder.put("a", CONTENT)
    found = pickle.loads(pickle.dumps(folder.object("a")))
    assert found.num_bytes() == len(CONTENT)
    assert found.read_ranges([(5, 9), (0, 3), (7, 7 + 9_000)]) == [
        CONTENT[5:9],
        CONTENT[:3],
        CONTENT[7:9_007],
    ]
    parts = found.read_parts(3, len(CONTENT), num_bytes=len(CONTENT))
    assert b"".join(parts) == CONTENT[3:]
    assert found.place == str(found) == folder.place("a")
    assert found.read_ranges([]) == []
    with pytest.raises(ShardError, match=r"ends at byte|answered with"):
        found.read_ranges([(5, len(CONTENT) + 1)])


def test_every_operation_reports_a_missing_object_as_missing(folder: Folder) -> None:
    missing = folder.object("none")
    with pytest.raises(ObjectMissing, match="none: there is no such object"):
        missing.num_bytes()
    with pytest.raises(ObjectMissing, match="none: there is no such object"):
        missing.read_ranges([(0, 1)])


def test_a_relative_folder_is_relative_to_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = Folder("voc")
    monkeypatch.chdir(tmp_path)
    folder.child("below").put("a", b"x")
    assert (tmp_path / "here/voc/below/a").read_bytes() == b"x"
    assert folder.child("below").object("a").num_bytes() == 1
    assert str(folder.child("below").object("a")) == "voc/below/a"


# On a disk ---------------------------------------------------------------------------------------


def test_published_files_have_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Folder(str(tmp_path)).put("a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_publishing_does_not_change_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks run in threads, and there is one umask for all."""
    monkeypatch.delattr(os, "umask")
    Folder(str(tmp_path)).put("a", b"x")


def test_a_file_being_written_has_a_temporary_name_in_its_folder(tmp_path: Path) -> None:
    with Folder(str(tmp_path)).publish("a.tar"):
        (path,) = tmp_path.iterdir()
    assert path.name.startswith(".a.tar.partial-")


def test_a_listing_skips_files_that_vanish_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Folder(str(tmp_path)).put("a", b"x")
    (tmp_path / "b").symlink_to(tmp_path / "gone")
    assert Folder(str(tmp_path)).sizes() == {"a": 1}


def test_files_on_a_remote_disk_are_renamed_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    seen = list[str]()

    class OverThere(LocalFileSystem):  # type: ignore[misc]  # it ships no types
        """A disk as SFTP shows one: files are seen while they are written."""

        def put_file(self, lpath: Any, rpath: Any, **options: Any) -> None:
            super().put_file(lpath, rpath, **options)
            seen.extend(path.name for path in (tmp_path / "voc").iterdir())

    fs = OverThere()
    monkeypatch.setattr(fs, "protocol", "sftp")
    for content in (CONTENT, CONTENT[1:]):
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            staged = uploads.Staged(file.fileno(), len(content), file.name)
            uploads.upload(fs, str(tmp_path / "voc/a"), "a", staged, TIMEOUT_S)
        assert (tmp_path / "voc/a").read_bytes() == content
    assert [name.partition("partial-")[0] for name in sorted(seen)] == [".a.", ".a.", "a"]
    assert [path.name for path in (tmp_path / "voc").iterdir()] == ["a"]
