"""Finds which folder of XML annotates which folder of pictures, by names alone.

A folder of XML is about pictures in the same folder, in one that holds it or lies in it, or in one
whose path differs by one name (``Annotations`` and ``JPEGImages``, ``xml`` and ``bilder``).
"""

from __future__ import annotations

from collections import defaultdict
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

    from shard_tool.sources.files.file_table import Files

_FEW = 64
"""Folders of one kind beside each other that are compared with each folder of XML."""
_USUAL_PICTURES = ("jpegimages", "images", "image", "imgs", "img", "jpegs", "pictures", "photos")


def pair_folders(
    annotations: Mapping[str, Files], images: Mapping[str, Files], place: str
) -> list[tuple[str, str]]:
    """Find pairs of (folder of pictures, folder of their XML).

    What is left over of a folder of XML goes to folders that no other XML is about: it may annotate
    ``images/train`` and ``images/val``. Either may lie one folder deeper: the Oxford pets have
    ``annotations/xmls`` for ``images``.

    Args:
        annotations: Folder of XML to its files.
        images: Folder of pictures to its files.
        place: The source, for messages.

    Raises:
        SourceError: Two XML files may be about a picture, or two pictures about an XML file.
    """
    near = _Near(images)
    pairs = list[tuple[str, str]]()
    for xml, files in annotations.items():
        for candidates in near.tries(xml):
            best = _best(files.stems, xml, {image: images[image] for image in candidates})
            if best is not None:
                pairs.append((best, xml))
                break
    free = images.keys() - {image for image, _ in pairs}
    for image, xml in list(pairs):
        stems = np.setdiff1d(annotations[xml].stems, images[image].stems)
        others = near.of(xml, free) if free and len(stems) else set()
        while (best := _best(stems, xml, {its: images[its] for its in others})) is not None:
            pairs.append((best, xml))
            stems = np.setdiff1d(stems, images[best].stems)
            others.discard(best)
            free.discard(best)
    _check_pairs(pairs, annotations, images, place)
    return pairs


class _Near:
    """Tells which folders of pictures a folder of XML may be about."""

    def __init__(self, images: Iterable[str]) -> None:
        self._images = set(images)
        self._inside = defaultdict[str, set[str]](set)
        self._own, self._deeper = (defaultdict[tuple[str, ...], set[str]](set) for _ in range(2))
        for folder in self._images:
            self._inside[parent(folder)].add(folder)
            for pattern in patterns(folder):
                self._own[pattern].add(folder)
            for pattern in patterns(parent(folder)):
                self._deeper[pattern].add(folder)

    def tries(self, xml: str) -> Iterator[set[str]]:
        """The candidates to try in turn: with a folder for each picture, all would be too many."""
        if xml in self._images:
            yield {xml}
        groups = self._groups(xml)
        few = set[str]().union(*(group for group in groups if len(group) <= _FEW))
        yield few
        if any(len(group) > _FEW for group in groups):
            yield few.union(*groups)

    def of(self, xml: str, among: AbstractSet[str]) -> set[str]:
        """All candidates among some folders."""
        return set[str]().union(*(group & among for group in self._groups(xml)))

    def _groups(self, xml: str) -> list[set[str]]:
        none = set[str]()
        found = [{xml, parent(xml)} & self._images, self._inside.get(xml, none)]
        for pattern in patterns(xml):
            found += [self._own.get(pattern, none), self._deeper.get(pattern, none)]
        return found + [self._own.get(pattern, none) for pattern in patterns(parent(xml))]


def _best(stems: NDArray[np.bytes_], xml: str, images: Mapping[str, Files]) -> str | None:
    """The folder of pictures that these names are about, or some of them; None: there is none.

    Of folders with many of the names that with a usual name wins: trimaps have them, too.
    """
    if xml in images and np.any(images[xml].rows(stems) >= 0):
        return xml
    shared = {folder: len(np.intersect1d(stems, its.stems)) for folder, its in images.items()}
    most = max(shared.values(), default=0)
    scores = [
        (
            2 * count >= most,
            _usual_rank(folder),
            _nearness(xml, folder),
            count,
            _likeness(xml, folder),
            folder,
        )
        for folder, count in shared.items()
        if count
    ]
    return max(scores)[-1] if scores else None


def _nearness(xml: str, image: str) -> int:
    """2: they are one folder, one holds the other, or they differ by one name; 1: else."""
    is_inside = image in (xml, parent(xml)) or xml == parent(image)
    return 2 if is_inside or not set(patterns(xml)).isdisjoint(patterns(image)) else 1


def _likeness(one: str, other: str) -> int:
    """How many letters the names begin or end with alike: ``train_xml`` and ``train_images``."""
    both = (zip(one, other, strict=False), zip(one[::-1], other[::-1], strict=False))
    return max(len([*takewhile(lambda pair: pair[0] == pair[1], pairs)]) for pairs in both)


def _check_pairs(
    pairs: Sequence[tuple[str, str]],
    annotations: Mapping[str, Files],
    images: Mapping[str, Files],
    place: str,
) -> None:
    """Refuse pictures that two XML files may be about, and XML that may be about two pictures."""
    xml_of, images_of = dict[str, str](), defaultdict[str, list[str]](list)
    for image, xml in pairs:
        if image in xml_of:
            folders = f"{xml_of[image] or '.'!r} and {xml or '.'!r}"
            problem = f"{folders} both hold XML of the pictures in {image or '.'!r}"
            hint = "keep one of them, or give the pictures of each a folder of the same name"
            raise SourceError(place, problem, hint)
        for other in images_of[xml]:
            both = np.intersect1d(images[image].stems, images[other].stems)
            if len(both := np.intersect1d(both, annotations[xml].stems)):
                stem = bytes(both[0]).decode("utf-8", "surrogateescape")
                problem = f"{stem}.xml in {xml or '.'!r} has a picture in {other!r} and {image!r}"
                raise SourceError(place, problem, "rename one of the pictures and its XML")
        xml_of[image] = xml
        images_of[xml].append(image)


def patterns(folder: str) -> Iterator[tuple[str, ...]]:
    """The path's names, with one of them left out in turn."""
    names = tuple(folder.split("/"))
    for at in range(len(names)):
        yield (*names[:at], "*", *names[at + 1 :])


def parent(folder: str) -> str:
    """The folder that holds a folder; '' for one that no other holds."""
    return folder.rpartition("/")[0]


def _usual_rank(folder: str) -> int:
    """Higher for names that folders of pictures mostly have."""
    ranks = [
        len(_USUAL_PICTURES) - _USUAL_PICTURES.index(name)
        for name in folder.casefold().split("/")
        if name in _USUAL_PICTURES
    ]
    return max(ranks, default=0)
