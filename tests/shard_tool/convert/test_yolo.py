"""YOLO datasets as tools export them: where files lie, and what names their classes and splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.dataset.verify import verify
from shard_tool.errors import OptionError, ShardToolError
from shard_tool.sources.open import open_source
from shard_tool.storage.location import Folder
from tests.kit.datasets.archives import tar_with, zip_with
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.wild import boxes, classes, counted, documents, folder, pairs, picture
from tests.kit.datasets.yolo_files import (
    ANT_BOX,
    BEE_BOX,
    BEE_LINE,
    FLY_BOX,
    FLY_LINE,
    FLY_POLYGON,
    cvat,
    data_yaml,
    label_studio,
    labelimg,
    pair,
    roboflow,
    ultralytics,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.kit.datasets.yolo_files import Files

A, B, C = [("ant", ANT_BOX), ("bee", BEE_BOX)], [("fly", FLY_BOX)], [("bee", BEE_BOX)]
"""The objects of the pictures a, b and c of all exporters."""


def keys(tmp_path: Path, files: Mapping[str, bytes | str], **options: Any) -> dict[str, list[str]]:
    """Split to its keys."""
    converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    splits = list(manifest_of(tmp_path / "out")["splits"])
    return {split: list(documents(tmp_path / "out", split)) for split in splits}


def refusal(tmp_path: Path, files: Mapping[str, bytes | str], **options: Any) -> str:
    with pytest.raises(ShardToolError) as caught:
        converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    return str(caught.value).replace(f"{tmp_path}/in", "")


def evidence(root: Path) -> str:
    (source,) = open_source(str(root))
    return f"{source.format}: {source.evidence}"


# Exporters ----------------------------------------------------------------------------------------

SPLITS: dict[Callable[[], Files], dict[str, dict[str, Any]]] = {
    roboflow: {
        "train": {"train/images/a": A, "train/images/b": B},
        "val": {"valid/images/c": C},
        "test": {"test/images/d": []},
    },
    ultralytics: {"train": {"images/train/a": A, "images/train/b": B}, "val": {"images/val/c": C}},
    cvat: {
        "train": {"obj_train_data/a": A, "obj_train_data/b": B},
        "val": {"obj_valid_data/c": C},
    },
    label_studio: {"train": {"images/a": A, "images/b": B, "images/c": C}},
    labelimg: {"train": {"a": A, "b": B, "c": C}},
}


@pytest.mark.parametrize("exporter", SPLITS)
@pytest.mark.parametrize("packing", ["folder", "tar", "zip"])
@pytest.mark.parametrize("root", ["", "my bugs/v1/"])
def test_exporters(tmp_path: Path, exporter: Callable[[], Files], packing: str, root: str) -> None:
    files = {f"{root}{name}": content for name, content in exporter().items()}
    source = folder(tmp_path / "in", files)
    if packing != "folder":
        contents = {path: (source / path).read_bytes() for path in files}
        source = tmp_path / f"in.{packing}"
        source.write_bytes((tar_with if packing == "tar" else zip_with)(contents))
    report = converted(source, tmp_path / "out")
    prefix = root.replace(" ", "%20")
    found = {split: boxes(tmp_path / "out", split) for split in report.manifest.splits}
    assert found == {
        split: {f"{prefix}{key}": its for key, its in samples.items()}
        for split, samples in SPLITS[exporter].items()
    }
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2, "fly": 3}
    manifest = manifest_of(tmp_path / "out")
    (entry,) = manifest["sources"]
    assert (entry["format"], entry["class_ids"]) == ("yolo", {"ant": 0, "bee": 1, "fly": 2})
    assert manifest["options"]["boxes"] == "normalized"
    assert (
        not {"annotation-without-picture", "size-absent", "unlabelled"} & manifest["report"].keys()
    )
    assert verify(Folder(str(tmp_path / "out")), decode=True, workers=1).problems == ()


def test_what_a_sample_says(tmp_path: Path) -> None:
    converted(folder(tmp_path / "in", roboflow()), tmp_path / "out")
    document = documents(tmp_path / "out")["train/images/b"]
    assert document["file"] == "train/images/b.jpg"
    assert (document["width"], document["height"]) == (20, 10)
    (item,) = document["objects"]
    assert item["polygons"] == [FLY_POLYGON]
    assert (item["name"], item["label"], item["bbox"]) == ("fly", 3, FLY_BOX)
    assert "raw" not in item
    assert counted(tmp_path / "out") == {"background": 1, "box-from-polygon": 1, "path-mended": 3}


@pytest.mark.parametrize(
    ("exporter", "told"),
    [
        (roboflow, "data.yaml names 3 classes; 3 paths were found by how they end"),
        (ultralytics, "bugs.yaml names 3 classes; 2 paths were found by how they end"),
        (cvat, "obj.data names 3 classes; 5 paths were found by how they end"),
        (label_studio, "classes.txt names 3 classes"),
        (labelimg, "classes.txt names 3 classes"),
    ],
)
def test_evidence(tmp_path: Path, exporter: Callable[[], Files], told: str) -> None:
    assert evidence(folder(tmp_path, exporter())) == f"yolo: {told}"


def test_mended_paths_are_counted_with_both_paths(tmp_path: Path) -> None:
    converted(folder(tmp_path / "in", cvat()), tmp_path / "out")
    assert manifest_of(tmp_path / "out")["report"]["path-mended"] == {
        "count": 5,
        "examples": [
            "obj.data: names: 'data/obj.names' is obj.names",
            "train.txt: 'data/obj_train_data/' is obj_train_data",
            "obj.data: train: 'data/train.txt' is train.txt",
        ],
    }


# Folders ------------------------------------------------------------------------------------------


def of(splits: Mapping[str, str], *paths: str, **more: Any) -> Files:
    """A data.yaml and pictures with a bee in each."""
    files: Files = {"data.yaml": data_yaml(splits, **more)}
    for path in paths:
        files |= pair(path, BEE_LINE)
    return files


@pytest.mark.parametrize(
    ("yaml_path", "splits"),
    [
        ("data.yaml", {"train": "images/train", "val": "images/val"}),
        ("cfg/data.yaml", {"train": "../images/train", "val": "../images/val"}),
        ("cfg/data.yaml", {"train": "images/train", "val": "images/val"}),
        ("cfg/data.yml", {"path": "..", "train": "images/train", "val": "images/val"}),
        ("data.yaml", {"path": "images", "train": "train", "val": "val"}),
        ("data.yaml", {"path": "/dead/ds", "train": "images/train", "val": "images/val"}),
        ("data.yaml", {"train": "/dead/ds/images/train", "val": "/dead/ds/images/val"}),
        ("data.yaml", {"train": r"C:\me\images\train", "val": r"C:\me\images\val"}),
        ("data.yaml", {"train": "['images/train']", "val": "['images/val']"}),
    ],
)
def test_where_data_yaml_may_point(tmp_path: Path, yaml_path: str, splits: dict[str, str]) -> None:
    files = of(splits, "images/train/a", "images/val/b")
    files[yaml_path] = files.pop("data.yaml")
    assert keys(tmp_path, files) == {"train": ["images/train/a"], "val": ["images/val/b"]}


def test_an_absolute_path_that_is_alive(tmp_path: Path) -> None:
    files = of({"train": f"{tmp_path}/in/images"}, "images/a", "other/images/a")
    assert keys(tmp_path, files) == {"train": ["images/a"]}
    assert counted(tmp_path / "out") == {"picture-apart": 1}


def test_several_folders_and_folders_below(tmp_path: Path) -> None:
    files = of({"train": "[a, b/images]"}, "a/x/images/1", "a/images/y/2", "b/images/3", "c/4")
    found = ["a/images/y/2", "a/x/images/1", "b/images/3"]
    assert keys(tmp_path, files) == {"train": found}
    assert counted(tmp_path / "out") == {"picture-apart": 1}


@pytest.mark.parametrize(
    ("picture_path", "labels"),
    [
        ("images/a", "labels/a"),
        ("Images/train/a", "Labels/train/a"),
        ("IMAGES/train/a", "labels/train/a"),
        ("images/images/a", "images/labels/a"),
        ("images/train/a", "labels/train/a"),
        ("train/JPEGImages/a", "train/labels/a"),
        ("images/train/JPEGImages/a", "labels/train/JPEGImages/a"),
        ("train/img/a", "train/labels/a"),
        ("train/images/a", "train/images/a"),
        ("train/a", "train/a"),
        ("train/a", "train/labels/a"),
        ("train/a", "labels/train/a"),
    ],
)
def test_where_labels_may_lie(tmp_path: Path, picture_path: str, labels: str) -> None:
    files = {"data.yaml": data_yaml({"train": "."}), **pair(picture_path, BEE_LINE, labels=labels)}
    assert keys(tmp_path, files) == {"train": [picture_path]}
    assert boxes(tmp_path / "out") == {picture_path: C}
    assert counted(tmp_path / "out") == {}


def test_labels_win_over_text_beside_the_picture(tmp_path: Path) -> None:
    files = of({"train": "images"}, "images/a") | {"images/a.txt": "a bee in a garden\n"}
    assert keys(tmp_path, files) == {"train": ["images/a"]}
    assert boxes(tmp_path / "out") == {"images/a": C}


# Lists --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "./images/a.jpg\n./images/b.jpg\n",
        "images/a.jpg\r\n\r\nimages/b.jpg",
        "\ufeffimages/a.jpg\nimages/b.png\n",
        "images/a\nimages/b\n",
        "/dead/bugs/images/a.jpg\n/dead/bugs/images/b.jpg\n",
        "C:\\me\\images\\a.jpg\nimages\\b.jpg\n",
        "a.jpg\nb.jpg\n",
        "images/b.jpg\nimages/a.jpg\nimages/b.jpg\n",
    ],
)
@pytest.mark.parametrize("path", ["train.txt", "lists/train.txt"])
def test_lists(tmp_path: Path, lines: str, path: str) -> None:
    files = of({"train": path}, "images/a", "images/b", "images/c") | {path: lines}
    assert keys(tmp_path, files) == {"train": ["images/a", "images/b"]}
    found = counted(tmp_path / "out")
    assert found.pop("in-no-list") == 1
    assert found.pop("list-name-twice", 0) == (lines.count("b.jpg") == 2)
    assert found.pop("path-mended", 0) == ("dead" in lines or "C:" in lines)
    assert found == {}


def test_a_listed_picture_that_is_missing(tmp_path: Path) -> None:
    files = of({"train": "train.txt"}, "images/a") | {"train.txt": "images/a.jpg\nimages/z.jpg\n"}
    assert refusal(tmp_path, files).startswith("/images/z: is missing: there is no such file")
    found = keys(tmp_path, files, on_bad_record="skip")
    assert found == {"train": ["images/a"]}
    assert counted(tmp_path / "out") == {"bad-record-skipped": 1}


def test_a_listed_picture_without_labels_is_asked_about(tmp_path: Path) -> None:
    files = of({"train": "train.txt"}, "images/a") | {"train.txt": "images/a.jpg\nimages/b.jpg\n"}
    files["images/b.jpg"] = picture()
    told = refusal(tmp_path, files)
    assert told.startswith("/labels/b.txt: is missing: a picture without its annotation")
    assert "--unlabelled" in told


def test_a_name_that_two_folders_have(tmp_path: Path) -> None:
    files = of({"train": "train.txt"}, "x/images/a", "y/images/a") | {"train.txt": "a.jpg\n"}
    told = refusal(tmp_path, files)
    assert told == (
        "/train.txt: 'a' may be a picture in any of 'x/images', 'y/images'; "
        "write the path of each picture"
    )


def test_split_files_of_the_user(tmp_path: Path) -> None:
    for split, lines in (("train", "images/a.jpg\n/dead/images/b.jpg\n"), ("mine", "c\n")):
        (tmp_path / f"{split}.txt").write_text(lines)
    files = of({"train": "/nowhere"}, "images/a", "images/b", "images/c", "images/d")
    given = {split: str(tmp_path / f"{split}.txt") for split in ("train", "mine")}
    found = keys(tmp_path, files, split_files=given)
    assert found == {"train": ["images/a", "images/b"], "mine": ["images/c"]}
    report = manifest_of(tmp_path / "out")["report"]
    assert report["path-mended"]["examples"] == ["train.txt: '/dead/images/' is images"]
    assert report["in-no-list"]["count"] == 1
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(OptionError, match=r"--split-file train=.*: names no picture"):
        converted(tmp_path / "in", tmp_path / "other", split_files=given)


# Splits -------------------------------------------------------------------------------------------


def test_a_split_without_pictures_is_counted(tmp_path: Path) -> None:
    splits = {"train": "train/images", "val": "../val/images", "test": "test/images"}
    files = of(splits, "train/images/a", "valid/images/b")
    assert keys(tmp_path, files) == {"train": ["train/images/a"]}
    report = manifest_of(tmp_path / "out")["report"]
    assert report["split-without-pictures"]["examples"] == [
        "data.yaml: val: '../val/images'",
        "data.yaml: test: 'test/images'",
    ]
    assert report["picture-apart"]["count"] == 1
    told = refusal(tmp_path / "2", files, splits=("val",))
    assert told == ": has no split 'val'; splits: train"


def test_a_picture_in_two_splits_is_refused(tmp_path: Path) -> None:
    files = of({"train": "images/train", "val": "images/train"}, "images/train/a")
    assert "picture 'images/train/a' is in split 'train' as well" in refusal(tmp_path, files)
    assert keys(tmp_path, files, splits=("train",)) == {"train": ["images/train/a"]}


def test_splits_by_folders_without_a_data_yaml(tmp_path: Path) -> None:
    files: Files = {"classes.txt": "ant\nbee\n"}
    for path in ("images/train/a", "images/val2017/b", "images/Testing/c"):
        files |= pair(path, BEE_LINE)
    assert keys(tmp_path, files) == {
        "train": ["images/train/a"],
        "val": ["images/val2017/b"],
        "test": ["images/Testing/c"],
    }
    files |= pair("images/more/d", BEE_LINE)
    told = refusal(tmp_path / "2", files)
    assert "pictures in 'images/more' are in no folder of a split, others are" in told


# Several files, other formats ---------------------------------------------------------------------


def test_equal_files_are_one_dataset(tmp_path: Path) -> None:
    files = of({"train": "images"}, "images/a") | {
        "old/data.yml": data_yaml({"train": "/dead/bugs/images"}, extra="1"),
        "yolov5/coco.yaml": data_yaml({"train": "../coco/train2017.txt"}, ["x"]),
        "hyp.yaml": "lr0: 0.01\n",
        "docker-compose.yml": "services: {train: {image: a}}\n",
        "broken.yaml": "a: [\n",
        "iris.data": "5.1,3.5\n",
    }
    assert keys(tmp_path, files) == {"train": ["images/a"]}
    assert counted(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "other",
    [
        data_yaml({"train": "images"}, ["ant", "bee"]),
        data_yaml({"train": "more/images"}),
        data_yaml({"val": "images"}),
        data_yaml({"train": "images"}, kpt_shape=[1, 2]),
    ],
)
def test_files_of_several_datasets_are_refused(tmp_path: Path, other: str) -> None:
    files = of({"train": "images"}, "images/a", "more/images/b") | {"x/other.yaml": other}
    assert refusal(tmp_path, files) == (
        ": data.yaml and x/other.yaml declare other datasets; "
        "convert one folder at a time, or remove the file that is not meant"
    )


def test_names_that_differ_are_refused(tmp_path: Path) -> None:
    files = {**labelimg(), "more/classes.txt": "bee\nant\n", "x/classes.txt": "ant\nbee\nfly\n"}
    assert "hold other names; keep one of them" in refusal(tmp_path, files)
    del files["more/classes.txt"]
    assert len(keys(tmp_path / "2", files)["train"]) == 3


def test_labels_without_names_are_refused(tmp_path: Path) -> None:
    told = refusal(tmp_path, pair("images/a", FLY_LINE))
    assert told == (
        ": has labels of YOLO (labels/a.txt), and nothing that names their classes; "
        "write the names, one a line, into a file classes.txt beside the labels"
    )
    captions = pair("images/a", "1 bee in a garden")
    assert "labels of YOLO" not in refusal(tmp_path / "2", captions)


def test_paths_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    files = of({"train": "/x/pics", "val": "../val"}, "images/a")
    told = refusal(tmp_path, files)
    assert told == "/data.yaml: no picture is where it says: '/x/pics', '../val'; correct its paths"


def test_broken_files_are_refused(tmp_path: Path) -> None:
    files = of({"train": "images"}, "images/a") | {"data.yaml": "train: images\nnames: [ant\n"}
    assert refusal(tmp_path, files).startswith("/data.yaml: line 3: is not YAML")


def test_voc_beside_yolo(tmp_path: Path) -> None:
    """XML of VOC wins where no labels are YOLO's, and else the user is asked."""
    voc = pairs("a", pictures="images/", annotations="annotations/")
    assert keys(tmp_path, voc | {"data.yaml": data_yaml({"train": "images"})}) == {"train": ["a"]}
    both = voc | {"data.yaml": data_yaml({"train": "images"}), "labels/a.txt": BEE_LINE}
    told = refusal(tmp_path / "2", both)
    assert "holds yolo (data.yaml names 3 classes) and voc" in told
    assert "--source-format yolo or --source-format voc" in told
    assert keys(tmp_path / "3", both, format="yolo") == {"train": ["images/a"]}


