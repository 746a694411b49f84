"""Pictures and XML wherever people put them: each layout gives the pictures and boxes it holds."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.convert.rules import Choices
from shard_tool.errors import SourceError
from tests.kit.datasets.converted import converted, manifest_of, samples_of
from tests.kit.datasets.tars import info
from tests.kit.datasets.wild import (
    ANT,
    BEE,
    boxes,
    classes,
    counted,
    documents,
    folder,
    pairs,
    picture,
    xml,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Files = dict[str, bytes | str]
DEVKIT = ("JPEGImages/", "Annotations/")
BOX = [("ant", [2.0, 3.0, 10.0, 8.0])]


def devkit(root: str = "", *, lists: Mapping[str, str] | None = None) -> Files:
    """The pictures a and b in VOC's folders, with lists below ImageSets."""
    images, annotations = (root + name for name in DEVKIT)
    found: Files = dict(pairs("a", "b", pictures=images, annotations=annotations))
    return found | {f"{root}ImageSets/{name}.txt": its for name, its in (lists or {}).items()}


def keys(tmp_path: Path, files: Mapping[str, bytes | str], **options: Any) -> dict[str, list[str]]:
    """Split to keys of what the files become; every sample has the box that was drawn."""
    converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    splits = list(manifest_of(tmp_path / "out")["splits"])
    for split in splits:
        assert set(map(str, boxes(tmp_path / "out", split).values())) == {str(BOX)}
    return {split: list(documents(tmp_path / "out", split)) for split in splits}


def refusal(tmp_path: Path, files: Mapping[str, bytes | str], **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    return str(caught.value).replace(str(tmp_path), "")


# Folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "annotations"),
    [
        *[DEVKIT, ("jpegimages/", "annotations/"), ("images/", "annotations/")],
        *[("images/", "xmls/"), ("bilder/", "kästen/"), ("imgs/", "labels/voc/")],
        *[("", ""), ("", "xml/"), ("pictures/", ""), ("data/images/", "data/xml/")],
        *[("images/", "images/"), ("images/", "images/annotations/"), ("images/", "ann/xmls/")],
        *[("VOC2024/JPEGImages/", "VOC2024/Annotations/"), ("raccoon/raccoon/", "raccoon/xml/")],
        ("PASCAL_VOC/VOCdevkit/VOC2012/JPEGImages/", "PASCAL_VOC/VOCdevkit/VOC2012/Annotations/"),
    ],
)
def test_pictures_and_xml_in_folders_of_any_name_without_lists_are_the_split_train(
    tmp_path: Path, pictures: str, annotations: str
) -> None:
    files = pairs("a", "b", pictures=pictures, annotations=annotations)
    assert keys(tmp_path, files) == {"train": ["a", "b"]}
    assert classes(tmp_path / "out") == {"ant": 1}
    assert counted(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "root",
    ["", "VOC2012/", "VOC2024/", "my data/", "X/X/", "VOCdevkit/VOC2007/", "PASCAL_VOC/VOCdevkit/"],
)
@pytest.mark.parametrize("is_lower", [True, False])
def test_devkit_of_any_name_and_depth_in_any_case_is_split_by_its_lists(
    tmp_path: Path, root: str, is_lower: bool
) -> None:
    files = devkit(root, lists={"Main/train": "a\n", "Main/val": "b\n"})
    if is_lower:
        inner = {name.removeprefix(root): content for name, content in files.items()}
        files = {f"{root}{name.lower()}": content for name, content in inner.items()}
    assert keys(tmp_path, files) == {"train": ["a"], "val": ["b"]}
    known = root.rpartition("/")[0].rpartition("/")[2] in ("VOC2012", "VOC2024", "VOC2007")
    year = documents(tmp_path / "out", "val")["b"]["source"]["year"]
    assert year == (root[-5:-1] if known else "unknown")


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "val", "testing")])
@pytest.mark.parametrize(
    "layout",
    [
        *[("{}/", "{}/"), ("{}/images/", "{}/annotations/"), ("{}/images/", "{}/images/")],
        *[("images/{}/", "annotations/{}/"), ("set/{}/", "set/{}/"), ("images/{}/", "xml/")],
        ("{}/", "{}/xml/"),
    ],
)
def test_folders_called_train_valid_and_test_are_the_splits(
    tmp_path: Path, names: tuple[str, str, str], layout: tuple[str, str]
) -> None:
    files: Files = {}
    for stem, name in zip("abc", names, strict=True):
        image, annotation = (part.format(name) for part in layout)
        files |= pairs(stem, pictures=image, annotations=annotation)
    files["README.roboflow.txt"] = "Exported by roboflow.com\n"
    found = keys(tmp_path, files)
    assert list(found) == ["train", "val", "test"]
    assert [its[0][-1] for its in found.values()] == ["a", "b", "c"]
    assert all(len(its) == 1 for its in found.values())
    assert counted(tmp_path / "out") == {}


