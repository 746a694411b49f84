"""Covering arrays: few rows of options in which every pair of values meets.

A fault of a program with many options mostly needs two of them at once. All combinations of eight
options would take days; all pairs take as many rows as the two longest options have pairs of
values, and a few more.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Row = dict[str, Any]
"""One value of each option."""
Choice = tuple[str, int]
"""An option and the number of one of its values."""
Pair = tuple[Choice, Choice]


def pairwise(
    options: Mapping[str, Sequence[Any]],
    *,
    is_possible: Callable[[Row], bool] = lambda _: True,
) -> list[Row]:
    """Rows in which each possible pair of values of two options occurs at least once.

    Greedy, and always the same rows for the same options: each row begins with the first pair not
    yet seen, and gives every other option the value that brings the most pairs not yet seen.

    Args:
        options: Name to values, at least two options.
        is_possible: Whether these values go together; asked of incomplete rows, too. A pair it
            refuses is not required. It must leave every other pair a way to be completed.
    """

    def values(choices: Mapping[str, int]) -> Row:
        return {name: options[name][number] for name, number in choices.items()}

    missing = [pair for pair in _pairs(options) if is_possible(values(dict(pair)))]
    rows = []
    while missing:
        wanted, chosen = set(missing), dict(missing[0])
        for name in sorted(options, key=lambda name: -len(options[name])):
            if name not in chosen:
                chosen[name] = _best(name, len(options[name]), chosen, wanted, values, is_possible)
        met = set(combinations(sorted(chosen.items()), 2))
        missing = [pair for pair in missing if pair not in met]
        rows.append({name: values(chosen)[name] for name in options})
    return rows


def _pairs(options: Mapping[str, Sequence[Any]]) -> list[Pair]:
    """All pairs of choices, each in the order of the options' names."""
    return [
        ((first, i), (second, j))
        for first, second in combinations(sorted(options), 2)
        for i, j in product(range(len(options[first])), range(len(options[second])))
    ]


def _best(
    name: str,
    count: int,
    chosen: Mapping[str, int],
    wanted: set[Pair],
    values: Callable[[Mapping[str, int]], Row],
    is_possible: Callable[[Row], bool],
) -> int:
    """The value of an option with the most wanted pairs; the first of equals."""
    possible = [n for n in range(count) if is_possible(values({**chosen, name: n}))]
    assert possible, f"nothing possible is left for {name!r} beside {values(chosen)}"

    def num_wanted(number: int) -> int:
        pairs = (tuple(sorted([(name, number), other])) for other in chosen.items())
        return sum(pair in wanted for pair in pairs)

    return max(possible, key=num_wanted)
