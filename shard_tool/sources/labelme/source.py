"""Finds labelme's data among the files of a source, and makes a source of it."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import AnnotationError, SourceError
from shard_tool.sources.files.file_span import FileSpan
from shard_tool.sources.files.spool import Spool
from shard_tool.sources.found import Found
from shard_tool.sources.indexed_source import Indexed, IndexedSource, id_of, sorted_by_id
from shard_tool.sources.labelme.annotation import parse_labelme
from shard_tool.sources.labelme.json_file import read_labelme
from shard_tool.sources.labelme.pictures import JsonFile, Match, PictureMatcher
from shard_tool.sources.split_folders import split_of, splits_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from shard_tool.sources.files.listing import Listing

_EVIDENCE = "JSON files with shapes"
_LOOKED_AT = 4
"""Files of a folder that are looked at: so many that have a picture's name, and so many others."""
_MAX_LOOKED_AT_BYTES = 1 << 26
_MAX_JSON_BYTES = 1 << 29
"""Of one picture: a larger file is refused before it is read."""
_TOGETHER_BYTES = 1 << 25


def find_labelme(listing: Listing, split_files: Mapping[str, str]) -> Found | None:
    """Find labelme's files; None where there are none."""
    if not any(_is_labelme(listing, span) for span in _looked_at(listing)):
        return None
    return Found("labelme", _EVIDENCE, lambda: [_opened(listing, split_files)])


def _looked_at(listing: Listing) -> Iterator[FileSpan]:
    """Some JSON files of each folder: first those that have a picture's name."""
    stems = [files.stems for files in listing.table.of_kind("picture").values()]
    known = np.unique(np.concatenate(stems)) if stems else np.zeros(0, "S1")
    for files in listing.table.of_kind("json").values():
        is_pictures = np.isin(files.stems, known)
        for rows in (np.flatnonzero(is_pictures), np.flatnonzero(~is_pictures)):
            some = np.linspace(0, len(rows) - 1, min(_LOOKED_AT, len(rows)), dtype=np.intp)
            yield from map(files.span, rows[some].tolist())


def _is_labelme(listing: Listing, span: FileSpan) -> bool:
    try:
        is_small = span.size <= _MAX_LOOKED_AT_BYTES
        return is_small and read_labelme(listing.files.read(span)) is not None
    except ValueError:
        return False


def _opened(listing: Listing, split_files: Mapping[str, str]) -> IndexedSource:
    """Read all files.

    Raises:
        SourceError: No file's picture is there, a file is there twice, or folders say the splits of
            some pictures alone.
    """
    opening = _Opening(listing)
    pictures = opening.pictures(needs_splits=not split_files)
    folders = {posixpath.dirname(its.image.name) for its in pictures if its.image is not None}
    listing.check_twice({*folders, *listing.table.of_kind("json")})
    return IndexedSource(
        listing=listing,
        evidence=_EVIDENCE,
        split_files=split_files,
        format="labelme",
        parser=parse_labelme,
        class_ids={},
        pictures=sorted_by_id(pictures),
        spool=opening.spool,
    )


