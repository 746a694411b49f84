"""Reads YOLO's labels: a text file a picture, with a line an object.

A line is ``class cx cy w h`` (the middle of a box and its sides), ``class x1 y1 x2 y2 x3 y3 …``
(the corners of a polygon), or a box and its keypoints where the dataset declares those. Numbers are
parts of the picture's width and height. Each line is read by its own number of columns, so a file
may hold boxes and polygons. A line of class and four corners may be a rotated box (OBB) or a
polygon: both mean the same pixels.

Sources: https://docs.ultralytics.com/datasets/ (detect, segment, pose, obb) and what ultralytics'
`verify_image_label` accepts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from shard_tool.errors import AnnotationError
from shard_tool.sources.annotation import Annotation, BadObject, ObjectAnnotation
from shard_tool.sources.notes import Note
from shard_tool.sources.yolo.text import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shard_tool.sources.boxes import Corners

_BOX_COLUMNS = 5
_FEWEST_OF_POLYGON = 7
_FAR = 2.0
"""A number this large is no part of a picture, however sloppy its tool: it counts pixels."""
_MOST_SHOWN = 24
"""Characters of a wrong word in messages."""


class Row(NamedTuple):
    """A line of labels; numbers as written."""

    class_id: int
    corners: Corners
    polygon: tuple[float, ...] | None
    """Clipped to the picture; `corners` are not."""
    keypoints: tuple[float, ...] | None


def parse_labels(
    content: bytes, place: str, *, names: Mapping[int, str], num_keypoints: int = 0
) -> Annotation:
    """Parse the labels of a picture.

    Args:
        content: The file's bytes.
        place: Name of the file in errors and notes.
        names: Number of each class to its name.
        num_keypoints: How many numbers of keypoints follow a box; 0: there are none.

    Raises:
        AnnotationError: The file is no text. Lines that cannot be read are bad objects.
    """
    text = text_of(content, place, AnnotationError)
    reading = _Reading(place, names, num_keypoints, text)
    for number, line in enumerate(text.split("\n"), start=1):
        if fields := line.split():
            reading.add(fields, number)
    if reading.num_commas:
        reading.notes.append(Note("commas", place, f"{reading.num_commas} lines"))
    return Annotation(
        objects=tuple(reading.objects),
        bad_objects=tuple(reading.bad_objects),
        notes=tuple(reading.notes),
    )


class _Reading:
    """What the lines so far gave."""

    def __init__(self, place: str, names: Mapping[int, str], num_keypoints: int, text: str) -> None:
        self.place, self.names, self.num_keypoints = place, names, num_keypoints
        self.has_commas = "," in text
        self.is_odd = "_" in text or not text.isascii()
        """Whether the text may hold what Python takes for numbers and nobody else does: 1_0."""
        self.objects: list[ObjectAnnotation] = []
        self.bad_objects: list[BadObject] = []
        self.notes: list[Note] = []
        self.num_commas = 0
        self._seen: set[Row] = set()
        self._index = -1

    def add(self, fields: list[str], number: int) -> None:
        """Read a line that is not blank."""
        if fields[0].startswith("#"):
            self.notes.append(Note("comment", self.place, f"line {number}"))
            return
        self._index += 1
        where = f"{self.place}: line {number}"
        try:
            if self.has_commas and any("," in its for its in fields):
                fields = without_commas(fields, where)
                self.num_commas += 1
            row = parse_row(fields, where, self.num_keypoints, is_odd=self.is_odd)
            name = self._name_of(row.class_id, where)
        except AnnotationError as exc:
            problem = exc.with_traceback(None)
            self.bad_objects.append(BadObject(index=self._index, name=None, problem=problem))
            return
        if row in self._seen:
            self._note("object-twice", f"line {number}")
            return
        self._seen.add(row)
        self.objects.append(self._object(row, name, number))

    def _name_of(self, class_id: int, where: str) -> str:
        name = self.names.get(class_id)
        if name is None:
            known = f"{min(self.names)} … {max(self.names)}"
            problem = f"class {class_id:.{_MOST_SHOWN}g} has no name (there are {known})"
            raise AnnotationError(where, problem, "add its name to the names of the dataset")
        return name

    def _object(self, row: Row, name: str, number: int) -> ObjectAnnotation:
        if row.polygon is not None:
            self._note("box-from-polygon", f"line {number} {name!r}")
        if row.keypoints is not None:
            self._note("keypoints-unread", f"line {number} {name!r}")
        return ObjectAnnotation(
            index=self._index,
            name=name,
            corners=row.corners,
            polygons=None if row.polygon is None else (row.polygon,),
            raw=None if row.keypoints is None else {"keypoints": list(row.keypoints)},
        )

    def _note(self, code: str, detail: str) -> None:
        self.notes.append(Note(code, self.place, detail, self._index))


def without_commas(fields: Sequence[str], where: str) -> list[str]:
    """The columns of a line in which commas separate numbers.

    Raises:
        AnnotationError: Blanks separate numbers and a comma stands inside of one.

    >>> without_commas(["0,0.5,0.5", "0.1", "0.1"][:1], "a.txt: line 1")
    ['0', '0.5', '0.5']
    >>> without_commas(["0,", "0.5,", "0.5"], "a.txt: line 1")
    ['0', '0.5', '0.5']
    """
    if len(fields) > 1:
        for field in fields:
            if "," in field.strip(","):
                problem = f"{field[:_MOST_SHOWN]!r} has a comma inside"
                hint = "write decimal points, and blanks or commas between numbers"
                raise AnnotationError(where, problem, hint)
    return [part for field in fields for part in field.strip(",").split(",") if part]


def parse_row(
    fields: Sequence[str], where: str, num_keypoints: int = 0, *, is_odd: bool = True
) -> Row:
    """Parse the columns of a line.

    Args:
        fields: The columns.
        where: Names file and line in errors.
        num_keypoints: How many numbers of keypoints follow a box.
        is_odd: Whether to look for numbers that only Python takes for such.

    Raises:
        AnnotationError: They are no box and no polygon.
    """
    count = len(fields)
    has_keypoints = bool(num_keypoints) and count == _BOX_COLUMNS + num_keypoints
    is_polygon = not num_keypoints and count >= _FEWEST_OF_POLYGON and count % 2 == 1
    if not (count == _BOX_COLUMNS or has_keypoints or is_polygon):
        raise _wrong_columns(count, where, num_keypoints)
    first, *numbers = _numbers(fields, where, is_odd=is_odd)
    if not first.is_integer() or first < 0:
        problem = f"class {fields[0][:_MOST_SHOWN]!r} is no number of a class (0, 1, 2 …)"
        raise AnnotationError(where, problem)
    keypoints = None
    if has_keypoints:
        keypoints, numbers = tuple(numbers[_BOX_COLUMNS - 1 :]), numbers[: _BOX_COLUMNS - 1]
    low, high = min(numbers), max(numbers)
    if not -_FAR < low <= high < _FAR:
        problem = f"has numbers from {low:g} to {high:g}, which look like pixels"
        hint = "divide x and width by the picture's width, y and height by its height"
        raise AnnotationError(where, f"{problem} (expected parts of the picture, 0 to 1)", hint)
    if is_polygon:
        xs, ys = numbers[::2], numbers[1::2]
        if low < 0 or high > 1:
            numbers = [min(max(0.0, number), 1.0) for number in numbers]
        corners = (min(xs), min(ys), max(xs), max(ys))
        return Row(int(first), corners, tuple(numbers), None)
    x, y, half_width, half_height = numbers[0], numbers[1], numbers[2] / 2, numbers[3] / 2
    corners = (x - half_width, y - half_height, x + half_width, y + half_height)
    return Row(int(first), corners, None, keypoints)


def _numbers(fields: Sequence[str], where: str, *, is_odd: bool) -> list[float]:
    try:
        numbers = [*map(float, fields)]
    except ValueError:
        numbers = []
    if not numbers or (is_odd and not all(map(_is_plain, fields))) or not _are_finite(numbers):
        wrong = next((its for its in fields if not _is_number(its)), "")
        raise AnnotationError(where, f"{wrong[:_MOST_SHOWN]!r} is no number")
    return numbers


def _are_finite(numbers: Sequence[float]) -> bool:
    return math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))


def _is_plain(field: str) -> bool:
    return field.isascii() and "_" not in field


def _is_number(field: str) -> bool:
    try:
        return _is_plain(field) and math.isfinite(float(field))
    except ValueError:
        return False


def _wrong_columns(count: int, where: str, num_keypoints: int) -> AnnotationError:
    if num_keypoints:
        most = _BOX_COLUMNS + num_keypoints
        problem = f"has {count} columns (expected {_BOX_COLUMNS}, or {most} with keypoints)"
        return AnnotationError(where, problem, "is the dataset's kpt_shape right?")
    problem = f"has {count} columns (expected 5 of a box, or 7, 9, 11 … of a polygon)"
    if count > _BOX_COLUMNS:
        hint = "predictions have a confidence more: export labels, or predictions without it"
        return AnnotationError(where, problem, hint)
    return AnnotationError(where, problem)
