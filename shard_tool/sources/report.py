"""Counts what readers and conversion met, by code, with a few examples of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shard_tool.sources.notes import MEANINGS as NOTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shard_tool.sources.notes import Note

MOST_EXAMPLES = 3

MEANINGS: dict[str, str] = {
    # What was read otherwise than written, or left out
    "annotation-twice": "an annotation says the same of a picture as another file; taken once",
    "annotation-without-picture": "an annotation has no picture; left out",
    "background": "an annotation without objects; the picture is background",
    "box-clipped": "a box left its picture by at most a pixel (in YOLO's labels 1 % of a side); "
    "clipped",
    "category-parent": "a category has no objects and is only the parent of others; no class",
    "content-other-than-name": "a picture has another format than its suffix says; "
    "named by its content",
    "duplicate-objects-lost": "a picture is left out, since another source has it with "
    "other objects; see the manifest's duplicates",
    "exif-baked": "a picture was turned upright by its EXIF orientation and encoded again",
    "exif-ignored": "a picture has an EXIF orientation that its annotation does not "
    "follow; ignored",
    "exif-upright": "a picture has an EXIF orientation that its annotation follows; "
    "readers turn it",
    "hidden": "a file is hidden (its name begins with a dot, or it lies in __MACOSX); not read",
    "in-no-list": "a picture is in no list; left out",
    "in-other-list": "a picture is in lists of other names alone, which --split takes; left out",
    "json-beside-instances": "a JSON holds captions, key points or segments of pictures whose "
    "instances another one holds; not read",
    "json-other": "a JSON file is no annotation of its source's format; not read",
    "json-without-annotations": "a JSON lists pictures and has no annotations; left out",
    "label-of-no-object": "a label is for tags, or for the points of skeletons; no class",
    "list-line-other": "a line of a list holds more than an id; understood",
    "list-name-twice": "a name is in a list twice; taken once",
    "mask-by-color": "a mask was read by its colours, and written as class ids",
    "mask-by-value": "a mask has a palette of other colours; its values were taken as class ids",
    "mask-void-alone": "a mask holds 0 and 255 (void) alone, no class; is 255 a class there?",
    "mask-without-picture": "a mask has no picture; left out",
    "member-twice": "a member is in the archive twice, with the same bytes; taken once",
    "name-encoded": "a name holds what no key can; percent-encoded",
    "name-with-backslash": "a member has back-slashes in its name; read as slashes",
    "path-mended": "a path of another machine; what ends as it does was taken",
    "xml-other": "an XML file is no annotation of its source's format; not read",
    "picture-apart": "a picture lies apart from all that is annotated; left out",
    "picture-by-own-name": "an annotation's imagePath names no picture, or one of another "
    "annotation; the picture of the annotation's own name was taken",
    "picture-by-path": "an annotation's imagePath names a picture of another name than its own; "
    "taken",
    "picture-recoded": "a picture is of a format that few readers know; written as PNG",
    "size-absent": "an annotation does not say the picture's size; the picture's was taken",
    "size-ignored": "an annotation says another size than its picture has; ignored "
    "(--size-mismatch ignore)",
    "size-scaled": "boxes were scaled from the declared size to the picture's "
    "(--size-mismatch scale)",
    "split-of-classes": "a list of a class names pictures of a split that has no list of its own; "
    "all that such lists name were taken",
    "split-without-pictures": "a split has no picture where a file says it lies; left out",
    "unlabelled": "a picture has no annotation (--unlabelled background takes it) or, for "
    "segmentation, no mask; left out",
    "unlabelled-background": "a picture has no annotation; taken as background "
    "(--unlabelled background)",
    # What was changed or dropped because an option says so
    "bad-box-clipped": "a box outside was clipped (--bad-boxes clip)",
    "bad-box-dropped": "an object with a bad box was dropped (--bad-boxes drop)",
    "bad-object-dropped": "a bad object was dropped (--on-bad-record skip)",
    "bad-record-skipped": "a bad record was skipped (--on-bad-record skip)",
    "other-class-dropped": "an object of another class was dropped, or its pixels are void now "
    "(--other-classes drop)",
    "renamed": "an object's class was renamed (--rename)",
}
"""Code to what it means, for the user. `notes.MEANINGS` has those of annotations."""


LEFT_OUT = {
    "annotation-without-picture",
    "bad-box-dropped",
    "bad-object-dropped",
    "bad-record-skipped",
    "box-elsewhere",
    "duplicate-objects-lost",
    "mask-without-picture",
    "object-elsewhere",
    "other-class-dropped",
    "shape-without-area",
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

    def shorten(self, places: Iterable[str]) -> None:
        """Leave the places of sources out of examples: the rest is the same on every machine."""
        longest_first = sorted(places, key=len, reverse=True)
        for counted in self.codes.values():
            counted.examples = [
                example.removeprefix(next(filter(example.startswith, longest_first), ""))
                for example in counted.examples
            ]

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
            meaning = MEANINGS.get(code) or NOTES[code][0].lower() + NOTES[code][1:-1]
            example = f" (such as {counted.examples[0]})" if counted.examples else ""
            found.append(f"{code} {counted.count}: {meaning}{example}")
        return found
