"""Parses VOC annotation XML into typed values, as the devkits and as other tools write it.

Numbers stay as written (in the devkits 1-based, both corners inside) until the caller applies a
convention to them. An object needs a `name` and a box, or a `point` on action pictures; any other
tag may be missing and is then None. Tags may come in any order, and the `bndbox` of a `part` is
never taken for that of its object.

What is read in another way than written plainly makes a note (`shard_tool/sources/notes.py`): see
`annotation_xml` for encodings and safety, `annotation_tags` for flags, case and repeated tags,
`annotation_boxes` for boxes of other shapes. Objects in an `<objects>` tag are objects of the file.
An object that cannot be read is a `BadObject` and leaves the others alone. A file without any
object is a picture without objects, unless something in it looks like one.

Sources: the devkits' documentation 2007-2012, the files themselves (docs/reference/format.md), and
the exporters named in tests/kit/datasets/voc_tools.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.errors import AnnotationError
from shard_tool.sources.annotation import (
    Annotation,
    BadObject,
    ImageSource,
    ObjectAnnotation,
    Owner,
    PartAnnotation,
)
from shard_tool.sources.voc.annotation_boxes import SHAPES, box_of, corners_of
from shard_tool.sources.voc.annotation_tags import (
    Reading,
    children,
    fields_of,
    flag_of,
    number_of,
    plain_number,
    text_of,
)
from shard_tool.sources.voc.annotation_xml import parse_tree

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


_FILE_TAGS = frozenset(
    {
        *("folder", "filename", "path", "source", "owner", "size", "segmented"),
        *("object", "objects"),
    }
)
_OBJECT_TAGS = SHAPES | {
    *("name", "bndbox", "pose", "truncated", "occluded", "difficult"),
    *("part", "actions", "point", "attributes"),
}
_SIZE_TAGS = frozenset({"width", "height", "depth"})
_POINT_TAGS = frozenset({"x", "y"})
_PART_TAGS = frozenset({"name", "bndbox"})
_PLAIN_TAGS = frozenset({"name", "pose", "truncated", "occluded", "difficult", "part", "actions"})
_HINTS_AT_OBJECTS = frozenset(
    {"object", "name", "bndbox", "bbox", "box", "xmin", "polygon", "robndbox"}
)


def parse_annotation(content: bytes, *, place: str) -> Annotation:
    """Parse one annotation file.

    Args:
        content: The file's bytes.
        place: Name of the file in errors and notes.

    Raises:
        AnnotationError: The file is not well-formed XML or not an annotation, a value outside its
            objects does not suit its tag, or no object was found where something looks like one.
            The caller checks boxes, against the picture's true size.
    """
    root, notes = parse_tree(content, place)
    reading = Reading(place, notes)
    if root.tag != "annotation":
        if root.tag.lower() != "annotation":
            raise AnnotationError(place, f"the root tag is {root.tag!r}, expected 'annotation'")
        reading.note("tag-other-case", f"<{root.tag}>")
    nodes, before = root.findall("object"), len(notes)
    repeats = len(nodes) - 1 if nodes else 0
    fields = fields_of(root, _FILE_TAGS, place, reading, repeats)
    if not nodes or len(notes) > before or content.count(b"<object") != len(nodes):
        nodes = _odd_objects(root, reading)
    if not nodes:
        _refuse_hidden_objects(root, place)
    elif content.count(b"<bndbox") != len(nodes) + content.count(b"<part>"):
        _note_other_boxes(root, nodes, reading)
    good, bad = _objects(nodes, place, reading)
    return Annotation(
        folder=text_of(fields, "folder"),
        filename=text_of(fields, "filename"),
        source=_source(fields.get("source")),
        owner=_owner(fields.get("owner")),
        size_whd=_size(fields.get("size"), place, reading),
        segmented=flag_of(fields, "segmented", place, reading),
        objects=tuple(good),
        bad_objects=tuple(bad),
        notes=tuple(notes),
    )


def _odd_objects(root: Element, reading: Reading) -> list[Element]:
    """Find the objects in any case and in wrappers; say how many others there are."""
    nodes: list[Element] = []
    for child in root:
        tag = child.tag.lower()
        if tag == "object":
            nodes.append(child)
        elif tag == "objects":
            inside = children(child, "object")
            nodes += inside
            reading.note("wrapper", f"<{child.tag}>")
            for node in inside:
                if node.tag != "object":
                    reading.note("tag-other-case", f"<{node.tag}>")
    others = sum(node.tag.lower() == "object" for node in root.iter()) - len(nodes)
    if others:
        reading.note("object-elsewhere", f"{others} of {others + len(nodes)}")
    return nodes


def _note_other_boxes(root: Element, nodes: list[Element], reading: Reading) -> None:
    """Count boxes that lie in none of the objects found, such as those of an <item>."""

    def count(node: Element) -> int:
        return sum(child.tag.lower() == "bndbox" for child in node.iter())

    is_noted = any(note.code == "object-elsewhere" for note in reading.notes)
    if (others := count(root) - sum(map(count, nodes))) and not is_noted:
        reading.note("box-elsewhere", f"{others} boxes beside {len(nodes)} objects")


def _objects(
    nodes: list[Element], place: str, reading: Reading
) -> tuple[list[ObjectAnnotation], list[BadObject]]:
    good: list[ObjectAnnotation] = []
    bad: list[BadObject] = []
    for index, node in enumerate(nodes):
        reading.object_index = index
        before = len(reading.notes)
        try:
            good.append(_object(node, place, index, reading))
        except AnnotationError as exc:
            del reading.notes[before:]
            name = next((text for one in children(node, "name") if (text := one.text)), None)
            problem = exc.with_traceback(None)  # its frames would keep the tree
            bad.append(BadObject(index=index, name=name and name.strip(), problem=problem))
    reading.object_index = None
    return good, bad


def _refuse_hidden_objects(root: Element, place: str) -> None:
    """Refuse a file in which no object was found although something looks like one."""
    aside = {id(node) for tag in ("owner", "source") for node in children(root, tag)}
    found: dict[str, None] = {}
    for child in root:
        if id(child) not in aside:
            tags = ((node.tag, node.tag.lower()) for node in child.iter())
            found |= {f"<{tag}>": None for tag, lower in tags if lower in _HINTS_AT_OBJECTS}
    if found:
        problem = f"no object was found, though the file has {', '.join([*found][:5])}"
        hint = "objects are <object> tags in <annotation>: export as PASCAL VOC"
        raise AnnotationError(place, problem, hint)


def _object(node: Element, place: str, index: int, reading: Reading) -> ObjectAnnotation:
    where = f"{place}: object {index + 1}"
    fields = fields_of(node, _OBJECT_TAGS, where, reading)
    name = text_of(fields, "name")
    if name is None:
        raise AnnotationError(place, f"object {index + 1} has no <name>")
    where = f"{where} {name!r}"
    corners, point = box_of(node, fields, where, reading), fields.get("point")
    if corners is None and point is None:
        raise AnnotationError(where, "has no <bndbox> (nor a <point>)", _instead(node))
    actions = fields.get("actions")
    parts = children(node, "part") if "part" in fields else []
    return ObjectAnnotation(
        index=index,
        name=name,
        corners=corners,
        pose=text_of(fields, "pose"),
        truncated=flag_of(fields, "truncated", where, reading),
        occluded=flag_of(fields, "occluded", where, reading),
        difficult=flag_of(fields, "difficult", where, reading),
        parts=tuple([_part(part, where, n, reading) for n, part in enumerate(parts)]) or None,
        actions=None if actions is None else {a.tag: _is_one(a, where) for a in actions},
        point=None if point is None else _point(point, where, reading),
    )


def _instead(node: Element) -> str:
    """What an object has instead of a box."""
    tags = dict.fromkeys(f"<{child.tag}>" for child in node if child.tag not in _PLAIN_TAGS)
    return f"it has {', '.join([*tags][:5])}" if tags else ""


def _part(node: Element, where: str, index: int, reading: Reading) -> PartAnnotation:
    here = f"{where}: part {index + 1}"
    fields = fields_of(node, _PART_TAGS, here, reading)
    name, box = text_of(fields, "name"), fields.get("bndbox")
    if name is None or box is None:
        raise AnnotationError(here, "needs a <name> and a <bndbox>")
    corners = corners_of(box, here, reading)
    xmin, ymin, xmax, ymax = corners
    if xmin > xmax or ymin > ymax:
        raise AnnotationError(here, f"{name!r} has an inverted box {corners}")
    return PartAnnotation(name=name, corners=corners)


def _source(node: Element | None) -> ImageSource | None:
    if node is None:
        return None
    fields = {child.tag: child for child in node}
    return ImageSource(
        database=text_of(fields, "database"),
        annotation=text_of(fields, "annotation"),
        image=text_of(fields, "image"),
        flickrid=text_of(fields, "flickrid"),
    )


def _owner(node: Element | None) -> Owner | None:
    if node is None:
        return None
    fields = {child.tag: child for child in node}
    return Owner(flickrid=text_of(fields, "flickrid"), name=text_of(fields, "name"))


def _size(node: Element | None, place: str, reading: Reading) -> tuple[int, int, int | None] | None:
    fields = {} if node is None else fields_of(node, _SIZE_TAGS, place, reading)
    texts = [text_of(fields, tag) or "" for tag in ("width", "height", "depth")]
    width, height, depth = [_whole(text) for text in texts]
    if width and height:
        return width, height, depth
    if texts[0] and texts[1]:
        reading.note("size-unusable", f"{texts[0][:20]} x {texts[1][:20]}")
    return None


def _whole(text: str) -> int | None:
    """The positive whole number that a text is; None if it is none."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text) or None
    number = plain_number(text)
    return int(number) if number and number > 0 and number.is_integer() else None


def _point(node: Element, where: str, reading: Reading) -> tuple[float, float]:
    fields = fields_of(node, _POINT_TAGS, where, reading)
    return number_of(fields, "x", where, node), number_of(fields, "y", where, node)


def _is_one(node: Element, where: str) -> bool:
    text = (node.text or "").strip()
    if text not in {"0", "1"}:
        raise AnnotationError(where, f"<{node.tag}> is {text!r}, expected 0 or 1")
    return text == "1"
