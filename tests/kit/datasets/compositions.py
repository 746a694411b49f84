"""Composes small VOC-like sources of many habits at once.

A composition says which files there are and with which options they are converted. Its files are
written by `composed_files`, and what a conversion must give is told by `composed_truth`, which
knows nothing of the code under test. Most compositions are sound; a few *sins* spoil the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Texts = tuple[str, str, str, str]
Size = tuple[int, int]

VOC = ("cat", "dog", "person", "car", "bus")
OWN = ("raccoon", "Fuß & Ball", "猫", "traffic light", "class1", "class2", "Ω")
ALIKE = (("raccon", "raccoon"), ("Raccoon", "raccoon"), ("traffic_light", "traffic light"))
ALIKE += (("Dog", "dog"), ("pesron", "person"))
"""Pairs that look like one class: by case, blanks or a letter."""
STEMS = ("000001", "a", "b", "img.v1", "IMG-2", "猫", "é", "__meta", "p%20q", "it's", "x" * 200)
STEMS += ("holi day", "v1.2 (3)")
SUFFIXES = {
    "JPEG": (".jpg", ".jpg", ".JPG", ".jpeg"),
    "PNG": (".png", ".PNG"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
}
HAS_EXIF = ("JPEG", "PNG", "WEBP", "TIFF")
FORMATS = ("JPEG", "JPEG", "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
FLAGS = {"": None, "0": False, "1": True, "True": True, "0.0": False, "Unspecified": None}
"""Spelling of a flag to its meaning; '' writes no tag."""
BROKEN = ("no-box", "no-name", "two-boxes", "word")
BAD_XML = ("cut", "entity", "hidden", "root", "empty")
SINS = (
    *("outside", "inverted", "zero", "other-size", "exif-square", "no-xml", "bad-xml"),
    *("bad-object", "alike", "stranger", "orphan-xml", "listed-missing", "two-lists"),
    *("same-stem", "no-picture", "empty-split"),
)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object as its file writes it."""

    name: str
    corners: Texts
    difficult: str = ""
    broken: str = ""
    """One of `BROKEN`; empty: it can be read."""


@dataclass(frozen=True, kw_only=True)
class Habit:
    """How an annotation file is written."""

    encoding: str = "utf-8"
    doctype: bool = False
    title_case: bool = False
    wrapper: bool = False
    polygon: bool = False
    order: tuple[int, ...] = (0, 1, 2, 3)
    database: str = ""
    bad: str = ""
    """One of `BAD_XML`; empty: it can be read."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture with its annotation."""

    stem: str
    split: str
    format: str
    suffix: str
    wh: Size
    """As stored."""
    orientation: int
    declared: Size | None
    """None: the annotation has no size."""
    things: tuple[Thing, ...] | None
    """None: there is no annotation."""
    habit: Habit
    shade: int
    listed: str = "{id}"
    """Its line in a list; empty: no list names it."""
    is_picture: bool = True


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where files lie. `{split}` is the split's folder, so paths without it have one split."""

    pictures: str
    annotations: str
    lists: str = ""
    """Empty: there are no lists."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Split to its folder."""


