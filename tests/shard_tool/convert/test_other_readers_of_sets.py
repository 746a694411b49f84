"""Other people's readers of COCO and YOLO give what we give, or a case here says who is wrong.

supervision keeps boxes as float32. It reads masks too (tests/datamodules/loading,
`test_instances_of_coco`). labelformat reads boxes as doubles, and outlines as polygons.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import yaml

from shard_tool.errors import ShardToolError
from tests.kit.agreement import assert_agrees, objects_of
from tests.kit.datasets import yolo_files as yolo
from tests.kit.datasets.coco_files import ANT, BEE, coco, image, orchard_folder, thing, written
from tests.kit.datasets.coco_outlines import mixed_outlines
from tests.kit.datasets.converted import converted
from tests.kit.datasets.wild import documents, folder
from tests.kit.other_readers import HOW, PYTHON, sets_read_by_others

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.kit.datasets.yolo_files import Files
    from tests.kit.other_readers import Objects, Readings

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason=HOW)]

OF_FLOATS = 1e-4
"""Within so many pixels are sums of three float32 below 640 px."""
OF_NINE_DECIMALS = 1e-9
"""We round what YOLO's parts of the picture give to nine decimals of a pixel."""
RIGHT = ["ant", 2, 3, 10, 8]
PAIR = {"a": [RIGHT]}


def place_of_yolo(root: Path, images: str = "images", split: str = "train") -> list[Path | str]:
    labels = "labels".join(images.rsplit("images", 1))
    return [root / images, root / labels, root / "data.yaml", split]


# Sound sets ---------------------------------------------------------------------------------------


def test_coco_is_read_as_others_read_it(tmp_path: Path) -> None:
    """Boxes to the last bit. labelformat takes no run lengths as texts, so there are none."""
    document = mixed_outlines(np.random.default_rng(8), has_texts=False)
    names = [its["file_name"] for its in document["images"]]
    root = written(tmp_path / "in", {"x.json": document}, names, (64, 48))
    converted(root, tmp_path / "out")
    (others,) = sets_read_by_others("coco", [[root / "x.json"]])
    found = objects_of(tmp_path / "out")
    assert_agrees(found, others["labelformat"], atol=0)
    assert_agrees(found, others["supervision"], atol=OF_FLOATS)
    for key, its in documents(tmp_path / "out").items():
        outlines = others["labelformat outlines"][key]
        for item, outline in zip(its["objects"], outlines, strict=True):
            if "rle" in item:
                assert item["rle"]["counts"] == outline["counts"]
            else:
                assert item["polygons"] == outline


def test_coco_in_the_official_layout(tmp_path: Path) -> None:
    """An object without a box, whose box we make of its polygon, stops both of them."""
    root = orchard_folder(tmp_path / "in")
    converted(root, tmp_path / "out")
    paths = [root / f"annotations/instances_{split}2026.json" for split in ("train", "val")]
    train, val = sets_read_by_others("coco", [[path] for path in paths])
    assert train["supervision"] == train["labelformat"] == "KeyError: 'bbox'"
    for reader, atol in (("labelformat", 0), ("supervision", OF_FLOATS)):
        assert_agrees(objects_of(tmp_path / "out", "val"), val[reader], (64, 48), atol)

    document = json.loads(paths[0].read_text())
    (its,) = (one for one in document["annotations"] if "bbox" not in one)
    x, y = its["segmentation"][0][::2], its["segmentation"][0][1::2]
    its["bbox"] = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    paths[0].write_text(json.dumps(document))
    (train,) = sets_read_by_others("coco", [[paths[0]]])
    for reader, atol in (("labelformat", 0), ("supervision", OF_FLOATS)):
        assert_agrees(objects_of(tmp_path / "out", "train"), train[reader], (64, 48), atol)


def test_yolo_is_read_as_others_read_it(tmp_path: Path) -> None:
    """labelformat reads no polygon as a box: line 1 of `b` is one."""
    root = folder(tmp_path / "in", yolo.roboflow())
    converted(root, tmp_path / "out")
    splits = {"train": "train", "val": "valid", "test": "test"}
    places = [place_of_yolo(root, f"{its}/images", split) for split, its in splits.items()]
    for split, others in zip(splits, sets_read_by_others("yolo", places), strict=True):
        found = objects_of(tmp_path / "out", split)
        assert_agrees(found, others["supervision"], atol=OF_FLOATS)
        if split == "train":
            assert found["b"] == [["fly", *yolo.FLY_BOX]]
            assert others["labelformat"]["b"] == []
            assert others["labelformat outlines"]["b"] == [[yolo.FLY_POLYGON]]
            del found["b"]
        assert_agrees(found, others["labelformat"], atol=OF_NINE_DECIMALS)


