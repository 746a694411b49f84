"""Randomness that is a pure function of a key: the one place where a seed becomes numbers.

Keys are tuples, never sums: (seed 1, epoch 0) and (seed 0, epoch 1) are different keys. The
generator is Philox 4x64, whose raw words are fixed by its published algorithm (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011); NumPy promises those words, but not the
stream of ``Generator.permutation``, which is therefore never used.
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
    """32 bytes that identify a key: SHA-256 of an encoding no two keys share.

    Each part is written with its type and length, so ("1",) differs from (1,) and
    ("ab", "c") from ("a", "bc").

    >>> digest_of((1, 23)) == digest_of((12, 3))
    False
    """
    plain = [part if isinstance(part, str) else index(part) for part in key]  # NumPy's too
    parts = [f"{type(part).__name__}:{len(str(part))}:{part}" for part in plain]
    return hashlib.sha256("|".join(parts).encode()).digest()


def seed_of(key: tuple[KeyPart, ...]) -> int:
    """An unsigned 63-bit integer for generators that want one number."""
    return int.from_bytes(digest_of(key)[:8], "little") >> 1


def philox(key: tuple[KeyPart, ...]) -> np.random.Philox:
    """A Philox 4x64 bit generator at counter 0, keyed by the first 128 bits of `digest_of(key)`."""
    return np.random.Philox(key=np.frombuffer(digest_of(key)[:16], dtype="<u8"))


def permutation(length: int, key: tuple[KeyPart, ...]) -> NDArray[np.int64]:
    """A permutation of range(length): the stable argsort of `length` raw Philox words.

    Returns:
        int64 [length]. Equal words (chance about length² / 2⁶⁵) keep their order, which is why
        the sort must be stable.

    >>> permutation(6, ("golden", 0)).tolist() == permutation(6, ("golden", 0)).tolist()
    True
    """
    words = philox(key).random_raw(length)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)
