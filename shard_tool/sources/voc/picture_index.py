"""Finds the files of a picture by its id, over all folders of a VOC-like source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shard_tool.sources.file_table import KIND_OF_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from shard_tool.sources.archive import FileSpan
    from shard_tool.sources.file_table import Files, FileTable
    from shard_tool.sources.voc.layout import Layout, Part


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


@dataclass(frozen=True, slots=True)
class PictureIndex:
    """All pictures of a source."""

    ids: NDArray[np.bytes_]
    """UTF-8 [pictures], sorted."""
    parts_of: NDArray[np.uint16]
    """[pictures]: number of the part each lies in."""
    rows: NDArray[np.int64]
    """[pictures]: row of each in its folder."""
    parts: tuple[Part, ...]
    table: FileTable

    @classmethod
    def of(cls, table: FileTable, layout: Layout) -> PictureIndex:
        """Index the pictures of all parts."""
        columns = []
        for number, part in enumerate(layout.parts):
            stems = table.files[part.images, "picture"].stems
            prefix = part.prefix.encode("utf-8", "surrogateescape")
            ids = np.char.add(prefix, stems) if prefix else stems
            columns.append((ids, np.full(len(ids), number, np.uint16), np.arange(len(ids))))
        ids, parts_of, rows = (np.concatenate(column) for column in zip(*columns, strict=True))
        if len(columns) > 1:
            order = np.argsort(ids, kind="stable")
            ids, parts_of, rows = ids[order], parts_of[order], rows[order]
        return cls(ids, parts_of, rows, layout.parts, table)

    def ids_of_split(self, split: str, *, needs_mask: bool) -> NDArray[np.bytes_]:
        """The ids of the pictures in a split's folders; all, where no folder names a split.

        Args:
            split: The split.
            needs_mask: Leave out pictures without a class mask.
        """
        numbers = [n for n, part in enumerate(self.parts) if (part.split or "train") == split]
        is_in = np.isin(self.parts_of, numbers)
        if needs_mask:
            for number in numbers:
                masks = self._files(self.parts[number].class_masks, "picture")
                its = np.flatnonzero(self.parts_of == number)
                images = self._files(self.parts[number].images, "picture")
                if masks is None or images is None:
                    is_in[its] = False
                else:
                    is_in[its] &= masks.rows(images.stems[self.rows[its]]) >= 0
        return self.ids[is_in]

    def found(self, ids: NDArray[np.bytes_]) -> Iterator[Found]:
        """The files of each of these ids, in their order."""
        at = self._at(ids)
        for id_, place in zip(ids.tolist(), at.tolist(), strict=True):
            text = id_.decode("utf-8", "surrogateescape")
            if place >= 0:
                part = self.parts[self.parts_of[place]]
                image = self._file(part.images, "picture").span(int(self.rows[place]))
                stem = text[len(part.prefix) :]
            else:
                part, stem, image = self.parts[0], text, None
            yield Found(
                text,
                image,
                self._find(part.annotations, "annotation", stem),
                self._find(part.class_masks, "picture", stem),
                self._find(part.object_masks, "picture", stem),
                _joined(part.images, f"{stem}.jpg"),
                None if part.annotations is None else _joined(part.annotations, f"{stem}.xml"),
                None if part.class_masks is None else _joined(part.class_masks, f"{stem}.png"),
            )

    def resolved(self, written: NDArray[np.bytes_]) -> tuple[NDArray[np.bytes_], int]:
        """What the lines of a list mean: ids, names of files, or paths that end with one.

        Returns:
            (ids, sorted, each once; number of lines that are no ids). A line that means no picture
            stays as it is written.
        """
        is_id = self._at(written) >= 0
        others = [self._meant(line.decode()) for line in written[~is_id].tolist()]
        num_other = sum(
            meant != line.decode()
            for meant, line in zip(others, written[~is_id].tolist(), strict=True)
        )
        if not num_other:
            return written, 0
        encoded = np.array([meant.encode() for meant in others], np.bytes_)
        return np.unique(np.concatenate([written[is_id], encoded])), num_other

    def span_at(self, row: int) -> FileSpan:
        """Where the picture in this row lies."""
        part = self.parts[self.parts_of[row]]
        return self._file(part.images, "picture").span(int(self.rows[row]))

    def _meant(self, line: str) -> str:
        names = line.replace("\\", "/").split("/")
        stem, dot, suffix = names[-1].rpartition(".")
        stems = [names[-1]]
        if dot and stem and f".{suffix.lower()}" in KIND_OF_SUFFIX:
            stems.append(stem)
        for first in range(len(names)):
            for last in stems:
                candidate = "/".join([*names[first:-1], last])
                if self._at(np.array([candidate.encode()], np.bytes_))[0] >= 0:
                    return candidate
        return line

    def _at(self, ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Row of each id; -1 for one that is not there."""
        if not len(self.ids) or not len(ids):
            return np.full(len(ids), -1, np.int64)
        at = np.searchsorted(self.ids, ids)
        found = self.ids[np.minimum(at, len(self.ids) - 1)] == ids
        return np.where(found, at, -1)

    def _find(self, folder: str | None, kind: str, stem: str) -> FileSpan | None:
        files = self._files(folder, kind)
        return files.find(stem) if files else None

    def _files(self, folder: str | None, kind: str) -> Files | None:
        return None if folder is None else self.table.files.get((folder, kind))

    def _file(self, folder: str, kind: str) -> Files:
        return self.table.files[folder, kind]


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