# Where we differ ----------------------------------------------------------------------------------


class Case(NamedTuple):
    """What each reads: objects of the picture `a`, all pictures, or a part of the error."""

    content: Any
    ours: Any
    supervision: Any
    labelformat: Any


A = image(1, "a.jpg")
ONE = [thing(1, 1)]
PARENTS = [{"id": 0, "name": "bugs"}, {**ANT, "supercategory": "bugs"}, BEE]
NAN = [["ant", math.nan, 3, math.nan, 8]]

COCO_CASES = {
    "half a pixel outside: they keep it, we clip and count it": Case(
        coco([A], [thing(1, 1, bbox=[14, 3, 6.5, 5])]),
        [["ant", 14, 3, 20, 8]],
        *[[["ant", 14, 3, 20.5, 8]]] * 2,
    ),
    "a negative width: labelformat returns it": Case(
        coco([A], [thing(1, 1, bbox=[10, 3, -8, 5])]),
        *("xmin 10 lies right of xmax 2", "Invalid box extent", [["ant", 10, 3, 2, 8]]),
    ),
    "no width: they return it": Case(
        coco([A], [thing(1, 1, bbox=[2, 3, 0, 5])]),
        *("the box is empty", [["ant", 2, 3, 2, 8]], [["ant", 2, 3, 2, 8]]),
    ),
    "no box, but a polygon: they need a box": Case(
        coco([A], [thing(1, 1, bbox="absent", segmentation=[[2, 3, 10, 3, 10, 8]])]),
        *([RIGHT], "KeyError: 'bbox'", "KeyError: 'bbox'"),
    ),
    "an annotation of no image: supervision drops it silently": Case(
        coco([A], [*ONE, thing(2, 5)]), "annotations are of no image", [RIGHT], "KeyError: 5"
    ),
    "two images with one file: labelformat takes it twice": Case(
        coco([A, image(2, "a.jpg")], [*ONE, thing(2, 2)]),
        *("have one picture", "duplicate entries", [RIGHT]),
    ),
    "two annotations with one id: they take both": Case(
        coco([A], [*ONE, *ONE]), "2 annotations have the id 1", [RIGHT, RIGHT], [RIGHT, RIGHT]
    ),
    "two categories with one id: they take the later one": Case(
        coco([A], ONE, [ANT, {"id": 1, "name": "bee"}]),
        *("have one id, 1", [["bee", *RIGHT[1:]]], [["bee", *RIGHT[1:]]]),
    ),
    "a back-slash in the name: they would find no picture": Case(
        coco([image(1, "in\\a.jpg")], ONE), [RIGHT], {"in\\a": [RIGHT]}, {"in\\a": [RIGHT]}
    ),
    "a path of another machine: supervision refuses it": Case(
        coco([image(1, "/data/a.jpg")], ONE), [RIGHT], "outside the images directory", [RIGHT]
    ),
    "a name encoded as in URLs: they would find no picture": Case(
        coco([image(1, "%61.jpg")], ONE), [RIGHT], {"%61": [RIGHT]}, {"%61": [RIGHT]}
    ),
    "a picture that is not there: they do not look": Case(
        coco([A, image(2, "b.jpg")], ONE),
        *("b.jpg: is missing", {**PAIR, "b": []}, {**PAIR, "b": []}),
    ),
    "no size: they need it, we read the picture": Case(
        coco([image(1, "a.jpg", None)], ONE), [RIGHT], "KeyError: 'width'", "KeyError: 'width'"
    ),
    "another size than the picture's: they do not look": Case(
        coco([image(1, "a.jpg", (40, 20))], ONE), "says 40 x 20 px", [RIGHT], [RIGHT]
    ),
    "NaN: labelformat returns it": Case(
        coco([A], [thing(1, 1, bbox=[math.nan, 3, 8, 5])]), "holds NaN", "only finite", NAN
    ),
    "an id as a number and as a text: supervision drops the object silently": Case(
        coco([A], [thing("1", "1")]), [RIGHT], [], "KeyError: '1'"
    ),
    "an unused parent category: nobody's object changes its name": Case(
        coco([A], ONE, PARENTS), *[[RIGHT]] * 3
    ),
}


def lines(*its: str, **more: Any) -> Files:
    return {"data.yaml": yolo.data_yaml({"train": "images"}, **more), **yolo.pair("images/a", *its)}


LINE = yolo.ANT_LINE
BEE_THERE = ["bee", *RIGHT[1:]]

