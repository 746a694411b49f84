"""Tells by names of files and folders which split a COCO JSON is of, and where its pictures lie."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shard_tool.sources.files.file_span import slashed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_WORDS = {
    "train": ("train", "training", "minitrain", "default"),
    "val": ("val", "valid", "validation", "minival", "valminusminival"),
    "trainval": ("trainval",),
    "test": ("test", "testing"),
}
"""Split to the words that say it; CVAT calls a subset without a name 'default'."""
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_TOKEN = re.compile(r"[^\W\d_]+\d*")
_PICTURES = ("images", "jpegimages", "data")
"""Usual folders of pictures, in lower case; 'data' is FiftyOne's."""
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:|[A-Za-z][\w+.-]*://")
_BESIDE = re.compile(r"(person_keypoints|captions|stuff|panoptic|image_info)_(.+)")


def split_of(path: str) -> str | None:
    """The split that a file's name says, else that of the nearest folder above it; None: none.

    >>> split_of("annotations/instances_train2017.json"), split_of("valid/_annotations.coco.json")
    ('train', 'val')
    >>> split_of("annotations/instances_train_val.json"), split_of("annotations.json")
    ('trainval', None)
    """
    for name in reversed(path.removesuffix(".json").split("/")):
        found = {_SPLIT_OF[word] for _, word in _words_in(name)}
        if found == {"train", "val"}:
            return "trainval"
        if len(found) == 1:
            return found.pop()
    return None


def _words_in(name: str) -> Iterator[tuple[str, str]]:
    """Yield each part of a name that says a split, as written, and its word."""
    for token in _TOKEN.findall(name):
        word = token.casefold().rstrip("0123456789")
        if word in _SPLIT_OF or token.casefold().startswith("trainval"):
            yield token, word if word in _SPLIT_OF else "trainval"


def says_other_split(folder: str, split: str) -> bool:
    """Whether a folder is named as one of another split's pictures."""
    its = split_of(folder)
    return its is not None and its != split and "trainval" not in (its, split)


def usual_folders(path: str, split: str, known: Collection[str]) -> list[str]:
    """Folders of pictures where those of a JSON file lie, the likeliest first.

    Args:
        path: The file.
        split: Its split.
        known: The folders that hold pictures.

    >>> usual_folders("annotations/instances_val2017.json", "val", ["train2017", "val2017"])
    ['val2017']
    """
    folder, _, name = path.rpartition("/")
    words = [token for token, _ in _words_in(name)]
    words = [word.casefold() for word in (*words, *_WORDS.get(split, ()))]
    by_name = {its.casefold(): its for its in sorted(known, reverse=True)}
    found = dict[str, None]()
    for root in dict.fromkeys((folder, folder.rpartition("/")[0])):
        for inner in _inner(words):
            its = f"{root}/{inner}".strip("/").casefold()
            if its in by_name:
                found[by_name[its]] = None
    # Names may lead to folders below: "images/a.jpg" to one beside the file.
    return [*found, *(root for root in (folder, folder.rpartition("/")[0]) if root not in found)]


def _inner(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        yield word
        for pictures in _PICTURES:
            yield f"{pictures}/{word}"
            yield f"{word}/{pictures}"
    yield ""
    yield from _PICTURES


def has_instances_beside(path: str, others: Collection[str]) -> bool:
    """Whether a file is one of COCO's other ones, and that of instances lies beside it.

    >>> others = {"annotations/instances_val2017.json"}
    >>> has_instances_beside("annotations/captions_val2017.json", others)
    True
    """
    folder, slash, name = path.rpartition("/")
    match = _BESIDE.fullmatch(name)
    return bool(match) and f"{folder}{slash}instances_{match and match[2]}" in others


def names_in(written: str) -> list[str]:
    r"""The folders and the name in a written path, of whatever system; of one with '..' the name.

    >>> names_in(r"C:\me\train\a.jpg"), names_in("../a.jpg"), names_in("./a.jpg")
    (['me', 'train', 'a.jpg'], ['a.jpg'], ['a.jpg'])
    """
    path = slashed(written)
    if path[1:2] == ":":
        path = path[2:]
    names = [name for name in path.split("/") if name not in ("", ".")]
    return names[-1:] if ".." in names else names


def is_absolute(written: str) -> bool:
    """Whether a written path is one of some machine, or a URL, so that its begin says nothing."""
    return _ABSOLUTE.match(written) is not None
