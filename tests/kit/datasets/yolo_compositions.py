"""Composes small YOLO datasets of many habits at once, and writes their files.

What a conversion must give is told by `yolo_truth`, which knows nothing of the code under test.
Most compositions are sound; a few *sins* spoil the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.kit.datasets.composed_files import encoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Size = tuple[int, int]
NAMES = ("raccoon", "Fuß & Ball", "猫", "traffic light", "no", "1.0", "class7", "Ω")
STEMS = ("a", "b", "img.v1", "IMG-2", "猫", "é", "p%20q", "holi day", "images", "labels", "train")
SINS = (
    *("outside", "empty", "class", "word", "nan", "columns", "pixels", "no-labels", "no-picture"),
    *("no-text", "exif", "orphan", "listed-missing"),
)
BAD_LINES = ("class", "word", "nan", "columns", "pixels")
"""Sins by which a line is no object."""
SPLITS = (("train",), ("train", "val"), ("train", "val", "test"), ("val",), ("val", "test"))
PACKINGS = ("folder", "folder", "tar", "zip", "tar.gz")
SUFFIXES = {"JPEG": (".jpg", ".JPG", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",)}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of labels."""

    number: int
    """Of its class."""
    class_text: str
    numbers: tuple[str, ...]
    is_polygon: bool
    separator: str
    sin: str = ""
    is_twice: bool = False
    comment: str = ""
    """What stands in the line before."""

    @property
    def text(self) -> str:
        fields = [self.class_text, *self.numbers]
        if self.sin == "word":
            fields[1] = "left"
        elif self.sin == "nan":
            fields[2] = "nan"
        elif self.sin == "columns":
            fields.append("0.5")
        elif self.sin == "pixels":
            fields[1] = "123.5"
        return self.separator.join(fields)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture with its labels."""

    stem: str
    split: str
    format: str
    suffix: str
    wh: Size
    orientation: int
    lines: tuple[Line, ...] | None
    """None: there are no labels."""
    ends: str
    mark: str
    shade: int
    is_picture: bool
    is_text: bool


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where files lie below the root; `{split}` is the split's folder."""

    pictures: str
    labels: str
    declared: str
    """'yaml', 'darknet' or 'names': what names classes and splits."""
    has_lists: bool = False
    folders: tuple[str, str, str] = ("train", "val", "test")
    """Folders of train, val and test."""


YAML = tuple(
    Layout(pictures=pictures, labels=labels, declared="yaml", folders=folders)
    for pictures, labels in (
        ("images/{split}/", "labels/{split}/"),
        ("{split}/images/", "{split}/labels/"),
        ("{split}/", "{split}/"),
        ("Images/{split}/", "LABELS/{split}/"),
        ("{split}/JPEGImages/", "{split}/labels/"),
    )
    for folders in (("train", "val", "test"), ("train", "valid", "test"), ("train17", "val17", "x"))
)
LISTS = (
    Layout(pictures="images/", labels="labels/", declared="yaml", has_lists=True),
    Layout(pictures="all/", labels="all/", declared="yaml", has_lists=True),
    Layout(
        pictures="obj_{split}_data/",
        labels="obj_{split}_data/",
        declared="darknet",
        has_lists=True,
    ),
)
BY_NAMES = (
    Layout(pictures="images/{split}/", labels="labels/{split}/", declared="names"),
    Layout(pictures="{split}/", labels="{split}/", declared="names"),
    Layout(pictures="images/", labels="labels/", declared="names"),
    Layout(pictures="", labels="", declared="names"),
)
PATH_STYLES = ("plain", "dot", "list", "path-dot", "path-dead", "dead", "windows", "up")
MENDED = ("path-dead", "dead", "windows", "up")
"""Styles whose paths lead nowhere."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A source and the options of its conversion."""

    layout: Layout
    packing: str
    root: str
    names: Mapping[int, str]
    """Number of each class to its name."""
    is_list: bool
    """Whether names are a list in data.yaml."""
    path_style: str
    shots: tuple[Shot, ...]
    splits: tuple[str, ...]
    sins: frozenset[str]
    has_absent: bool
    """Whether data.yaml names a split that is not there."""
    has_stray: bool
    """Whether there is a picture that belongs to no split."""
    lists_twice: bool
    """Whether a list names its first picture again."""
    options: Mapping[str, Any]
    choices: Mapping[str, str]

    def folder_of(self, split: str) -> str:
        return self.layout.folders[("train", "val", "test").index(split)]


class _Dice:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def of(self, options: Sequence[Any]) -> Any:
        return self.random.choice(options)

    def number(self, least: int, most: int) -> int:
        return self.random.randint(least, most)

    def one_in(self, count: int) -> bool:
        return self.random.randrange(count) == 0


SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def compositions(draw: st.DrawFn) -> Composition:
    """Draw a composition: a seed of the whole, and one of each picture."""
    dice = _Dice(draw(SEEDS))
    sins = frozenset(dice.random.sample(SINS, dice.of((0, 0, 0, 1, 1, 2))))
    layout = dice.of(dice.of((YAML, LISTS, BY_NAMES)))
    is_whole = "{split}" not in layout.pictures and not layout.has_lists
    splits = ("train",) if is_whole else dice.of(SPLITS)
    if layout.declared == "darknet":
        splits = tuple(split for split in splits if split != "test") or ("train",)
    names = dice.random.sample(NAMES, dice.number(1, 4))
    is_list = layout.declared != "yaml" or dice.one_in(2)
    numbers = range(len(names)) if is_list else sorted(dice.random.sample(range(9), len(names)))
    table = dict(zip(numbers, names, strict=True))
    seeds = draw(st.lists(SEEDS, min_size=len(splits), max_size=6, unique=True))
    stems = dice.random.sample(STEMS, 6)
    shots = tuple(
        _shot(_Dice(seed), stem, splits[at % len(splits)], at, sins, list(table))
        for at, (seed, stem) in enumerate(zip(seeds, stems, strict=False))
    )
    return Composition(
        layout=layout,
        packing=dice.of(PACKINGS),
        root=dice.of(("", "", "ds/", "my ds/v1/")),
        names=table,
        is_list=is_list,
        path_style=dice.of(PATH_STYLES),
        shots=shots,
        splits=splits,
        sins=sins,
        has_absent=layout.declared == "yaml" and "test" not in splits and dice.one_in(3),
        has_stray=dice.one_in(4),
        lists_twice=layout.has_lists and dice.one_in(4),
        options=_options(dice, sins),
        choices=_choices(dice, sins),
    )


