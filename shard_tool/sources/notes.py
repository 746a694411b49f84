"""Notes on what was read in another way than its file says plainly, or not at all.

A reader of annotations hands notes to its caller, who counts them by code. A note is no error: its
record was read, and `MEANINGS` says how.
"""

from __future__ import annotations

from typing import NamedTuple


class Note(NamedTuple):
    """One thing that was read in another way than written plainly, or dropped."""

    code: str
    """A key of `MEANINGS`."""
    place: str
    """The file, as errors name it."""
    detail: str = ""
    """What was found; short, for examples in a report."""
    object_index: int | None = None
    """0-based number of the object in its file; None where the note is about the whole file."""


MEANINGS: dict[str, str] = {
    "encoding-guessed": "The text is not in the encoding that its file declares (UTF-8 where it "
    "declares none): the first of utf-8, gb18030 and latin-1 that fits was taken.",
    "leading-blanks": "Blanks before the XML declaration were skipped.",
    "doctype": "A document type without content was skipped.",
    "tag-other-case": "A tag in another case was read as the tag.",
    "wrapper": "Objects inside an <objects> tag were read as objects of the file.",
    "box-elsewhere": "A box that lies in no <object> of its file was not read.",
    "object-elsewhere": "An <object> that is no object of its file was not read.",
    "tag-twice": "A tag is there twice: equal ones count once, of flags the later one counts.",
    "flag-other-value": "A flag that is neither 0 nor 1: true, yes and numbers above 0 mean yes; "
    "false, no and 0.0 mean no; Unspecified means that it is not known.",
    "size-unusable": "A size that is 0 or no number counts as missing.",
    "rotated-box": "A rotated box was read as the upright box around it.",
    "box-from-polygon": "An object without a box got the box around its polygon.",
    "polygon-flat": "A polygon that stands alone, not in a list, was read as the object's.",
    "polygon-dropped": "A polygon with fewer than three corners, or half a corner, was not read.",
    "box-from-mask": "An object without a box got the box around its pixels.",
    "commas": "Numbers with commas between them were read as with blanks.",
    "comment": "A line that begins with # was skipped.",
    "keypoints-unread": "Keypoints were not read; the object's raw values hold them as written.",
    "object-twice": "An object that is there twice, with the same values, was taken once.",
    "shape-dropped": "A polygon or another shape beside the box was not read.",
    "shape-without-area": "A point, a line or another shape without an area is no object; the "
    "picture's raw has it.",
    "picture-tag": "A tag of the whole picture is no object; the picture's raw has it.",
    "region-ignored": "A region labelled __ignore__ is no object; the picture's raw has it.",
    "shapes-joined": "Shapes of one label and one group_id were read as one object.",
    "curve-as-polygon": "A circle or an ellipse was read as a polygon within 0.1 pixels of it.",
    "mask-rounded": "A mask that does not begin at a whole pixel was moved to the nearest one.",
    "mask-without-size": "A mask was not read, since its file does not say the picture's size.",
}
"""Code to one sentence for the user."""