DEVKITS = tuple(
    Layout(pictures=root + pictures, annotations=root + xml, lists=root + lists)
    for root, pictures, xml, lists in (
        ("VOCdevkit/VOC2012/", "JPEGImages/", "Annotations/", "ImageSets/Main/"),
        ("", "JPEGImages/", "Annotations/", "ImageSets/Main/"),
        ("VOC2024/VOC2024/", "JPEGImages/", "Annotations/", "ImageSets/Main/"),
        ("PASCAL_VOC/VOCdevkit/mine/", "images/", "Annotations/", "ImageSets/"),
        ("", "jpegimages/", "annotations/", "imagesets/main/"),
    )
)
WITHOUT_LISTS = tuple(
    Layout(pictures=pictures, annotations=xml)
    for pictures, xml in (
        ("JPEGImages/", "Annotations/"),
        ("images/", "annotations/"),
        ("data/bilder/", "data/xml/"),
        ("", ""),
        ("shots/", "shots/"),
    )
)
BY_FOLDERS = tuple(
    Layout(pictures=pictures, annotations=xml, folders=folders)
    for pictures, xml in (
        ("{split}/", "{split}/"),
        ("{split}/images/", "{split}/annotations/"),
        ("images/{split}/", "annotations/{split}/"),
        ("set/{split}/", "set/{split}/"),
    )
    for folders in (
        {"train": "train", "val": "valid", "test": "test"},
        {"train": "Training", "val": "val", "test": "testing"},
    )
)
SPLITS = (("train",), ("train", "val"), ("train", "val", "test"), ("val",), ("val", "test"))
PACKINGS = ("folder", "folder", "tar", "zip", "tar.gz")
OWN_SPLIT = "mine"
"""A split that is converted only where it is asked for."""
LIST_NAMES = {"train": ("train", "training", "default"), "val": ("val", "valid"), "test": ("test",)}
LIST_NAMES[OWN_SPLIT] = (OWN_SPLIT,)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A source and the options of its conversion."""

    layout: Layout
    packing: str
    """One of `PACKINGS`."""
    shots: tuple[Shot, ...]
    sins: frozenset[str]
    list_names: Mapping[str, str]
    """Split to the name of its list."""
    has_trainval: bool
    has_orphan: bool
    """Whether there is an annotation without a picture."""
    stray: str
    """Path of a picture in a folder that is no part of the dataset; empty: there is none."""
    has_twin: bool
    """Whether another picture has the first one's name but for the suffix."""
    lists_missing: bool
    """Whether a list names a picture that is not there, 'nobody'."""
    missing_has_xml: bool
    """Whether 'nobody' has an annotation."""
    lists_twice: bool
    """Whether two lists name the first picture."""
    options: Mapping[str, Any]
    """Of `ConvertOptions`, but source and destination."""
    choices: Mapping[str, str]
    classes: Mapping[str, Any]
    """Of `ClassOptions`."""


class _Dice:
    """Throws of a generator with a seed."""

    def __init__(self, seed: int, sins: frozenset[str] = frozenset()) -> None:
        self.random, self.sins = Random(seed), sins

    def of(self, options: Sequence[Any]) -> Any:
        return self.random.choice(options)

    def number(self, least: int, most: int) -> int:
        return self.random.randint(least, most)

    def one_in(self, count: int) -> bool:
        """Seldom true."""
        return self.random.randrange(count) == 0

    def sins_by(self, sin: str) -> bool:
        """Whether to commit a sin here, if the composition has it."""
        return sin in self.sins and not self.one_in(3)


SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def compositions(draw: st.DrawFn) -> Composition:
    """Draw a composition.

    Hypothesis draws a seed of the whole and one of each picture, and drops pictures to make a
    failure small. What seeds stand for is thrown evenly: hypothesis alone varies a few compositions
    over and over.
    """
    dice = _Dice(draw(SEEDS))
    dice.sins = frozenset(dice.random.sample(SINS, dice.of((0, 0, 1, 1, 2))))
    layout = dice.of(dice.of((DEVKITS, WITHOUT_LISTS, BY_FOLDERS)))
    splits = dice.of(SPLITS) if layout.lists or layout.folders else ("train",)
    if layout.lists and dice.one_in(10):
        splits = (OWN_SPLIT,)
    names, from_one = _names(dice), dice.of((0, 1))
    seeds = draw(st.lists(SEEDS, min_size=len(splits), max_size=6, unique=True))
    stems = dice.random.sample(STEMS, 6)
    shots = tuple(
        _shot(_Dice(seed, dice.sins), stem, splits[number % len(splits)], number, names, from_one)
        for number, (seed, stem) in enumerate(zip(seeds, stems, strict=False))
    )
    if "empty-split" in dice.sins:
        shots = tuple(
            replace(shot, things=None) if shot.split == splits[-1] else shot for shot in shots
        )
    return Composition(
        layout=layout,
        packing=dice.of(PACKINGS),
        shots=shots,
        sins=dice.sins,
        list_names={split: dice.of(LIST_NAMES[split]) for split in splits},
        has_trainval=bool(layout.lists) and dice.one_in(4),
        has_orphan="orphan-xml" in dice.sins,
        stray=_stray(dice, layout),
        has_twin="same-stem" in dice.sins,
        lists_missing="listed-missing" in dice.sins and bool(layout.lists),
        missing_has_xml=dice.of((True, False)),
        lists_twice="two-lists" in dice.sins and bool(layout.lists) and len(splits) > 1,
        options=_options(dice, splits),
        choices=_choices(dice),
        classes=_classes(dice, names),
    )


