"""Decides which classes a dataset has, from the names that its sources hold and the user's options.

Names that are all VOC's give VOC's table. Other names give a table of their own, sorted. Where a
name may be a misspelling of another, or a stranger stands among VOC's names, the user is asked:
a wrong guess would be a class that nobody notices.
"""

from __future__ import annotations

import shlex
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from shard_tool.errors import DataError, OptionError
from shard_tool.format.class_names import classes_option
from shard_tool.format.sample import VOC_CLASSES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

_MOST_SHOWN = 12
_LEAST_LETTERS = 5
"""Names with fewer letters may differ by one and be different: cat, car, cap."""
_MOST_STRANGERS = 2
"""So many names beside more of VOC's look like mistakes, not like classes of their own."""


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset."""

    names: tuple[str, ...]
    """In label order: the first has label 1; 0 is background."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Name in the source to name of the class."""
    drops_others: bool = False
    """Whether objects of other classes are dropped; else they are errors."""

    @cached_property
    def labels(self) -> dict[str, int]:
        """Name to label, from 1."""
        return {name: label for label, name in enumerate(self.names, start=1)}

    @property
    def is_voc(self) -> bool:
        """Whether these are VOC's twenty classes."""
        return self.names == VOC_CLASSES


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOptions:
    """What the user says of classes.

    Raises:
        OptionError: A name is empty or given twice.
    """

    classes: tuple[str, ...] = ()
    """Names in label order; empty: decide by the names found."""
    other_classes: str = "fail"
    """'fail' or 'drop': what becomes of objects of other classes."""
    rename: tuple[tuple[str, str], ...] = ()
    """(old name, new name)."""

    def __post_init__(self) -> None:
        for number, name in enumerate(self.classes):
            if not name.strip():
                raise OptionError("--classes", "a name is empty")
            if name in self.classes[:number]:
                raise OptionError("--classes", f"{name!r} is given twice")
        olds = [old for old, _ in self.rename]
        for old, new in self.rename:
            if not old or not new.strip():
                raise OptionError("--rename", f"{old}={new} has an empty name")
            if olds.count(old) > 1:
                raise OptionError("--rename", f"{old!r} is renamed twice")


def decide_classes(
    counts: Mapping[str, int],
    options: ClassOptions,
    *,
    place: str,
    is_ordered: bool = False,
    declared: Sequence[str] = (),
) -> ClassTable:
    """Choose the class table.

    Args:
        counts: Name as the sources write it, to its number of objects.
        options: What the user says.
        place: The sources, for messages.
        is_ordered: Whether the order of names means something; else a table of own is sorted.
        declared: Names that sources list as their classes, in the order of the sources' ids. They
            begin the table, with or without objects, and are no misspellings of VOC's.

    Raises:
        DataError: The names leave a choice. The message lists them and gives the option.
        OptionError: An option names what no source has.
    """
    rename = dict(options.rename)
    counts = {**dict.fromkeys(declared, 0), **counts}
    if missing := [old for old in rename if old not in counts]:
        known = _listed(counts)
        raise OptionError("--rename", f"no object is called {missing[0]!r}", f"names: {known}")
    found: dict[str, int] = {}
    for name, count in counts.items():
        new = rename.get(name, name)
        found[new] = found.get(new, 0) + count
    drops = options.other_classes == "drop"
    if options.classes:
        others = [name for name in found if name not in options.classes and found[name]]
        if others and not drops:
            raise _not_in_table(others, found, options.classes, place)
        return ClassTable(options.classes, rename, drops)
    if declared:
        first = dict.fromkeys(rename.get(name, name) for name in declared)
        others = sorted(name for name in found if name not in first)
        if alike := _alike_declared(found, first):
            raise _undecided(found, [], alike, place, (*first, *others))
        return ClassTable((*first, *others), rename, drops)
    if not found or all(name in VOC_CLASSES for name in found):
        return ClassTable(VOC_CLASSES, rename, drops)
    strangers = [name for name in found if name not in VOC_CLASSES]
    of_voc = [name for name in found if name in VOC_CLASSES]
    alike = _alike(found)
    is_mixture = len(strangers) <= _MOST_STRANGERS and len(of_voc) > len(strangers)
    if is_mixture and drops:
        return ClassTable(VOC_CLASSES, rename, drops)
    if is_mixture or alike:
        order = tuple(found if is_ordered else sorted(found))
        raise _undecided(found, strangers if is_mixture else [], alike, place, order)
    return ClassTable(tuple(found if is_ordered else sorted(found)), rename, drops)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a name differs from by case, blanks, form or one letter alone."""
    return next((other for other in known if other != name and _is_alike(name, other)), None)


def _is_alike(one: str, other: str) -> bool:
    plain, its = _plain(one), _plain(other)
    if plain == its:
        return True
    if min(len(plain), len(its)) < _LEAST_LETTERS or abs(len(plain) - len(its)) > 1:
        return False
    return _differs_by_a_letter(plain, its)


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in folded if letter not in " _-\t\n\r\xa0")


def _differs_by_a_letter(one: str, other: str) -> bool:
    """Whether one inserted, missing or other letter, or two swapped ones, is all the difference.

    A digit is not a letter: class1 and class2 are two classes.
    """
    short, long = sorted((one, other), key=len)
    at = next(
        (i for i, pair in enumerate(zip(short, long, strict=False)) if len(set(pair)) > 1),
        len(short),
    )
    if len(short) < len(long):
        return long[at].isalpha() and short[at:] == long[at + 1 :]
    changed = short[at], long[at]
    if all(letter.isalpha() for letter in changed) and short[at + 1 :] == long[at + 1 :]:
        return True
    swapped = short[at + 1 : at + 2] + short[at : at + 1]
    return swapped == long[at : at + 2] and short[at + 2 :] == long[at + 2 :] and swapped.isalpha()


def _alike(
    counts: Mapping[str, int], known: Collection[str] = VOC_CLASSES
) -> list[tuple[str, str]]:
    """Pairs of (rarer name, more frequent or known name) that look like one class."""
    names = sorted(counts, key=lambda name: (name not in known, -counts[name], name))
    every = dict.fromkeys((*names, *known))
    ranks = {name: rank for rank, name in enumerate(names)}
    by_key: dict[str, list[str]] = {}
    for name in every:
        for key in _keys(name):
            by_key.setdefault(key, []).append(name)
    found = []
    for name in names:
        near = dict.fromkeys(other for key in _keys(name) for other in by_key[key])
        above = [its for its in near if ranks.get(its, len(names)) < ranks[name]]
        others = sorted(above, key=lambda its: ranks[its])
        if name not in known:
            others += [its for its in near if its not in ranks]
        if (other := nearest(name, others)) is not None:
            found.append((name, other))
    return found


def _alike_declared(counts: Mapping[str, int], declared: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of names that look like one class: whoever declared both meant two, but for blanks."""
    pairs = _alike(counts, known=())
    return [
        (one, other)
        for one, other in pairs
        if one not in declared or other not in declared or _plain(one) == _plain(other)
    ]


