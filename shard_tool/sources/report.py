"""Counts what readers and conversion met, by code, with a few examples of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shard_tool.sources.notes import MEANINGS as OF_NOTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shard_tool.sources.notes import Note

MOST_EXAMPLES = 3

MEANINGS: dict[str, str] = {
    # What was read otherwise than written, or left out
    "annotation-without-picture": "annotations have no picture: left out",
    "background": "pictures have an annotation without objects: background",
    "box-clipped": "boxes left the picture by a pixel at most: clipped",
    "content-other-than-name": "pictures have another format than their suffix says: named by "
    "content",
    "exif-baked": "pictures were turned upright by their EXIF orientation and encoded again",
    "exif-ignored": "pictures have an EXIF orientation that their annotations do not follow: "
    "ignored",
    "exif-upright": "pictures have an EXIF orientation that their annotations follow: readers turn "
    "them",
    "hidden": "files are hidden (the name begins with a dot, or lies in __MACOSX): not read",
    "in-no-list": "pictures are in no list: left out",
    "in-other-list": "pictures are in lists of other names alone, which --split takes: left out",
    "list-line-other": "lines of lists hold more than an id: understood",
    "list-name-twice": "names are in a list twice: taken once",
    "mask-by-color": "masks were read by their colours and written as class ids",
    "mask-by-value": "masks have a palette of other colours: their values were taken as class ids",
    "mask-void-alone": "masks hold 0 and 255 (void) alone, no class: is 255 a class there?",
    "member-twice": "members are in the archive twice, with the same bytes: taken once",
    "name-encoded": "names hold what no key can: percent-encoded",
    "name-with-backslash": "members have back-slashes in their names: read as slashes",
    "picture-apart": "pictures lie apart from all that is annotated: left out",
    "picture-recoded": "pictures are of a format that few readers know: written as PNG",
    "size-absent": "annotations do not say the picture's size: the picture's was taken",
    "size-ignored": "annotations say another size than their picture has: ignored "
    "(--size-mismatch ignore)",
    "size-scaled": "boxes were scaled from the declared size to the picture's (--size-mismatch "
    "scale)",
    "unlabelled": "pictures have no annotation: left out (--unlabelled background takes them)",
    "unlabelled-background": "pictures have no annotation: taken as background",
    # What was dropped because an option says so
    "bad-box-clipped": "boxes outside were clipped (--bad-boxes clip)",
    "bad-box-dropped": "objects with a bad box were dropped (--bad-boxes drop)",
    "bad-object-dropped": "bad objects were dropped (--on-bad-record skip)",
    "bad-record-skipped": "bad records were skipped (--on-bad-record skip)",
    "other-class-dropped": "objects of other classes were dropped (--other-classes drop)",
    "renamed": "objects were renamed (--rename)",
}
"""Code to a sentence that goes on from a number."""


LEFT_OUT = {
    "annotation-without-picture",
    "bad-box-dropped",
    "bad-object-dropped",
    "bad-record-skipped",
    "object-elsewhere",
    "other-class-dropped",
    "unlabelled",
}
"""Codes that say that a picture or an object is not in the dataset."""


@dataclass(slots=True)
class Counted:
    """One code's number and first examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str, count: int = 1) -> None:
        """Count something."""
        self.count += count
        if example and len(self.examples) < MOST_EXAMPLES:
            self.examples.append(example)


class Report:
    """What was met, by code."""

    def __init__(self) -> None:
        self.codes: dict[str, Counted] = {}

    def add(self, code: str, example: str = "", count: int = 1) -> None:
        """Count something; nothing if `count` is 0."""
        if count:
            self.codes.setdefault(code, Counted()).add(example, count)

    def note(self, notes: Iterable[Note]) -> None:
        """Count notes."""
        for note in notes:
            self.add(note.code, f"{note.place}: {note.detail}" if note.detail else note.place)

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add the counts of another `as_json`."""
        for code, counted in other.items():
            its = self.codes.setdefault(code, Counted())
            its.count += counted["count"]
            room = MOST_EXAMPLES - len(its.examples)
            its.examples += counted["examples"][:room]

    def as_json(self) -> dict[str, Any]:
        """The counts as plain values, sorted by code."""
        return {
            code: {"count": counted.count, "examples": list(counted.examples)}
            for code, counted in sorted(self.codes.items())
        }

    def lines(self) -> list[str]:
        """One line for each code, with its first example."""
        found = []
        for code, counted in sorted(self.codes.items()):
            meaning = f"{counted.count} {MEANINGS.get(code, code)}"
            if code in OF_NOTES:
                meaning = f"{counted.count} x {OF_NOTES[code].removesuffix('.')}"
            example = f" (such as {counted.examples[0]})" if counted.examples else ""
            found.append(f"{meaning}{example}")
        return found
