"""Draw a mini-VOC: a small, seeded data set in the official PASCAL VOC layout.

Owns the pictures, their masks and boxes, and the oddities of official files that readers must
survive; what an object looks like is `mini_voc_shapes`'. Imports nothing of `shard_tool`, so the
tests do not check a reader against itself.

What holds:
- Equal arguments give equal bytes with equal versions of NumPy (generator streams) and Pillow
  (JPEG and PNG bytes follow its libjpeg and zlib). Never pin a digest of the archive in a test.
- Picture i depends on (seed, year, i) alone, never on how many pictures there are.
- Boxes, flags and masks are measured on the pixels drawn. `truncated`: some of the object lies
  outside the picture; `occluded`: a later object covers some of it; `difficult`: less than a third
  is seen, or it is tiny. Objects no pixel of which is seen are left out. In the masks a tiny
  object may be void (255) altogether; object numbers follow the XML's order all the same.
- Even pictures are train, odd ones val; every third is segmented. In 2008 and later, picture
  24, 51, 78 ... is in Segmentation only, has a `2007_` id and the pixels of mini-VOC2007's picture
  of that index, as some official ones do.

Oddities: picture i has `QUIRKS[i % 47]`, if there is one. So 20 pictures have each once, and 141
have each in both splits, with and without masks. Every box stays inside its picture.
    xmax_first     bndbox in the order xmax, xmin, ymax, ymin
    fraction       one xmax like 45.70000076293945
    no_size        no <size>
    other_filename <filename> of another file
    no_pose        neither pose nor truncated
    parts          a person with head, hand and foot parts, some reaching a little beyond it
    actions        a person with <actions>
    point          an object with a <point> on it
    lower_pose     'frontal' for 'Frontal'
    comments       XML comments, one of them holding an <object>
    empty          a picture without an object
    owner          <owner> and <flickrid>, which all XMLs of mini-VOC2007 have
    whole          an object behind the others with the box 1, 1, width, height
    box_first      bndbox before name
    gray           a grayscale JPEG (depth 1)
    progressive    a progressive JPEG
    tiny           a picture of 142 x 71 px
    sliver         an object of which one column of pixels is seen (label 0 in its class's list)
    indented       spaces for tabs, an XML declaration, CRLF line ends
    whole_numbers  every coordinate with a decimal point: 12.0
The `occluded` tag is absent where the picture is older than 2009. Lists have CRLF line ends in
mini-VOC2007, otherwise those in `CRLF_LISTS`; those in `BLANK_LISTS` have blank lines.
"""

import argparse
import functools
import io
import itertools
import math
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.mini_voc_shapes import (
    SHAPES,
    ByteArray,
    Color,
    FloatArray,
    Pen,
    Point,
    Rng,
    noise,
    pick,
    tint,
)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
YEARS = ("2007", "2008", "2009", "2010", "2011", "2012")
QUIRKS = (
    *("xmax_first", "fraction", "no_size", "other_filename", "no_pose", "parts", "actions"),
    *("point", "lower_pose", "comments", "empty", "owner", "whole", "box_first", "gray"),
    *("progressive", "tiny", "sliver", "indented", "whole_numbers"),
)
QUIRK_PERIOD = 47
CRLF_LISTS = frozenset({"Main/val.txt", "Main/person_val.txt", "Segmentation/trainval.txt"})
BLANK_LISTS = frozenset({"Main/train.txt", "Main/person_trainval.txt", "Segmentation/val.txt"})
ACTIONS = (
    *("jumping", "phoning", "playinginstrument", "reading", "ridingbike", "ridinghorse"),
    *("running", "takingphoto", "usingcomputer", "walking", "other"),
)
PARENTS = ("VOCdevkit", "VOCdevkit/VOC{year}")
FOLDERS = (
    *("Annotations", "ImageSets", "ImageSets/Main", "ImageSets/Segmentation"),
    *("JPEGImages", "SegmentationClass", "SegmentationObject"),
)
SIZES_WH = ((500, 375), (375, 500), (500, 333), (333, 500), (500, 400), (480, 360), (320, 240))
SIZE_ODDS = (0.45, 0.16, 0.16, 0.07, 0.06, 0.05, 0.05)
TINY_PIXELS = 120  # an object of which fewer are seen is difficult
VOID = 255  # the value of the border round each object in a mask