def test_pictures_of_the_same_names_in_each_split_stay_with_their_own_xml(tmp_path: Path) -> None:
    """Also where most pictures of train are missing, and those of valid have their names."""
    files: Files = {}
    for number, split in enumerate(("train", "valid", "test"), start=1):
        for name in ("1", "2", "3"):
            files[f"{split}/{name}.jpg"] = picture(shade=number * 1000 + int(name) * 300)
            files[f"{split}/{name}.xml"] = xml((20, 10), ("ant", (0, 0, number, number)))
    del files["train/1.jpg"], files["train/2.jpg"], files["valid/3.jpg"]
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    for number, split in enumerate(("train", "valid", "test"), start=1):
        found = boxes(tmp_path / "out", {"valid": "val"}.get(split, split))
        box = [("ant", [0.0, 0.0, float(number), float(number)])]
        names = {"train": "3", "valid": "12", "test": "123"}[split]
        assert found == {f"{split}/{name}": box for name in names}
    assert counted(tmp_path / "out") == {"annotation-without-picture": 3}


def test_subfolders_of_the_same_name_pair_though_another_has_more_of_the_names(
    tmp_path: Path,
) -> None:
    files: Files = {}
    for number, place in enumerate(("day", "night"), start=1):
        for name in ("a", "b"):
            files[f"JPEGImages/{place}/{name}.jpg"] = picture(shade=number * 1000 + ord(name) * 99)
            item = ("ant", (0, 0, number, number))
            files[f"Annotations/{place}/{name}.xml"] = xml((20, 10), item)
    del files["JPEGImages/day/b.jpg"]
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    one, two = ([("ant", [0.0, 0.0, size, size])] for size in (1.0, 2.0))
    assert boxes(tmp_path / "out") == {"day/a": one, "night/a": two, "night/b": two}


def test_folder_with_most_of_the_names_wins_over_one_of_a_usual_name(tmp_path: Path) -> None:
    files: Files = dict(pairs("a", "b", "c", "d", pictures="pics/", annotations="xml/"))
    files["images/a.jpg"] = picture((4, 2))
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    assert list(boxes(tmp_path / "out")) == [f"pics/{name}" for name in "abcd"]
    assert counted(tmp_path / "out") == {"unlabelled": 1}


def test_folders_side_by_side_pair_by_their_names_where_the_files_do_not_tell(
    tmp_path: Path,
) -> None:
    files: Files = {}
    for number, split in enumerate(("train", "val"), start=1):
        files[f"{split}_images/0001.jpg"] = picture(shade=number)
        files[f"{split}_xml/0001.xml"] = xml((20, 10), ("ant", (0, 0, number, number)))
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    assert boxes(tmp_path / "out") == {
        "train_images/0001": [("ant", [0.0, 0.0, 1.0, 1.0])],
        "val_images/0001": [("ant", [0.0, 0.0, 2.0, 2.0])],
    }


@pytest.mark.parametrize("name", ["test", "valid", "train"])
def test_source_with_one_folder_of_a_split_has_that_split_alone(tmp_path: Path, name: str) -> None:
    files = pairs("a", "b", pictures=f"{name}/", annotations=f"{name}/")
    assert list(keys(tmp_path, files)) == ["val" if name == "valid" else name]


def test_pictures_partly_in_folders_of_splits_are_refused(tmp_path: Path) -> None:
    files = pairs("a", pictures="train/", annotations="train/")
    files |= pairs("b", pictures="more/", annotations="more/")
    problem = "the pictures in 'more' are in no folder of a split, and others are"
    way = "name the pictures by --split-file train=LIST"
    assert refusal(tmp_path, files) == f"/in: {problem}; {way}"
    (tmp_path / "list").write_text("train/a\nmore/b.jpg\n")
    lists = {"train": str(tmp_path / "list")}
    assert keys(tmp_path, files, split_files=lists) == {"train": ["more/b", "train/a"]}