class _Opening:
    """Reads the files, and finds the picture of each."""

    def __init__(self, listing: Listing) -> None:
        self.spool = Spool()
        self._listing, self._table = listing, listing.table
        self._matcher = PictureMatcher(listing.table, listing.files.shown)
        self._broken = list[tuple[FileSpan, str]]()
        """Files that cannot be read, and why."""

    def pictures(self, *, needs_splits: bool) -> list[Indexed]:
        """All annotated pictures, and the others that lie beside them."""
        files = list(self._read())
        matches, alone = self._matcher.matches(files)
        annotated = {its.picture.name: self._annotated(its) for its in matches}
        for span, problem in self._broken:
            picture = self._matcher.of_own_name(span)
            if picture is None or picture.name in annotated:
                self._report("json-other", span)
                continue
            error = AnnotationError(self._listing.files.place(span), problem)
            annotated[picture.name] = Indexed(id_of(picture), "", picture, span.name, problem=error)
        found = [*annotated.values(), *self._without_picture(alone)]
        if not found:
            told = f"holds {len(files)} labelme files and no picture of any"
            example = f"such as {files[0].span.name}" if files else "they cannot be read"
            hint = "give the folder or archive that holds the pictures and their annotations"
            raise SourceError(self._listing.files.shown, f"{told} ({example})", hint)
        found += self._unlabelled(annotated)
        return self._with_splits(found, needs_splits=needs_splits)

    def _report(self, code: str, span: FileSpan, detail: str = "", num: int = 1) -> None:
        place = self._listing.files.place(span)
        self._listing.report.add(code, f"{place}: {detail}" if detail else place, num)

    def _read(self) -> Iterator[JsonFile]:
        """Read all JSON files; keep their annotations in the spool."""
        for files in self._table.of_kind("json").values():
            spans = [span for span in files.spans(np.arange(len(files))) if span is not None]
            for span in spans:
                if span.size > _MAX_JSON_BYTES:
                    told = f"{span.size} bytes are too many (most: {_MAX_JSON_BYTES})"
                    self._broken.append((span, told))
            with self._listing.files.opened() as read:
                for some in _chunks([span for span in spans if span.size <= _MAX_JSON_BYTES]):
                    for span, content in zip(some, read(some), strict=True):
                        if its := self._file(span, content):
                            yield its

    def _file(self, span: FileSpan, content: bytes) -> JsonFile | None:
        try:
            its = read_labelme(content)
        except ValueError as exc:
            self._broken.append((span, f"not JSON: {exc}"))
            return None
        if its is None:
            self._report("json-other", span)
            return None
        if its.guess:
            self._report("encoding-guessed", span, its.guess)
        document = self.spool.add(its.document), len(its.document)
        return JsonFile(span, its.image_path, its.has_picture, document)

    def _annotated(self, match: Match) -> Indexed:
        """A picture with its annotation; with an error, if several files differ about it."""
        (picture, (first, *others), code), error = match, None
        document = self.spool.read(*first.document)
        for other in others:
            if self.spool.read(*other.document) == document:
                self._report("annotation-twice", other.span)
                continue
            told = f"is about the picture {picture.name!r}, and so is {other.span.name!r}"
            hint = "remove one of them, or correct its imagePath"
            error = AnnotationError(self._listing.files.place(first.span), told, hint)
        if code is not None:
            self._report(code, first.span, picture.name)
        return Indexed(id_of(picture), "", picture, first.span.name, first.document, problem=error)

    def _without_picture(self, alone: Sequence[JsonFile]) -> Iterator[Indexed]:
        """Files whose picture is in them alone, as errors; the others are counted."""
        for its in alone:
            if not its.has_picture:
                self._report("annotation-without-picture", its.span)
                continue
            problem = "its picture is in it alone (imageData), and no file beside it"
            hint = "write the picture out, such as by labelme_export_json, under the JSON's name"
            error = SourceError(self._listing.files.place(its.span), problem, hint)
            yield Indexed(its.span.name, "", None, its.span.name, its.document, problem=error)

    def _unlabelled(self, annotated: Mapping[str, Indexed]) -> Iterator[Indexed]:
        """Pictures without annotation in the folders of others that have one."""
        folders = {posixpath.dirname(name) for name in annotated}
        for folder, files in self._table.of_kind("picture").items():
            if folder not in folders:
                self._report("picture-apart", files.span(0), num=len(files))
                continue
            for span in files.spans(np.arange(len(files))):
                if span is not None and span.name not in annotated:
                    yield Indexed(id_of(span), "", span, f"{id_of(span)}.json")

    def _with_splits(self, found: Collection[Indexed], *, needs_splits: bool) -> list[Indexed]:
        """Give each its split: by its folder, or its annotation's where no picture's says one."""
        homes = [its.image.name if its.image else its.annotation or "" for its in found]
        if not any(split_of(posixpath.dirname(home)) for home in homes):
            homes = [its.annotation or "" for its in found]
        homes = [posixpath.dirname(home) for home in homes]
        splits = splits_of({*homes}, self._listing.files.shown, needs_splits=needs_splits)
        return [its._replace(split=splits[home]) for its, home in zip(found, homes, strict=True)]


def _chunks(spans: Sequence[FileSpan]) -> Iterator[list[FileSpan]]:
    """Files to read together: not too many bytes."""
    some, total = list[FileSpan](), 0
    for span in spans:
        if some and total + span.size > _TOGETHER_BYTES:
            yield some
            some, total = [], 0
        some.append(span)
        total += span.size
    if some:
        yield some