Box: TypeAlias = tuple[int, int, int, int]  # xmin, ymin, xmax, ymax from 1, both corners inside
Node: TypeAlias = tuple[str, "str | list[Node]"]  # an XML tag and what it holds


def draw_archive(
    path: Path,
    *,
    num_pictures: int = 200,
    seed: int = 0,
    year: str = "2012",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a mini-VOC as an uncompressed tar: folders first, then files, folder by folder.

    The pictures are held in memory until the last is drawn (about 25 kB each).

    Args:
        path: The tar to write; an existing file is replaced.
        num_pictures: How many pictures, Main and Segmentation together.
        seed: Another seed, other pictures.
        year: "2007" to "2012"; decides the ids, the inner folder and the age of the XMLs.
        on_progress: Called with (pictures drawn, num_pictures) after each picture.

    Raises:
        ValueError: There is no such year, or nothing to draw.
    """
    files = _draw_files(num_pictures, seed, year, on_progress)
    folders = [name.format(year=year) for name in PARENTS]
    folders += [f"{folders[-1]}/{name}" for name in FOLDERS]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in folders:
            member = tarfile.TarInfo(name)  # mtime, uid and gid are 0, names of owners empty
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))


def draw_tree(
    root: Path,
    *,
    num_pictures: int = 200,
    seed: int = 0,
    year: str = "2012",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write what `draw_archive` writes as a folder, `root/VOCdevkit/VOC<year>`."""
    files = _draw_files(num_pictures, seed, year, on_progress)
    for name in FOLDERS:
        (root / PARENTS[-1].format(year=year) / name).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)


# --- What a picture is to be, and what came out -----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All about a picture that is known before it is drawn."""

    index: int
    key: str
    year: str
    taken: int  # the year in the id: decides which tags its XML may have
    quirk: str
    split: str
    in_main: bool
    in_segmentation: bool
    pixel_seed: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One annotated object, measured on the pixels drawn."""

    name: str
    pose: str
    box: Box
    truncated: bool
    occluded: bool
    difficult: bool
    point: tuple[int, int]
    parts: tuple[tuple[str, Box], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawn picture with its objects; `owner` holds each pixel's object number, 0 for none."""

    image: Image.Image
    owner: ByteArray
    things: tuple[Thing, ...]


def _rng(*key: int | str) -> Rng:
    digest = blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))


def _plan(index: int, seed: int, year: str) -> Plan:
    rng = _rng("plan", seed, year, index)
    number = 7 * index + int(rng.integers(3, 10))
    taken = int(rng.integers(2008, min(int(year), 2011) + 1)) if year > "2007" else 2007
    in_main = year == "2007" or index % 27 != 24
    taken = taken if in_main else 2007
    position = index % QUIRK_PERIOD
    return Plan(
        index=index,
        key=f"{number:06d}" if year == "2007" else f"{taken}_{number:06d}",
        year=year,
        taken=taken,
        quirk=QUIRKS[position] if position < len(QUIRKS) else "",
        split="val" if index % 2 else "train",
        in_main=in_main,
        in_segmentation=index % 3 == 0,
        pixel_seed=("pixels", seed, "2007" if taken == 2007 else year, index),
    )


def _draw_files(
    num_pictures: int, seed: int, year: str, on_progress: Callable[[int, int], None] | None
) -> dict[str, bytes]:
    """Path inside the archive -> contents, in the archive's order."""
    if year not in YEARS:
        raise ValueError(f"year {year!r}: a mini-VOC is drawn for one of {', '.join(YEARS)}")
    if num_pictures < 1:
        raise ValueError(f"num_pictures {num_pictures}: at least 1")
    files: dict[str, bytes] = {}
    drawn: list[tuple[Plan, tuple[Thing, ...]]] = []
    for index in range(num_pictures):
        plan = _plan(index, seed, year)
        picture = _draw_picture(plan)
        drawn.append((plan, picture.things))
        files.update(_picture_files(plan, picture))
        if on_progress is not None:
            on_progress(index + 1, num_pictures)
    files.update(_list_files(sorted(drawn, key=lambda pair: pair[0].key), year))
    return {f"VOCdevkit/VOC{year}/{name}": files[name] for name in sorted(files)}


