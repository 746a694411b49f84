"""Contents that tests publish, how they do it, and the faults that an upload survives."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shard_tool.storage.location import Folder
    from tests.kit.faults.kinds import Kind

CONTENT = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(3_000))
MIB = 1 << 20
LONG = hashlib.shake_256(b"long").digest(12 * MIB + 5)
"""Uploaded in three parts where a test asks for parts."""
TIMEOUT_S = 60.0
"""No run comes near it."""


PASSING: list[Kind] = ["internal-error", "slow-down", "reset-before-headers", "lost-answer"]


def publish(folder: Folder, name: str, content: bytes) -> None:
    with folder.publish(name) as file:
        file.write(content)
