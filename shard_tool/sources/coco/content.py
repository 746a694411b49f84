"""Indexes one COCO JSON file: which annotations belong to each picture, without decoding them.

msgspec finds where each object of the large lists begins and ends, a gigabyte a second, and a
number of ids is decoded of each. The rest stays text until a picture's document is asked for. An
object takes a hundred bytes beside the file itself.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Raw, Struct

from shard_tool.errors import SourceError
from shard_tool.sources.coco.categories import (
    Category,
    category_text,
    digest_of,
    read_categories,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.coco.text import Content
    from shard_tool.sources.files.archive import FileSpan

Id = int | float | str | None


class _Top(Struct):
    """The file; any other key is skipped."""

    images: list[Raw]
    annotations: list[Raw] | None = None
    categories: list[Raw] | None = None


class _Image(Struct):
    id: Id = None
    file_name: str | None = None
    coco_url: str | None = None


class _Annotation(Struct):
    image_id: Id = None
    id: Id = None
    category_id: Id = None


@dataclass(frozen=True, eq=False)
class CocoJson:
    """One file: its three lists, each element not decoded yet."""

    span: FileSpan
    place: str
    """Its name in messages."""
    images: Sequence[Raw] = field(repr=False)
    annotations: Sequence[Raw] | None = field(repr=False)
    """None: it has none, as the lists of test pictures."""
    raw_categories: Sequence[Raw] = field(repr=False)

    @cached_property
    def kind(self) -> str:
        """'instances', 'captions', 'panoptic', or 'pictures' without annotations."""
        if self.annotations is None:
            return "pictures"
        if not self.annotations:
            return "instances"
        try:
            first = msgspec.json.decode(self.annotations[0], type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return "instances"  # what is wrong with it is said later
        if "segments_info" in first:
            return "panoptic"
        is_text = "caption" in first and not first.keys() & {"bbox", "segmentation"}
        return "captions" if is_text else "instances"

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """Its categories."""
        return read_categories(self.raw_categories, self.place)

    @cached_property
    def names(self) -> dict[str, str]:
        """Id of each category as text, to its name."""
        return {str(category.id): category.name for category in self.categories}

    @cached_property
    def _images(self) -> tuple[list[str], list[str], int]:
        """Ids as text, written paths, and how many paths are those of URLs."""
        decode, ids, paths, num_urls = _decoder(_Image), list[str](), list[str](), 0
        for number, raw in enumerate(self.images):
            place = f"{self.place}: images[{number}]"
            its: _Image = _decoded(decode, raw, place)
            path = its.file_name
            if not path and its.coco_url:  # LVIS has no file names
                path, num_urls = its.coco_url.partition("://")[2].partition("/")[2], num_urls + 1
            if its.id is None or its.id == "":
                raise SourceError(place, "has no id", "give each image one")
            if not path:
                raise SourceError(place, "has no file_name", "name its picture")
            ids.append(id_text(its.id))
            paths.append(path)
        return ids, paths, num_urls

    @property
    def image_ids(self) -> list[str]:
        """Id of each image as text, in the file's order."""
        return self._images[0]

    @property
    def paths(self) -> list[str]:
        """Path of each image's picture, as written."""
        return self._images[1]

    @property
    def num_urls(self) -> int:
        """How many images have no file name, so that the URL names their picture."""
        return self._images[2]

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Counter[str]]:
        """Annotations by image: their numbers, where each image's begin, objects of each name."""
        rows = {id_: row for row, id_ in enumerate(self.image_ids)}
        if len(rows) < len(self.images):
            raise self._twice("images", self.image_ids)
        count = len(self.annotations or ())
        of_image, ids, num_of = np.full(count, -1, np.int64), list[Id](), Counter[Id]()
        decode = _decoder(_Annotation)
        for number, raw in enumerate(self.annotations or ()):
            its: _Annotation = _decoded(decode, raw, f"{self.place}: annotations[{number}]")
            of_image[number] = rows.get(id_text(its.image_id), -1)
            ids.append(its.id)
            num_of[its.category_id] += 1
        self._check_images(of_image)
        self._check_ids([id_ for id_ in ids if id_ is not None])
        order = np.argsort(of_image, kind="stable")
        starts = np.searchsorted(of_image[order], np.arange(len(self.images) + 1))
        used = Counter[str]()
        for category_id, objects in num_of.items():
            if (name := self.names.get(category_text(category_id))) is not None:
                used[name] += objects
        return order, starts, used

    def check(self) -> None:
        """Read ids and categories.

        Raises:
            SourceError: An image or an annotation lacks what it must have, two images or two
                annotations have one id, or an annotation is of no image.
        """
        self._order  # noqa: B018

    @property
    def used(self) -> Counter[str]:
        """Name of a category to its number of annotations."""
        return self._order[2]

    def document(self, row: int) -> bytes:
        """The JSON of one image: `categories`, which `digest_of` names, `image`, `annotations`."""
        order, starts, _ = self._order
        its = self.annotations or ()
        found = b",".join([its[at] for at in order[starts[row] : starts[row + 1]].tolist()])
        head = b'{"categories":"%s","image":' % self._digest
        return b"".join((head, self.images[row], b',"annotations":[', found, b"]}"))

    @cached_property
    def _digest(self) -> bytes:
        return digest_of(self.categories).encode()

    def _check_images(self, of_image: NDArray[np.int64]) -> None:
        lost = np.flatnonzero(of_image < 0)
        if not len(lost):
            return
        first = int(lost[0])
        raw, place = (self.annotations or ())[first], f"{self.place}: annotations[{first}]"
        its: _Annotation = _decoded(_decoder(_Annotation), raw, place)
        which = f"annotations[{first}] has the image_id {its.image_id!r}"
        problem = f"{len(lost)} of {len(of_image)} annotations are of no image: {which}"
        hint = "add what is missing to images, or remove these annotations"
        raise SourceError(self.place, problem, hint)

    def _check_ids(self, ids: list[Id]) -> None:
        known = (
            {id_text(id_) for id_ in ids} if any(type(id_) is not int for id_ in ids) else {*ids}
        )
        if len(known) < len(ids):
            raise self._twice("annotations", [id_text(id_) for id_ in ids])

    def _twice(self, what: str, ids: list[str]) -> SourceError:
        counts = {id_: count for id_, count in Counter(ids).items() if count > 1}
        id_, count = next(iter(counts.items()))
        more = f" (and {len(counts) - 1} more ids)" if len(counts) > 1 else ""
        problem = f"{count} {what} have the id {id_}{more}"
        return SourceError(self.place, problem, f"give each of the {what} an id of its own")


