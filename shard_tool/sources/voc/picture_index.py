"""Finds the files of a picture by its id, over all folders of a VOC-like source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from shard_tool.sources.files.file_table import KIND_OF_SUFFIX
from shard_tool.sources.voc.imagesets import listed_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from shard_tool.sources.files.archive import FileSpan
    from shard_tool.sources.files.file_table import Files, FileTable
    from shard_tool.sources.voc.imagesets import Line
    from shard_tool.sources.voc.layout import Layout, Part


_AT_A_TIME = 4096
_BLANKS = frozenset(" \t")


class Found(NamedTuple):
    """The files of one picture; None: there is no such file."""

    id: str
    image: FileSpan | None
    annotation: FileSpan | None
    class_mask: FileSpan | None
    object_mask: FileSpan | None
    expected_image: str
    expected_annotation: str | None
    """None: nothing annotates pictures by XML here."""
    expected_mask: str | None


class Named(NamedTuple):
    """What a list of pictures says."""

    ids: NDArray[np.bytes_]
    """Sorted, each once."""
    num_other: int
    """Lines that hold more or something else than an id."""
    num_twice: int
    """Lines whose picture an earlier line names."""
    has_labels: bool
    """Whether the second column says which pictures *lack* something, as in the list of a class. A
    second column of ones, or of other paths, says nothing of the kind."""


@dataclass(frozen=True)
class PictureIndex:
    """All pictures of a source."""

    ids: NDArray[np.bytes_]
    """UTF-8 [pictures], sorted."""
    parts_of: NDArray[np.unsignedinteger[Any]]
    """[pictures]: number of the part each lies in."""
    rows: NDArray[np.int64]
    """[pictures]: row of each in its folder."""
    parts: tuple[Part, ...]
    table: FileTable

    @classmethod
    def of(cls, table: FileTable, layout: Layout) -> PictureIndex:
        """Index the pictures of all parts."""
        columns: list[tuple[NDArray[Any], ...]] = []
        dtype = np.min_scalar_type(len(layout.parts))
        for number, part in enumerate(layout.parts):
            stems = table.files[part.images, "picture"].stems
            prefix = part.prefix.encode("utf-8", "surrogateescape")
            ids = np.char.add(prefix, stems) if prefix else stems
            columns.append((ids, np.full(len(ids), number, dtype), np.arange(len(ids))))
        ids, parts_of, rows = (np.concatenate(column) for column in zip(*columns, strict=True))
        if len(columns) > 1:
            order = np.argsort(ids, kind="stable")
            ids, parts_of, rows = ids[order], parts_of[order], rows[order]
        return cls(ids, parts_of, rows, layout.parts, table)

    def ids_of_split(self, split: str) -> NDArray[np.bytes_]:
        """The ids of the pictures in a split's folders; all, where no folder names a split."""
        numbers = [n for n, part in enumerate(self.parts) if (part.split or "train") == split]
        return self.ids[np.isin(self.parts_of, numbers)]

    def found(self, ids: NDArray[np.bytes_]) -> Iterator[Found]:
        """The files of each of these ids, in their order."""
        for first in range(0, len(ids), _AT_A_TIME):
            yield from self._some_found(ids[first : first + _AT_A_TIME])

    def _some_found(self, ids: NDArray[np.bytes_]) -> list[Found]:
        at, has_xml = self._at(ids), any(part.annotations is not None for part in self.parts)
        # A picture that is not there belongs to the first part.
        numbers = np.where(at >= 0, self.parts_of[at], 0)
        found: list[Found | None] = [None] * len(ids)
        for number in np.unique(numbers).tolist():
            part = self.parts[number]
            places = np.flatnonzero(numbers == number)
            images = self.table.files[part.images, "picture"]
            rows = np.where(at[places] >= 0, self.rows[at[places]], -1)
            texts = [id_.decode("utf-8", "surrogateescape") for id_ in ids[places].tolist()]
            stems = [text.removeprefix(part.prefix) for text in texts]
            encoded = np.array([stem.encode("utf-8", "surrogateescape") for stem in stems], "S")
            columns = zip(
                places.tolist(),
                texts,
                stems,
                images.spans(rows),
                self._spans(part.annotations, "annotation", encoded),
                self._spans(part.class_masks, "picture", encoded),
                self._spans(part.object_masks, "picture", encoded),
                strict=True,
            )
            for place, text, stem, *spans in columns:
                image, annotation, class_mask, object_mask = spans
                found[place] = Found(
                    text,
                    image,
                    annotation,
                    class_mask,
                    object_mask,
                    _joined(part.images, f"{stem}.jpg"),
                    _joined(part.annotations or part.images, f"{stem}.xml") if has_xml else None,
                    _joined(part.class_masks, f"{stem}.png"),
                )
        return [its for its in found if its is not None]

    def named(self, content: bytes, *, place: str) -> Named:
        """Read a list of pictures: its lines are ids, names of files, or paths that end with one.

        A name may hold blanks, though blanks end a field, and may begin with '#', though that
        begins a comment: where the whole line names a picture, it is the name. A line that means no
        picture stays as it is written.

        Raises:
            SourceError: The list is not text.
        """
        lines = listed_names(content, place=place)
        is_id = self._at(lines.first) >= 0
        meant: dict[int, str] = {}
        num_labels = num_other = 0
        for row, line in lines.whole.items():
            its = self._of_line(line, bytes(lines.first[row]).decode(), is_id=bool(is_id[row]))
            if its is not None:
                meant[row] = its
            else:
                num_labels += line.rest.split(" ")[0] in ("-1", "0")
            num_other += bool(line.rest) and its != line.raw
        for row in np.flatnonzero(~is_id).tolist():
            written = bytes(lines.first[row]).decode()
            if row not in meant and (its := self._meant(written) or self._meant(written.strip())):
                meant[row] = its
                num_other += row not in lines.whole
        ids = lines.first
        if meant:
            ids = ids.astype(f"S{max(ids.itemsize, max(map(len, map(_encoded, meant.values()))))}")
            ids[[*meant]] = [_encoded(its) for its in meant.values()]
        if commented := [its for line in lines.comments if (its := self._of_comment(line))]:
            ids = np.append(ids, np.array([_encoded(its) for its in commented]))
        unique = np.unique(ids)
        return Named(unique, num_other, len(ids) - len(unique), has_labels=num_labels > 0)

    def _of_line(self, line: Line, first: str, *, is_id: bool) -> str | None:
        """The picture that a line of several fields names; None: its first field says it.

        ``IMG 08.jpg`` is a name, also where there is a picture ``IMG`` and no ``IMG 08``. But the
        first field of ``a.jpg masks/a.png`` is the name of a file already.
        """
        raw, stripped = line.raw, line.raw.strip(" \t")
        if self._has_blanks:
            for text in (raw, stripped):
                if its := self._meant(text, needs_blank=True):
                    return its
        if not line.rest:
            return None
        if _kind(line.rest) == "picture" and _kind(first) is None:
            return self._meant(stripped) or stripped
        if is_id or self._meant(first):
            return None
        is_number = line.rest.split(" ")[0].lstrip("+-").isdecimal()
        return self._meant(stripped) or (None if is_number else stripped)

    def _of_comment(self, line: str) -> str | None:
        """The picture that a line with a '#' in front names: by its whole, or before a label."""
        stripped = line.strip()
        names = [line, stripped]
        name, _, label = stripped.rpartition(" ")
        if label in ("-1", "0", "1"):
            names.append(name.strip())
        names += [name.rpartition(".")[0] for name in names if _kind(name) == "picture"]
        at = self._at(np.array([_encoded(name) for name in names]))
        return next((name for name, row in zip(names, at.tolist(), strict=True) if row >= 0), None)

    @cached_property
    def _has_blanks(self) -> bool:
        return any(np.any(np.char.find(self.ids, blank) >= 0) for blank in (b" ", b"\t"))

    def without_picture(
        self, unpaired: Sequence[str], named: NDArray[np.bytes_]
    ) -> Iterator[tuple[FileSpan, int]]:
        """Yield (an example, number) of the annotations of a folder that belong to no picture.

        Args:
            unpaired: Folders of which no annotation does.
            named: Ids of records: those that have no picture are errors.
        """
        parts: dict[str, list[Part]] = {folder: [] for folder in unpaired}
        for part in self.parts:
            if part.annotations is not None:
                parts.setdefault(part.annotations, []).append(part)
        yield from self._without_picture(parts, "annotation", named)

    def masks_without_picture(self, named: NDArray[np.bytes_]) -> Iterator[tuple[FileSpan, int]]:
        """Yield the same of the class masks."""
        parts: dict[str, list[Part]] = {}
        for part in self.parts:
            if part.class_masks is not None:
                parts.setdefault(part.class_masks, []).append(part)
        yield from self._without_picture(parts, "picture", named)

    def _without_picture(
        self, parts: Mapping[str, Sequence[Part]], kind: str, named: NDArray[np.bytes_]
    ) -> Iterator[tuple[FileSpan, int]]:
        for folder, its in parts.items():
            files = self._file(folder, kind)
            is_alone = np.ones(len(files), np.bool_)
            for part in its:
                is_alone &= self._file(part.images, "picture").rows(files.stems) < 0
                prefix = part.prefix.encode("utf-8", "surrogateescape")
                is_alone &= ~np.isin(np.char.add(prefix, files.stems), named)
            if is_alone.any():
                yield files.span(int(is_alone.argmax())), int(is_alone.sum())

    def span_at(self, row: int) -> FileSpan:
        """Where the picture in this row lies."""
        part = self.parts[self.parts_of[row]]
        return self._file(part.images, "picture").span(int(self.rows[row]))

    def _meant(self, line: str, *, needs_blank: bool = False) -> str | None:
        """The id that a line means; None: it means no picture (or, at will, none with a blank)."""
        names = line.replace("\\", "/").split("/")
        stems = [names[-1]]
        if _kind(names[-1]) and (stem := names[-1].rpartition(".")[0]):
            stems.append(stem)
        most = len(names)
        if needs_blank:  # a path's end that begins behind a blank is another field
            blank = (at for at, name in enumerate(names) if not _BLANKS.isdisjoint(name))
            most = next(blank, -1) + 1
        candidates = ["/".join([*names[first:-1], last]) for first in range(most) for last in stems]
        encoded = np.array([_encoded(its) for its in candidates], np.bytes_)
        return next(
            (its for its, at in zip(candidates, self._at(encoded), strict=True) if at >= 0), None
        )

    def _at(self, ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Row of each id; -1 for one that is not there."""
        if not len(self.ids) or not len(ids):
            return np.full(len(ids), -1, np.int64)
        at = np.searchsorted(self.ids, ids)
        found = self.ids[np.minimum(at, len(self.ids) - 1)] == ids
        return np.where(found, at, -1)

    def _spans(
        self, folder: str | None, kind: str, stems: NDArray[np.bytes_]
    ) -> list[FileSpan | None]:
        files = self._files(folder, kind)
        return [None] * len(stems) if files is None else files.spans(files.rows(stems))

    def _files(self, folder: str | None, kind: str) -> Files | None:
        return None if folder is None else self.table.files.get((folder, kind))

    def _file(self, folder: str, kind: str) -> Files:
        return self.table.files[folder, kind]


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _kind(name: str) -> str | None:
    """The kind of file that a suffix says; None: there is none, or another one."""
    _, dot, suffix = name.rpartition(".")
    return KIND_OF_SUFFIX.get(f".{suffix.lower()}") if dot else None


@overload
def _joined(folder: str, name: str) -> str: ...


@overload
def _joined(folder: None, name: str) -> None: ...


@overload
def _joined(folder: str | None, name: str) -> str | None: ...


def _joined(folder: str | None, name: str) -> str | None:
    """A path; None without a folder."""
    return None if folder is None else f"{folder}/{name}" if folder else name
