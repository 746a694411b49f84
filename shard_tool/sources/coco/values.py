"""Checks and shows values of decoded JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_NUMBERS = frozenset((int, float))
_MOST_SHOWN = 60
"""Characters of a value in messages."""


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether all are numbers; true and false are none.

    >>> are_numbers([1, 2.5]), are_numbers([1, True]), are_numbers([1, "2"])
    (True, False, False)
    """
    return _NUMBERS.issuperset(map(type, values))


def shown(value: object) -> str:
    """A value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