def _keys(name: str) -> set[str]:
    """Names that differ by one letter share one of these: the name, or it without a letter."""
    plain = _plain(name)
    return {plain, *(plain[:at] + plain[at + 1 :] for at in range(len(plain)))}


def _listed(counts: Mapping[str, int]) -> str:
    order = sorted(counts, key=lambda name: (-counts[name], name))
    shown = ", ".join(f"{name!r} ({counts[name]})" for name in order[:_MOST_SHOWN])
    return shown + (f" and {len(order) - _MOST_SHOWN} more" if len(order) > _MOST_SHOWN else "")


def _undecided(
    counts: Mapping[str, int],
    strangers: Sequence[str],
    alike: Sequence[tuple[str, str]],
    place: str,
    order: Sequence[str],
) -> DataError:
    """The error for names that look like mistakes; gives both ways out as options to add.

    `order` is that of the table if all names are taken as they are.
    """
    told = [f"{name!r} ({counts[name]}) looks like {other!r}" for name, other in alike]
    others = [name for name in strangers if name not in {one for one, _ in alike}]
    told += [
        f"{name!r} ({counts[name]}) is none of VOC's classes, which the others are"
        for name in others
    ]
    problem = f"{'; '.join(told)} [all names: {_listed(counts)}]"
    renames = [_rename(one, other) for one, other in alike if "=" not in one]
    if alike and others:
        purpose = "to merge those that look alike and leave out the others"
    else:
        purpose = "to merge them" if alike else "to leave them out"
    options = " ".join([*renames, *(["--other-classes drop"] if others else [])])
    all_names = f"add {classes_option(order)} to take all names as they are"
    is_way = len(renames) == len(alike)  # --rename takes no name with an equals sign
    hint = f"add {options} {purpose}, or {all_names}" if is_way else all_names
    return DataError(place, problem, hint)


def _rename(old: str, new: str) -> str:
    return f"--rename {shlex.quote(f'{old}={new}')}"


def _not_in_table(
    others: Sequence[str], counts: Mapping[str, int], classes: Sequence[str], place: str
) -> DataError:
    told = []
    for name in sorted(others, key=lambda name: -counts[name])[:_MOST_SHOWN]:
        near = nearest(name, classes)
        told.append(f"{name!r} ({counts[name]})" + (f", which looks like {near!r}" if near else ""))
    renames = [
        _rename(name, near)
        for name in others
        if "=" not in name and (near := nearest(name, classes))
    ]
    more = f" and {len(others) - _MOST_SHOWN} more" if len(others) > _MOST_SHOWN else ""
    problem = f"objects have names that --classes lacks: {'; '.join(told)}{more}"
    ways = [f"add {' '.join(renames)}"] if renames else []
    ways.append("add --other-classes drop to leave them out")
    return DataError(place, problem, ", or ".join(ways))