def test_voc_beside_labels_without_names(tmp_path: Path) -> None:
    """ultralytics' script for VOC makes such a folder `labels`."""
    voc = pairs("a", pictures="images/", annotations="annotations/")
    assert keys(tmp_path, voc | {"labels/a.txt": BEE_LINE}) == {"train": ["a"]}


def test_two_pictures_of_one_stem_are_refused(tmp_path: Path) -> None:
    files = of({"train": "images"}, "images/a") | {"images/a.png": picture(kind="PNG")}
    assert "has the name of 'images/a.jpg' but for the suffix" in refusal(tmp_path, files)


def test_records_are_sorted_over_all_folders(tmp_path: Path) -> None:
    paths = ["b/images/1", "a/images/2", "a.b/images/3", "a/images/1", "é/images/0"]
    files = of({"train": "[b, a, a.b, é]"}, *paths)
    (source,) = open_source(str(folder(tmp_path, files)))
    found = [record.id for record in source.records("detection", "train")]
    assert found == sorted(paths, key=str.encode)


def test_several_sources_join_by_name(tmp_path: Path) -> None:
    folder(tmp_path / "one", of({"train": "images"}, "images/a"))
    more = {"data.yaml": data_yaml({"train": "images"}, ["bee", "wasp"])}
    folder(tmp_path / "two", more | pair("images/b", "0 0.5 0.5 1 1"))
    sources = [str(tmp_path / "one"), str(tmp_path / "two")]
    convert(ConvertOptions(source=sources, dest=str(tmp_path / "out"), workers=1))
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2, "fly": 3, "wasp": 4}
    assert boxes(tmp_path / "out") == {"images/a": C, "images/b": C}
    ids = [entry["class_ids"] for entry in manifest_of(tmp_path / "out")["sources"]]
    assert ids == [{"ant": 0, "bee": 1, "fly": 2}, {"bee": 0, "wasp": 1}]