def read_json(content: Content, span: FileSpan, place: str) -> CocoJson | None:
    """Find the lists of a file.

    Args:
        content: The file, as UTF-8.
        span: Where it lies.
        place: Its name in messages.

    Returns:
        None where it is JSON of another form.

    Raises:
        SourceError: It is no JSON.
    """
    try:
        top = msgspec.json.decode(content, type=_Top)
    except msgspec.ValidationError:
        return None
    except RecursionError as exc:
        raise SourceError(place, "its JSON is nested too deeply") from exc
    except msgspec.DecodeError as exc:
        raise _malformed(content, place, exc) from exc
    if top.annotations is None and top.categories is None:
        return None
    return CocoJson(span, place, top.images, top.annotations, top.categories or ())


def id_text(id_: Id) -> str:
    """An id as text: 17, 17.0 and "17" are one.

    >>> id_text(17), id_text(17.0), id_text("17"), id_text("a.jpg"), id_text(None)
    ('17', '17', '17', 'a.jpg', '')
    """
    if type(id_) is float and id_.is_integer():
        id_ = int(id_)
    return "" if id_ is None else str(id_)


def _decoder(of: type[Struct]) -> Any:
    return msgspec.json.Decoder(of).decode


def _decoded(decode: Any, raw: Raw, place: str) -> Any:
    try:
        return decode(raw)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise SourceError(place, f"cannot be read: {exc}") from exc


_NO_NUMBER = re.compile(rb"NaN|-?Infinity")


def _malformed(content: Content, place: str, exc: Exception) -> SourceError:
    """The error for what is no JSON; msgspec says at which byte."""
    told = str(exc)
    digits = "".join(letter for letter in told.rpartition("(byte ")[2] if letter.isdigit())
    if not digits:
        hint = "download or write it again" if "truncated" in told else ""
        return SourceError(place, f"is not JSON, or cut short: {told}", hint)
    at = int(digits)
    line = bytes(content[:at]).count(b"\n") + 1
    for begin in (max(at - 1, 0), at):  # msgspec points behind a sign
        if found := _NO_NUMBER.match(bytes(content[begin : begin + 9])):
            problem = f"holds {found[0].decode()} at line {line}, byte {begin}"
            problem += ", and JSON knows no such number (Python writes it)"
            return SourceError(place, problem, "write null there, or leave the object out")
    shown = bytes(content[at : at + 32]).decode("utf-8", "replace")
    return SourceError(place, f"is not JSON: {told} in line {line}, at {shown!r}")
