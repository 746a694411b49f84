"""Writes the text files of a mini-VOC: the lists of its splits, and an XML for each picture."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias
from xml.sax.saxutils import escape

import numpy as np

from scripts.mini_voc_pictures import QUIRK_PERIOD, Box, Picture, Plan, Thing

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
CRLF_LISTS = frozenset({"Main/val.txt", "Main/person_val.txt", "Segmentation/trainval.txt"})
BLANK_LISTS = frozenset({"Main/train.txt", "Main/person_trainval.txt", "Segmentation/val.txt"})
ACTIONS = (
    *("jumping", "phoning", "playinginstrument", "reading", "ridingbike", "ridinghorse"),
    *("running", "takingphoto", "usingcomputer", "walking", "other"),
)

Node: TypeAlias = tuple[str, "str | list[Node]"]  # an XML tag and what it holds


def list_files(
    drawn: Sequence[tuple[Plan, tuple[Thing, ...]]], year: str
) -> Iterator[tuple[str, bytes]]:
    """Write the lists of ImageSets: (path, content) of each, from pictures in the order of keys."""
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


def annotation(plan: Plan, picture: Picture) -> bytes:
    """Write the XML of a picture, with the oddity that its plan asks for."""
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
    """Make the tags before the objects."""
    database = 2007 if plan.taken == 2007 else 2008  # official files never name a later year
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
    """Make the tags of one object; the target, the nearest one, gets the oddities of an object."""
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
