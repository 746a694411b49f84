"""What YOLO's labels become in samples: boxes, polygons, and what is asked, dropped or counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert import survey
from shard_tool.convert.look import look
from shard_tool.convert.options import ConvertOptions
from shard_tool.convert.rules import Choices
from shard_tool.errors import OptionError, ShardToolError
from tests.kit.datasets.converted import converted, files_of, manifest_of
from tests.kit.datasets.voc_tree import Picture, voc_tree
from tests.kit.datasets.wild import boxes, classes, counted, documents, folder, picture
from tests.kit.datasets.yolo_files import (
    ANT_BOX,
    ANT_LINE,
    BEE_BOX,
    BEE_LINE,
    FLY_LINE,
    SIZE,
    data_yaml,
    labels_of,
    pair,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.datasets.yolo_files import Files

BEE = ("bee", BEE_BOX)


def converted_labels(tmp_path: Path, *lines: str, yaml: str = "", **options: Any) -> Any:
    """The objects of a picture of 20 x 10 px with these labels."""
    files = {"data.yaml": data_yaml({"train": "images"}) + yaml, **pair("images/a", *lines)}
    choices = {name: options.pop(name) for name in Choices.__slots__ if name in options}
    source = folder(tmp_path / "in", files)
    converted(source, tmp_path / "out", choices=Choices(**choices), **options)
    return documents(tmp_path / "out")["images/a"]["objects"]


def refusal(tmp_path: Path, *lines: str, **options: Any) -> str:
    with pytest.raises(ShardToolError) as caught:
        converted_labels(tmp_path, *lines, **options)
    return str(caught.value).replace(f"{tmp_path}/in", "")


# Boxes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "box", "code"),
    [
        ("1 0.5 0.5 1 1", [0, 0, 20, 10], None),
        ("1 0.5 0.5 1.02 1.02", [0, 0, 20, 10], "box-clipped"),
        ("1 0.995 0.5 0.03 0.5", [19.6, 2.5, 20, 7.5], "box-clipped"),
        ("1 0.1 0.2 0.3 0.5 0.3 1.01 0.1 0.9", [2, 2, 6, 10], "box-clipped"),
    ],
)
def test_boxes_that_leave_by_up_to_a_hundredth_are_clipped(
    tmp_path: Path, line: str, box: list[float], code: str | None
) -> None:
    (item,) = converted_labels(tmp_path, line)
    assert item["bbox"] == pytest.approx(box)
    assert item["bbox"][2:] == [min(side, most) for side, most in zip(box[2:], SIZE, strict=True)]
    assert counted(tmp_path / "out").get("box-clipped", 0) == (code is not None)
    if "polygons" in item:
        assert item["polygons"] == [[2, 2, 6, 5, 6, 10, 2, 9]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1 0.5 0.5 0 0.5", "xmin 0.5 is xmax: the box is empty"),
        ("1 0.5 0.5 0.5 -0.5", "ymin 0.75 lies below ymax 0.25"),
        ("1 0.95 0.5 0.2 0.5", "xmax 1.05 is outside width 1"),
        ("1 0.1 0.1 0.5 0.1 1.2 0.1", "ymin 0.1 is ymax: the box is empty"),
        ("1 0.1 -0.1 0.5 0.1 0.9 0.9", "ymin -0.1 is below 0"),
    ],
)
def test_other_boxes_are_decided_by_bad_boxes(tmp_path: Path, line: str, told: str) -> None:
    message = refusal(tmp_path, ANT_LINE, line)
    assert message.startswith(f"/labels/a.txt: object 2 'bee': {told}")
    assert "--bad-boxes" in message
    (item,) = converted_labels(tmp_path, ANT_LINE, line, bad_boxes="drop")
    assert (item["name"], item["bbox"]) == ("ant", ANT_BOX)
    assert counted(tmp_path / "out")["bad-box-dropped"] == 1


def test_a_polygon_is_clipped_with_its_box(tmp_path: Path) -> None:
    line = "1 -0.5 0.1 0.5 0.1 0.5 1.5"
    (item,) = converted_labels(tmp_path, line, bad_boxes="clip")
    assert (item["bbox"], item["polygons"]) == ([0, 1, 10, 10], [[0, 1, 10, 1, 10, 10]])
    assert counted(tmp_path / "out") == {"bad-box-clipped": 1, "box-from-polygon": 1}


def test_four_corners_are_a_polygon_and_its_hull(tmp_path: Path) -> None:
    """As rotated boxes have them (OBB)."""
    (item,) = converted_labels(tmp_path, "1 0.5 0.1 0.75 0.5 0.5 0.9 0.25 0.5")
    assert (item["bbox"], item["polygons"]) == ([5, 1, 15, 9], [[10, 1, 15, 5, 10, 9, 5, 5]])


def test_keypoints_are_kept_in_raw(tmp_path: Path) -> None:
    line = f"{BEE_LINE} 0.5 0.25 2 0 0 0"
    (item,) = converted_labels(tmp_path, line, yaml="kpt_shape: [2, 3]\n")
    assert (item["bbox"], item["raw"]) == (
        BEE_BOX,
        {"yolo": {"keypoints": [0.5, 0.25, 2, 0, 0, 0]}},
    )
    assert counted(tmp_path / "out") == {"keypoints-unread": 1}


# Bad lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("3 0.5 0.5 1 1", "class 3 has no name (there are 0 … 2)"),
        ("1 10 5 20 10", "has numbers from 5 to 20, which look like pixels"),
        ("1 0.5 0.5 1 1 0.9", "has 6 columns"),
        ("1 0.5 0.5 1 nan", "'nan' is no number"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, told: str) -> None:
    assert refusal(tmp_path, "", ANT_LINE, line).startswith(f"/labels/a.txt: line 3: {told}")
    assert refusal(tmp_path, line).startswith(f"/labels/a.txt: line 1: {told}")
    (item,) = converted_labels(tmp_path, ANT_LINE, line, on_bad_record="skip")
    assert item["name"] == "ant"
    assert counted(tmp_path / "out") == {"bad-object-dropped": 1}
    (bad,) = (tmp_path / "out/bad_records.jsonl").read_text().splitlines()
    its = json.loads(bad)
    assert (its["key"], its["object"]) == ("images/a", 2)
    assert f"labels/a.txt: line 2: {told}" in its["error"]


def test_all_is_counted(tmp_path: Path) -> None:
    lines = ("# ants", ANT_LINE, "", ANT_LINE, BEE_LINE.replace(" ", ","), FLY_LINE)
    names = [item["name"] for item in converted_labels(tmp_path, *lines)]
    assert names == ["ant", "bee", "fly"]
    found = {"comment": 1, "object-twice": 1, "commas": 1, "box-from-polygon": 1}
    assert counted(tmp_path / "out") == found


def test_a_dry_run_foretells_all(tmp_path: Path) -> None:
    lines = (ANT_LINE, ANT_LINE, "9 0.5 0.5 1 1", "8 0.5 0.5 1 1", "1 0.5 0.5 0 1", FLY_LINE)
    files = {"data.yaml": data_yaml({"train": "images"}), **pair("images/a", *lines)}
    source = folder(tmp_path / "in", files)
    options = ConvertOptions(source=str(source), dest=str(tmp_path / "out"), workers=1)
    found = look(options)
    assert found.num_bad == 1
    (problem,) = found.problems.values()
    assert "line 3: class 9 has no name" in problem.example
    assert {"object-twice": 1, "box-from-polygon": 1}.items() <= {
        code: its["count"] for code, its in found.report.as_json().items()
    }.items()


def test_labels_that_are_too_long(tmp_path: Path) -> None:
    told = refusal(tmp_path, "\n" * (1 << 22))
    assert told == "/labels/a.txt: 4194305 bytes are too many (most: 4194304)"


# Pictures -----------------------------------------------------------------------------------------


def unlabelled(tmp_path: Path) -> Path:
    files = {"data.yaml": data_yaml({"train": "images"}), **pair("images/a", BEE_LINE)}
    files |= {**pair("images/empty"), "images/without.jpg": picture(shade=9)}
    files |= {"labels/orphan.txt": BEE_LINE, "labels/README.txt": "x", "other/labels/x.txt": ""}
    return folder(tmp_path / "in", files)


@pytest.mark.parametrize(
    ("choice", "taken", "codes"),
    [
        ("auto", False, {"unlabelled": 1}),
        ("drop", False, {"unlabelled": 1}),
        ("background", True, {"unlabelled-background": 1}),
    ],
)
def test_pictures_without_labels(
    tmp_path: Path, choice: Any, taken: bool, codes: dict[str, int]
) -> None:
    source = unlabelled(tmp_path)
    converted(source, tmp_path / "out", choices=Choices(unlabelled=choice))
    more: dict[str, Any] = {"images/without": []} if taken else {}
    assert boxes(tmp_path / "out") == {"images/a": [BEE], "images/empty": [], **more}
    always = {"background": 1, "annotation-without-picture": 2}
    assert counted(tmp_path / "out") == {**codes, **always}
    with pytest.raises(ShardToolError, match=r"labels/without\.txt: is missing"):
        converted(source, tmp_path / "fail", choices=Choices(unlabelled="fail"))


def test_pictures_that_exif_turns_are_asked_about(tmp_path: Path) -> None:
    files = {"data.yaml": data_yaml({"train": "images"}), **pair("images/a", BEE_LINE)}
    files["images/a.jpg"] = picture(SIZE, exif=6)
    source = folder(tmp_path / "in", files)
    with pytest.raises(ShardToolError, match="--exif upright or --exif stored"):
        converted(source, tmp_path / "out")
    for choice, box in (("upright", [0, 0, 10, 20]), ("stored", [0, 0, 20, 10])):
        converted(source, tmp_path / choice, choices=Choices(exif=choice))  # type: ignore[arg-type]
        assert boxes(tmp_path / choice) == {"images/a": [("bee", box)]}


@pytest.mark.parametrize("task", ["segmentation", "layout", "action"])
def test_tasks_that_labels_do_not_serve(tmp_path: Path, task: str) -> None:
    told = refusal(tmp_path, BEE_LINE, task=task)
    assert f"has no annotations for {task}: found yolo" in told
    assert told.endswith("; add --task detection")


def test_boxes_have_one_convention(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--boxes"):
        converted_labels(tmp_path, BEE_LINE, boxes="corners")


def test_classification_by_the_objects(tmp_path: Path) -> None:
    converted_labels(tmp_path, BEE_LINE, task="classification")
    assert manifest_of(tmp_path / "out")["task"] == "classification"


def test_classes_without_objects_stay(tmp_path: Path) -> None:
    converted_labels(tmp_path, BEE_LINE)
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2, "fly": 3}


def test_numbers_with_gaps_are_kept_for_export(tmp_path: Path) -> None:
    yaml = "train: images\nnames: {3: bee, 1: ant}\n"
    files = {"data.yaml": yaml, **pair("images/a", BEE_LINE.replace("1", "3", 1))}
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2}
    assert boxes(tmp_path / "out") == {"images/a": [BEE]}
    assert manifest_of(tmp_path / "out")["sources"][0]["class_ids"] == {"ant": 1, "bee": 3}


def test_the_digest_of_a_folder_covers_names_and_lists(tmp_path: Path) -> None:
    yaml = data_yaml({"train": "train.txt"})
    files: Files = {"data.yaml": yaml, "train.txt": "images/a.jpg\n", **pair("images/a", BEE_LINE)}
    digests = set[str]()
    for more in ({}, {"data.yaml": f"{yaml}# x\n"}, {"train.txt": "images/a.jpg"}):
        name = f"{len(digests)}"
        converted(folder(tmp_path / name, files | more), tmp_path / f"out{name}")
        (entry,) = manifest_of(tmp_path / f"out{name}")["sources"]
        assert entry["num_files"] == 4
        digests.add(entry["sha256"])
    assert len(digests) == 3


@pytest.mark.slow
def test_the_same_bytes_by_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_FEW", 3)
    files: Files = {"data.yaml": data_yaml({"train": "images"})}
    for number in range(12):
        files |= pair(f"images/{number % 5}/{number}", FLY_LINE, BEE_LINE)
    source = folder(tmp_path / "in", files)
    for workers in (1, 2):
        converted(source, tmp_path / f"out{workers}", workers=workers, shard_bytes=4000)
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2")


# Round trips, and a real one ----------------------------------------------------------------------


def test_voc_written_as_yolo_gives_the_same_boxes(tmp_path: Path) -> None:
    """Also where sides are no powers of two, so that no part of a picture is exact."""
    sizes = [(20, 10), (333, 500), (499, 375), (1919, 1079)]
    records = []
    for number, (width, height) in enumerate(sizes):
        sides = [(x, y, x + 1 + number, y + 2) for x in (1, 3, 7) for y in (1, 5, 6)]
        items = tuple(("cat" if x > 3 else "dog", (x, y, x1, y1)) for x, y, x1, y1 in sides)
        items += (("dog", (1, 1, width, height)),)
        records.append(Picture(key=f"{number}", size_wh=(width, height), objects=items))
    converted(voc_tree(tmp_path / "voc", records).parent.parent, tmp_path / "of-voc")
    of_voc = documents(tmp_path / "of-voc")
    files: Files = {"data.yaml": data_yaml({"train": "images"}, ["cat", "dog"])}
    for record in records:
        found = [(item["name"], item["bbox"]) for item in of_voc[record.key]["objects"]]
        path = tmp_path / f"voc/VOCdevkit/VOC2012/JPEGImages/{record.key}.jpg"
        files[f"images/{record.key}.jpg"] = path.read_bytes()
        files[f"labels/{record.key}.txt"] = labels_of(found, ["cat", "dog"], record.size_wh)
    converted(folder(tmp_path / "yolo", files), tmp_path / "of-yolo")
    expected = {f"images/{key}": its for key, its in boxes(tmp_path / "of-voc").items()}
    assert boxes(tmp_path / "of-yolo") == expected
    assert counted(tmp_path / "of-yolo") == {}


def test_real_files_agree_with_their_twin_in_coco(tmp_path: Path, voc_sample: Path) -> None:
    """The same ten frames: COCO's boxes are of pictures of 256 px, and whole pixels there."""
    data = voc_sample.parent / "data"
    if not (data / "sharks-tiny-yolov9").exists():
        pytest.skip("no sharks beside VOC_SAMPLE_DIR, in data/sharks-tiny-yolov9")
    converted(data / "sharks-tiny-yolov9", tmp_path / "out")
    assert classes(tmp_path / "out") == {"fish": 1, "primary": 2, "shark": 3}
    found = {}
    for split in ("train", "val", "test"):
        for its in documents(tmp_path / "out", split).values():
            found[split, its["file"].rpartition("/")[2].partition(".rf.")[0]] = its
    count = 0
    for split in ("train", "val", "test"):
        path = data / "sharks-tiny-coco" / split.replace("val", "valid") / "_annotations.coco.json"
        twin = json.loads(path.read_text())
        names = {its["id"]: its["name"] for its in twin["categories"]}
        for image in twin["images"]:
            its = found.pop((split, image["file_name"].partition(".rf.")[0]))
            scale = image["width"] / its["width"]
            left = [
                (item["name"], [scale * side for side in item["bbox"]]) for item in its["objects"]
            ]
            for annotation in twin["annotations"]:
                if annotation["image_id"] != image["id"]:
                    continue
                x, y, width, height = annotation["bbox"]
                corners = (x, y, x + width, y + height)
                name = names[annotation["category_id"]]
                near = next(
                    (n, box)
                    for n, box in left
                    if n == name
                    and max(abs(one - other) for one, other in zip(box, corners, strict=True)) < 0.5
                )
                left.remove(near)
                count += 1
            assert left == []
    assert (found, count) == ({}, 60)
