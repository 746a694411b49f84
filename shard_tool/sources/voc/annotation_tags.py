"""Reads the values of an annotation's tags: texts, numbers and flags, however tools spell them.

**Flags** are `difficult`, `truncated`, `occluded` and `segmented`. VOC writes 0 and 1; a missing or
empty one is not known (None). Other values have one meaning each, and are noted:

| written | means | by |
|---|---|---|
| `true`, `yes`; `false`, `no`; any case | as it says | scripts, tags of Supervisely |
| a number above 0 (`1.0`, `2`, `0.87`) | true: a degree or a confidence | KITTI's converters |
| `0.0` | false | CVAT's number attributes |
| `Unspecified`, `Unknown`, `None`, `null`; any case | not known | BBox-Label-Tool's converters |

Anything else is an error, numbers below 0 too.

**Tags in another case** (`<Difficult>`, `<xMin>`) are read as the tag. **A tag twice** is noted: a
value that says what an object is must be equal both times; of a flag or remark the later counts,
because Supervisely writes its default first and then the value that somebody set.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shard_tool.errors import AnnotationError
from shard_tool.sources.notes import Note

if TYPE_CHECKING:
    from collections.abc import Set
    from xml.etree.ElementTree import Element

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WORDS = {"true": True, "yes": True, "false": False, "no": False} | dict.fromkeys(
    ("unspecified", "unknown", "none", "null")
)
_REPEATED = {"object", "objects", "part", "polygon", "attributes"}
"""Tags that may be there several times: `children` finds all."""
_LATER_COUNTS = {
    *("difficult", "truncated", "occluded", "segmented", "pose"),
    *("folder", "filename", "path", "source", "owner", "depth"),
}
_SHOWN = 40
"""Characters of a value in a note."""


@dataclass(slots=True)
class Reading:
    """The file that is being read, and what there is to say of it."""

    place: str
    notes: list[Note]
    object_index: int | None = field(default=None)

    def note(self, code: str, detail: str = "") -> None:
        """Add a note on the file, or on the object that is being read."""
        self.notes.append(Note(code, self.place, detail, self.object_index))


def fields_of(
    node: Element, known: Set[str], where: str, reading: Reading, repeats: int = 0
) -> dict[str, Element]:
    """Map each tag to the node's direct child of that tag.

    Args:
        node: The parent.
        known: Tags in lower case. Another tag is left out if it looks like one of these in another
            case, which is read instead.
        where: Place of the node in errors.
        reading: Takes the notes.
        repeats: How many children repeat another's tag, as far as the caller knows.

    Raises:
        AnnotationError: A tag is there twice with different values.
    """
    found = {child.tag: child for child in node}
    if len(found) + repeats == len(node) and known >= found.keys():
        return found
    found = {}
    for child in node:
        tag = child.tag.lower()
        if tag not in known:
            continue
        if tag != child.tag:
            reading.note("tag-other-case", f"<{child.tag}>")
        earlier = found.get(tag)
        if earlier is None or tag in _REPEATED:
            found.setdefault(tag, child)
        else:
            found[tag] = _later(earlier, child, tag, where, reading)
    return found


def children(node: Element, tag: str) -> list[Element]:
    """All direct children of a tag, in any case."""
    return [child for child in node if child.tag == tag or child.tag.lower() == tag]


def text_of(fields: dict[str, Element], tag: str) -> str | None:
    """The stripped text of a child; None if missing or empty."""
    child = fields.get(tag)
    return ((child.text or "").strip() or None) if child is not None else None


def number_of(fields: dict[str, Element], tag: str, where: str, node: Element) -> float:
    """The finite number in a child.

    Raises:
        AnnotationError: The child is missing, empty or no number.
    """
    child = fields.get(tag)
    text = (child.text or "").strip() if child is not None else ""
    if len(text) < 16 and text.isdigit() and text.isascii():  # nearly all; the rest is slower
        return float(text)
    if not text:
        raise AnnotationError(where, f"<{node.tag}> has no <{tag}>")
    value = plain_number(text)
    if value is None:
        raise AnnotationError(where, f"<{tag}> is {text!r}, expected a number")
    return value


def plain_number(text: str) -> float | None:
    """The finite number that a text is; None if it is none.

    float() alone would accept '1_0' and digits of other scripts.
    """
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def flag_of(fields: dict[str, Element], tag: str, where: str, reading: Reading) -> bool | None:
    """The value of a flag; None if it is missing, empty or not known.

    Raises:
        AnnotationError: The value has no meaning.
    """
    child = fields.get(tag)
    if child is None:
        return None
    text = (child.text or "").strip()
    if text in {"0", "1"}:
        return text == "1"
    if not text:
        return None
    number = plain_number(text)
    if text.lower() not in _WORDS and (number is None or number < 0):
        problem = f"<{tag}> is {text[:_SHOWN]!r}, expected 0 or 1"
        raise AnnotationError(where, problem, "true, false, yes, no, Unspecified are understood")
    reading.note("flag-other-value", f"<{tag}> {text[:_SHOWN]!r}")
    return _WORDS[text.lower()] if number is None else number > 0


def _later(earlier: Element, later: Element, tag: str, where: str, reading: Reading) -> Element:
    values = _value(earlier), _value(later)
    if values[0] == values[1]:
        reading.note("tag-twice", f"<{tag}>")
        return earlier
    if tag not in _LATER_COUNTS:
        raise AnnotationError(where, f"has two <{tag}> that differ")
    first, second = ((node.text or "").strip()[:_SHOWN] for node in (earlier, later))
    reading.note("tag-twice", f"<{tag}> {first!r}, then {second!r}")
    return later


def _value(node: Element) -> list[tuple[str, str | float]]:
    """What an element holds, with numbers as numbers."""
    texts = [(child.tag.lower(), (child.text or "").strip()) for child in node.iter()]
    return sorted(
        (tag, text if plain_number(text) is None else repr(float(text))) for tag, text in texts
    )
