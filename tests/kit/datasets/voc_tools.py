"""VOC XML as annotation tools write it: one maker for each tool.

A maker takes the picture's file name, its width and height, and labels with zero-based half-open
boxes (x0, y0, x1, y1) in pixels. It returns the file's bytes, with the numbers that the tool would
write for such boxes. Each docstring names the exporter that was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from xml.sax.saxutils import escape

Item = tuple[str, tuple[float, float, float, float]]
Maker = Callable[[str, tuple[int, int], Sequence[Item]], bytes]
Flags = tuple[tuple[str, str], ...]

UPRIGHT: Flags = (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0"))
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def tag(name: str, *content: object) -> str:
    """An element, one line a child; texts are escaped before."""
    inner = "".join(str(part) for part in content)
    return f"<{name}>{inner}</{name}>\n"


def values(pairs: Sequence[tuple[str, object]]) -> str:
    return "".join(tag(name, escape(str(value))) for name, value in pairs)


def box(numbers: Sequence[object], names: Sequence[str] = CORNERS) -> str:
    return tag("bndbox", values(list(zip(names, numbers, strict=True))))


def size_of(size: tuple[int, int], depth: object = 3) -> str:
    return tag("size", values([("width", size[0]), ("height", size[1]), ("depth", depth)]))


def _whole_from_1(corners: Sequence[float]) -> tuple[int, ...]:
    """labelImg cuts fractions off, and raises a zero-based 0 to 1."""
    x0, y0, x1, y1 = corners
    return (int(max(x0, 1)), int(max(y0, 1)), int(x1), int(y1))


def _touches_border(corners: Sequence[int], size: tuple[int, int]) -> bool:
    return corners[3] == size[1] or corners[1] == 1 or corners[2] == size[0] or corners[0] == 1


def labelimg(file: str, size: tuple[int, int], items: Sequence[Item]) -> bytes:
    """LabelImg: HumanSignal/labelImg, libs/pascal_voc_io.py and libs/labelFile.py."""
    objects = []
    for label, corners in items:
        whole = _whole_from_1(corners)
        flags = [("pose", "Unspecified"), ("truncated", int(_touches_border(whole, size)))]
        objects.append(
            tag("object", values([("name", label), *flags, ("difficult", 0)]), box(whole))
        )
    head = values([("folder", "images"), ("filename", file), ("path", f"/home/user/{file}")])
    head += tag("source", values([("database", "Unknown")])) + size_of(size)
    return tag("annotation", head, tag("segmented", 0), *objects).encode()


def rolabelimg(
    file: str, size: tuple[int, int], items: Sequence[Item], angle: float | None = None
) -> bytes:
    """RoLabelImg: cgvict/roLabelImg, libs/pascal_voc_io.py and libs/labelFile.py.

    With an angle in radians every box is turned by it about its centre.
    """
    objects = []
    for label, (x0, y0, x1, y1) in items:
        kind = "bndbox" if angle is None else "robndbox"
        if angle is None:
            shape = box(_whole_from_1((x0, y0, x1, y1)))
        else:
            numbers = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            rounded = [round(number, 4) for number in numbers] + [round(angle % math.pi, 6)]
            names = ("cx", "cy", "w", "h", "angle")
            shape = tag("robndbox", values(list(zip(names, rounded, strict=True))))
        objects.append(tag("object", values([("type", kind), ("name", label), *UPRIGHT]), shape))
    head = values([("folder", "images"), ("filename", file.rpartition(".")[0]), ("path", file)])
    head += tag("source", values([("database", "Unknown")])) + size_of(size)
    text = tag("annotation", head, tag("segmented", 0), *objects)
    return text.replace("<annotation>", '<annotation verified="no">', 1).encode()


def cvat(file: str, size: tuple[int, int], items: Sequence[Item], degrees: float = 0.0) -> bytes:
    """CVAT 1.x and 2.x, 'PASCAL VOC 1.1'.

    cvat-ai/cvat, cvat/apps/dataset_manager/bindings.py (the attribute `rotation` of rectangles) and
    cvat-ai/datumaro, src/datumaro/plugins/data_formats/voc/exporter.py. The box is that before it
    is turned.
    """
    objects = []
    for label, corners in items:
        rotation = values([("name", "rotation"), ("value", float(degrees))])
        flags = [("truncated", 0), ("occluded", 0), ("difficult", 0)]
        objects.append(
            tag(
                "object",
                values([("name", label), *flags]),
                box([float(number) for number in corners]),
                tag("attributes", tag("attribute", rotation)),
            )
        )
    unknown = [(name, "Unknown") for name in ("database", "annotation", "image")]
    head = values([("folder", ""), ("filename", file)]) + tag("source", values(unknown))
    return tag("annotation", head, size_of(size, ""), tag("segmented", 0), *objects).encode()


def roboflow(file: str, size: tuple[int, int], items: Sequence[Item]) -> bytes:
    """Roboflow, 'Pascal VOC'. Its exporter is closed: from files that it wrote.

    Such are datumaro's fixtures roboflow_dataset/voc and the samples in the documentation of
    tools that read them. Tags of a box come in the order xmin, xmax, ymin, ymax.
    """
    objects = []
    for label, corners in items:
        x0, y0, x1, y1 = (round(number) for number in corners)
        shape = box((x0, x1, y0, y1), ("xmin", "xmax", "ymin", "ymax"))
        objects.append(tag("object", values([("name", label), *UPRIGHT, ("occluded", 0)]), shape))
    stem = file.replace(".", "_") + ".rf.d00174cb69229a352e8677a640ec2d86.jpg"
    head = values([("folder", ""), ("filename", stem), ("path", stem)])
    head += tag("source", values([("database", "roboflow.com")])) + size_of(size)
    return tag("annotation", head, tag("segmented", 0), *objects).encode()


def vott(file: str, size: tuple[int, int], items: Sequence[Item]) -> bytes:
    """VoTT 2: microsoft/VoTT, src/providers/export/pascalVOC.ts and its templates.

    It puts texts in without escaping them, so a label with '<' or '&' breaks its file.
    """
    objects = [
        f"<object>\n<name>{label}</name>\n{values(UPRIGHT)}{box(corners)}</object>"
        for label, corners in items
    ]
    head = f"<folder>Annotation</folder>\n<filename>{file}</filename>\n"
    head += tag("source", values([("database", "Unknown")])) + size_of(size)
    text = tag("annotation", head, tag("segmented", 0), *objects)
    return text.replace("<annotation>", '<annotation verified="yes">', 1).encode()


def label_studio(file: str, size: tuple[int, int], items: Sequence[Item]) -> bytes:
    """Label Studio: HumanSignal/label-studio-sdk, converter.py, convert_to_voc.

    Width and height lose their fractions apart from x and y. The file name has no suffix.
    """
    objects = []
    for label, (x0, y0, x1, y1) in items:
        x, y, width, height = int(x0), int(y0), int(x1 - x0), int(y1 - y0)
        corners = (x, y, x + width, y + height)
        objects.append(tag("object", values([("name", label), *UPRIGHT]), box(corners)))
    origin = [("database", "MyDatabase"), ("annotation", "COCO2017"), ("image", "flickr")]
    origin += [("flickrid", "NULL"), ("annotator", "1")]
    owner = values([("flickrid", "NULL"), ("name", "Label Studio")])
    head = values([("folder", "images"), ("filename", file.rpartition(".")[0])])
    head += tag("source", values(origin)) + tag("owner", owner) + size_of(size)
    text = tag("annotation", head, tag("segmented", 0), *objects)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}'.encode()


def supervisely(file: str, size: tuple[int, int], items: Sequence[Item], tags: Flags = ()) -> bytes:
    """Supervisely: supervisely-ecosystem/export-to-pascal-voc, src/utils.py, ann_to_xml.

    Its boxes count from 0 and include both corners (supervisely.Rectangle has the width right −
    left + 1). Tags of an object follow the flags' defaults, even those of the same name. The file
    is ASCII with character references.
    """
    objects = []
    for label, corners in items:
        x0, y0, x1, y1 = (round(number) for number in corners)
        head = values([("name", label), *UPRIGHT, *tags])
        objects.append(tag("object", head, box((x0, y0, x1 - 1, y1 - 1))))
    origin = [("database", "Supervisely Project ID:1"), ("annotation", "PASCAL VOC")]
    origin += [("image", "Supervisely Image ID:1")]
    head = values([("folder", "VOC_project"), ("filename", file)])
    head += tag("source", values(origin)) + size_of(size)
    text = tag("annotation", head, tag("segmented", int(bool(items))), *objects)
    return text.encode("ascii", "xmlcharrefreplace")


def labelme2voc(file: str, size: tuple[int, int], items: Sequence[Item]) -> bytes:
    """Labelme: wkentaro/labelme, examples/bbox_detection/labelme2voc.py. Flags are empty."""
    empty = [(name, "") for name in ("pose", "truncated", "difficult")]
    objects = [
        tag("object", values([("name", label), *empty]), box(corners)) for label, corners in items
    ]
    base = file.rpartition(".")[0] + ".jpg"
    empty = [(name, "") for name in ("database", "annotation", "image")]
    head = values([("folder", ""), ("filename", base), *empty])
    numbers = values([("height", size[1]), ("width", size[0]), ("depth", 3)])
    text = tag("annotation", head, tag("size", numbers), tag("segmented"), *objects)
    return text.encode("ascii", "xmlcharrefreplace")


def supervision_polygons(file: str, size: tuple[int, int], items: Sequence[Item]) -> bytes:
    """Roboflow's supervision, as_pascal_voc with masks.

    supervision/dataset/formats/pascal_voc.py: both corners and all points are written plus 1, the
    corners without their fractions.
    """
    objects = []
    for label, corners in items:
        x0, y0, x1, y1 = (int(number + 1) for number in corners)
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        names = [f"{axis}{number}" for number in range(1, 5) for axis in "xy"]
        polygon = tag("polygon", values(list(zip(names, chain(*points), strict=True))))
        objects.append(tag("object", values([("name", label)]), box((x0, y0, x1, y1)), polygon))
    head = values([("folder", "VOC"), ("filename", file)])
    head += tag("source", values([("database", "roboflow.ai")])) + size_of(size)
    return tag("annotation", head, *objects).encode()


MAKERS: dict[str, Maker] = {
    "labelimg": labelimg,
    "rolabelimg": rolabelimg,
    "cvat": cvat,
    "roboflow": roboflow,
    "vott": vott,
    "label_studio": label_studio,
    "supervisely": supervisely,
    "labelme2voc": labelme2voc,
    "supervision_polygons": supervision_polygons,
}