YOLO_CASES = {
    "by 1 % outside: they keep it, we clip and count it": Case(
        lines("0 0.9 0.55 0.204 0.5"),
        [["ant", 15.96, 3, 20, 8]],
        *[[["ant", 15.96, 3, 20.04, 8]]] * 2,
    ),
    "a line twice: they take it twice": Case(lines(LINE, LINE), [RIGHT], *[[RIGHT, RIGHT]] * 2),
    "a rotated box: labelformat drops it": Case(
        lines("0 0.1 0.3 0.5 0.3 0.5 0.8 0.1 0.8"), [RIGHT], [RIGHT], []
    ),
    "a confidence: supervision drops it, labelformat drops the line": Case(
        lines(f"{LINE} 0.9"), "has 6 columns", [RIGHT], []
    ),
    "a class 1.0: labelformat drops the line": Case(
        lines("1.0 0.3 0.55 0.4 0.5"), [BEE_THERE], [BEE_THERE], []
    ),
    "commas: supervision refuses them, labelformat drops the line": Case(
        lines(LINE.replace(" ", ",")), [RIGHT], "expected at least 5 tokens", []
    ),
    "a byte order mark: supervision refuses it, labelformat drops the line": Case(
        lines(f"\ufeff{LINE}"), [RIGHT], "Invalid class id", []
    ),
    "a comment: supervision refuses it": Case(
        lines("# of ants", LINE), [RIGHT], "expected at least 5 tokens", [RIGHT]
    ),
    "a class without a name: labelformat drops the line": Case(
        lines("7 0.3 0.55 0.4 0.5"), "class 7 has no name", [["class 7", *RIGHT[1:]]], []
    ),
    "a box in pixels: they multiply it": Case(
        lines("0 6 5.5 8 5"), "look like pixels", *[[["ant", 40, 30, 200, 80]]] * 2
    ),
    "NaN: labelformat returns it": Case(
        lines("0 nan 0.55 0.4 0.5"), "'nan' is no number", "expected a finite", NAN
    ),
    "a negative width: labelformat returns it": Case(
        lines("0 0.3 0.55 -0.4 0.5"),
        *("lies right of xmax", "Invalid box extent", [["ant", 10, 3, 2, 8]]),
    ),
    "keypoints: labelformat drops the line": Case(
        lines(f"{LINE} 0.5 0.5 2", kpt_shape=[1, 3]), [RIGHT], [RIGHT], []
    ),
    "an empty file: background for all": Case(lines(), [], [], []),
    "no file of labels: background for supervision, left out by us and by labelformat": Case(
        {**lines(LINE), "images/b.jpg": yolo.pair("b")["b.jpg"]}, PAIR, {**PAIR, "b": []}, PAIR
    ),
    "numbers of classes with a gap: supervision counts places, labelformat needs all": Case(
        {
            "data.yaml": "train: images\nnames: {0: ant, 2: fly}\n",
            **yolo.pair("images/a", "2 0.3 0.55 0.4 0.5"),
        },
        [["fly", *RIGHT[1:]]],
        [["class 2", *RIGHT[1:]]],
        "KeyError: 1",
    ),
    "a folder of another machine: labelformat gives up": Case(
        {**lines(LINE), "data.yaml": yolo.data_yaml({"train": "/home/me/images"})},
        *([RIGHT], [RIGHT], "not in the subpath"),
    ),
    "a dead path: labelformat reads no picture, silently": Case(
        lines(LINE, path="../datasets/bugs"), [RIGHT], [RIGHT], {}
    ),
    "a folder in the folder: supervision reads no picture, silently": Case(
        {"data.yaml": yolo.data_yaml({"train": "images"}), **yolo.pair("images/x/a", LINE)},
        *([RIGHT], {}, [RIGHT]),
    ),
}


def assert_case(root: Path, others: Readings, case: Case) -> None:
    """Each of the three reads what the case says."""
    if type(case.ours) is str:
        with pytest.raises(ShardToolError, match=case.ours):
            converted(root, root.with_name(f"{root.name}-out"))
    else:
        converted(root, root.with_name(f"{root.name}-out"))
        assert_reads(objects_of(root.with_name(f"{root.name}-out")), case.ours)
    assert_reads(others["supervision"], case.supervision)
    assert_reads(others["labelformat"], case.labelformat)