def _picture_files(plan: Plan, picture: Picture) -> Iterator[tuple[str, bytes]]:
    quality = 76 + plan.index % 9
    progressive = plan.quirk == "progressive"
    yield (
        f"JPEGImages/{plan.key}.jpg",
        _encode(picture.image, "JPEG", quality=quality, progressive=progressive),
    )
    yield f"Annotations/{plan.key}.xml", _annotation(plan, picture)
    if not plan.in_segmentation:
        return
    border = _border(picture.owner)
    numbers = np.array([0, *(CLASSES.index(thing.name) + 1 for thing in picture.things)], np.uint8)
    for folder, values in (("Class", numbers[picture.owner]), ("Object", picture.owner)):
        mask = Image.fromarray(np.where(border, np.uint8(VOID), values))
        mask.putpalette(list(_palette()))
        yield f"Segmentation{folder}/{plan.key}.png", _encode(mask, "PNG")


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _border(owner: ByteArray) -> npt.NDArray[np.bool_]:
    """Where two pixels or fewer lead to something else: 4 px, half of them within the object."""
    height, width = owner.shape
    padded = np.pad(owner, 2, mode="edge")
    border = np.zeros(owner.shape, np.bool_)
    for down, across in itertools.product(range(5), range(5)):
        border |= padded[down : down + height, across : across + width] != owner
    return border


