"""Names what a format cannot hold; each is counted, with examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.sources.report import Report

if TYPE_CHECKING:
    from shard_tool.format.sample import Sample, SampleObject

MEANINGS = {
    "box-of-polygon": "an object's box is not that of its polygon, and readers of the polygon take "
    "that (--shapes boxes writes the box)",
    "box-rounded": "a box has more digits than the format can hold; its last digits differ",
    "crowd-as-difficult": "a crowd is marked difficult: the format has no crowds",
    "crowd-left-out": "a crowd is left out: the format would take it for one object",
    "difficult-lost": "an object is difficult, and the format cannot say it",
    "exif-untold": "a picture has an EXIF orientation, and the format cannot say whether its "
    "boxes follow it; give the option that is shown",
    "fields-lost": "a picture or an object has fields of its source that the format does not have",
    "flags-lost": "an object is truncated or occluded, and the format cannot say it",
    "lists-lost": "a picture has labels or numbers of lists (classification, layout, action), and "
    "the format does not have them",
    "masks-lost": "a picture has masks, and the format does not have them",
    "numbers-lost": "an object's value in the mask of objects is not its place among them, because "
    "others were left out; readers of the format take another object for it",
    "object-twice": "two objects of a class have the same numbers; readers take one of them",
    "object-without-box": "an object has no box; left out",
    "outline-lost": "an object has polygons or run lengths that the format cannot hold; its box is "
    "written",
    "parts-lost": "an object has parts, actions or a point, and the format does not have them",
}
"""Code to what it means, for the user."""


class Losses(Report):
    """What was not written, by code."""

    def lines(self) -> list[str]:
        """One line for each code, with its first example."""
        return [
            f"{code} {counted.count}: {MEANINGS[code]} (such as {counted.examples[0]})"
            for code, counted in sorted(self.codes.items())
        ]

    def note_flags(self, item: SampleObject, place: str) -> None:
        """Count what formats of boxes and labels alone do not say of an object."""
        if item.difficult:
            self.add("difficult-lost", place)
        if item.truncated or item.occluded:
            self.add("flags-lost", place)
        if item.parts or item.actions or item.point:
            self.add("parts-lost", place)

    def note_picture(self, sample: Sample, place: str, *, loses_masks: bool) -> None:
        """Count what formats do not say of a picture."""
        if loses_masks:
            self.add("masks-lost", place)
        if sample.image_labels is not None or sample.listed_objects is not None:
            self.add("lists-lost", place)
