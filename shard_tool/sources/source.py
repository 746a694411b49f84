"""Says what a source of annotated pictures is: the seam between formats and conversion.

A reader of a format finds files and says which records each split has. It reads no picture.
Conversion knows this module and nothing of any format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from shard_tool.errors import DataError
    from shard_tool.pictures.masks import Color
    from shard_tool.sources.annotation import Annotation
    from shard_tool.sources.files.archive import FileSpan, SourceFiles
    from shard_tool.sources.report import Report


class Record(NamedTuple):
    """The files of one picture, not read yet, and what lists say of it."""

    key: str
    """Key of the sample: `id`, with what no key can hold percent-encoded."""
    id: str
    """The picture's name in the source: its path below the pictures' folder, without suffix."""
    source: int
    """Number of the source."""
    image: FileSpan | None
    annotation: FileSpan | None
    expected_image: str
    """Path at which the picture is looked for; names it in messages where it is missing."""
    expected_annotation: str | None
    """The same of the annotation; None: the format has none, as pictures with masks alone."""
    class_mask: FileSpan | None = None
    object_mask: FileSpan | None = None
    expected_mask: str | None = None
    """The same of the class mask; None: there is no folder of masks."""
    image_sets: tuple[str, ...] = ()
    listed_objects: tuple[int, ...] | None = None
    """Layout and action: 1-based numbers of the objects that the lists of the split name."""
    is_plain: bool = True
    """Whether the picture lies where the key alone tells, so that the sample need not say it."""
    document: bytes | None = None
    """The annotation itself, where a file holds those of many pictures; `annotation` then names its
    place in messages (``annotations/train.json#17``). Gone once it is parsed."""
    shown_classes: tuple[str, ...] | None = None
    """Classes of the picture as a whole, where its folder says them; None: lists or objects do."""
    problem: DataError | None = None
    """Why it cannot become a sample, as far as its source knows already."""

    @property
    def pictures(self) -> list[FileSpan]:
        """The existing files but the annotation: picture, class mask, object mask."""
        if self.class_mask is None and self.object_mask is None:
            return [self.image] if self.image else []
        return [span for span in (self.image, self.class_mask, self.object_mask) if span]


class Source(Protocol):
    """A source of one format."""

    @property
    def files(self) -> SourceFiles:
        """Reads its files, here and in workers."""

    @property
    def format(self) -> str:
        """Name of the format, such as 'voc'."""

    @property
    def evidence(self) -> str:
        """What tells that it is of this format, for the user."""

    @property
    def year(self) -> str:
        """'2007' … '2012' for VOC's own sets, else 'unknown'."""

    @property
    def num_bytes(self) -> int | None:
        """Length of the archive; None for a folder."""

    @property
    def sha256(self) -> str | None:
        """Digest of the archive, if the scan read all of it."""

    @property
    def report(self) -> Report:
        """What was odd about names, folders and lists."""

    @property
    def is_listed(self) -> bool:
        """Whether lists name its records one by one; else they are whatever lies there."""

    @property
    def colors(self) -> tuple[tuple[str, Color], ...]:
        """Class and colour in masks, in the order of values; empty where the source does not say.

        '' is the background.
        """

    @property
    def void_colors(self) -> tuple[Color, ...]:
        """Colours in masks of what is not judged."""

    @property
    def parser(self) -> Callable[[bytes, str], Annotation]:
        """Reads the annotation of a record from its file's bytes and the file's name in messages.

        Other processes must be able to import it.
        """

    @property
    def conventions(self) -> tuple[str, ...]:
        """Names of the box conventions that its numbers may have (`boxes.CONVENTIONS`)."""

    @property
    def class_ids(self) -> Mapping[str, int]:
        """Name of each class that the source declares, to the source's own id, by rising ids.

        Empty where only the objects tell which names there are. Classes without objects count.
        """

    def splits(self, task: str) -> tuple[str, ...]:
        """The splits that have pictures."""

    def lists_folder(self, task: str) -> str:
        """Path at which the lists of a task are looked for; names it in messages."""

    def split_place(self, task: str, split: str) -> str:
        """What names the pictures of a split, for messages: its list, or its folders."""

    def check_split(self, task: str, split: str) -> None:
        """Raise a `SourceError` that names the splits there are, if this one has no pictures."""

    def records(self, task: str, split: str) -> Iterator[Record]:
        """The records of a split, sorted by id; empty if it has no such split."""

    def class_labels(
        self, split: str, ids: NDArray[np.bytes_], classes: Sequence[str]
    ) -> NDArray[np.int8] | None:
        """For classification: int8 [ids, classes], VOC's -1, 0 or 1; None: no list says it."""

    def other_splits(self, task: str) -> tuple[str, ...]:
        """Names of lists beside those of the usual splits; they are taken where they are named."""

    def check_unlisted(self, task: str, splits: Sequence[str]) -> None:
        """Report what is left out, whatever splits are converted: pictures in no list of any."""

    def identity_sha256(self) -> str:
        """Digest that tells on this machine whether the source is the same; reads no content."""

    def lists(self, task: str, splits: Sequence[str]) -> list[FileSpan]:
        """The lists that decide what a conversion takes, sorted."""