@functools.cache
def _palette() -> tuple[int, ...]:
    """VOC's colour map: a value's bits 0, 3, 6 go to red, 1, 4, 7 to green and 2, 5 to blue."""
    return tuple(
        sum((value >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
        for value in range(256)
        for channel in range(3)
    )


# --- Lists and XML ----------------------------------------------------------------------------


def _list_files(
    drawn: Sequence[tuple[Plan, tuple[Thing, ...]]], year: str
) -> Iterator[tuple[str, bytes]]:
    for split in ("train", "val", "trainval"):
        chosen = [pair for pair in drawn if pair[0].split in split]  # both are in "trainval"
        main = [pair for pair in chosen if pair[0].in_main]
        segmented = [plan.key for plan, _ in chosen if plan.in_segmentation]
        lists = {
            f"Main/{split}.txt": [plan.key for plan, _ in main],
            f"Segmentation/{split}.txt": segmented,
        }
        for name in CLASSES:
            rows = [f"{plan.key} {_label(name, things):2d}" for plan, things in main]
            lists[f"Main/{name}_{split}.txt"] = rows
        for path, lines in lists.items():
            end = "\r\n" if year == "2007" or path in CRLF_LISTS else "\n"
            rows = [*lines[:2], "", *lines[2:], ""] if path in BLANK_LISTS else lines
            yield f"ImageSets/{path}", "".join(row + end for row in rows).encode()


def _label(name: str, things: Iterable[Thing]) -> int:
    found = [thing.difficult for thing in things if thing.name == name]
    return -1 if not found else 0 if all(found) else 1


def _annotation(plan: Plan, picture: Picture) -> bytes:
    fields = _picture_fields(plan, picture.image.size)
    if plan.quirk == "comments":
        fields += [("!--", "<object><name>dog</name></object> was a sheep")]
    last = len(picture.things) - 1
    for number, thing in enumerate(picture.things):
        fields += [("object", _object_fields(plan, thing, is_target=number == last))]
    text = "".join(f"{line}\n" for line in _xml_lines(("annotation", fields)))
    if plan.quirk == "indented":
        text = '<?xml version="1.0" encoding="utf-8"?>\n' + text.replace("\t", "  ")
        text = text.replace("\n", "\r\n")
    return text.encode()


def _picture_fields(plan: Plan, size_wh: tuple[int, int]) -> list[Node]:
    """The tags before the objects."""
    database = 2007 if plan.taken == 2007 else 2008  # the official ones never say a later year
    has_owner = plan.year == "2007" or plan.quirk == "owner"
    source: list[Node] = [
        ("database", f"The VOC{database} Database"),
        ("annotation", f"PASCAL VOC{database}"),
        ("image", "flickr"),
    ]
    filename = "IMG_0042.JPG" if plan.quirk == "other_filename" else f"{plan.key}.jpg"
    fields: list[Node] = [("folder", f"VOC{plan.year}"), ("filename", filename), ("source", source)]
    if has_owner:
        source += [("flickrid", str(325990000 + plan.index))]
        fields += [("owner", [("flickrid", f"Fran\u00e7ois & {plan.index}"), ("name", "?")])]
    if plan.quirk != "no_size":
        width, height = map(str, size_wh)
        depth = "1" if plan.quirk == "gray" else "3"
        fields += [("size", [("width", width), ("height", height), ("depth", depth)])]
    return [*fields, ("segmented", str(int(plan.in_segmentation)))]


def _object_fields(plan: Plan, thing: Thing, *, is_target: bool) -> list[Node]:
    """The tags of one object; oddities of a single object are on the target, the nearest one."""
    fields: list[Node] = [("name", thing.name)]
    if plan.quirk != "no_pose":
        pose = thing.pose.lower() if plan.quirk == "lower_pose" else thing.pose
        fields += [("pose", pose), ("truncated", str(int(thing.truncated)))]
    if plan.taken >= 2009:
        fields += [("occluded", str(int(thing.occluded)))]
    box: Node = ("bndbox", _box_fields(plan, thing.box, is_target=is_target))
    if plan.quirk == "box_first":
        fields = [box, *fields, ("difficult", str(int(thing.difficult)))]
    else:
        fields += [("difficult", str(int(thing.difficult))), box]
    if not is_target:
        return fields
    if plan.quirk == "comments":
        fields.insert(1, ("!--", "checked twice"))
    if plan.quirk == "point":
        fields += [("point", [("x", str(thing.point[0])), ("y", str(thing.point[1]))])]
    if plan.quirk == "actions":
        done = ACTIONS[plan.index // QUIRK_PERIOD % len(ACTIONS)]
        fields += [("actions", [(name, str(int(name == done))) for name in ACTIONS])]
    if plan.quirk == "parts":
        for name, part in thing.parts:
            fields += [("part", [("name", name), ("bndbox", _box_fields(plan, part))])]
    return fields


def _box_fields(plan: Plan, box: Box, *, is_target: bool = False) -> list[Node]:
    values = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(str, box), strict=True))
    if plan.quirk == "fraction" and is_target:
        values["xmax"] = repr(float(np.float32(box[2] - 0.3)))
    if plan.quirk == "whole_numbers":
        values = {name: f"{value}.0" for name, value in values.items()}
    names = ("xmin", "ymin", "xmax", "ymax")
    if plan.quirk == "xmax_first":
        names = ("xmax", "xmin", "ymax", "ymin")
    return [(name, values[name]) for name in names]


def _xml_lines(node: Node, depth: int = 0) -> Iterator[str]:
    (name, content), tabs = node, "\t" * depth
    if name == "!--":
        yield f"{tabs}<!-- {content} -->"
    elif isinstance(content, str):
        yield f"{tabs}<{name}>{escape(content)}</{name}>"
    else:
        yield f"{tabs}<{name}>"
        for child in content:
            yield from _xml_lines(child, depth + 1)
        yield f"{tabs}</{name}>"


# --- Scenes and their pictures ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A background and what is found in front of it, the frequent classes more than once."""

    classes: tuple[str, ...]
    above: tuple[Color, Color]  # from the top of the picture to the horizon
    below: tuple[Color, Color]  # from the horizon to the bottom
    horizon: tuple[float, float]  # its range, in heights of the picture
    rough: tuple[float, float]  # texture above and below the horizon, in grey levels
    hills: float = 0.0
    clutter: tuple[Color, ...] = ()


SCENES = {
    "sky": Scene(
        classes=("aeroplane",),
        above=((84, 140, 208), (190, 212, 230)),
        below=((88, 104, 72), (60, 76, 50)),
        horizon=(0.8, 1.0),
        rough=(9, 14),
        hills=0.03,
    ),
    "sea": Scene(
        classes=("boat", "boat", "boat", "boat", "aeroplane"),
        above=((150, 180, 210), (214, 220, 222)),
        below=((64, 108, 128), (34, 74, 98)),
        horizon=(0.3, 0.5),
        rough=(7, 13),
    ),
    "street": Scene(
        classes=("car", "car", "car", "bus", "bus", "bicycle", "bicycle", "person", "person"),
        above=((170, 190, 210), (206, 206, 202)),
        below=((118, 116, 114), (86, 86, 88)),
        horizon=(0.35, 0.5),
        rough=(5, 10),
        clutter=((150, 130, 116), (178, 166, 150), (120, 116, 120), (140, 104, 90)),
    ),
    "meadow": Scene(
        classes=("sheep", "sheep", "sheep", "sheep", "person", "person", "bicycle", "cat"),
        above=((120, 164, 214), (206, 218, 224)),
        below=((118, 142, 74), (74, 106, 44)),
        horizon=(0.25, 0.45),
        rough=(8, 17),
        hills=0.05,
    ),
    "room": Scene(
        classes=("tvmonitor", "bottle", "pottedplant", "chair", "cat", "person"),
        above=((202, 190, 170), (186, 174, 156)),
        below=((148, 116, 86), (112, 84, 62)),
        horizon=(0.4, 0.6),
        rough=(5, 9),
        clutter=((160, 140, 118), (214, 206, 196), (124, 116, 116)),
    ),
}
SCENE_ODDS = (0.12, 0.14, 0.28, 0.2, 0.26)
QUIRK_SCENES = {"parts": "meadow", "actions": "meadow", "sliver": "meadow", "whole": "room"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An object to be drawn: its class, size and the middle of its foot, in pixels."""

    name: str
    size_wh: Point
    foot: Point
    angle: float = 0.0
    mirrored: bool = False
    sliver: bool = False  # moved to the right until one column of it is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """An object that was drawn."""

    item: Item
    num_pixels: int  # of all of it, also of what lies outside the picture
    num_inside: int  # of what lies inside, also of what later objects cover
    parts: tuple[tuple[str, Box], ...]


@dataclass(slots=True)
class Canvas:
    """The picture while it is drawn."""

    pixels: FloatArray  # [H, W, RGB], 0..255
    owner: ByteArray  # [H, W], 1 + the index into `painted` of the object seen there, 0 for none
    painted: list[Painted] = field(default_factory=list)


def _draw_picture(plan: Plan) -> Picture:
    rng = _rng(*plan.pixel_seed)
    size_wh = _draw_size(rng) if plan.quirk != "tiny" else (142, 71)
    name = QUIRK_SCENES.get(plan.quirk, str(rng.choice(list(SCENES), p=SCENE_ODDS)))
    horizon = rng.uniform(*SCENES[name].horizon)
    canvas = Canvas(
        _background(SCENES[name], size_wh, horizon, rng), np.zeros(size_wh[::-1], np.uint8)
    )
    if plan.quirk != "empty":
        for item in _items(SCENES[name], plan.quirk, size_wh, horizon, rng):
            _paint(canvas, item, rng)
    things, owner = _measure(canvas)
    light = canvas.pixels * rng.uniform(0.8, 1.12) + rng.uniform(-10, 10)
    light += rng.standard_normal((*size_wh[::-1], 1), dtype=np.float32) * 3  # a sensor's noise
    image = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    image = image.convert("L") if plan.quirk == "gray" else image
    return Picture(image=image, owner=owner, things=things)


def _draw_size(rng: Rng) -> tuple[int, int]:
    width, height = SIZES_WH[int(rng.choice(len(SIZES_WH), p=SIZE_ODDS))]
    if rng.random() < 0.2:
        height = int(height * rng.uniform(0.75, 1.0))
    return width, height


def _background(scene: Scene, size_wh: tuple[int, int], horizon: float, rng: Rng) -> FloatArray:
    """Paint two gradients that meet at the horizon, with texture and unannotated clutter."""
    width, height = size_wh
    hills = scene.hills * noise(rng, (width, 1), 6)
    edge = np.clip(horizon + hills, 0.02, 0.98) * height  # [1, W], the horizon's y
    y = np.arange(height, dtype=np.float32)[:, None]
    is_above = y < edge
    depth = np.where(is_above, y / edge, 1 + (y - edge) / (height - edge))  # 0..1 sky, 1..2 ground
    stops = [tint(rng, color, 14) for color in (*scene.above, *scene.below)]
    ramps = [
        np.linspace(first, last, 256, dtype=np.float32) for first, last in (stops[:2], stops[2:])
    ]
    pixels = np.concatenate(ramps)[(depth * 255.9).astype(np.intp)]
    pixels = _clutter(scene, pixels, horizon, rng)
    above, below = (noise(rng, size_wh, cells, 4) for cells in (3, 9))
    pixels += np.where(is_above, scene.rough[0] * above, scene.rough[1] * below)[..., None]
    return pixels


def _clutter(scene: Scene, pixels: FloatArray, horizon: float, rng: Rng) -> FloatArray:
    """Put blocks on the horizon: houses in a street, furniture and pictures in a room."""
    height, width = pixels.shape[:2]
    for _ in range(int(rng.integers(3, 8)) if scene.clutter else 0):
        left, wide = int(rng.uniform(-0.1, 0.9) * width), int(rng.uniform(0.08, 0.3) * width)
        top = int(rng.uniform(0.05, 0.9) * horizon * height)
        foot = int(horizon * height)
        block = pixels[top:foot, max(left, 0) : max(left + wide, 0)]
        block += (np.array(pick(rng, *scene.clutter), np.float32) - block) * 0.7
    return pixels


def _items(
    scene: Scene, quirk: str, size_wh: tuple[int, int], horizon: float, rng: Rng
) -> Iterator[Item]:
    """Choose the objects, the farthest first; the one in front is near and inside the picture."""
    width, height = size_wh
    if quirk == "whole":  # its frame just outside the picture, its foot far below
        wall_wh, foot = (width * 1.08, height * 1.2), (width * 0.5, height * 1.17)
        yield Item(name="tvmonitor", size_wh=wall_wh, foot=foot)
    num_others = int(rng.choice(5, p=(0.25, 0.28, 0.22, 0.15, 0.1)))
    for near in np.sort(rng.uniform(0.05, 1, num_others)).tolist():
        yield _item(str(rng.choice(scene.classes)), size_wh, horizon, near, rng)
    name = "person" if quirk in ("parts", "actions") else str(rng.choice(scene.classes))
    front = _item(name, size_wh, horizon, rng.uniform(0.6, 1), rng)
    yield _moved_inside(front, size_wh, rng)
    if quirk == "sliver":  # no other bus is in a meadow
        yield Item(name="bus", size_wh=(height * 0.6, height * 0.3), foot=(0, height), sliver=True)


def _item(name: str, size_wh: tuple[int, int], horizon: float, near: float, rng: Rng) -> Item:
    """Place an object: `near` is 0 at the horizon and 1 in the foreground."""
    shape, (width, height) = SHAPES[name], size_wh
    tall = shape.size * min(size_wh) * 0.8 * (0.1 + 0.9 * near**1.4) * rng.uniform(0.85, 1.15)
    y = horizon + near * (1.06 - horizon) if not shape.flies else rng.uniform(0.25, 0.95) * horizon
    turn = 0.22 if shape.flies else 0.06
    return Item(
        name=name,
        size_wh=(tall * shape.aspect * rng.uniform(0.88, 1.14), tall),
        foot=(rng.uniform(-0.03, 1.03) * width, y * height),
        angle=rng.uniform(-turn, turn),
        mirrored=rng.random() < 0.5,
    )


def _moved_inside(item: Item, size_wh: tuple[int, int], rng: Rng) -> Item:
    wide, tall = item.size_wh
    shrink = min(1.0, 0.82 * size_wh[0] / wide, 0.82 * size_wh[1] / tall)
    wide, tall = wide * shrink, tall * shrink
    x = rng.uniform(0.55 * wide, size_wh[0] - 0.55 * wide)
    y = min(max(item.foot[1], 1.12 * tall), size_wh[1] - 0.06 * tall)
    return replace(item, size_wh=(wide, tall), foot=(x, y))


def _paint(canvas: Canvas, item: Item, rng: Rng) -> None:
    """Draw an item over what is there and note what belongs to it."""
    shape = SHAPES[item.name]
    pen = Pen(item.size_wh, angle=item.angle, mirrored=item.mirrored)
    shape.draw(pen, rng)
    patch = pen.pixels()
    tall, wide = patch.shape[:2]
    rough = 1 + shape.grain * noise(rng, (wide, tall), shape.cells)
    light = rough * np.linspace(1.12, 0.84, tall, dtype=np.float32)[:, None]
    color = patch[..., :3] * light[..., None]
    alpha = patch[..., 3].astype(np.float32) / 255
    mask = alpha >= 0.5

    height, width = canvas.owner.shape
    left, top = round(item.foot[0] - wide / 2), round(item.foot[1] - item.size_wh[1] / 2 - tall / 2)
    if item.sliver:
        left = width - 1 - int(mask.any(0).argmax())
    rows, columns = slice(max(top, 0), max(top + tall, 0)), slice(max(left, 0), max(left + wide, 0))
    seen = canvas.owner[rows, columns].shape
    first = (max(-top, 0), max(-left, 0))
    cut = tuple(slice(start, start + size) for start, size in zip(first, seen, strict=True))

    parts = [
        (name, _box_around(points, (left, top), (width, height))) for name, points in pen.marks
    ]
    num_pixels, num_inside = int(np.count_nonzero(mask)), int(np.count_nonzero(mask[cut]))
    canvas.painted.append(
        Painted(item=item, num_pixels=num_pixels, num_inside=num_inside, parts=tuple(parts))
    )
    canvas.owner[rows, columns][mask[cut]] = len(canvas.painted)
    under = canvas.pixels[rows, columns]
    under += (color[cut] - under) * alpha[cut][..., None]


def _box_around(points: Sequence[Point], origin: Point, size_wh: tuple[int, int]) -> Box:
    (x1, y1), (x2, y2) = np.min(points, 0) + origin, np.max(points, 0) + origin
    (width, height) = size_wh
    xmin, ymin = np.clip((math.floor(x1) + 1, math.floor(y1) + 1), 1, size_wh).tolist()
    return xmin, ymin, min(max(math.ceil(x2), xmin), width), min(max(math.ceil(y2), ymin), height)


def _measure(canvas: Canvas) -> tuple[tuple[Thing, ...], ByteArray]:
    """Annotate what is seen, and number it anew where objects are wholly hidden."""
    things: list[Thing] = []
    numbers = np.zeros(len(canvas.painted) + 1, np.uint8)
    for number, painted in enumerate(canvas.painted, start=1):
        ys, xs = np.nonzero(canvas.owner == number)
        if not len(xs):
            continue
        middle = len(xs) // 2
        hidden = len(xs) * 3 < painted.num_pixels
        thing = Thing(
            name=painted.item.name,
            pose=_pose(painted.item),
            box=(int(xs.min()) + 1, int(ys.min()) + 1, int(xs.max()) + 1, int(ys.max()) + 1),
            truncated=painted.num_inside < painted.num_pixels,
            occluded=len(xs) < painted.num_inside,
            difficult=hidden or len(xs) < TINY_PIXELS,
            point=(int(xs[middle]) + 1, int(ys[middle]) + 1),
            parts=painted.parts,
        )
        things.append(thing)
        numbers[number] = len(things)
    return tuple(things), numbers[canvas.owner]


def _pose(item: Item) -> str:
    if not SHAPES[item.name].has_sides:
        return "Frontal" if item.name != "pottedplant" else "Unspecified"
    return "Left" if item.mirrored else "Right"


def main() -> None:
    """Draw an archive from the command line."""
    parser = argparse.ArgumentParser(description="Draw a mini-VOC: a small, seeded VOC archive.")
    parser.add_argument("out", type=Path, metavar="OUT.tar", help="the tar to write")
    parser.add_argument("--pictures", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    parser.add_argument("--year", choices=YEARS, default="2012", help="default: 2012")
    options = parser.parse_args()
    if options.pictures < 1:
        parser.error(f"--pictures {options.pictures}: at least 1")
    draw_archive(options.out, num_pictures=options.pictures, seed=options.seed, year=options.year)
    print(f"{options.out}: {options.pictures} pictures, {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
