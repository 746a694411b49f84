"""One object in a store behind a fault proxy, and the ways to read its bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shard_tool.storage.location import Folder
    from tests.kit.faults.kinds import Kind
    from tests.kit.servers.fault_proxy import FaultProxy

NAME = "train-000000.tar"
CONTENT = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(625))
PART = 4_000
"""Bytes of a part where a test reads several: a fifth of the content."""
SECRET = "tr0ub4dor"
TIMEOUT_S = 60.0
"""No run comes near a quarter of it, after which an attempt counts as stalled: on a busy machine
a slow answer would be asked for twice, and these tests count requests."""
STALLED_S = 8.0
"""The time limit where something stalls, which costs a quarter of it."""
SHORT_S = 0.6
"""The time limit where it is reached."""
LONGEST_PAUSE_S = 8.0
MOST_ATTEMPTS = 5
"""Attempts in `SHORT_S` with the shortest pauses: after 0.05, 0.1, 0.2 and 0.4 s it is over."""
IN_BODIES = {"cut-fin", "cut-rst", "chunked-cut", "unframed-cut", "short-body"}
"""Faults with a place in the body; a stall has one, too, and takes two seconds each time."""

BREAKS: list[Kind] = [
    "cut-fin",
    "cut-rst",
    "chunked-cut",
    "stall",
    "reset-before-headers",
    "lost-answer",
    "internal-error",
    "slow-down",
]
"""Faults after which it may go better; a lasting one is an error when the time is up."""
WRONG: list[Kind] = ["short-body", "unframed-cut", "html-200"]
"""Answers that look whole and have another length."""


@dataclass
class Store:
    """One object somewhere, as the code under test reaches it and as the test does."""

    folder: Folder
    put: Callable[[bytes], object]
    proxy: FaultProxy

    @property
    def ranges_asked(self) -> list[tuple[int, int | None] | None]:
        return [request.range for request in self.proxy.requests]


def afresh(store: Store) -> Store:
    store.proxy.clear()
    store.proxy.on_request, store.proxy.latency_s = None, 0.0
    store.put(CONTENT)
    store.proxy.reset()
    return store


def patient_with(store: Store, kind: Kind) -> Folder:
    """The folder, with the time limit for a fault."""
    return replace(store.folder, timeout_s=STALLED_S) if kind == "stall" else store.folder


def read_part(folder: Folder, start: int = 5_000, stop: int = 9_000) -> bytes:
    (content,) = folder.read_ranges([(NAME, start, stop)])
    return content


def read_in_parts(folder: Folder, start: int = 0, stop: int = len(CONTENT)) -> Iterator[bytes]:
    return folder.read_parts(NAME, start, stop, num_bytes=len(CONTENT))
