"""Makes CVAT's XML as its exporter writes it: cvat/apps/dataset_manager/formats/cvat.py."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from tests.kit.datasets.voc_tree import write
from tests.kit.datasets.wild import picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIZE = (20, 10)


def element(tag: str, *inner: str, **attributes: object) -> str:
    """An element, with its attributes in the order given."""
    told = "".join(f" {name}={quoteattr(str(value))}" for name, value in attributes.items())
    text = "".join(inner)
    return f"<{tag}{told}>{'' if text[:1] != '<' else chr(10)}{text}</{tag}>\n"


def attribute(name: str, value: str) -> str:
    return f"<attribute name={quoteattr(name)}>{escape(value)}</attribute>\n"


def shape(tag: str, label: str, *inner: str, **attributes: object) -> str:
    """A shape with the attributes that all have."""
    head = {"label": label, "source": "manual", "occluded": 0}
    return element(tag, *inner, **(head | attributes), z_order=0)


def box(label: str, corners: Sequence[float], *inner: str, **more: object) -> str:
    names = ("xtl", "ytl", "xbr", "ybr")
    numbers = {name: f"{value:.2f}" for name, value in zip(names, corners, strict=True)}
    return shape("box", label, *inner, **numbers, **more)


def polygon(label: str, points: Sequence[tuple[float, float]], **more: object) -> str:
    told = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return shape("polygon", label, points=told, **more)


def mask(label: str, rows: Sequence[Sequence[int]], left_top: tuple[int, int]) -> str:
    """A mask: its runs are those of its rows, the first of zeros."""
    runs, last = [0], 0
    for value in (value for row in rows for value in row):
        if value != last:
            runs.append(0)
            last = value
        runs[-1] += 1
    (left, top), (height, width) = left_top, (len(rows), len(rows[0]))
    told = ", ".join(map(str, runs))
    return shape("mask", label, rle=told, left=left, top=top, width=width, height=height)


ANT = box("ant", (2, 3, 10, 8))
BEE = polygon("bee", [(0, 0), (20, 0), (20, 10), (0, 10)])


def image(
    name: str, *shapes: str, size: tuple[int, int] = SIZE, id_: int = 0, **more: object
) -> str:
    """An image; of a project it has a `subset` and a `task_id`, before its size."""
    return element("image", *shapes, id=id_, name=name, **more, width=size[0], height=size[1])


def label(name: str, kind: str = "any", *, parent: str = "") -> str:
    told = element("name", escape(name)) + element("color", "#fa3253") + element("type", kind)
    inner = attribute_spec() if kind == "any" else ""
    whose = element("parent", parent) if parent else ""
    return element("label", told, element("attributes", inner), whose)


def attribute_spec() -> str:
    return element("attribute", element("name", "colour"), element("mutable", "False"))


def cvat(
    *images: str, labels: Sequence[str] = ("ant", "bee"), subset: str = "", more: str = ""
) -> bytes:
    """A file of a task; its labels are names, or whole elements."""
    told = "".join(name if name.startswith("<label>") else label(name) for name in labels)
    task = element("name", "my task") + element("subset", subset) + element("labels", told)
    meta = element("meta", element("task", task), element("dumped", "2024-01-01"))
    inner = element("version", "1.1") + meta + "".join(images) + more
    return f'<?xml version="1.0" encoding="utf-8"?>\n{element("annotations", inner)}'.encode()


def cvat_folder(root: Path) -> Path:
    """A project with two subsets, as it is exported with its pictures, for the guide."""
    images = []
    for number in range(8):
        subset = "Validation" if number % 4 == 3 else "Train"
        name = f"{subset}/plate{number}.jpg"
        turned = box("bolt", (30, 10, 50, 20), rotation=f"{30.0:.2f}")
        plate = polygon("plate", [(4, 6), (40, 8), (36, 40), (6, 30)])
        scratch = shape("polyline", "scratch", points="5.00,5.00;9.00,9.00")
        shapes = (plate, turned) if number % 2 else (plate, scratch)
        images.append(image(name, *shapes, size=(64, 48), id_=number, subset=subset, task_id=7))
        write(root / "images" / name, picture((64, 48), shade=90 + number))
    content = cvat(*images, labels=("plate", "bolt", "scratch"))
    write(root / "annotations.xml", content)
    return root
