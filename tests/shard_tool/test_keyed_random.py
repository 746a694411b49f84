"""Two keys never give the same numbers, and one key always gives the same."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shard_tool import keyed_random
from shard_tool.keyed_random import digest_of, permutation, philox, seed_of

# Text made of what the encoding itself is made of, to provoke collisions.
tricky_text = st.text("int:str|1-", max_size=12)
keys = st.lists(st.integers() | tricky_text, max_size=4).map(tuple)
M0, M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
W0, W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
MASK = (1 << 64) - 1

# Golden values. They decide which sample stands where: whoever changes them breaks the resumption
# of every run in the world, and must say so in the changelog and raise the cursor's version.
GOLDEN_DIGESTS: dict[tuple[int | str, ...], str] = {
    (): "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    (0,): "a77bdd9eb2536e0edbf1a7e063108475bcc69acc237eab7754dee7a5fdfd6982",
    ("shards", 0): "a943134017eb10dc8ff260cda551471d467b96b3bf13ed87c04ae266f0106cdc",
    ("window", 1, 0, 2, 3): "823747184076445365b4d0690a46acd80db688f23bd076c3696805ec1988c41d",
    (
        "transform",
        0,
        0,
        -1,
        "é",
    ): "3483a523dfdc3c150b2e97359f13063d8f39737ed3fa6803b6ec4c533e6d68a8",
}
GOLDEN_PERMUTATIONS: dict[tuple[int, tuple[int | str, ...]], list[int]] = {
    (1, ("golden",)): [0],
    (10, ("golden", 0)): [7, 6, 9, 0, 8, 1, 3, 2, 5, 4],
    (10, ("golden", 1)): [4, 8, 0, 3, 7, 6, 9, 5, 1, 2],
    (16, (0, 1)): [10, 4, 3, 0, 5, 15, 12, 13, 1, 8, 2, 7, 9, 14, 6, 11],
    (16, (1, 0)): [4, 15, 6, 14, 11, 1, 13, 0, 3, 10, 7, 8, 12, 5, 2, 9],
}
GOLDEN_LARGE = "a89679deaa447c286eec86cc7092f07263ccd4aefde3e8997cbd6d9ba23df851"


def published_philox(key: tuple[int, int], num_words: int) -> list[int]:
    """Philox4x64-10 straight from Salmon et al. 2011, counters 1, 2, 3, …"""
    words: list[int] = []
    for counter in itertools.count(1):
        c, (k0, k1) = [counter, 0, 0, 0], key
        for _ in range(10):
            high0, low0 = divmod(M0 * c[0], 1 << 64)
            high1, low1 = divmod(M1 * c[2], 1 << 64)
            c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
            k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
        words += c
        if len(words) >= num_words:
            return words[:num_words]
    raise AssertionError


@given(st.lists(keys, unique=True, min_size=2, max_size=30))
@example([(1, 23), (12, 3)])
@example([(1,), ("1",)])
@example([("ab", "c"), ("a", "bc")])
@example([(), ("",)])
@example([("1|int:1:2",), ("1", 2)])
@example([(1, 0), (0, 1)])
def test_digest_of_differs_for_different_keys(distinct: list[tuple[int | str, ...]]) -> None:
    assert len({digest_of(key) for key in distinct}) == len(distinct)


def test_key_of_numpy_integers_is_that_of_equal_python_integers() -> None:
    """Otherwise a seed from an array would silently give another order."""
    assert digest_of((np.int64(7), "a", np.uint8(3))) == digest_of((7, "a", 3))  # type: ignore[arg-type]


@given(st.integers(0, 400), keys)
def test_permutation_is_a_permutation_for_any_length_and_key(
    length: int, key: tuple[int | str, ...]
) -> None:
    found = permutation(length, key)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(length))


@pytest.mark.parametrize("key", [("a",), (1, 2, 3), ("window", 0, 5, 1, 12)])
def test_permutation_sorts_the_words_of_the_published_philox(key: tuple[int | str, ...]) -> None:
    """This reference is written from the paper, so the order needs no promise of NumPy's."""
    digest = hashlib.sha256(_encoded(key)).digest()
    assert digest == digest_of(key)
    halves = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    words = published_philox(halves, 50)
    assert philox(key).random_raw(50).tolist() == words
    assert permutation(50, key).tolist() == sorted(range(50), key=words.__getitem__)


def _encoded(key: tuple[int | str, ...]) -> bytes:
    return b"|".join(
        f"{'str' if isinstance(part, str) else 'int'}:{len(str(part))}:{part}".encode()
        for part in key
    )


def test_permutation_keeps_the_order_of_equal_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tied:
        def random_raw(self, length: int) -> np.ndarray:
            return (np.arange(length, dtype=np.uint64) // 40 + 1) % 3

    monkeypatch.setattr(keyed_random, "philox", lambda _key: Tied())
    words = Tied().random_raw(120).tolist()
    assert permutation(120, ("any",)).tolist() == sorted(range(120), key=words.__getitem__)


def test_permutations_of_many_keys_take_every_form_equally_often() -> None:
    forms = Counter(tuple(permutation(3, ("uniform", number)).tolist()) for number in range(1200))
    assert len(forms) == 6
    assert max(abs(count - 200) for count in forms.values()) < 60  # 4.6 standard deviations


@given(keys)
def test_seed_of_is_an_unsigned_63_bit_integer_of_the_digest(key: tuple[int | str, ...]) -> None:
    assert seed_of(key) == int.from_bytes(digest_of(key)[:8], "little") // 2
    assert 0 <= seed_of(key) < 1 << 63


def test_digest_of_is_pinned() -> None:
    found = {key: digest_of(key).hex() for key in GOLDEN_DIGESTS}
    assert found == GOLDEN_DIGESTS


def test_permutation_is_pinned() -> None:
    found = {key: permutation(length, key).tolist() for (length, key) in GOLDEN_PERMUTATIONS}
    assert found == {key: value for (_, key), value in GOLDEN_PERMUTATIONS.items()}


def test_permutation_of_a_large_length_is_pinned() -> None:
    """Longer than any block that a sort may treat specially."""
    found = permutation(100_000, ("golden", "large"))
    digest = hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()
    assert digest == GOLDEN_LARGE
