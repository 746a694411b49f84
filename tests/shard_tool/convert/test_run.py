"""Converts whole archives and folders and compares the samples with the sources."""

from __future__ import annotations

import gc
import io
import itertools
import json
import re
import tarfile
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from webdataset import WebDataset

from shard_tool import ConvertOptions, ConvertProgress, convert
from shard_tool.dataset.verify import verify
from shard_tool.errors import SourceError
from shard_tool.format.sample import VOC_CLASSES, parse_sample
from shard_tool.storage.location import Folder
from tests.kit.datasets.converted import converted, files_of, manifest_of, samples_of, shards_of
from tests.kit.datasets.voc_tree import CAT, DOG, Picture, pictures, voc_tar, voc_tree, write

if TYPE_CHECKING:
    from pathlib import Path

Samples = dict[str, dict[str, bytes]]
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture(scope="module")
def archive(voc_sample: Path) -> dict[str, bytes]:
    """Every file of the real archive, by the standard library; paths below VOC2007."""
    with tarfile.open(voc_sample / "VOCtrainval_sample-2007.tar") as tar:
        return {
            member.name.removeprefix("VOCdevkit/VOC2007/"): file.read()
            for member in tar
            if (file := tar.extractfile(member))
        }


@pytest.fixture(scope="module")
def real(voc_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real archive converted for detection, in several shards a split. Read only."""
    dest = tmp_path_factory.mktemp("real") / "voc"
    source = voc_sample / "VOCtrainval_sample-2007.tar"
    converted(source, dest, shard_bytes=4 << 20, workers=2)
    return dest


@pytest.fixture(scope="module")
def real_samples(real: Path) -> Samples:
    return samples_of(real, "train") | samples_of(real, "val")


def ids_of(content: bytes) -> list[str]:
    return content.decode().split()


# The real archive -----------------------------------------------------------------------------


def test_real_archive_gives_its_900_pictures_split_as_its_lists_say(
    real: Path, archive: dict[str, bytes]
) -> None:
    splits = manifest_of(real)["splits"]
    assert list(splits) == ["train", "val"]
    for name in splits:
        ids = ids_of(archive[f"ImageSets/Main/{name}.txt"])
        samples = samples_of(real, name)
        assert sorted(samples) == sorted(ids)
        assert splits[name]["num_samples"] == len(ids) == 450
        assert len(splits[name]["shards"]) >= 4


def test_objects_and_difficult_ones_are_those_of_the_xmls(
    real: Path, archive: dict[str, bytes]
) -> None:
    """Counted by regular expressions over the source, not by our parser."""
    for name, split in manifest_of(real)["splits"].items():
        objects, difficult = Counter[str](), Counter[str]()
        for key in ids_of(archive[f"ImageSets/Main/{name}.txt"]):
            for item in re.findall(rb"(?s)<object>.*?</object>", archive[f"Annotations/{key}.xml"]):
                cls = re.findall(rb"<name>\s*(\w+)\s*</name>", item)[0].decode()
                objects[cls] += 1
                difficult[cls] += len(re.findall(rb"<difficult>\s*1\s*<", item))
        assert split["objects"] == dict(objects)
        assert split["difficult"] == {cls: num for cls, num in difficult.items() if num}
        assert sum(objects.values()) > 1400
        assert sum(difficult.values()) > 200


def test_jpeg_bytes_are_the_sources(real_samples: Samples, archive: dict[str, bytes]) -> None:
    assert len(real_samples) == 900
    for key, parts in real_samples.items():
        assert parts["jpg"] == archive[f"JPEGImages/{key}.jpg"]
        assert sorted(parts) == ["jpg", "json"]


def test_json_is_the_xml_with_the_near_corner_moved(
    real_samples: Samples, archive: dict[str, bytes]
) -> None:
    for key, parts in real_samples.items():
        document = json.loads(parts["json"])
        root = ElementTree.fromstring(archive[f"Annotations/{key}.xml"])
        assert [item["name"] for item in document["objects"]] == [
            item.findtext("name") for item in root.iterfind("object")
        ]
        for item, node in zip(document["objects"], root.iterfind("object"), strict=True):
            xmin, ymin, xmax, ymax = (float(node.findtext(f"bndbox/{c}") or "") for c in CORNERS)
            assert item["bbox"] == [xmin - 1, ymin - 1, xmax, ymax]
            assert item["difficult"] == (node.findtext("difficult") == "1")
            assert item["label"] == 1 + VOC_CLASSES.index(item["name"])
            assert item["occluded"] is None  # 2007 has no such tag
        with Image.open(io.BytesIO(parts["jpg"])) as picture:
            assert (document["width"], document["height"]) == picture.size
        assert (document["key"], document["source"]) == (key, {"year": "2007", "archive": 0})


def test_json_names_the_lists_a_picture_stands_in(
    real_samples: Samples, archive: dict[str, bytes]
) -> None:
    lists = {
        f"{folder}/{split}": {line.split()[0] for line in content.decode().splitlines() if line}
        for folder in ("Layout", "Main", "Segmentation")
        for split in ("test", "train", "trainval", "val")
        if (content := archive.get(f"ImageSets/{folder}/{split}.txt"))
    }
    for key, parts in real_samples.items():
        expected = sorted(name for name, ids in lists.items() if key in ids)
        assert json.loads(parts["json"])["image_sets"] == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's own files
def test_webdataset_reads_every_sample_and_agrees(real: Path, real_samples: Samples) -> None:
    """Promise 3: webdataset reads the shards without our code."""
    urls = sorted(str(path) for path in real.glob("*.tar"))
    found = {
        sample["__key__"]: {name: data for name, data in sample.items() if name[0] != "_"}
        for sample in WebDataset(urls, shardshuffle=False, empty_check=False)
    }
    gc.collect()  # while the filter above holds
    assert found == real_samples


def test_our_own_reading_agrees_with_tarfiles(real_samples: Samples) -> None:
    for key, parts in real_samples.items():
        sample = parse_sample(parts["json"], place=key)
        document = json.loads(parts["json"])
        assert [list(item.bbox or ()) for item in sample.objects] == [
            item["bbox"] for item in document["objects"]
        ]


@pytest.mark.slow
@pytest.mark.parametrize("decode", [False, True])
def test_real_dataset_verifies(real: Path, decode: bool) -> None:
    report = verify(Folder(str(real)), decode=decode, workers=1)
    assert (report.problems, report.num_samples) == ((), 900)


def test_neighbours_in_a_shard_are_not_neighbours_in_the_source(real_samples: Samples) -> None:
    keys = list(real_samples)
    assert sum(a < b for a, b in itertools.pairwise(keys)) < 0.6 * len(keys)


# Real trees, other lists and masks ------------------------------------------------------------


def test_real_2012_pictures_convert_by_a_list_of_any_name(voc_sample: Path, tmp_path: Path) -> None:
    source = voc_sample / "VOCdevkit/VOC2012"
    report = converted(source, tmp_path / "voc", splits=("all_present",))
    assert report.manifest.name == "voc2012"
    samples = samples_of(tmp_path / "voc", "all_present")
    assert len(samples) == 64
    person = json.loads(samples["2007_000027"]["json"])["objects"][0]
    root = ElementTree.parse(source / "Annotations/2007_000027.xml").getroot()
    parts = root.findall("object/part")
    assert [part["name"] for part in person["parts"]] == [p.findtext("name") for p in parts]
    assert {part["name"] for part in person["parts"]} == {"head", "hand", "foot"}


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_segmentation_keeps_real_masks_untouched(
    voc_sample: Path, tmp_path: Path, year: str
) -> None:
    source = voc_sample / f"VOCdevkit/VOC{year}"
    splits = [
        split
        for split in ("train", "val")
        if (source / f"ImageSets/Segmentation/{split}.txt").read_text().strip()
    ]
    converted(source, tmp_path / "voc", task="segmentation", splits=tuple(splits))
    for split in splits:
        samples = samples_of(tmp_path / "voc", split)
        ids = (source / f"ImageSets/Segmentation/{split}.txt").read_text().split()
        assert sorted(samples) == sorted(ids)
        for key, parts in samples.items():
            expected = {
                "jpg": source / f"JPEGImages/{key}.jpg",
                "class.png": source / f"SegmentationClass/{key}.png",
                "object.png": source / f"SegmentationObject/{key}.png",
            }
            for extension, path in expected.items():
                assert parts.get(extension) == (path.read_bytes() if path.exists() else None)
            assert "class.png" in parts


def test_split_holds_exactly_its_list_whether_archive_or_folder_above_it(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [*pictures(3), *pictures(2, split="val", first=4)])
    for number, source in enumerate((tree, tree.parent, tree.parent.parent)):
        converted(source, tmp_path / f"out{number}")
        assert sorted(samples_of(tmp_path / f"out{number}", "train")) == [
            "000001",
            "000002",
            "000003",
        ]
        assert files_of(tmp_path / f"out{number}") == files_of(tmp_path / "out0")


def test_trainval_is_taken_only_where_asked_for_or_alone(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [*pictures(2), *pictures(1, split="trainval", first=3)])
    assert list(converted(tree, tmp_path / "a").manifest.splits) == ["train"]
    asked = converted(tree, tmp_path / "b", splits=("trainval",))
    assert list(asked.manifest.splits) == ["trainval"]
    (tree / "ImageSets/Main/train.txt").unlink()
    assert list(converted(tree, tmp_path / "c").manifest.splits) == ["trainval"]


def test_splits_that_share_a_picture_are_refused(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [*pictures(2), Picture(key="000009", split="val")])
    write(tree / "ImageSets/Main/val.txt", b"000009\n000002\n")
    with pytest.raises(SourceError) as caught:
        converted(tree, tmp_path / "out")
    assert str(caught.value) == (
        f"{tree}/ImageSets/Main/val.txt: picture '000002' is in split 'train' as well; "
        "convert splits that share no picture, such as by --split train"
    )
    assert not (tmp_path / "out").exists()


# Options --------------------------------------------------------------------------------------


def test_shards_stay_below_their_size_except_for_one_large_record(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", pictures(12))
    large = tree / "JPEGImages/000001.jpg"
    large.write_bytes(large.read_bytes() + b"x" * 9000)
    dest = tmp_path / "out"
    converted(tree, dest, shard_bytes=7000)
    shards = manifest_of(dest)["splits"]["train"]["shards"]
    assert [shard["name"] for shard in shards] == [f"train-{i:06d}.tar" for i in range(len(shards))]
    assert sum(shard["num_samples"] for shard in shards) == 12
    assert max(shard["num_samples"] for shard in shards) > 1
    for shard in shards:
        starts = np.fromfile(dest / f"{shard['name']}.idx", "<u8", shard["num_samples"] + 1)
        assert starts[-1] <= 7000 or shard["num_samples"] == 1


def test_seed_changes_the_order_but_not_the_set(mini_archive: Path, tmp_path: Path) -> None:
    orders = {}
    for seed in (0, 1):
        converted(mini_archive, tmp_path / f"{seed}", seed=seed)
        orders[seed] = samples_of(tmp_path / f"{seed}", "train")
    assert orders[0] == orders[1]
    assert list(orders[0]) != list(orders[1])


def test_name_and_options_that_decide_bytes_are_in_the_manifest(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", pictures(2), year="2009")
    converted(tree, tmp_path / "a", seed=5, shard_bytes=9999, workers=2)
    document = manifest_of(tmp_path / "a")
    assert (document["name"], document["task"]) == ("voc2009", "detection")
    assert document["options"] == {
        "shard_bytes": 9999,
        "seed": 5,
        "on_bad_record": "fail",
        "boxes": "devkit",
    }
    assert document["splits"]["train"]["objects"] == {CAT[0]: 2, DOG[0]: 2}
    assert document["splits"]["train"]["difficult"] == {DOG[0]: 2}
    assert "workers" not in json.dumps(document)
    assert str(tmp_path) not in json.dumps(document)
    assert converted(tree, tmp_path / "b", name="mine").manifest.name == "mine"


def test_progress_counts_up_to_everything(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", pictures(6))
    seen: list[ConvertProgress] = []
    options = ConvertOptions(
        source=str(tree), dest=str(tmp_path / "out"), shard_bytes=3000, workers=1
    )
    report = convert(options, on_progress=seen.append)
    assert [at.shards for at in seen] == list(range(1, len(seen) + 1))
    assert len(seen) > 1
    last, split = seen[-1], report.manifest.splits["train"]
    assert (last.samples, last.shards) == (last.total_samples, last.total_shards) == (6, len(seen))
    assert last.num_bytes == split.num_bytes


def test_tar_of_the_tree_gives_the_same_shards_as_the_tree(tmp_path: Path) -> None:
    """Promise 1: a tar and a folder give the same shards; only the manifest tells them apart."""
    tree = voc_tree(tmp_path / "in", [*pictures(4), *pictures(3, split="val", first=5)])
    converted(tree, tmp_path / "a")
    converted(voc_tar(tmp_path / "voc.tar", tmp_path / "in"), tmp_path / "b")
    assert shards_of(tmp_path / "a") == shards_of(tmp_path / "b")
    first, second = manifest_of(tmp_path / "a"), manifest_of(tmp_path / "b")
    assert first.pop("sources") != second.pop("sources")
    assert first.pop("sha256") != second.pop("sha256")  # of the rest, sources included
    assert first == second


def test_order_in_shards_is_pinned(tmp_path: Path) -> None:
    """Whoever changes it changes everybody's bytes: say so in the changelog, then change this."""
    tree = voc_tree(tmp_path / "in", [*pictures(6), *pictures(6, split="val", first=11)])
    converted(tree, tmp_path / "out", seed=3)
    orders = {
        split: [int(key) for key in samples_of(tmp_path / "out", split)]
        for split in ("train", "val")
    }
    assert orders == {"train": [1, 4, 5, 3, 2, 6], "val": [14, 12, 13, 11, 16, 15]}


def test_image_sets_name_the_lists_converted(tmp_path: Path, voc_sample: Path) -> None:
    source = voc_sample / "VOCdevkit/VOC2007"
    converted(source, tmp_path / "out", splits=("all_present",))
    samples = samples_of(tmp_path / "out", "all_present").values()
    assert len(samples) == 13
    for sample in samples:
        assert "Main/all_present" in json.loads(sample["json"])["image_sets"]


@pytest.mark.slow
def test_promise_1_the_real_archive_gives_the_same_bytes_for_any_number_of_workers(
    voc_sample: Path, tmp_path: Path
) -> None:
    source = voc_sample / "VOCtrainval_sample-2007.tar"
    for workers in (1, 2, 3):
        converted(source, tmp_path / str(workers), workers=workers, shard_bytes=4 << 20)
    first = files_of(tmp_path / "1")
    assert len(first) > 20
    assert files_of(tmp_path / "2") == first
    assert files_of(tmp_path / "3") == first
