"""What workers may publish, and until when."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.journal import Journal, make_staging, remove_journal, remove_staging
from shard_tool.dataset.writer_lock import WriterLock, hold_writer_lock
from shard_tool.errors import StoreError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import JOURNAL_NAME
from tests.kit.datasets.converted import files_of

if TYPE_CHECKING:
    from pathlib import Path


def journal_of(dest: Path) -> Journal:
    folder = Folder(str(dest))
    return Journal(folder, WriterLock(folder), make_staging(folder))


def test_worker_publishes_nothing_once_its_staging_folder_is_gone(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "out")
    journal.put("a.tar", b"x")
    with pytest.raises(StoreError, match=r"b\.tar: cannot be written"), journal.publish("b.tar"):
        remove_staging(journal.folder)
    with pytest.raises(StoreError, match=r"c\.tar: cannot be written"), journal.publish("c.tar"):
        pass
    with pytest.raises(StoreError, match=r"d\.tar\.idx: cannot be written"):
        journal.put("d.tar.idx", b"")
    with pytest.raises(StoreError, match=r"a\.tar\.json: cannot be written"):
        journal.record("a.tar", {"sizes": {"a.tar": 1}})
    assert files_of(tmp_path / "out") == {"a.tar": b"x"}


def test_worker_does_not_make_a_dataset_s_folder_again(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(StoreError):
        journal.record("a.tar", {"sizes": {}})
    assert not (tmp_path / "out").exists()


def test_another_run_s_worker_publishes_nothing(tmp_path: Path) -> None:
    """One that lives on after its parent was killed, while the run is resumed."""
    orphan = journal_of(tmp_path / "out")
    remove_staging(orphan.folder)
    resumed = journal_of(tmp_path / "out")
    with pytest.raises(StoreError):
        orphan.put("a.tar", b"other options, other bytes")
    resumed.put("a.tar", b"x")
    assert files_of(tmp_path / "out") == {"a.tar": b"x"}


@pytest.mark.parametrize("what", ["opened", "removed"])
def test_staging_folder_goes_while_workers_open_and_remove_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    journal = journal_of(tmp_path / "out")
    assert journal.staging
    staging = tmp_path / "out" / journal.staging
    (staging / ".a.tar.partial-x").touch()
    rmdir, unlink = os.rmdir, os.unlink

    def opened(path: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "rmdir", rmdir)
        with pytest.raises(FileNotFoundError):
            (staging / ".b.tar.partial-x").touch()
        rmdir(path, **options)

    def removed(path: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "unlink", unlink)
        unlink(path, **options)
        unlink(path, **options)

    if what == "opened":
        monkeypatch.setattr(os, "rmdir", opened)
    else:
        monkeypatch.setattr(os, "unlink", removed)
    remove_journal(journal.folder)
    assert list((tmp_path / "out").iterdir()) == []


def test_disk_that_keeps_a_name_for_an_open_file_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS and FUSE do in the folder of the file, until the worker closes it."""
    journal = journal_of(tmp_path / "out")
    assert journal.staging
    (tmp_path / "out" / journal.staging / ".a.tar.partial-x").touch()
    kept: list[str] = []

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        assert len(kept) < 9, "it spins"
        kept.append(f".nfs{len(kept)}")
        os.rename(path, kept[-1], src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        remove_staging(journal.folder)
    with pytest.raises(StoreError):
        journal.put("a.tar", b"x")
    (folder,) = (tmp_path / "out" / JOURNAL_NAME).iterdir()
    assert folder.name.startswith("removed-")
    assert [path.name for path in folder.iterdir()] == kept[-1:]
    remove_staging(journal.folder)  # the worker has closed it
    assert list((tmp_path / "out" / JOURNAL_NAME).iterdir()) == []


def test_staging_folder_that_cannot_be_removed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_of(tmp_path / "out")

    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(StoreError, match=r"writing-\w+: cannot be removed: Permission denied"):
        remove_staging(journal.folder)


def test_worker_whose_run_has_ended_puts_nothing_into_a_store(tmp_path: Path) -> None:
    """A store has no folder to remove: the writer's lock is asked before each object."""
    folder = Folder("memory://ended/voc")
    with hold_writer_lock(folder) as lock:
        pass
    journal = Journal(folder, WriterLock(folder, lock.token or "0" * 16))
    with pytest.raises(StoreError), journal.publish("a.tar"):
        pass
    with pytest.raises(StoreError):
        journal.put("a.tar.idx", b"")
    with pytest.raises(StoreError):
        journal.record("a.tar", {"sizes": {}})
    assert folder.names() == []
