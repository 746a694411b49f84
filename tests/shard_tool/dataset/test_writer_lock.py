"""Only one process writes into a folder: by a lock on a disk, by heartbeats on object stores."""

from __future__ import annotations

import errno
import fcntl
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset import writer_lock
from shard_tool.dataset.writer_lock import _Sign, hold_writer_lock
from shard_tool.errors import ObjectExists, StoreError
from shard_tool.storage.location import Folder
from tests.kit.processes.lock_holder import lock_holder
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import Fault, fault_proxy
from tests.kit.servers.s3 import S3, objects, put, remove

if TYPE_CHECKING:
    from pathlib import Path

BEAT_S = 0.2
LONG = 300
"""So many beats that nobody counts as dead, however busy the machine is."""
REFUSED = "another conversion is writing there; wait for it to end, or stop it and repeat"


def on_s3(s3: S3, bucket: str) -> Folder:
    return Folder(f"{bucket}/voc", s3.storage_options)


def signs(s3: S3, folder: Folder) -> dict[str, bytes]:
    return objects(s3, f"{folder.url}/.conversion/alive")


def a_sign(state: str = "writing", beat: int = 7, dead: tuple[str, ...] = ()) -> bytes:
    return json.dumps({"state": state, "beat": beat, "dead": dead}).encode()


# On a disk ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_locked_folder_is_refused_to_other_processes_until_its_holder_ends(
    tmp_path: Path,
) -> None:
    with lock_holder(str(tmp_path)) as first:
        assert first.said == "in"
        with pytest.raises(ObjectExists) as caught, hold_writer_lock(Folder(str(tmp_path))):
            pass
        assert str(caught.value) == f"{tmp_path}: {REFUSED}"
        first.end()
    with hold_writer_lock(Folder(str(tmp_path))), lock_holder(str(tmp_path)) as second:
        assert second.said == "refused"


def test_a_killed_process_holds_no_folder(tmp_path: Path) -> None:
    with lock_holder(str(tmp_path)) as first:
        assert first.said == "in"
        first.kill()
        with hold_writer_lock(Folder(str(tmp_path))) as lock:
            lock.check()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_made_goes_when_nothing_was_put_there(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "data/voc"))
    with hold_writer_lock(folder):
        assert (tmp_path / "data/voc").is_dir()
    assert list(tmp_path.iterdir()) == []
    with hold_writer_lock(folder):
        folder.put("a", b"x")
    assert folder.names() == ["a"]


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    with hold_writer_lock(Folder(str(tmp_path))):
        pass
    assert tmp_path.is_dir()


