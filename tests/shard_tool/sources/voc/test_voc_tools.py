"""Files of annotation tools give their objects as written, and no note but the expected ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from shard_tool.sources.voc.annotation import Annotation, parse_annotation
from tests.kit.datasets.voc_tools import MAKERS, Item, cvat, rolabelimg, supervisely

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.sources.voc.annotation import Corners

SIZE = (60, 50)
ITEMS: list[Item] = [("cat", (0, 3.6, 20, 30.4)), ("Fuß & Ball", (10.5, 1, 60, 50))]
WRITTEN: dict[str, list[Corners]] = {
    "labelimg": [(1, 3, 20, 30), (10, 1, 60, 50)],
    "rolabelimg": [(1, 3, 20, 30), (10, 1, 60, 50)],
    "cvat": [ITEMS[0][1], ITEMS[1][1]],
    "roboflow": [(0, 4, 20, 30), (10, 1, 60, 50)],
    "vott": [ITEMS[0][1], ITEMS[1][1]],
    "label_studio": [(0, 3, 20, 29), (10, 1, 59, 50)],
    "supervisely": [(0, 4, 19, 29), (10, 1, 59, 49)],
    "labelme2voc": [ITEMS[0][1], ITEMS[1][1]],
    "supervision_polygons": [(1, 4, 21, 31), (11, 2, 61, 51)],
}
NOTES = {"supervision_polygons": [("shape-dropped", "<polygon>")] * 2}


def parse(content: bytes) -> Annotation:
    return parse_annotation(content, place="a.xml")


def notes_of(annotation: Annotation) -> list[tuple[str, str]]:
    return [(note.code, note.detail) for note in annotation.notes]


@pytest.mark.parametrize("tool", MAKERS)
def test_file_of_a_tool_is_read_as_written(tool: str) -> None:
    items = [(label.replace("&", "und"), box) for label, box in ITEMS] if tool == "vott" else ITEMS
    annotation = parse(MAKERS[tool]("a.b.jpg", SIZE, items))
    assert [(item.name, item.corners) for item in annotation.objects] == [
        (label, corners) for (label, _), corners in zip(items, WRITTEN[tool], strict=True)
    ]
    assert annotation.bad_objects == ()
    assert notes_of(annotation) == NOTES.get(tool, [])
    size = annotation.size_whd
    assert size is not None
    assert size[:2] == SIZE


@pytest.mark.parametrize("tool", MAKERS)
def test_file_without_objects_is_a_background_picture(tool: str) -> None:
    annotation = parse(MAKERS[tool]("a.jpg", SIZE, []))
    assert (annotation.objects, annotation.bad_objects, annotation.notes) == ((), (), ())


def test_rotated_boxes_of_cvat_and_rolabelimg_become_the_same_hull() -> None:
    items = [("cat", (10.0, 20.0, 50.0, 40.0))]
    by_cvat = parse(cvat("a.jpg", SIZE, items, degrees=30))
    by_rolabelimg = parse(rolabelimg("a.jpg", SIZE, items, angle=math.radians(30)))
    first, second = by_cvat.objects[0].corners, by_rolabelimg.objects[0].corners
    assert first == pytest.approx(second, abs=1e-4)
    assert [note.code for note in (*by_cvat.notes, *by_rolabelimg.notes)] == ["rotated-box"] * 2


def test_tag_of_supervisely_counts_instead_of_its_default() -> None:
    tags = (("difficult", "1"), ("colour", "red"))
    annotation = parse(supervisely("a.jpg", SIZE, ITEMS[:1], tags=tags))
    assert annotation.objects[0].difficult is True
    assert notes_of(annotation) == [("tag-twice", "<difficult> '0', then '1'")]


def test_official_files_make_no_note(voc_sample: Path) -> None:
    files = sorted((voc_sample / "VOCdevkit").rglob("Annotations/*.xml"))
    assert len(files) > 50
    for path in files:
        annotation = parse(path.read_bytes())
        assert annotation.objects, path
        assert (annotation.bad_objects, annotation.notes) == ((), ()), path
