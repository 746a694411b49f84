"""Finds CVAT's XML among the files of a source, and makes a source of it."""

from __future__ import annotations

import posixpath
import re
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError
from shard_tool.sources.cvat.annotation import parse_cvat
from shard_tool.sources.cvat.xml_file import MAX_XML_BYTES, is_cvat, read_cvat
from shard_tool.sources.files.file_span import FileSpan
from shard_tool.sources.files.picture_finder import PictureFinder
from shard_tool.sources.files.spool import Spool
from shard_tool.sources.found import Found
from shard_tool.sources.indexed_source import Indexed, IndexedSource, id_of, sorted_by_id
from shard_tool.sources.split_folders import SPLIT_FOLDERS, split_of, splits_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shard_tool.sources.cvat.xml_file import CvatFile, CvatImage
    from shard_tool.sources.files.listing import Listing

_EVIDENCE = "XML as 'CVAT for images 1.1'"
_LOOKED_AT = 64
"""XML files that are looked at before it is said that there is nothing of CVAT's."""
_HEAD = 1 << 12
_NO_SUBSET = ("", "default")
_NEVER = re.compile(r"[^A-Za-z0-9_+-]+")
"""What the name of a split can't hold."""


def find_cvat(listing: Listing, split_files: Mapping[str, str]) -> Found | None:
    """Find CVAT's XML; None where there is none."""
    if not any(_is_cvat(listing, span) for span in islice(_candidates(listing), _LOOKED_AT)):
        return None
    return Found("cvat", _EVIDENCE, lambda: [_opened(listing, split_files)])


def _candidates(listing: Listing) -> Iterator[FileSpan]:
    """XML files without a picture of their name; those that are called as CVAT calls them first."""
    stems = [files.stems for files in listing.table.of_kind("picture").values()]
    known = np.unique(np.concatenate(stems)) if stems else np.zeros(0, "S1")
    rest = list[FileSpan]()
    for files in listing.table.of_kind("annotation").values():
        for row in np.flatnonzero(~np.isin(files.stems, known)).tolist():
            if files.stems[row] == b"annotations":
                yield files.span(row)
            else:
                rest.append(files.span(row))
    yield from rest


def _is_cvat(listing: Listing, span: FileSpan) -> bool:
    if listing.files.is_archive and span.packed is None:
        span = span._replace(size=min(span.size, _HEAD), crc=None)
    return span.size <= MAX_XML_BYTES and is_cvat(listing.files.read(span))


def _opened(listing: Listing, split_files: Mapping[str, str]) -> IndexedSource:
    """Read all files.

    Raises:
        AnnotationError: A file is not well-formed, or has a document type.
        SourceError: None of the pictures is there, a file is there twice, it is of a video, or
            some pictures alone are in a subset.
    """
    opening = _Opening(listing)
    spans = [span for span in _candidates(listing) if _is_cvat(listing, span)]
    for span in sorted(spans):
        opening.read(span)
    other = next((span for span in _candidates(listing) if span not in spans), None)
    num_others = listing.table.count("annotation") - len(spans)
    listing.report.add("xml-other", listing.files.place(other) if other else "", num_others)
    pictures = opening.pictures(needs_splits=not split_files)
    folders = {posixpath.dirname(its.image.name) for its in pictures if its.image is not None}
    listing.check_twice({*folders, *(posixpath.dirname(span.name) for span in spans)})
    return IndexedSource(
        listing=listing,
        evidence=_EVIDENCE,
        split_files=split_files,
        format="cvat",
        parser=parse_cvat,
        class_ids={name: number for number, name in enumerate(opening.labels, start=1)},
        pictures=sorted_by_id(pictures),
        spool=opening.spool,
    )


