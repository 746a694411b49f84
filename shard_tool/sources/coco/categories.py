"""Reads the categories of COCO JSON, and says which ids and names several files agree on."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shard_tool.errors import SourceError
from shard_tool.sources.coco.values import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


class Category(NamedTuple):
    """A category as its file writes it."""

    id: int
    name: str
    parent: str | None
    """Its `supercategory`."""


def read_categories(raws: Sequence[msgspec.Raw], place: str) -> tuple[Category, ...]:
    """The categories of a file, in its order; one that is there twice once.

    Args:
        raws: The JSON of each.
        place: The file, for messages.

    Raises:
        SourceError: One has no id or no name, or two share either.
    """
    found: dict[int, Category] = {}
    by_name: dict[str, Category] = {}
    for number, raw in enumerate(raws):
        one = _category(raw, f"{place}: categories[{number}]")
        other = found.setdefault(one.id, one)
        if other.name != one.name:
            problem = f"the categories {other.name!r} and {one.name!r} have one id, {one.id}"
            raise SourceError(place, problem, "give each category an id of its own")
        its = by_name.setdefault(one.name, one)
        if its.id != one.id:
            problem = f"the categories {its.id} and {one.id} have one name, {one.name!r}"
            hint = "give them two names, or one id: classes are known by their names"
            raise SourceError(place, problem, hint)
    return tuple(found.values())


def _category(raw: msgspec.Raw, place: str) -> Category:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise SourceError(place, f"cannot be read: {exc}") from exc
    if type(value) is not dict:
        raise SourceError(place, f"is {shown(value)}, expected an object with id and name")
    id_, name, parent = value.get("id"), value.get("name"), value.get("supercategory")
    number = _whole(id_)
    if number is None:
        raise SourceError(place, f"has the id {shown(id_)}, expected a whole number")
    if type(name) is int:  # digits that are classes, written without quotes
        name = str(name)
    if type(name) is not str or not name.strip():
        raise SourceError(place, f"has the name {shown(name)}, expected text")
    return Category(number, name, parent if type(parent) is str else None)


def _whole(value: object) -> int | None:
    """The whole number that a value is or spells; None if it is none."""
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return value if type(value) is int and abs(value) < 1 << 63 else None


def category_text(id_: object) -> str:
    """The id of a category as text: 3, 3.0 and "3" are one.

    >>> category_text(3), category_text(3.0), category_text("03"), category_text("x")
    ('3', '3', '3', 'x')
    """
    number = _whole(id_)
    return f"{id_}" if number is None else f"{number}"


def is_agreed(one: Iterable[Category], other: Iterable[Category]) -> bool:
    """Whether two files give no name two ids and no id two names."""
    ids = {category.name: category.id for category in one}
    names = {id_: name for name, id_ in ids.items()}
    return all(
        ids.get(its.name, its.id) == its.id and names.get(its.id, its.name) == its.name
        for its in other
    )


def parents_alone(files: Iterable[Sequence[Category]], used: Collection[str]) -> set[str]:
    """Names of categories that no object has, and that are the parents of others."""
    every = [category for its in files for category in its]
    parents = {category.parent for category in every if category.parent != category.name}
    return {its.name for its in every if its.name in parents and its.name not in used}


def digest_of(categories: Iterable[Category]) -> str:
    """Names what categories a document's numbers mean; also tells changed categories apart."""
    told = "\n".join(f"{its.id} {its.name!r}" for its in sorted(categories))
    return sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]