def assert_reads(found: Mapping[str, Objects] | str, expected: Any) -> None:
    if isinstance(expected, str):
        assert isinstance(found, str)
        assert expected in found
        return
    assert not isinstance(found, str), found
    everything = {"a": expected} if isinstance(expected, list) else expected
    assert found.keys() == everything.keys()
    for key, objects in everything.items():
        assert [item[0] for item in found[key]] == [item[0] for item in objects]
        boxes, right = (np.array([item[1:] for item in some]) for some in (found[key], objects))
        np.testing.assert_allclose(boxes, right, rtol=0, atol=OF_FLOATS)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Readings, Case]]:
    """The sets of all cases, and what others read of them: in two processes, which take seconds."""
    root, found = tmp_path_factory.mktemp("cases"), {}
    of_coco = [
        written(root / f"coco-{number}", {"x.json": case.content}, ["a.jpg"])
        for number, case in enumerate(COCO_CASES.values())
    ]
    of_yolo = [
        folder(root / f"yolo-{number}", case.content)
        for number, case in enumerate(YOLO_CASES.values())
    ]
    readings = [
        *sets_read_by_others("coco", [[its / "x.json"] for its in of_coco]),
        *sets_read_by_others("yolo", [place_of_yolo(its) for its in of_yolo]),
    ]
    names = [("coco", name) for name in COCO_CASES] + [("yolo", name) for name in YOLO_CASES]
    its = [*COCO_CASES.values(), *YOLO_CASES.values()]
    for name, place, reading, case in zip(names, of_coco + of_yolo, readings, its, strict=True):
        found[": ".join(name)] = (place, reading, case)
    return found


@pytest.mark.parametrize(
    "name", [*(f"coco: {its}" for its in COCO_CASES), *(f"yolo: {its}" for its in YOLO_CASES)]
)
def test_where_we_differ_others_lose_something(
    cases: dict[str, tuple[Path, Readings, Case]], name: str
) -> None:
    assert_case(*cases[name])


def test_boxes_among_polygons_are_two_points_for_labelformat(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", lines(LINE, yolo.FLY_LINE))
    (others,) = sets_read_by_others("yolo", [place_of_yolo(root)])
    converted(root, tmp_path / "out")
    expected = {"a": [RIGHT, ["fly", *yolo.FLY_BOX]]}
    assert objects_of(tmp_path / "out") == others["supervision"] == expected
    assert others["labelformat"] == PAIR
    assert others["labelformat outlines"] == {"a": [[[6, 5.5, 8, 5]], [yolo.FLY_POLYGON]]}


# Real files ---------------------------------------------------------------------------------------

WORDS = {"train": "train", "val": "valid", "test": "test"}
"""Split to its folder."""


def real(voc_sample: Path, name: str) -> Path:
    root = voc_sample.parent / "data" / name
    if not root.exists():
        pytest.skip(f"no {name} beside VOC_SAMPLE_DIR, in data")
    return root


def test_real_coco(tmp_path: Path, voc_sample: Path) -> None:
    """One box leaves its picture by 0.29 pixels; we clip and count it."""
    root = real(voc_sample, "sharks-tiny-coco")
    converted(root, tmp_path / "out")
    places = [[root / f"{word}/_annotations.coco.json"] for word in WORDS.values()]
    count = 0
    for split, others in zip(WORDS, sets_read_by_others("coco", places), strict=True):
        found = objects_of(tmp_path / "out", split)
        assert_agrees(found, others["supervision"], (256, 256), OF_FLOATS)
        assert_agrees(found, others["labelformat"], (256, 256), 0)
        count += sum(map(len, found.values()))
    assert count == 60


def test_real_yolo(tmp_path: Path, voc_sample: Path) -> None:
    """labelformat finds train and val once their dead paths are mended, and drops polygons."""
    root = shutil.copytree(real(voc_sample, "sharks-tiny-yolov9"), tmp_path / "in")
    converted(root, tmp_path / "out")
    places = [place_of_yolo(root, f"{word}/images", split) for split, word in WORDS.items()]
    dead = sets_read_by_others("yolo", places)
    assert [type(its["labelformat"]) for its in dead] == [str, str, dict]
    document = yaml.safe_load((root / "data.yaml").read_text())
    document |= {split: f"{word}/images" for split, word in WORDS.items()}
    (root / "data.yaml").write_text(yaml.safe_dump(document))
    num_boxes = num_objects = 0
    for split, others in zip(WORDS, sets_read_by_others("yolo", places), strict=True):
        found = objects_of(tmp_path / "out", split)
        assert_agrees(found, others["supervision"], atol=OF_FLOATS)
        for its in documents(tmp_path / "out", split).values():
            stem, objects = Path(its["file"]).stem, its["objects"]
            plain = [item for item in objects if "polygons" not in item]
            found[stem] = [[item["name"], *item["bbox"]] for item in plain]
            num_boxes, num_objects = num_boxes + len(plain), num_objects + len(objects)
            for item, outline in zip(objects, others["labelformat outlines"][stem], strict=True):
                if "polygons" in item:
                    np.testing.assert_allclose(item["polygons"][0], outline[0], atol=1e-9)
        assert_agrees(found, others["labelformat"], atol=OF_NINE_DECIMALS)
    assert (num_boxes, num_objects) == (43, 60)