def test_pictures_in_subfolders_have_their_paths_as_keys(tmp_path: Path) -> None:
    files: Files = {"ImageSets/Main/train.txt": "day/a\n", "ImageSets/Main/val.txt": "night/a\n"}
    for place in ("day", "night"):
        files |= pairs("a", pictures=f"JPEGImages/{place}/", annotations=f"Annotations/{place}/")
    assert keys(tmp_path, files) == {"train": ["day/a"], "val": ["night/a"]}
    assert "file" not in documents(tmp_path / "out")["day/a"], "the key tells it"
    assert counted(tmp_path / "out") == {}


def test_several_devkits_in_one_source_become_one_dataset(tmp_path: Path) -> None:
    files = devkit("VOCdevkit/VOC2007/", lists={"Main/train": "a\n", "Main/test": "b\n"})
    other = "VOCdevkit/VOC2012"
    files |= pairs("c", "d", pictures=f"{other}/JPEGImages/", annotations=f"{other}/Annotations/")
    files[f"{other}/ImageSets/Main/train.txt"] = "c\nd\n"
    assert keys(tmp_path, files) == {"train": ["a", "c", "d"], "test": ["b"]}
    assert manifest_of(tmp_path / "out")["name"] == "voc07+12"
    years = {key: its["source"]["year"] for key, its in documents(tmp_path / "out").items()}
    assert years == {"a": "2007", "c": "2012", "d": "2012"}


def test_folder_and_plain_tar_of_it_give_the_same_samples(tmp_path: Path) -> None:
    """Tars that were packed from inside the folder begin each name with './'."""
    files = {
        **pairs("a", pictures="train/images/", annotations="train/xml/"),
        **pairs("b c", pictures="valid/images/", annotations="valid/xml/"),
    }
    expected = keys(tmp_path, files)
    for prefix in ("", "./", "set/"):
        path = tmp_path / f"{len(prefix)}.tar"
        with tarfile.open(path, "w") as tar:
            for name, content in files.items():
                tar.addfile(info(prefix + name, len(content)), io.BytesIO(content))
        dest = tmp_path / f"of{len(prefix)}"
        converted(path, dest)
        assert {split: list(documents(dest, split)) for split in expected} == expected
        for split in expected:
            mine, other = (samples_of(its, split) for its in (tmp_path / "out", dest))
            assert [its["jpg"] for its in mine.values()] == [its["jpg"] for its in other.values()]


# What is left out is counted ----------------------------------------------------------------------


def test_other_pictures_beside_those_of_a_devkit_are_left_out_and_counted(tmp_path: Path) -> None:
    """Thumbnails beside the pictures must not change the ids that lists name."""
    files = devkit(lists={"Main/train": "a\nb\n"})
    files |= {"thumbs/a.jpg": picture((4, 2)), "thumbs/z.jpg": picture((4, 2))}
    assert keys(tmp_path, files) == {"train": ["a", "b"]}
    assert counted(tmp_path / "out") == {"picture-apart": 2}


def test_annotations_are_of_the_usual_folder_where_two_have_the_same_names(tmp_path: Path) -> None:
    """The Oxford pets: trimaps beside the XML have the names of the pictures."""
    files = pairs("a", "b", pictures="images/", annotations="annotations/xmls/")
    files |= {f"annotations/trimaps/{name}.png": picture(kind="PNG") for name in ("a", "b", "c")}
    assert keys(tmp_path, files) == {"train": ["a", "b"]}
    assert counted(tmp_path / "out") == {"picture-apart": 3}


def test_pictures_without_xml_and_xml_without_pictures_are_left_out_and_counted(
    tmp_path: Path,
) -> None:
    files = pairs("a", "b", pictures="images/", annotations="xml/")
    files |= {"images/c.jpg": picture(shade=1), "xml/d.xml": xml((20, 10), ANT)}
    files |= {"more/e.jpg": picture(shade=2), "else/xml/f.xml": xml((20, 10), ANT)}
    assert keys(tmp_path, files) == {"train": ["images/a", "images/b"]}
    assert counted(tmp_path / "out") == {"unlabelled": 2, "annotation-without-picture": 2}
    report = manifest_of(tmp_path / "out")["report"]
    assert report["unlabelled"]["examples"][0].startswith("images/c.jpg")
    examples = {"xml/d.xml", "else/xml/f.xml"}
    assert set(report["annotation-without-picture"]["examples"]) == examples