def _options(dice: _Dice, sins: frozenset[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"seed": dice.number(0, 3)}
    if dice.one_in(2 if sins else 6):
        found["on_bad_record"] = "skip"
    if dice.one_in(3):
        found["shard_bytes"] = dice.of((1, 4000))
    return found


def _choices(dice: _Dice, sins: frozenset[str]) -> dict[str, str]:
    found = {}
    if dice.one_in(2 if sins & {"outside", "empty"} else 6):
        found["bad_boxes"] = dice.of(("clip", "drop"))
    if dice.one_in(2 if "no-labels" in sins else 6):
        found["unlabelled"] = dice.of(("fail", "drop", "background"))
    if dice.one_in(2 if "exif" in sins else 6):
        found["exif"] = dice.of(("upright", "stored", "bake"))
    return found


def _shot(
    dice: _Dice, stem: str, split: str, at: int, sins: frozenset[str], numbers: Sequence[int]
) -> Shot:
    def sins_by(sin: str) -> bool:
        return sin in sins and not dice.one_in(3)

    format_ = dice.of(("JPEG", "JPEG", "PNG", "WEBP"))
    wh = (dice.number(8, 40), dice.number(8, 40))
    lines: tuple[Line, ...] | None = None
    if not sins_by("no-labels"):
        count = 0 if dice.one_in(8) else dice.number(1, 4)
        lines = tuple(_line(dice, wh, sins, numbers) for _ in range(count))
    return Shot(
        stem=stem,
        split=split,
        format=format_,
        suffix=dice.of(SUFFIXES[format_]),
        wh=wh,
        orientation=dice.number(2, 8) if sins_by("exif") else 1,
        lines=lines,
        ends=dice.of(("\n", "\n", "\r\n", "\n\n", "\n \t\n")),
        mark=dice.of(("", "", "\ufeff")),
        shade=at,
        is_picture=not sins_by("no-picture"),
        is_text=not sins_by("no-text"),
    )


def _line(dice: _Dice, wh: Size, sins: frozenset[str], numbers: Sequence[int]) -> Line:
    mine = [sin for sin in (*BAD_LINES, "outside", "empty") if sin in sins and not dice.one_in(2)]
    sin = dice.of(mine) if mine else ""
    number = max(numbers) + 1 if sin == "class" else dice.of(numbers)
    is_polygon = dice.one_in(3)
    (x0, x1), (y0, y1) = (_span(dice, side) for side in wh)
    if sin == "empty":
        x1 = x0
    elif sin == "outside":
        x1 = wh[0] * dice.of((1.05, 1.3))
    elif dice.one_in(6):
        y1 = wh[1] * 1.004
    if is_polygon:
        corners = [(x0, y0), (x1, y0), (x1, y1), ((x0 + x1) / 2, y1)][: dice.number(3, 4)]
        values = [side / most for corner in corners for side, most in zip(corner, wh, strict=True)]
    else:
        values = [
            (x0 + x1) / 2 / wh[0],
            (y0 + y1) / 2 / wh[1],
            (x1 - x0) / wh[0],
            (y1 - y0) / wh[1],
        ]
    spell = dice.of((repr, repr, "{:.6f}".format, "{:.4e}".format))
    return Line(
        number=number,
        class_text=dice.of((f"{number}", f"{number}", f"{number}.0", f"{number}e0", f"0{number}")),
        numbers=tuple(spell(value) for value in map(float, values)),
        is_polygon=is_polygon,
        separator=dice.of((" ", " ", "\t", "  ", ",", ", ")),
        sin=sin,
        is_twice=dice.one_in(8),
        comment=dice.of(("# mine", "#0 0.5 0.5 1 1")) if dice.one_in(10) else "",
    )


def _span(dice: _Dice, length: int) -> tuple[float, float]:
    low, high = sorted(dice.random.sample(range(length + 1), 2))
    return (low + 0.25, high) if dice.one_in(6) and high - low > 1 else (low, high)


# Files --------------------------------------------------------------------------------------------


def files_of(composition: Composition) -> dict[str, bytes]:
    """Path below the source to content."""
    c, layout, root = composition, composition.layout, composition.root
    files = {f"{root}README.dataset.txt": b"of a composition\n", ".DS_Store": b"\0"}
    for shot in c.shots:
        files[picture_path(c, shot)] = picture(shot)
        if shot.lines is not None:
            files[labels_path(c, shot)] = labels(shot)
    if "orphan" in c.sins:
        folder = labels_path(c, c.shots[0]).rpartition("/")[0]
        files[f"{folder}/orphan.txt".lstrip("/")] = b"0 0.5 0.5 1 1\n"
    if c.has_stray:
        files["previews/small/x.jpg"] = encoded("JPEG", (8, 8), 1, 98)
    if layout.has_lists:
        for split in c.splits:
            lines = "".join(f"{line}\n" for line in list_of(c, split))
            files[f"{root}{split}.txt"] = lines.encode()
    names = "".join(f"{name}\n" for name in c.names.values()).encode()
    if layout.declared == "yaml":
        files[f"{root}data.yaml"] = data_yaml(c).encode()
    elif layout.declared == "darknet":
        files[f"{root}obj.names"] = names
        files[f"{root}obj.data"] = obj_data(c).encode()
    else:
        files[f"{root}classes.txt"] = names
    return files


def picture(shot: Shot) -> bytes:
    if not shot.is_picture:
        return b"GIF9 or so" * shot.shade
    return encoded(shot.format, shot.wh, shot.orientation, shot.shade)


def labels(shot: Shot) -> bytes:
    if not shot.is_text:
        return b"0 0.5 caf\xe9\n"
    lines = [text for line in shot.lines or () for text in _written(line)]
    return f"{shot.mark}{shot.ends.join(lines)}".encode()


def _written(line: Line) -> list[str]:
    return [*([line.comment] if line.comment else []), *[line.text] * (1 + line.is_twice)]


def picture_path(composition: Composition, shot: Shot) -> str:
    folder = composition.layout.pictures.format(split=composition.folder_of(shot.split))
    return f"{composition.root}{folder}{shot.stem}{shot.suffix}"


def labels_path(composition: Composition, shot: Shot) -> str:
    folder = composition.layout.labels.format(split=composition.folder_of(shot.split))
    return f"{composition.root}{folder}{shot.stem}.txt"


def list_of(composition: Composition, split: str) -> list[str]:
    """The lines of the list of a split."""
    c = composition
    prefix = {"dead": "/home/me/", "windows": "C:\\me\\", "up": "data/"}.get(c.path_style, "")
    prefix = "./" if c.path_style == "dot" else prefix
    found = []
    for shot in c.shots:
        if shot.split == split:
            path = picture_path(c, shot).removeprefix(c.root)
            found.append(f"{prefix}{path}".replace("/", "\\") if "\\" in prefix else prefix + path)
    if "listed-missing" in c.sins and split == c.splits[0]:
        found.append(found[0].replace(c.shots[0].stem + c.shots[0].suffix, "nobody.jpg"))
    return found + (found[:1] if c.lists_twice else [])


def data_yaml(composition: Composition) -> str:
    c = composition
    lines = []
    if c.path_style.startswith("path"):
        lines.append("path: ." if c.path_style == "path-dot" else "path: /dead/ds")
    prefix = {"dot": "./", "dead": "/home/me/", "windows": "C:\\me\\", "up": "../"}
    for split in c.splits:
        path = c.layout.pictures.format(split=c.folder_of(split)).rstrip("/")
        path = f"{split}.txt" if c.layout.has_lists else path
        path = prefix.get(c.path_style, "") + path
        path = path.replace("/", "\\") if c.path_style == "windows" else path
        lines.append(f"{split}: [{path}]" if c.path_style == "list" else f"{split}: {path}")
    if c.has_absent:
        lines.append("test: ../nowhere/else")
    if c.is_list:
        lines += [f"nc: {len(c.names)}", "names:", *(f"- {name}" for name in c.names.values())]
    else:
        lines += ["names:", *(f"  {number}: {name}" for number, name in c.names.items())]
    return "\n".join([*lines, ""])


def obj_data(composition: Composition) -> str:
    c = composition
    prefix = "data/" if c.path_style in MENDED else ""
    keys = {"train": "train", "val": "valid"}
    splits = [f"{keys[split]} = {prefix}{split}.txt" for split in c.splits]
    lines = [f"classes = {len(c.names)}", *splits, f"names = {prefix}obj.names"]
    return "\n".join([*lines, "backup = backup/", ""])