def _names(dice: _Dice) -> list[str]:
    names = list(VOC) if dice.of((True, False)) else list(OWN)
    if "alike" in dice.sins:
        names += dice.of(ALIKE)
    if "stranger" in dice.sins:
        names += ["raccoon"]
    return names


def _stray(dice: _Dice, layout: Layout) -> str:
    if not dice.one_in(8):
        return ""
    if not layout.lists and not layout.folders:
        return "previews/small/000001.jpg"
    near = re.split("(?i)imagesets", layout.lists)[0] if layout.lists else layout.pictures
    return dice.of(("previews/small/", f"{near.partition('{')[0]}previews/")) + "000001.jpg"


ANSWERS = {
    "on_bad_record": (
        "bad-object",
        "bad-xml",
        "no-picture",
        "listed-missing",
        "outside",
        "inverted",
    ),
    "boxes": ("zero",),
    "bad_boxes": ("outside", "inverted"),
    "size_mismatch": ("other-size",),
    "exif": ("exif-square",),
    "unlabelled": ("no-xml", "empty-split"),
    "classes": ("alike", "stranger"),
    "other_classes": ("stranger",),
    "rename": ("alike", "stranger"),
}
"""An option to the sins that it answers: it is more frequent there."""


def _is_given(dice: _Dice, option: str) -> bool:
    return dice.one_in(5) if dice.sins.isdisjoint(ANSWERS[option]) else dice.one_in(2)


def _options(dice: _Dice, splits: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"seed": dice.number(0, 3)}
    if _is_given(dice, "on_bad_record"):
        found["on_bad_record"] = "skip"
    if splits == (OWN_SPLIT,) or dice.one_in(4):
        found["splits"] = dice.of((splits, splits[:1], splits[-1:]))
    if dice.one_in(3):
        found["shard_bytes"] = dice.of((1, 4000))
    return found


def _choices(dice: _Dice) -> dict[str, str]:
    options = {
        "boxes": ("devkit", "corners"),
        "bad_boxes": ("clip", "drop"),
        "size_mismatch": ("scale", "ignore"),
        "exif": ("upright", "stored", "bake"),
        "unlabelled": ("fail", "drop", "background"),
    }
    return {name: dice.of(values) for name, values in options.items() if _is_given(dice, name)}