def test_pictures_beside_annotated_ones_are_background_only_when_asked(tmp_path: Path) -> None:
    """A folder that no XML is about must not become pictures without objects."""
    files = pairs("a", pictures="one/", annotations="xml/")
    files |= pairs("b", pictures="two/", annotations="xml/")
    files |= {"three/c.jpg": picture(shade=3)}
    assert keys(tmp_path, files) == {"train": ["one/a", "two/b"]}
    assert counted(tmp_path / "out") == {"unlabelled": 1}
    converted(tmp_path / "in", tmp_path / "with", choices=Choices(unlabelled="background"))
    assert boxes(tmp_path / "with") == {"one/a": BOX, "three/c": [], "two/b": BOX}
    assert counted(tmp_path / "with") == {"unlabelled-background": 1}


def test_folder_without_xml_beside_those_of_splits_is_no_split(tmp_path: Path) -> None:
    files = pairs("a", pictures="train/", annotations="train/")
    files |= pairs("b", pictures="valid/", annotations="valid/")
    files |= {"previews/c.jpg": picture(shade=2)}
    assert keys(tmp_path, files) == {"train": ["train/a"], "val": ["valid/b"]}
    assert counted(tmp_path / "out") == {"picture-apart": 1}


def test_split_without_xml_is_unlabelled(tmp_path: Path) -> None:
    files = pairs("a", pictures="train/images/", annotations="train/xml/")
    files |= {"test/images/b.jpg": picture(shade=2)}
    found = refusal(tmp_path, files)
    assert found == (
        "/in: no picture of split 'test' has an annotation; take them by --unlabelled background, "
        "or leave the split out by --split train"
    )
    choices = Choices(unlabelled="background")
    converted(tmp_path / "in", tmp_path / "out", choices=choices)
    assert boxes(tmp_path / "out", "test") == {"test/images/b": []}
    converted(tmp_path / "in", tmp_path / "some", splits=("train",))
    assert list(documents(tmp_path / "some")) == ["train/images/a"]


def test_two_pictures_of_one_name_are_refused_where_nothing_annotates_them_too(
    tmp_path: Path,
) -> None:
    files = pairs("a", pictures="train/", annotations="train/")
    files |= {"test/b.jpg": picture(shade=2), "test/b.png": picture(kind="PNG")}
    found = refusal(tmp_path, files, choices=Choices(unlabelled="background"))
    assert "test/b.jpg" in found
    assert "has the name of" in found


def test_annotation_that_a_list_names_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    files = devkit(lists={"Main/train": "a\nb\nc\n"}) | {"Annotations/c.xml": xml((20, 10), ANT)}
    files |= {"Annotations/d.xml": xml((20, 10), ANT)}
    assert keys(tmp_path, files, on_bad_record="skip") == {"train": ["a", "b"]}
    expected = {"annotation-without-picture": 1, "bad-record-skipped": 1}
    assert counted(tmp_path / "out") == expected


def test_files_that_systems_leave_behind_are_not_read_and_counted(tmp_path: Path) -> None:
    files: Files = dict(pairs("a", "b", pictures="set/", annotations="set/"))
    files |= {"__MACOSX/set/._a.jpg": b"Mac", "__MACOSX/set/._a.xml": b"Mac", "set/._b.xml": b"Mac"}
    files |= pairs("a-checkpoint", pictures="set/.ipynb_checkpoints/")
    files |= {"set/.DS_Store": b"", "set/Thumbs.db": b""}
    files["set/.ipynb_checkpoints/a-checkpoint.xml"] = files.pop("a-checkpoint.xml")
    assert keys(tmp_path, files) == {"train": ["a", "b"]}
    assert counted(tmp_path / "out") == {"hidden": 5}


# What cannot be known is refused ------------------------------------------------------------------


def test_pictures_that_two_folders_of_xml_annotate_are_refused(tmp_path: Path) -> None:
    files = pairs("a", "b", pictures="images/", annotations="xml/")
    files |= pairs("a", "b", pictures="images/", annotations="xml_old/")
    problem = "'xml' and 'xml_old' both hold XML of the pictures in 'images'"
    way = "keep one of them, or give the pictures of each a folder of the same name"
    assert refusal(tmp_path, files) == f"/in: {problem}; {way}"


def test_xml_that_is_about_two_pictures_is_refused(tmp_path: Path) -> None:
    files = pairs("a", "b", pictures="images/train/", annotations="xml/")
    files |= pairs("a", "c", "d", "e", pictures="images/val/", annotations="xml/")
    problem = "a.xml in 'xml' has a picture in 'images/val' and 'images/train'"
    way = "rename one of the pictures and its XML"
    assert refusal(tmp_path, files) == f"/in: {problem}; {way}"


