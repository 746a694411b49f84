"""One writer for a folder at a time, whatever becomes of the process that writes.

On a local disk the folder itself is locked; the lock ends with its process and leaves nothing.
Object stores know no locks. There, and on network disks without them, a writer puts a sign of life
into ``DEST/.conversion/alive`` and renews it as long as it lives; one that stays as it is belongs
to the dead, and whoever wants to write removes it. Signs are compared by what they say: no two
machines need to agree on the time.

    A puts its sign, then lists           B puts its sign, then lists
        sees nobody: says it is writing       sees A: watches
                                              A's beat goes on, A is writing: B is refused
                                              A's beat stands still: B takes over

Of two that start together at least one sees the other, because both put before they list; the one
with the smaller token goes on, when the other has withdrawn. A process that was stopped and taken
for dead finds its sign gone, or named by the one that took over (`WriterLock.check`). No store
can check and write in one step: a process that stops between the two, for longer than others wait,
still writes one object when it goes on.
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
"""Folder of the signs of life, in the journal's."""
BEAT_S = 2.0
"""Seconds between two renewals of a sign."""
PATIENCE = 4
"""Beats after which a sign that stays as it is belongs to the dead: some come late."""
_SUFFIX = ".json"
_TIMEOUT_S = 10.0
"""For the renewal of a sign: one that hangs must not let the next come late."""

_State = Literal["claiming", "writing"]
_held_here: set[str] = set()
_held_here_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class WriterLock:
    """The right to write into a folder; a small value that travels to workers."""

    folder: Folder
    token: str = ""
    """Of the sign of life; empty where a lock is held, which cannot be lost."""
    dead: tuple[str, ...] = ()
    """Tokens of those that were taken for dead."""

    def check(self) -> None:
        """Make sure that nobody else has taken over; one listing, where there is no lock.

        Raises:
            StoreError: Somebody has, or storage does not tell.
        """
        if self.token and _is_lost(_signs_of(self.folder), self, "writing"):
            problem = "another conversion took over: this one stood still and was taken for dead"
            hint = "stop the other one, then use --on-existing resume"
            raise StoreError(str(self.folder), problem, hint)


@contextmanager
def hold_writer_lock(
    folder: Folder, *, beat_s: float = BEAT_S, patience: float = PATIENCE
) -> Iterator[WriterLock]:
    """Hold a folder for writing as long as the block runs; a local one is made if missing.

    Args:
        folder: Where is written.
        beat_s: Seconds between two signs of life, where there are no locks.
        patience: Beats to wait for the next sign of somebody else.

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
    """Wait as long as another process is writing into a folder and gives signs of life.

    Nothing is held afterwards: somebody else may be quicker than the caller.

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
    """Lock a local folder; False where its file system has no locks."""
    try:
        made = _missing_of(path)
        descriptor = _open_and_lock(folder, path)
    except ShardToolError:  # a refusal is an OSError, too
        raise
    except OSError as exc:
        problem = f"cannot be written to: {exc.strerror or type(exc).__name__}"
        raise StoreError(str(folder), problem) from exc
    try:
        yield descriptor is not None
    finally:
        for new in made:  # while it is locked: nobody has begun anything there
            with suppress(OSError):  # it holds something, or somebody was quicker
                new.rmdir()
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child may have inherited it
            os.close(descriptor)


def _missing_of(path: Path) -> list[Path]:
    """Those of a folder and the ones it lies in that are missing, the innermost first."""
    return [at for at in (path, *path.parents) if not at.exists()]


