"""Lets only one process at a time write into a folder, and notices if that process dies.

On a local disk the process locks the folder itself (flock). The lock ends with the process, and
nothing stays behind. Object stores have no locks. There, and on network disks without locks, a
writer puts a heartbeat object into ``DEST/.conversion/alive`` and renews it as long as it lives. A
heartbeat that stops changing belongs to a dead process, and the next writer removes it. Only the
contents of heartbeats are compared, so machines need not agree on the time.

    A puts its heartbeat, then lists      B puts its heartbeat, then lists
        sees nobody: writes               sees A: watches
                                              A's heartbeat changes, A writes: B is refused
                                              A's heartbeat stands still: B takes over

If two start together, at least one sees the other, because both put before they list. The one with
the smaller token continues when the other has withdrawn. A process that was stopped and taken for
dead finds that its heartbeat is gone, or that another process writes (`WriterLock.check`). No store
can check and write in one step. So a process that is stopped between the two for longer than others
wait can still write one object after another process has taken over.

The package filelock would not shorten the local half: its locks are files that stay in the folder,
and the folder, with the parents made for it, must be opened, compared and removed here anyway.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from shard_tool.errors import ObjectBusy, ObjectMissing, ShardToolError, StoreError
from shard_tool.storage.manifest_file import JOURNAL_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shard_tool.storage.location import Folder

log = logging.getLogger(__name__)

SIGNS_NAME = "alive"
"""Folder of the heartbeats, inside the journal's folder."""
BEAT_S = 2.0
"""Seconds between two renewals of a heartbeat."""
PATIENCE = 4
"""How many beats a sign may miss before its process counts as dead; a beat may come late."""
_SUFFIX = ".json"
_TIMEOUT_S = 10.0
"""Time limit for the renewal of a sign, so that a hanging one does not delay the next."""

_State = Literal["claiming", "writing"]
"""What a sign says of its process: it waits for the others, or it writes."""
_held_here: set[str] = set()
_held_here_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class WriterLock:
    """The right to write into a folder; a small value that travels to workers."""

    folder: Folder
    token: str = ""
    """Name of the heartbeat; empty where the folder is locked, which cannot be lost."""
    dead: tuple[str, ...] = ()
    """Tokens of the processes that were taken for dead."""

    def check(self) -> None:
        """Check that this process still holds the folder; costs one listing if there is no lock.

        Raises:
            StoreError: The run has ended, another one has taken over, or storage failed.
        """
        if self.token and _is_lost(_signs_of(self.folder), self, "writing"):
            problem = "this run has ended, or another took over because this one stood still"
            hint = "if another one is writing there, stop it, then use --on-existing resume"
            raise StoreError(str(self.folder), problem, hint)


@contextmanager
def hold_writer_lock(
    folder: Folder, *, beat_s: float = BEAT_S, patience: float = PATIENCE
) -> Iterator[WriterLock]:
    """Hold a folder for writing while the block runs; a local folder is made if it is missing.

    Args:
        folder: The folder.
        beat_s: Seconds between two heartbeats, where there are no locks.
        patience: How many beats to wait for another process's next sign.

    Raises:
        ObjectBusy: Another process is writing there.
        StoreError: Storage failed or refused.
    """
    if (path := folder.local) is not None:
        with _locked(folder, path) as is_locked:
            if is_locked:
                yield WriterLock(folder)
            else:
                with _signed(folder, beat_s, patience) as lock:
                    yield lock
    elif folder.is_of_one_process:
        with _held_by_this_process(folder):
            yield WriterLock(folder)
    else:
        with _signed(folder, beat_s, patience) as lock:
            yield lock


def wait_until_free(folder: Folder, *, beat_s: float = BEAT_S, patience: float = PATIENCE) -> None:
    """Wait while a living process is writing into a folder.

    The caller does not hold the folder afterwards: another process may be quicker.

    Raises:
        StoreError: Storage failed or refused.
    """
    while True:
        time.sleep(beat_s)
        with suppress(ObjectBusy), hold_writer_lock(folder, beat_s=beat_s, patience=patience):
            return


# Locks ---------------------------------------------------------------------------------------


@contextmanager
def _locked(folder: Folder, path: Path) -> Iterator[bool]:
    """Lock a local folder; yields False if its file system has no locks."""
    try:
        made = _missing_of(path)
        descriptor = _open_and_lock(folder, path)
    except ShardToolError:  # ours may be an OSError, too
        raise
    except OSError as exc:
        problem = f"cannot be written to: {exc.strerror or type(exc).__name__}"
        raise StoreError(str(folder), problem) from exc
    try:
        yield descriptor is not None
    finally:
        for new in made:  # still locked, so nobody else uses it
            with suppress(OSError):  # it is not empty, or somebody was quicker
                new.rmdir()
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child process may have inherited it
            os.close(descriptor)


def _missing_of(path: Path) -> list[Path]:
    """The missing ones among a folder and its parents, innermost first."""
    return [at for at in (path, *path.parents) if not at.exists()]