def test_nearer_pictures_are_not_passed_over_for_more_of_the_names_elsewhere(
    tmp_path: Path,
) -> None:
    files = pairs("a", "b", "c", pictures="data/pics/", annotations="data/xml/")
    files |= {f"more/{name}.jpg": picture(shade=ord(name) * 99) for name in "abc"}
    del files["data/pics/c.jpg"]
    problem = "a.xml in 'data/xml' has a picture in 'data/pics' and 'more'"
    way = "rename one of the pictures and its XML"
    assert refusal(tmp_path, files) == f"/in: {problem}; {way}"


@pytest.mark.parametrize("suffix", [".png", ".JPG"])
def test_two_pictures_of_one_name_are_refused(tmp_path: Path, suffix: str) -> None:
    files: Files = dict(pairs("a", "b", pictures="images/", annotations="xml/"))
    files[f"images/a{suffix}"] = picture(shade=9)
    message = refusal(tmp_path, files)
    one, other = sorted((f"images/a{suffix}", "images/a.jpg"), key=message.index)
    problem = f"has the name of {other!r} but for the suffix"
    way = "remove or rename one of them: the stem is the key of the sample"
    assert message == f"/in/{one}: {problem}; {way}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "/in: holds no pictures (found nothing); "),
        ({"a.xml": xml((20, 10), ANT)}, "/in: holds no pictures (found 1 XML files); "),
        (
            {"a.jpg": picture(), "a.json": b"{}", "b": b""},
            "/in: holds pictures and neither VOC's XML nor masks, nor another format's (found 1 "
            "pictures, 1 without suffix, 1 .json); ",
        ),
        (
            {"images/a.jpg": picture(), "xml/b.xml": xml((20, 10), ANT)},
            "/in: no XML in 'xml' has the name of a picture in 'images' or elsewhere (found 1 "
            "pictures, 1 XML files); ",
        ),
    ],
)
def test_source_without_pairs_of_pictures_and_xml_is_refused_with_what_it_holds(
    tmp_path: Path, files: Files, message: str
) -> None:
    (tmp_path / "in").mkdir()
    assert refusal(tmp_path, files).startswith(message)


# Names --------------------------------------------------------------------------------------------

NAMES = {
    "holiday 1": "holiday%201",
    "v1.2.final": "v1%2E2%2Efinal",
    "100%": "100%25",
    "猫-01": "猫-01",
    "été": "été",
    "a+b=c&d,(e)": "a+b=c&d,(e)",
    "__init": "%5F_init",
    "tab\there": "tab%09here",
    "_rf.d00174": "_rf%2Ed00174",
}


def test_pictures_keep_their_names_in_keys_that_tars_can_hold(tmp_path: Path) -> None:
    found = keys(tmp_path, pairs(*NAMES, pictures="images/", annotations="xml/"))
    assert found == {"train": sorted(NAMES.values())}
    files = {key: its.get("file") for key, its in documents(tmp_path / "out").items()}
    encoded = {key: name for name, key in NAMES.items() if name != key}
    assert files == {
        key: f"images/{encoded[key]}.jpg" if key in encoded else None for key in NAMES.values()
    }
    assert counted(tmp_path / "out") == {"name-encoded": len(encoded)}


def test_suffixes_in_any_case_belong_to_pictures_and_xml(tmp_path: Path) -> None:
    files = {
        name.replace(".jpg", suffix).replace(".xml", ".XML"): content
        for stem, suffix in zip("abcd", (".JPG", ".jpeg", ".JPEG", ".jpe"), strict=True)
        for name, content in pairs(stem).items()
    }
    assert keys(tmp_path, files) == {"train": ["a", "b", "c", "d"]}
    assert documents(tmp_path / "out")["a"]["file"] == "a.JPG"


def test_two_sources_of_own_layouts_become_one_dataset_with_classes_by_name(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", pairs("a", items=[BEE]))
    two = folder(tmp_path / "two", pairs("b", pictures="images/", annotations="xml/"))
    convert(ConvertOptions(source=[str(one), str(two)], dest=str(tmp_path / "out"), workers=1))
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2}
    labels = {key: its["objects"][0]["label"] for key, its in documents(tmp_path / "out").items()}
    assert labels == {"a": 2, "b": 1}
