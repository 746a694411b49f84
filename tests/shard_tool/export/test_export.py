"""What an export writes, counts and refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.mask import area

from shard_tool.errors import DataError, OptionError, ShardError
from shard_tool.export.destination import MARK
from shard_tool.export.losses import MEANINGS
from shard_tool.export.run import ExportOptions, export_dataset
from shard_tool.format.sample import Part
from tests.kit.datasets.converted import converted, files_of
from tests.kit.datasets.exports import (
    WH,
    Stored,
    coco_of,
    contents_of,
    dataset_of,
    exported,
    losses_of,
    sample_of,
    thing,
)
from tests.kit.datasets.foreign_tars import adopted, shards_of_others
from tests.kit.datasets.stored import in_memory
from tests.kit.datasets.voc_tree import jpeg, mask

if TYPE_CHECKING:
    from pathlib import Path

SPLITS = {"train": [sample_of("a", thing()), sample_of("b")], "val": [sample_of("c", thing())]}


# Layouts ----------------------------------------------------------------------------------------


def test_the_usual_layouts(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    layouts = {
        "coco": {
            *("annotations/instances_train.json", "annotations/instances_val.json"),
            *("train/a.jpg", "train/b.jpg", "val/c.jpg"),
        },
        "yolo": {
            "data.yaml",
            *("images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg"),
            *("labels/train/a.txt", "labels/train/b.txt", "labels/val/c.txt"),
        },
        "voc": {
            *("ImageSets/Main/train.txt", "ImageSets/Main/val.txt"),
            *(f"JPEGImages/{key}.jpg" for key in "abc"),
            *(f"Annotations/{key}.xml" for key in "abc"),
        },
    }
    pictures = {f"{key}.jpg": members["jpg"] for (_, key), (_, _, members) in pairs(dataset)}
    for format_, layout in layouts.items():
        report = exported(dataset, tmp_path / format_, format_)
        found = files_of(tmp_path / format_)
        assert found.keys() == layout | {MARK}
        its = {name.rpartition("/")[2]: one for name, one in found.items() if "jpg" in name}
        assert its == pictures
        assert losses_of(report) == {}
        told = {split: (its["num_samples"], its["num_objects"]) for split, its in splits(report)}
        assert told == {"train": (2, 1), "val": (1, 1)}
        exported(dataset, tmp_path / f"{format_}-val", format_, pictures=False, splits=("val",))
        layout = {name for name in layout if "jpg" not in name and "/a" not in name}
        layout = {name for name in layout if "train" not in name and "/b" not in name}
        assert files_of(tmp_path / f"{format_}-val").keys() == layout | {MARK}


def pairs(dataset: Path) -> Any:
    return contents_of(dataset).items()


def splits(report: Any) -> Any:
    return report.splits.items()


def test_coco_s_file_is_read_by_coco_s_own_code(tmp_path: Path) -> None:
    polygon = (10.0, 20.0, 30.0, 20.0, 30.0, 40.0)
    things = [thing((0.1, 0.2, 30.3, 40)), thing(polygons=(polygon,), crowd=True, name="big dog")]
    dataset = dataset_of(tmp_path / "set", {"train": [sample_of("a", *things)]})
    exported(dataset, tmp_path / "out", "coco")
    coco = COCO(str(tmp_path / "out/annotations/instances_train.json"))
    assert coco.loadCats(coco.getCatIds()) == [
        {"id": 1, "name": "cat"},
        {"id": 2, "name": "big dog"},
    ]
    image = {"id": 1, "file_name": "a.jpg", "width": WH[0], "height": WH[1]}
    assert coco.loadImgs(coco.getImgIds()) == [image]
    first, second = coco.loadAnns(coco.getAnnIds())
    assert first["bbox"] == [0.1, 0.2, 30.2, 39.8]
    assert (first["iscrowd"], first["segmentation"]) == (0, [])
    assert (second["iscrowd"], second["area"], second["bbox"]) == (1, 200, [10, 20, 20, 20])
    assert area(coco.annToRLE(second)) == pytest.approx(200, abs=20)


def test_yolo_s_data_yaml_names_classes_by_number(tmp_path: Path) -> None:
    classes = {"yes": 1, "7": 2, "a: b": 3}
    things = [thing(name=name, label=label) for name, label in classes.items()]
    dataset = dataset_of(tmp_path / "set", {"val": [sample_of("a", *things)]}, classes=classes)
    exported(dataset, tmp_path / "out", "yolo")
    document = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    names = {0: "yes", 1: "7", 2: "a: b"}
    assert document == {"val": "images/val", "nc": 3, "names": names}
    lines = (tmp_path / "out/labels/val/a.txt").read_text().splitlines()
    expected = f"{20 / 100!r} {30 / 60!r} {20 / 100!r} {20 / 60!r}"
    assert lines == [f"{number} {expected}" for number in range(3)]


# What formats cannot hold -----------------------------------------------------------------------


def test_everything_that_a_format_cannot_hold_is_counted(tmp_path: Path) -> None:
    things = [
        thing(difficult=True, truncated=True, occluded=False),
        thing(parts=(Part(name="head", bbox=(1, 2, 3, 4)),), occluded=True),
        thing(crowd=True, rle={"size": [WH[1], WH[0]], "counts": [0, WH[0] * WH[1]]}),
        thing(raw={"id": 3}),
        thing(None, point=(3.0, 4.0)),
        thing(None),
        thing((1, 2, 3, 4)),
        thing((1, 2, 3, 4)),
    ]
    sample = sample_of("a", *things, image_labels={"cat": 1, "big dog": -1}, raw={"license": 1})
    members = {"jpg": jpeg(WH), "class.png": mask(WH), "object.png": mask(WH)}
    samples = {"train": [Stored(sample, members)]}
    dataset = dataset_of(tmp_path / "set", samples, task="segmentation")
    of_both = {"difficult-lost": 1, "flags-lost": 2, "lists-lost": 1, "masks-lost": 1}
    of_both |= {"object-without-box": 2, "parts-lost": 1}
    expected = {
        "coco": of_both,
        "yolo": of_both | {"crowd-left-out": 1, "fields-lost": 2, "object-twice": 3},
        "voc": {
            "crowd-as-difficult": 1,
            "outline-lost": 1,
            "fields-lost": 2,
            "lists-lost": 1,
            "object-without-box": 1,
        },
    }
    for format_, losses in expected.items():
        report = exported(dataset, tmp_path / format_, format_)
        assert losses_of(report) == losses
        assert losses.keys() <= MEANINGS.keys()
        assert len(report.losses.lines()) == len(losses)
    assert (tmp_path / "voc/SegmentationClass/a.png").read_bytes() == members["class.png"]
    assert (tmp_path / "voc/SegmentationObject/a.png").read_bytes() == members["object.png"]
    assert (tmp_path / "voc/ImageSets/Segmentation/train.txt").read_text() == "a\n"
    text = (tmp_path / "voc/Annotations/a.xml").read_text()
    assert text.count("<difficult>1</difficult>") == 2
    assert "<part><name>head</name><bndbox><xmin>1</xmin>" in text


def test_ids_are_the_source_s_or_numbered_as_predictions_are(tmp_path: Path) -> None:
    def document(first: Any, second: Any) -> Any:
        samples = [
            sample_of("a", thing(raw={"id": 5}), thing(raw={"id": 4}), raw={"id": first}),
            sample_of("b", thing(raw={"id": 6}), raw={"id": second} if second else None),
        ]
        folder = tmp_path / f"{first} {second}"
        dataset = dataset_of(folder / "set", {"train": [sample_of("t")], "val": samples})
        report = exported(dataset, folder / "out", "coco", pictures=False)
        found = coco_of(folder / "out", "val")
        images, items = found["images"], found["annotations"]
        links = [(item["id"], item["image_id"]) for item in items]
        return report.splits["val"]["image_ids"], [its["id"] for its in images], links

    assert document(90, 12) == ("source", [90, 12], [(5, 90), (4, 90), (6, 12)])
    assert document("x", "y") == ("source", ["x", "y"], [(5, "x"), (4, "x"), (6, "y")])
    numbered = ("numbered", [2, 3], [(5, 2), (4, 2), (6, 3)])
    assert document(90, 90) == document(90, None) == document(90, 1.5) == numbered


def test_annotations_without_ids_are_numbered_alone(tmp_path: Path) -> None:
    things = [thing(raw={"id": 5}), thing(raw={"id": 5})]
    dataset = dataset_of(tmp_path / "set", {"train": [sample_of("a", *things, raw={"id": 7})]})
    exported(dataset, tmp_path / "out", "coco")
    found = coco_of(tmp_path / "out")["annotations"]
    assert [(item["id"], item["image_id"]) for item in found] == [(1, 7), (2, 7)]


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["coco", "yolo", "voc"])
def test_no_key_leads_out_of_the_folder(tmp_path: Path, format_: str) -> None:
    keys = ["../../x", "/etc/x", "a/../../x", "a%2F%2E%2E%2F%2E%2E%2Fx"]
    samples = [sample_of(key, thing(), file="../../x.jpg") for key in keys]
    dataset = dataset_of(tmp_path / "in/set", {"train": samples})
    before = {path.name for path in tmp_path.iterdir()}
    exported(dataset, tmp_path / "in/deep/out", format_)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"set", "deep"}
    found = [name for name in files_of(tmp_path / "in/deep/out") if name.endswith(".jpg")]
    assert len(found) == 4


def test_two_samples_of_one_name_are_an_error(tmp_path: Path) -> None:
    samples = [sample_of("a%20b", thing()), sample_of("a b", thing())]
    dataset = dataset_of(tmp_path / "set", {"train": samples})
    with pytest.raises(DataError, match="another sample's file would be called 'a b', too"):
        exported(dataset, tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()


def test_names_that_xml_cannot_hold_are_an_error(tmp_path: Path) -> None:
    classes = {"a\x08": 1, "<b> & c": 2}
    things = [thing(name=name, label=label) for name, label in classes.items()]
    dataset = dataset_of(tmp_path / "set", {"val": [sample_of("a", things[0])]}, classes=classes)
    with pytest.raises(DataError, match="has a name with characters that XML cannot hold"):
        exported(dataset, tmp_path / "out", "voc")
    dataset = dataset_of(tmp_path / "good", {"val": [sample_of("a", things[1])]}, classes=classes)
    exported(dataset, tmp_path / "out", "voc")
    assert "<name>&lt;b&gt; &amp; c</name>" in (tmp_path / "out/Annotations/a.xml").read_text()


# Refused ----------------------------------------------------------------------------------------


def test_generic_samples_and_unknown_splits_are_refused(tmp_path: Path) -> None:
    adopted(shards_of_others(tmp_path / "tars", [3]), tmp_path / "generic")
    with pytest.raises(
        OptionError, match=r"^DEST: .*generic holds generic samples, of which nobod"
    ):
        exported(tmp_path / "generic", tmp_path / "out", "coco")
    dataset = dataset_of(tmp_path / "set", SPLITS)
    with pytest.raises(OptionError, match=r"^--split: 'test' is no split of .*, which has train, "):
        exported(dataset, tmp_path / "out", "coco", splits=("test",))
    with pytest.raises(OptionError, match=r"^--split: 'val' is given twice"):
        exported(dataset, tmp_path / "out", "coco", splits=("val", "val"))
    with pytest.raises(OptionError, match=r"^--format: 'csv' is not one of coco, yolo, voc"):
        exported(dataset, tmp_path / "out", "csv")
    with pytest.raises(OptionError, match=r"^OUT: is a URL, and files are exported to a folder"):
        export_dataset(ExportOptions(dest=str(dataset), out="s3://bucket/x", format="coco"))
    with pytest.raises(OptionError, match=r"^--shapes: is for YOLO; coco has one kind of shape"):
        ExportOptions(dest=str(dataset), out="x", format="coco", shapes="boxes")


def test_a_damaged_shard_is_never_exported(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    shard = dataset / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    at = content.index(b"\xff\xda") + 40
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"train-000000.tar: sha256 .*, the manifest says"):
        exported(dataset, tmp_path / "out", "yolo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_remote_datasets_are_exported(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    exported(dataset, tmp_path / "near", "coco")
    url: Any = in_memory(dataset, "memory://export/set")
    exported(url, tmp_path / "far", "coco")
    assert files_of(tmp_path / "far") == files_of(tmp_path / "near")
    converted(tmp_path / "far", tmp_path / "again")
    assert json.loads((tmp_path / "again/manifest.json").read_text())["task"] == "detection"