def _classes(dice: _Dice, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if _is_given(dice, "classes"):
        found["classes"] = tuple(sorted(set(names))[: dice.number(1, len(set(names)))])
    if _is_given(dice, "other_classes"):
        found["other_classes"] = "drop"
    if _is_given(dice, "rename"):
        found["rename"] = ((dice.of(names), dice.of(("dog", "raccoon", "new"))),)
    return found


def _shot(
    dice: _Dice, stem: str, split: str, number: int, names: Sequence[str], from_one: int
) -> Shot:
    format_ = dice.of(FORMATS)
    suffix = dice.of(SUFFIXES[dice.of(FORMATS) if dice.one_in(6) else format_])
    wh = (dice.number(8, 40), dice.number(8, 40))
    orientation = dice.number(1, 8) if format_ in HAS_EXIF and dice.one_in(3) else 1
    if "exif-square" in dice.sins:
        wh = (wh[0], wh[0])
    elif orientation in (2, 3, 4) or wh[0] == wh[1]:
        orientation = orientation if dice.one_in(4) else 1  # nothing tells who turned the picture
    declared, frame = _declared(dice, wh, orientation)
    habit = _habit(dice)
    things = None
    if not dice.sins_by("no-xml"):
        count = 0 if dice.one_in(8) else dice.number(1, 4)
        things = tuple(_thing(dice, frame, names, from_one) for _ in range(count))
    if habit.encoding == "latin-1" and not _is_latin(things or ()):
        habit = Habit(encoding="utf-16")
    return Shot(
        stem=stem,
        split=split,
        format=format_,
        suffix=suffix,
        wh=wh,
        orientation=orientation,
        declared=declared,
        things=things,
        habit=habit,
        shade=number,
        listed=_listed(dice, stem),
        is_picture=not dice.sins_by("no-picture"),
    )


def _declared(dice: _Dice, wh: Size, orientation: int) -> tuple[Size | None, Size]:
    """The size that an annotation says, and the one that its boxes are of."""
    upright = wh[::-1] if orientation >= 5 else wh
    frame = dice.of((upright, upright, wh))
    if dice.one_in(8):
        return dice.of((None, (0, 0))), frame
    if dice.sins_by("other-size"):
        twice = (2 * frame[0], 2 * frame[1])
        of_another_aspect = dice.of(((frame[0] + 30, frame[1]), (25, 25)))
        return (of_another_aspect, frame) if dice.one_in(4) else (twice, twice)
    return frame, frame


def _listed(dice: _Dice, stem: str) -> str:
    if dice.one_in(12):
        return ""
    if " " in stem:  # what follows a blank belongs to the name
        return dice.of(("{id}", "{file}", "{path}"))
    return dice.of(("{id}",) * 4 + ("{id} 1", "{file}", "{path}", "{path} {xml}", "{id}\n{id}"))


def _habit(dice: _Dice) -> Habit:
    if dice.sins_by("bad-xml"):
        return Habit(bad=dice.of(BAD_XML))
    if not dice.one_in(2):
        return Habit()
    return Habit(
        encoding=dice.of(("utf-8", "utf-8-sig", "utf-16", "latin-1")),
        doctype=dice.one_in(4),
        title_case=dice.one_in(4),
        wrapper=dice.one_in(4),
        polygon=dice.one_in(4),
        order=dice.of(((0, 1, 2, 3), (0, 2, 1, 3), (3, 2, 1, 0))),
        database=dice.of(("", "", "roboflow.com", "The VOC2007 Database")),
    )


def _thing(dice: _Dice, frame: Size, names: Sequence[str], from_one: int) -> Thing:
    xs, ys = (_span(dice, length, from_one) for length in frame)
    broken = dice.of(BROKEN) if dice.sins_by("bad-object") else ""
    return Thing(
        name=dice.of(names),
        corners=(xs[0], ys[0], xs[1], ys[1]),
        difficult=dice.of(tuple(FLAGS)),
        broken=broken,
    )


def _span(dice: _Dice, length: int, from_one: int) -> tuple[str, str]:
    """Two texts along one axis; inside the picture, unless by sin or by a pixel at most."""
    first = dice.number(1, length - 2)
    last = dice.of((length, dice.number(first + 1, length)))
    pair = (str(first), str(last))
    if dice.one_in(4):
        fraction = dice.of((".25", ".5", ".1", ".0"))
        pair = (f"{first}{fraction}", str(last))
    if dice.one_in(8):
        pair = (pair[0], dice.of((f"{length}.5", str(length + 1))))
    if not from_one and dice.sins_by("zero"):
        pair = ("0", pair[1])
    if dice.sins_by("outside"):
        pair = dice.of(
            (("-3", pair[1]), (pair[0], str(length + 5)), (str(length + 2), str(length + 9)))
        )
    if dice.sins_by("inverted"):
        pair = dice.of(((pair[1], pair[0]), (pair[0], pair[0]), (f"{first}.5", str(first))))
    return pair


def _is_latin(things: Sequence[Thing]) -> bool:
    try:
        "".join(thing.name for thing in things).encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True
