"""Turns a key, such as (seed, epoch), into random numbers; the same key always gives the same ones.

A key is a tuple, never a sum: (seed 1, epoch 0) and (seed 0, epoch 1) differ. The generator is
Philox 4x64. Its published algorithm fixes its raw words (Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3", 2011). NumPy promises these words, but not the stream of
``Generator.permutation``, so nothing here uses that.
"""

from __future__ import annotations

import hashlib
from operator import index
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

KeyPart: TypeAlias = int | str


def digest_of(key: tuple[KeyPart, ...]) -> bytes:
    """Digest a key: SHA-256 of an encoding that no two keys share; 32 bytes.

    The encoding has the type and the length of each part, so ("1",) differs from (1,) and
    ("ab", "c") from ("a", "bc").

    >>> digest_of((1, 23)) == digest_of((12, 3))
    False
    """
    plain = [part if isinstance(part, str) else index(part) for part in key]  # NumPy's too
    parts = [f"{type(part).__name__}:{len(str(part))}:{part}" for part in plain]
    return hashlib.sha256("|".join(parts).encode()).digest()


def seed_of(key: tuple[KeyPart, ...]) -> int:
    """Make an unsigned 63-bit integer of a key, for generators that take one number."""
    return int.from_bytes(digest_of(key)[:8], "little") >> 1


def philox(key: tuple[KeyPart, ...]) -> np.random.Philox:
    """Make a Philox 4x64 bit generator at counter 0; its key is 128 bits of `digest_of(key)`."""
    return np.random.Philox(key=np.frombuffer(digest_of(key)[:16], dtype="<u8"))


def permutation(length: int, key: tuple[KeyPart, ...]) -> NDArray[np.int64]:
    """Permute range(length) by a stable argsort of `length` raw Philox words.

    Returns:
        int64 [length]. Equal words (chance about length² / 2⁶⁵) keep their order, because the sort
        is stable.

    >>> permutation(6, ("golden", 0)).tolist() == permutation(6, ("golden", 0)).tolist()
    True
    """
    words = philox(key).random_raw(length)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)