class _Opening:
    """Reads the files, and finds the picture of each image."""

    def __init__(self, listing: Listing) -> None:
        self.spool, self.labels = Spool(), dict[str, None]()
        self._listing, self._report = listing, listing.report
        self._finder = PictureFinder(listing.table, listing.files.shown)
        self._found = dict[str, Indexed]()
        """By name of the picture; `split` is the subset as written."""
        self._missing = list[Indexed]()

    def read(self, span: FileSpan) -> None:
        """Read a file."""
        place = self._listing.files.place(span)
        if span.size > MAX_XML_BYTES:
            problem = f"{span.size} bytes are too many (most: {MAX_XML_BYTES})"
            raise SourceError(place, problem, "export the tasks one by one")
        file = read_cvat(self._listing.files.read(span), place)
        self.labels |= dict.fromkeys(file.labels)
        if file.other_labels:
            told = f"{place}: {file.other_labels[0]!r}"
            self._report.add("label-of-no-object", told, len(file.other_labels))
        if file.guess:
            self._report.add("encoding-guessed", f"{place}: {file.guess}")
        for image in file.images:
            self._add(span, file, image)

    def _add(self, span: FileSpan, file: CvatFile, image: CvatImage) -> None:
        name, subset = f"{span.name}#{image.id}", image.subset or file.subset
        content = file.document(image)
        document = self.spool.add(content), len(content)
        place, problem = self._listing.files.place(name), None
        try:
            picture = self._picture(posixpath.dirname(span.name), subset, image.name)
        except SourceError as exc:
            picture, problem = None, SourceError(place, exc.problem, exc.hint)
        if picture is None:
            told = f"is about {image.name!r}, and there is no such picture"
            problem = problem or SourceError(place, told, "put the picture beside the XML")
            id_ = f"{span.name}#{len(self._missing)}"
            self._missing.append(Indexed(id_, subset, None, name, document, problem=problem))
            return
        if known := self._found.get(picture.name):
            told = f"is about the picture {picture.name!r}, and so is {known.annotation!r}"
            problem = SourceError(place, told, "remove one of them")
        self._found[picture.name] = Indexed(
            id_of(picture), subset, picture, name, document, problem=problem
        )

    def _picture(self, folder: str, subset: str, written: str) -> FileSpan | None:
        """The picture of an image: CVAT puts them into ``images``, and there into subsets."""
        base = f"{folder}/images".lstrip("/")
        return self._finder.find(written, [f"{base}/{subset}", base, folder])

    def pictures(self, *, needs_splits: bool) -> list[Indexed]:
        """All images with their splits.

        Raises:
            SourceError: None has a picture, or some alone are in a subset.
        """
        found = [*self._found.values(), *self._missing]
        if not self._found:
            told = f"holds CVAT's XML of {len(found)} images and none of the pictures"
            example = f" (such as {found[0].annotation})" if found else ""
            hint = "export with 'Save images', or put the pictures into 'images' beside the XML"
            raise SourceError(self._listing.files.shown, f"{told}{example}", hint)
        self._count_others()
        subsets = [its.split for its in found]
        named = [subset for subset in subsets if subset.casefold() not in _NO_SUBSET]
        if not named:
            return self._by_folders(found, needs_splits=needs_splits)
        if len(named) < len(found) and needs_splits:
            loose = next(its for its in found if its.split.casefold() in _NO_SUBSET)
            problem = f"the image {loose.annotation!r} is in no subset, and others are"
            hint = "name the pictures by --split-file train=LIST"
            raise SourceError(self._listing.files.shown, problem, hint)
        return [its._replace(split=_split(its.split)) for its in found]

    def _by_folders(self, found: Sequence[Indexed], *, needs_splits: bool) -> list[Indexed]:
        """Give each image the split that the folder of its XML says, or of its picture."""
        homes = [posixpath.dirname(its.annotation or "") for its in found]
        if not any(map(split_of, homes)):
            homes = [posixpath.dirname(its.image.name) if its.image else "" for its in found]
        splits = splits_of({*homes}, self._listing.files.shown, needs_splits=needs_splits)
        return [its._replace(split=splits[home]) for its, home in zip(found, homes, strict=True)]

    def _count_others(self) -> None:
        """Count the pictures that no XML names."""
        names = (
            span.name
            for files in self._listing.table.of_kind("picture").values()
            for span in files.spans(np.arange(len(files)))
            if span is not None and span.name not in self._found
        )
        others = list(names)
        if others:
            self._report.add("in-no-list", self._listing.files.place(others[0]), len(others))


def _split(subset: str) -> str:
    """The split that a subset is."""
    plain = _NEVER.sub("-", subset) or "train"
    return SPLIT_FOLDERS.get(subset.casefold(), plain)
