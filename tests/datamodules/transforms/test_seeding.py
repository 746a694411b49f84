"""A user's transform draws the same by the same key, and global generators are restored."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from datamodules.transforms.seeding import preserved_generators, seed_generators
from shard_tool.keyed_random import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# ruff: noqa: NPY002, TID251  (the global generators are what is under test)


@contextmanager
def seeded_generators(*key: int | str) -> Iterator[None]:
    """Seeded inside the block, restored after it: as a dataset does it for each sample."""
    with preserved_generators():
        seed_generators(digest_of(key))
        yield


def draws() -> list[Any]:
    return [
        torch.rand(3).tolist(),
        torch.randperm(9).tolist(),
        np.random.rand(3).tolist(),
        np.random.standard_normal(2).tolist(),  # a pair, so that no second one is kept
        np.random.permutation(9).tolist(),
        random.random(),
        random.sample(range(99), 5),
        random.gauss(0, 1),
    ]


def reseed() -> None:
    torch.default_generator.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


def test_seeded_generators_give_the_same_draws_for_the_same_key() -> None:
    reseed()
    with seeded_generators("transform", 0, 3, 17):
        first = draws()
    draws()
    with seeded_generators("transform", 0, 3, 17):
        assert draws() == first


def test_seeded_generators_give_other_draws_for_another_key() -> None:
    keys = [("t", 0, 1), ("t", 1, 0), ("t", 0, 2), ("u", 0, 1)]
    found = []
    for key in keys:
        with seeded_generators(*key):
            found.append(draws())
    columns = [{repr(draw) for draw in column} for column in zip(*found, strict=True)]
    assert [len(column) for column in columns] == [len(keys)] * len(columns)


def test_seeds_are_pinned() -> None:
    """Other seeds change everybody's augmentations in mid-run: the changelog must say so.

    NumPy's and Python's words are promised by them; torch's are not, hence only its seed.
    """
    with seeded_generators("golden", 0):
        found = (torch.initial_seed(), np.random.randint(2**31, size=3).tolist(), random.random())
    assert found == GOLDEN


GOLDEN = (7115111193198862071, [1050653726, 1245917756, 1066862209], 0.6239176762664399)


def test_seeded_generators_are_restored_afterwards() -> None:
    reseed()
    expected = [draws(), draws()]
    reseed()
    found = [draws()]
    with seeded_generators("any"):
        draws()
    found.append(draws())
    assert found == expected


def test_seeded_generators_are_restored_after_an_exception() -> None:
    def failing() -> None:
        with seeded_generators("any"):
            draws()
            raise KeyError

    reseed()
    expected = [draws(), draws()]
    reseed()
    found = [draws()]
    with pytest.raises(KeyError):
        failing()
    found.append(draws())
    assert found == expected


def test_seeded_generators_contain_what_a_transform_seeds_itself() -> None:
    reseed()
    expected = [draws(), draws()]
    reseed()
    found = [draws()]
    with seeded_generators("any"):
        np.random.seed(0)
        random.seed(0)
        torch.default_generator.manual_seed(0)
        draws()
    found.append(draws())
    assert found == expected


def test_seeded_generators_keep_the_normal_number_that_numpy_drew_ahead() -> None:
    """NumPy's global generator draws normal numbers in pairs and keeps the second."""
    np.random.seed(5)
    expected = [np.random.standard_normal() for _ in range(4)]
    np.random.seed(5)
    found = [np.random.standard_normal()]
    with seeded_generators("any"):
        np.random.standard_normal()
    found += [np.random.standard_normal() for _ in range(3)]
    assert found == expected


def test_seeded_generators_do_not_pass_a_normal_number_from_one_key_to_the_next() -> None:
    with seeded_generators("b"):
        expected = np.random.standard_normal()
    with seeded_generators("a"):
        np.random.standard_normal()  # the second of its pair is kept
    with seeded_generators("b"):
        assert np.random.standard_normal() == expected


def test_seeded_generators_nest() -> None:
    """A transform may read another sample of the dataset with its transform (mosaic)."""
    with seeded_generators("outer"):
        expected = [draws(), draws()]
    with seeded_generators("inner"):
        expected_inside = draws()
    with seeded_generators("outer"):
        found = [draws()]
        with seeded_generators("inner"):
            inside = draws()
        found.append(draws())
    assert inside == expected_inside
    assert found == expected