def _open_and_lock(folder: Folder, path: Path) -> int | None:
    """Make a folder and lock it; returns its descriptor, or None if there are no locks."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its last holder had made it, and has removed it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            if isinstance(exc, BlockingIOError):
                raise _refusal(folder) from None
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # the folder of that name is another one by now


@contextmanager
def _held_by_this_process(folder: Folder) -> Iterator[None]:
    name = str(folder).rstrip("/")
    with _held_here_lock:
        if name in _held_here:
            raise _refusal(folder)
        _held_here.add(name)
    try:
        yield
    finally:
        _held_here.discard(name)


# Signs of life -------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """What a sign says."""

    state: _State
    beat: int
    dead: tuple[str, ...]


def _signs_of(folder: Folder) -> Folder:
    return folder.child(JOURNAL_NAME).child(SIGNS_NAME)


def _tokens(signs: Folder) -> set[str]:
    """Tokens of all signs."""
    return {name.removesuffix(_SUFFIX) for name in signs.names() if name.endswith(_SUFFIX)}


def _read(signs: Folder, token: str) -> _Seen | None:
    """Read a sign; None if it is gone."""
    try:
        document = json.loads(signs.read(f"{token}{_SUFFIX}"))
        return _Seen(document["state"], int(document["beat"]), tuple(document["dead"]))
    except ObjectMissing:
        return None
    except (ValueError, KeyError, TypeError):
        return _Seen("writing", -1, ())  # not one of ours, so it never changes


def _is_lost(signs: Folder, lock: WriterLock, state: _State) -> bool:
    """Tell whether a sign is gone, or whether another living process is writing as well."""
    tokens = _tokens(signs)
    if lock.token not in tokens or state == "claiming":
        return lock.token not in tokens
    others = [_read(signs, token) for token in tokens - {lock.token} - set(lock.dead)]
    return any(other is not None and other.state == "writing" for other in others)


@contextmanager
def _signed(folder: Folder, beat_s: float, patience: float) -> Iterator[WriterLock]:
    """Hold a folder by a heartbeat."""
    sign = _Sign(WriterLock(folder, secrets.token_hex(8)), beat_s)
    sign.put()
    thread = threading.Thread(target=sign.beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        dead = _wait_for_others(folder, sign.lock, beat_s, patience)
        sign.become_writer(dead)
        yield sign.lock
    finally:
        sign.has_ended.set()
        thread.join()
        sign.remove()


def _wait_for_others(
    folder: Folder, lock: WriterLock, beat_s: float, patience: float
) -> tuple[str, ...]:
    """Watch the other signs until each process is dead or has withdrawn.

    Returns:
        The tokens of the dead, whose signs are removed.

    Raises:
        ObjectBusy: Another process is alive and goes before this one.
    """
    signs, dead = _signs_of(folder), list[str]()
    seen: dict[str, tuple[int | None, float]] = dict.fromkeys(
        _tokens(signs) - {lock.token}, (None, 0.0)
    )
    while seen:
        for token, (beat, since) in list(seen.items()):
            asked = time.monotonic()  # before the reading: this process may be stopped anywhere
            now = _read(signs, token)
            if now is None:
                del seen[token]
            elif now.beat != beat:
                may_go_on = now.state == "writing" or token < lock.token
                if beat is not None and may_go_on:
                    raise _refusal(folder)
                seen[token] = now.beat, asked
            elif asked - since > patience * beat_s:
                signs.remove(f"{token}{_SUFFIX}")
                dead.append(token)
                del seen[token]
        if seen:
            time.sleep(beat_s / 4)
    return tuple(dead)


class _Sign:
    """The heartbeat of this process."""

    def __init__(self, lock: WriterLock, beat_s: float) -> None:
        self.lock = lock
        self.has_ended = threading.Event()
        folder = lock.folder
        self._signs = _signs_of(replace(folder, timeout_s=min(_TIMEOUT_S, folder.timeout_s)))
        self._beat_s = beat_s
        self._state: _State = "claiming"
        self._beat = 0
        self._guard = threading.Lock()

    def put(self) -> None:
        """Put the next beat."""
        with self._guard:
            self._beat += 1
            said = {"state": self._state, "beat": self._beat, "dead": self.lock.dead}
            self._signs.put(f"{self.lock.token}{_SUFFIX}", json.dumps(said).encode())

    def become_writer(self, dead: tuple[str, ...]) -> None:
        """Say that this process is writing.

        Raises:
            ObjectBusy: Another process says so, too, because it took this one for dead.
        """
        with self._guard:
            self.lock, self._state = replace(self.lock, dead=dead), "writing"
        if self.lock.token not in _tokens(self._signs):
            raise _refusal(self.lock.folder)
        self.put()
        if _is_lost(self._signs, self.lock, self._state):
            raise _refusal(self.lock.folder)

    def beat(self) -> None:
        """Renew the sign until the end or until it is lost; failures of storage do not end it."""
        while not self.has_ended.wait(self._beat_s):
            try:
                if _is_lost(self._signs, self.lock, self._state):
                    # A delayed beat may have put the sign there again.
                    self.remove()
                    return
                self.put()
            except StoreError as exc:
                log.debug("no heartbeat: %s", exc)

    def remove(self) -> None:
        """Remove the sign, and on a disk the empty folders around it."""
        try:
            self._signs.remove(f"{self.lock.token}{_SUFFIX}")
        except StoreError as exc:
            log.warning("%s; other runs will wait until the heartbeat counts as dead", exc)
        if (path := self._signs.local) is not None:
            for folder in (path, path.parent):
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def _refusal(folder: Folder) -> ObjectBusy:
    hint = "wait for it to end, or stop it and repeat"
    return ObjectBusy(str(folder), "another conversion is writing there", hint)
