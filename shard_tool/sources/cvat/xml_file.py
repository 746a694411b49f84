"""Cuts CVAT's XML, one file of many pictures, into one document for each picture.

The file is walked once by expat, and each `<image>` is a slice of its bytes: a file of 100 MB takes
its own bytes and no tree. A document type is refused before its content is looked at, so there are
no entities to expand.

Source: cvat/apps/dataset_manager/formats/cvat.py; the documentation's 'CVAT for images 1.1'.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from xml.parsers.expat import ExpatError, ParserCreate

from shard_tool.errors import AnnotationError, SourceError
from shard_tool.sources.encodings import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.parsers.expat import XMLParserType

MAX_XML_BYTES = 1 << 31
_DECLARATION = re.compile(rb"""\s*<\?xml\s[^>]*?\bencoding\s*=\s*["']([^"'>]+)["']""")
_HEAD = 1 << 12
_AT_A_TIME = 1 << 16
_OTHER_TYPES = ("tag",)
"""Types of labels that no object can have."""


class CvatImage(NamedTuple):
    """An `<image>`, by its attributes and its place in the file."""

    id: str
    name: str
    subset: str
    start: int
    end: int


class CvatFile(NamedTuple):
    """A file."""

    content: bytes
    """In UTF-8."""
    images: tuple[CvatImage, ...]
    labels: tuple[str, ...]
    """Classes of objects, in the order of the project or task."""
    other_labels: tuple[str, ...]
    """Labels that no object can have: of tags, and of the points of a skeleton."""
    subset: str
    """That of the task, for images that do not say one."""
    guess: str
    """Which encoding was guessed; '' if none was."""

    def document(self, image: CvatImage) -> bytes:
        """The `<image>` alone."""
        return self.content[image.start : image.end]


def is_cvat(content: bytes) -> bool:
    """Whether XML begins as CVAT's does: with the root `<annotations>`."""
    found = ""

    def root(tag: str, *_: object) -> None:
        nonlocal found
        found = tag
        raise ValueError  # all is known

    try:
        text = decoded(content[:_HEAD], first=b"< \t\r\n")[0]
        parser = ParserCreate("utf-8")
        parser.StartElementHandler = parser.StartDoctypeDeclHandler = root
        parser.Parse(text.lstrip("\ufeff \t\r\n").encode())
    except (ExpatError, ValueError, LookupError):
        pass
    return found == "annotations"


def read_cvat(content: bytes, place: str) -> CvatFile:
    """Find the images in a file.

    Args:
        content: The file's bytes.
        place: Its name in errors.

    Raises:
        AnnotationError: It is not well-formed, has a document type, or an image without a name.
        SourceError: It is of a video: it has tracks.
    """
    try:
        return _walked(content, place, "")
    except AnnotationError as exc:
        error = exc
    declaration = _DECLARATION.match(content)
    declared = declaration[1].decode("ascii", "replace") if declaration else ""
    try:
        text, guess = decoded(content, first=b"< \t\r\n", declared=declared)
    except (ValueError, LookupError) as exc:
        raise AnnotationError(place, f"not well-formed XML: {exc}") from exc
    again = text.lstrip("\ufeff \t\r\n").encode()
    if again == content:
        raise error
    return _walked(again, place, guess)


def _walked(content: bytes, place: str, guess: str) -> CvatFile:
    walk = _Walk(place)
    parser = walk.parser()
    try:
        for part in _parts(content):
            parser.Parse(part)
        parser.Parse(b"", True)  # noqa: FBT003  (it takes no keywords)
    except ExpatError as exc:
        raise AnnotationError(place, f"not well-formed XML: {exc}") from exc
    if walk.root != "annotations":
        problem = f"the root tag is {walk.root!r}, expected 'annotations'"
        raise AnnotationError(place, problem, "export as 'CVAT for images 1.1'")
    labels, others = walk.classes()
    return CvatFile(content, tuple(walk.images), labels, others, walk.subset, guess)