def test_a_folder_that_its_last_holder_removed_is_locked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed between opening and locking, so the lock is on a folder without a name."""
    path, flock, times = tmp_path / "voc", fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        times.append(operation)
        if len(times) == 1:
            path.rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold_writer_lock(Folder(str(path))):
        monkeypatch.setattr(fcntl, "flock", flock)
        assert path.is_dir()
        with pytest.raises(ObjectExists), hold_writer_lock(Folder(str(path))):
            pass


def test_a_file_in_place_of_a_folder_is_an_error_of_storage(tmp_path: Path) -> None:
    (tmp_path / "voc").write_bytes(b"")
    for path in (tmp_path / "voc", tmp_path / "voc/deeper"):
        with (
            pytest.raises(StoreError, match="cannot be written to"),
            hold_writer_lock(Folder(str(path))),
        ):
            pass


def test_a_disk_without_locks_has_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    monkeypatch.setattr(fcntl, "LOCK_UN", 0)
    folder = Folder(str(tmp_path / "voc"))
    with hold_writer_lock(folder, beat_s=BEAT_S, patience=LONG) as lock:
        lock.check()
        with pytest.raises(ObjectExists), hold_writer_lock(folder, beat_s=BEAT_S, patience=LONG):
            pass
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_memory_is_held_within_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder("memory://locked/voc")
    with hold_writer_lock(folder):
        with pytest.raises(ObjectExists), hold_writer_lock(Folder("memory://locked/voc/")):
            pass
        with hold_writer_lock(Folder("memory://locked/other")):
            pass
    with hold_writer_lock(folder):
        pass
    assert folder.names() == []


# On an object store ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_living_writer_is_left_alone(s3: S3, bucket: str) -> None:
    folder = on_s3(s3, bucket)
    with lock_holder(folder.url, s3.storage_options, beat_s=BEAT_S, patience=LONG) as first:
        assert first.said == "in"
        with (
            pytest.raises(ObjectExists) as caught,
            hold_writer_lock(folder, beat_s=BEAT_S, patience=LONG),
        ):
            pass
        assert str(caught.value) == f"{folder}: {REFUSED}"
        assert len(signs(s3, folder)) == 1
        assert first.check() == "held"
        first.end()
    assert objects(s3, folder.url) == {}


def test_a_free_folder_is_held_without_waiting(s3: S3, bucket: str) -> None:
    folder = on_s3(s3, bucket)
    with hold_writer_lock(folder, beat_s=3600) as lock:
        pickle.loads(pickle.dumps(lock)).check()
        assert [json.loads(sign)["state"] for sign in signs(s3, folder).values()] == ["writing"]
    assert objects(s3, folder.url) == {}


@pytest.mark.slow
def test_a_killed_writer_is_taken_for_dead(s3: S3, bucket: str) -> None:
    folder = on_s3(s3, bucket)
    with lock_holder(folder.url, s3.storage_options) as first:
        assert first.said == "in"
        first.kill()
    assert len(signs(s3, folder)) == 1
    with hold_writer_lock(folder, beat_s=BEAT_S) as lock:
        lock.check()
        assert list(signs(s3, folder)) == [f"{lock.token}.json"]
    assert objects(s3, folder.url) == {}


@pytest.mark.slow
def test_a_stopped_writer_that_was_taken_for_dead_finds_out(s3: S3, bucket: str) -> None:
    folder = on_s3(s3, bucket)
    with lock_holder(folder.url, s3.storage_options) as first:
        assert first.check() == "held"
        first.stop()
        with hold_writer_lock(folder, beat_s=BEAT_S) as lock:
            first.go_on()
            assert first.check() == "lost"
            lock.check()
            first.end()
            lock.check()
            assert list(signs(s3, folder)) == [f"{lock.token}.json"]


@pytest.mark.slow
def test_a_delayed_beat_of_a_writer_taken_for_dead_misleads_nobody(s3: S3, bucket: str) -> None:
    folder = on_s3(s3, bucket)
    with hold_writer_lock(folder, beat_s=3600) as stopped:
        late = dict(signs(s3, folder))
        with hold_writer_lock(folder, beat_s=0.05) as lock:
            for name, content in late.items():
                put(s3, f"{folder.url}/.conversion/alive/{name}", content)
            lock.check()
            with pytest.raises(StoreError, match="another took over because this") as caught:
                stopped.check()
            assert "--on-existing resume" in caught.value.hint


@pytest.mark.slow
def test_a_writer_that_lost_its_folder_removes_its_own_delayed_beat(s3: S3, bucket: str) -> None:
    folder = on_s3(s3, bucket)
    with (
        hold_writer_lock(folder, beat_s=3600) as lock,
        hold_writer_lock(folder, beat_s=0.05) as second,
    ):
        late = _Sign(lock, beat_s=0.01)
        late._state = "writing"
        late.put()
        assert len(signs(s3, folder)) == 2
        late.beat()
        assert list(signs(s3, folder)) == [f"{second.token}.json"]
        late.beat()  # and never puts it there again
        assert list(signs(s3, folder)) == [f"{second.token}.json"]


def test_a_lock_holder_stopped_before_it_said_that_it_writes_withdraws(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = on_s3(s3, bucket)
    other = f"{folder.url}/.conversion/alive/{'0' * 16}.json"

    def meanwhile(*_: Any) -> tuple[str, ...]:
        put(s3, other, a_sign())
        return ()

    monkeypatch.setattr(writer_lock, "_wait_for_others", meanwhile)
    with pytest.raises(ObjectExists), hold_writer_lock(folder, beat_s=3600):
        pass
    assert list(signs(s3, folder)) == [f"{'0' * 16}.json"]


def test_a_lock_holder_that_was_taken_for_dead_withdraws(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = on_s3(s3, bucket)

    def meanwhile(_: Folder, lock: Any, *__: Any) -> tuple[str, ...]:
        remove(s3, f"{folder.url}/.conversion/alive/{lock.token}.json")
        return ()

    monkeypatch.setattr(writer_lock, "_wait_for_others", meanwhile)
    with pytest.raises(ObjectExists), hold_writer_lock(folder, beat_s=3600):
        pass
    assert objects(s3, folder.url) == {}


@pytest.mark.slow
def test_an_unreadable_sign_counts_as_dead(s3: S3, bucket: str) -> None:
    folder = on_s3(s3, bucket)
    for name, content in {"a": b"", "b": b"[]", "c": b'{"beat": "x"}'}.items():
        put(s3, f"{folder.url}/.conversion/alive/{name}.json", content)
    with hold_writer_lock(folder, beat_s=0.02) as lock:
        assert sorted(lock.dead) == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(10))
def test_one_of_several_that_start_together_goes_on(s3: S3, bucket: str, round_: int) -> None:
    """Whoever holds the folder stays until the others have been refused."""
    folder, together = on_s3(s3, bucket), threading.Barrier(3)
    refused, got_in, inside = threading.Semaphore(0), list[int](), list[int]()

    def hold_it(number: int) -> None:
        mine = replace(folder, timeout_s=60.0 + number)
        together.wait()
        try:
            with hold_writer_lock(mine, beat_s=0.1, patience=LONG):
                got_in.append(number)
                inside.append(number)
                assert inside == [number]
                for _ in range(2):
                    assert refused.acquire(timeout=60)
                inside.remove(number)
        except ObjectExists:
            refused.release()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(hold_it, range(3)))
    assert len(got_in) == 1
    assert objects(s3, folder.url) == {}


@pytest.mark.slow
def test_faults_of_storage_do_not_end_a_writer(s3: S3, bucket: str) -> None:
    with fault_proxy(s3.endpoint_url) as proxy:
        folder = Folder(f"{bucket}/voc", s3.through(proxy).storage_options)
        with hold_writer_lock(folder, beat_s=0.02) as lock:
            for kind in ("internal-error", "slow-down", "reset-before-headers", "lost-answer"):
                proxy.inject(Fault(kind, times=2, path="alive", method="PUT"))
                proxy.inject(Fault(kind, times=2, path="bucket", method="GET"))
            assert eventually(lambda: proxy.hits == 16, deadline_s=60)
            lock.check()
            before = signs(s3, folder)
            assert eventually(lambda: signs(s3, folder) != before)


def test_no_secret_is_shown(s3: S3, bucket: str) -> None:
    folder = on_s3(s3, bucket)
    with hold_writer_lock(folder, beat_s=3600) as lock:
        assert s3.secret not in repr(lock)
        assert s3.secret.encode() not in b"".join(signs(s3, folder).values())