def _open_and_lock(folder: Folder, path: Path) -> int | None:
    """Make a folder and lock it; its descriptor, or None where there are no locks."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # who held it was the one who had made it
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
        os.close(descriptor)  # what was locked is not what has that name now


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
    """What a sign said."""

    state: _State
    beat: int
    dead: tuple[str, ...]


def _signs_of(folder: Folder) -> Folder:
    return folder.child(JOURNAL_NAME).child(SIGNS_NAME)


def _tokens(signs: Folder) -> set[str]:
    """Of all signs there are."""
    return {name.removesuffix(_SUFFIX) for name in signs.names() if name.endswith(_SUFFIX)}


def _read(signs: Folder, token: str) -> _Seen | None:
    """What a sign says; None where it is gone."""
    try:
        document = json.loads(signs.read(f"{token}{_SUFFIX}"))
        return _Seen(document["state"], int(document["beat"]), tuple(document["dead"]))
    except ObjectMissing:
        return None
    except (ValueError, KeyError, TypeError):
        return _Seen("writing", -1, ())  # not one of ours; it does not beat, either


def _is_lost(signs: Folder, lock: WriterLock, state: _State) -> bool:
    """Whether a sign is gone, or a writer's beside that of another who is not one of the dead."""
    tokens = _tokens(signs)
    if lock.token not in tokens or state == "claiming":
        return lock.token not in tokens
    others = [_read(signs, token) for token in tokens - {lock.token} - set(lock.dead)]
    return any(other is not None and other.state == "writing" for other in others)


@contextmanager
def _signed(folder: Folder, beat_s: float, patience: float) -> Iterator[WriterLock]:
    """Hold a folder by a sign of life."""
    sign = _Sign(WriterLock(folder, secrets.token_hex(8)), beat_s)
    sign.put()
    thread = threading.Thread(target=sign.beat, name="sign of life", daemon=True)
    thread.start()
    try:
        dead = _outwait_others(folder, sign.lock, beat_s, patience)
        sign.become_writer(dead)
        yield sign.lock
    finally:
        sign.has_ended.set()
        thread.join()
        sign.remove()


def _outwait_others(
    folder: Folder, lock: WriterLock, beat_s: float, patience: float
) -> tuple[str, ...]:
    """Watch whoever else is there until all of them are dead or have withdrawn.

    Returns:
        The tokens of the dead, whose signs are removed.

    Raises:
        ObjectBusy: One is alive and may go on.
    """
    signs, dead = _signs_of(folder), list[str]()
    seen: dict[str, tuple[int | None, float]] = dict.fromkeys(
        _tokens(signs) - {lock.token}, (None, 0.0)
    )
    while seen:
        for token, (beat, since) in list(seen.items()):
            asked = time.monotonic()  # before: this process may be stopped at any line
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
    """The sign of this process."""

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
        """Renew it."""
        with self._guard:
            self._beat += 1
            said = {"state": self._state, "beat": self._beat, "dead": self.lock.dead}
            self._signs.put(f"{self.lock.token}{_SUFFIX}", json.dumps(said).encode())

    def become_writer(self, dead: tuple[str, ...]) -> None:
        """Say that this process writes from now on.

        Raises:
            ObjectBusy: Another says so, too: this one was stopped, and taken for dead.
        """
        with self._guard:
            self.lock, self._state = replace(self.lock, dead=dead), "writing"
        if self.lock.token not in _tokens(self._signs):
            raise _refusal(self.lock.folder)
        self.put()
        if _is_lost(self._signs, self.lock, self._state):
            raise _refusal(self.lock.folder)

    def beat(self) -> None:
        """Renew it until the end or until it is lost; storage may fail meanwhile."""
        while not self.has_ended.wait(self._beat_s):
            try:
                if _is_lost(self._signs, self.lock, self._state):
                    # A beat that was stopped on its way may have put the sign there again.
                    self.remove()
                    return
                self.put()
            except StoreError as exc:
                log.debug("no sign of life: %s", exc)

    def remove(self) -> None:
        """Take it away, and on a disk the folder with it."""
        try:
            self._signs.remove(f"{self.lock.token}{_SUFFIX}")
        except StoreError as exc:
            log.warning("%s; it is taken for dead in a while", exc)
        if (path := self._signs.local) is not None:
            for folder in (path, path.parent):
                with suppress(OSError):  # it holds something
                    folder.rmdir()


def _refusal(folder: Folder) -> ObjectBusy:
    hint = "wait for it to end, or stop it and repeat"
    return ObjectBusy(str(folder), "another conversion is writing there", hint)
