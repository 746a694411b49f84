"""The kit's covering arrays: every possible pair of values meets, in few rows."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.kit.covering import Row, pairwise

OPTIONS = st.lists(st.integers(1, 5), min_size=2, max_size=6).map(
    lambda counts: {f"option {n}": list(range(count)) for n, count in enumerate(counts)}
)


def pairs_of(row: Row) -> set[tuple[tuple[str, Any], ...]]:
    return set(combinations(sorted(row.items()), 2))


@given(OPTIONS)
def test_every_pair_of_values_meets_in_some_row(options: dict[str, list[int]]) -> None:
    rows = pairwise(options)
    found = set().union(*(pairs_of(row) for row in rows))
    names = sorted(options)
    assert found == {
        ((first, x), (second, y))
        for first, second in combinations(names, 2)
        for x in options[first]
        for y in options[second]
    }
    assert all(row.keys() == options.keys() for row in rows)


@given(OPTIONS)
def test_rows_are_few_and_none_is_in_vain(options: dict[str, list[int]]) -> None:
    rows = pairwise(options)
    longest, second = sorted(map(len, options.values()), reverse=True)[:2]
    assert longest * second <= len(rows) <= 2 * longest * second + 2
    for n, row in enumerate(rows):
        assert pairs_of(row) - set().union(*(pairs_of(other) for other in rows[:n]))


def test_rows_are_always_the_same() -> None:
    rows = pairwise({"a": "xy", "b": (0, 1), "c": (None, 2.5)})
    assert rows == [
        {"a": "x", "b": 0, "c": None},
        {"a": "x", "b": 1, "c": 2.5},
        {"a": "y", "b": 0, "c": 2.5},
        {"a": "y", "b": 1, "c": None},
    ]


@given(OPTIONS)
def test_what_is_impossible_occurs_nowhere_and_all_else_does(options: dict[str, list[int]]) -> None:
    """Values 1 of the first two options do not go together; value 0 always does."""

    def is_possible(row: Row) -> bool:
        return not (row.get("option 0") == row.get("option 1") == 1)

    rows = pairwise(options, is_possible=is_possible)
    found = set().union(*(pairs_of(row) for row in rows))
    impossible = (("option 0", 1), ("option 1", 1))
    assert found == set().union(*(pairs_of(row) for row in pairwise(options))) - {impossible}
    assert all(is_possible(row) for row in rows)