def _parts(content: bytes) -> Iterator[bytes]:
    return (content[at : at + _AT_A_TIME] for at in range(0, len(content), _AT_A_TIME))


class _Walk:
    """What expat tells of a file."""

    def __init__(self, place: str) -> None:
        self.images = list[CvatImage]()
        self.root, self.subset = "", ""
        self._place = place
        self._tags = list[str]()
        self._text = ""
        self._labels = list[dict[str, str]]()
        self._open: tuple[dict[str, str], int] | None = None
        """Attributes of an image that is not cut out yet, and its first byte."""
        self._is_ended = False

    def parser(self) -> XMLParserType:
        """A parser that tells it."""
        parser = ParserCreate("utf-8")
        self._at = parser
        parser.StartDoctypeDeclHandler = self._refuse
        self._listen()
        parser.StartCdataSectionHandler = self._cut
        parser.CommentHandler = lambda _: self._cut()
        parser.ProcessingInstructionHandler = lambda *_: self._cut()
        return parser

    def _listen(self) -> None:
        self._at.StartElementHandler = self._start
        self._at.EndElementHandler = self._end
        self._at.CharacterDataHandler = self._data

    def _listen_inside(self) -> None:
        """Wait for the end of an image: what is in it takes most of the time."""
        self._at.StartElementHandler = self._at.CharacterDataHandler = None
        self._at.EndElementHandler = self._end_inside

    def _end_inside(self, tag: str) -> None:
        if tag == "image":
            self._listen()
            self._is_ended = True
            self._tags.pop()

    def _refuse(self, *_: object) -> None:
        problem = "refused for safety: it has a DTD or entities"
        raise AnnotationError(self._place, problem, "remove its <!DOCTYPE …>")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._cut()
        self._tags.append(tag)
        self._text = ""
        depth = len(self._tags)
        if depth == 1:
            self.root = tag
        elif depth == 2 and tag == "track":
            problem = "holds tracks: it is 'CVAT for video 1.1'"
            hint = "export the task as 'CVAT for images 1.1', which has each frame by itself"
            raise SourceError(self._place, problem, hint)
        elif depth == 2 and tag == "image":
            if not attributes.get("name"):
                raise AnnotationError(self._place, f"image {len(self.images) + 1} has no name")
            self._open = attributes, self._at.CurrentByteIndex
            self._listen_inside()
        elif self._tags[-2:] == ["labels", "label"] and self._tags[1] == "meta":
            self._labels.append({})

    def _end(self, tag: str) -> None:
        self._cut()
        tags, text = self._tags, self._text.strip()
        if tags[-1] != tag:  # the end of another one was taken for that of the outer
            raise AnnotationError(self._place, "has an <image> in an <image>")
        if tags[1:2] == ["meta"]:
            if tags[-3:-1] == ["labels", "label"] and self._labels:
                self._labels[-1].setdefault(tag, text)
            elif tag == "subset" and len(tags) == 4:
                self.subset = text
        tags.pop()
        self._text = ""

    def _data(self, text: str) -> None:
        self._cut()
        if len(self._tags) > 3:
            self._text += text

    def _cut(self) -> None:
        """Cut out the image that has ended: whatever is told next begins behind it."""
        if self._open is None or not self._is_ended:
            return
        (attributes, start), self._open, self._is_ended = self._open, None, False
        said = attributes.get
        image_id, subset = said("id", str(len(self.images))), said("subset", "")
        end = self._at.CurrentByteIndex
        self.images.append(CvatImage(image_id, attributes["name"], subset, start, end))

    def classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the labels that objects can have, and of the others; each once."""
        named = [(its["name"], its) for its in self._labels if its.get("name")]
        others = dict.fromkeys(
            name for name, its in named if its.get("parent") or its.get("type") in _OTHER_TYPES
        )
        mine = dict.fromkeys(name for name, _ in named if name not in others)
        return tuple(mine), tuple(others)
