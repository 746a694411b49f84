"""Classification, layout and action: their lists, samples and counts in the manifest."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import ShardDataset, ShardLoader
from shard_tool.dataset.verify import verify
from shard_tool.errors import AnnotationError, SourceError
from shard_tool.format.sample import VOC_CLASSES, parse_sample
from shard_tool.storage.location import Folder
from tests.kit.datasets.converted import converted, manifest_of, reworded, samples_of
from tests.kit.datasets.voc_tree import CAT, DOG, Picture, pictures, voc_tree, write

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.format.sample import Sample


def samples(dest: Path, split: str) -> dict[str, Sample]:
    return {
        key: parse_sample(parts["json"], place=key)
        for key, parts in samples_of(dest, split).items()
    }


def split_of(dest: Path, split: str = "train") -> dict[str, Any]:
    found: dict[str, Any] = manifest_of(dest)["splits"][split]
    return found


def is_clean(dest: Path) -> bool:
    return verify(Folder(str(dest)), workers=1).problems == ()


def with_class_lists(tree: Path, split: str, labels: dict[str, dict[str, int]]) -> None:
    """The lists of all classes; a picture that is not named here shows none of a class."""
    keys = (tree / f"ImageSets/Main/{split}.txt").read_text().split()
    for name in VOC_CLASSES:
        lines = [f"{key} {labels.get(name, {}).get(key, -1):2d}\r\n" for key in keys]
        write(tree / f"ImageSets/Main/{name}_{split}.txt", "".join(lines).encode())


# Classification -------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    tree = voc_tree(tmp_path / "in", [*pictures(3), *pictures(2, split="val", first=4)])
    with_class_lists(tree, "train", {"cat": {"000001": 1, "000002": 0}, "dog": {"000002": 1}})
    with_class_lists(tree, "val", {"train": {"000004": 1}})
    return tree


def test_classification_takes_the_numbers_of_the_class_lists(classes: Path, tmp_path: Path) -> None:
    converted(classes, tmp_path / "out", task="classification")
    train = samples(tmp_path / "out", "train")
    assert {key: sample.image_labels for key, sample in train.items()} == {
        "000001": dict.fromkeys(VOC_CLASSES, -1) | {"cat": 1},
        "000002": dict.fromkeys(VOC_CLASSES, -1) | {"cat": 0, "dog": 1},
        "000003": dict.fromkeys(VOC_CLASSES, -1),
    }
    assert len(train["000001"].objects) == 2, "boxes are kept: nothing of the source is lost"
    assert manifest_of(tmp_path / "out")["task"] == "classification"
    expected = {"only_difficult": {"cat": 1}, "pictures": {"cat": 1, "dog": 1}}
    assert split_of(tmp_path / "out")["counts"] == expected
    assert split_of(tmp_path / "out", "val")["counts"] == {"pictures": {"train": 1}}
    assert is_clean(tmp_path / "out")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"000001 1\n000003 -1\n", "says nothing of picture '000002'"),
        (b"000001 1\n000002 1\n000002 -1\n000003 -1\n", "says -1 and 1 of picture '000002'"),
        (b"000001 1\n000002 7\n000003 -1\n", "says 7 of picture '000002'"),
    ],
)
def test_class_list_without_exactly_one_number_for_a_picture_is_refused(
    classes: Path, tmp_path: Path, lines: bytes, said: str
) -> None:
    write(classes / "ImageSets/Main/cat_train.txt", lines)
    with pytest.raises(SourceError) as caught:
        converted(classes, tmp_path / "out", task="classification")
    place = f"{classes}/ImageSets/Main/cat_train.txt"
    assert str(caught.value) == f"{place}: {said}, expected one of -1, 0, 1"


def test_class_list_of_words_or_none_is_refused(classes: Path, tmp_path: Path) -> None:
    path = classes / "ImageSets/Main/sofa_val.txt"
    write(path, b"000004 yes\n000005 no\n")
    with pytest.raises(SourceError) as caught:
        converted(classes, tmp_path / "out", task="classification")
    assert str(caught.value) == f"{path}: the line of '000004' has 'yes', expected a whole number"
    path.unlink()
    with pytest.raises(SourceError) as caught:
        converted(classes, tmp_path / "out", task="classification")
    hint = "classification needs one for each class, or none; is the task another?"
    assert str(caught.value) == f"{path}: there is no such list; {hint}"


@pytest.mark.parametrize("number", ["--1", "1" * 5000, "\u0661"])
def test_text_in_place_of_a_number_is_refused_by_name(
    classes: Path, tmp_path: Path, number: str
) -> None:
    path = classes / "ImageSets/Main/sofa_val.txt"
    path.write_text(f"000004 {number}\n000005 -1\n")
    with pytest.raises(SourceError, match="the line of '000004' has"):
        converted(classes, tmp_path / "out", task="classification")


def test_promise_1_a_changed_class_list_changes_a_folder_s_digest(
    classes: Path, tmp_path: Path
) -> None:
    converted(classes, tmp_path / "a", task="classification")
    path = classes / "ImageSets/Main/bus_train.txt"
    path.write_bytes(path.read_bytes().replace(b"-1", b" 1", 1))
    converted(classes, tmp_path / "b", task="classification")
    digests = [manifest_of(tmp_path / name)["sources"][0]["sha256"] for name in "ab"]
    assert digests[0] != digests[1]


@pytest.mark.slow
def test_real_class_lists_agree_with_the_objects(voc_sample: Path, tmp_path: Path) -> None:
    """1: an object that is not difficult; 0: only difficult ones; -1: none."""
    archive = voc_sample / "VOCtrainval_sample-2007.tar"
    converted(archive, tmp_path / "out", task="classification")
    total: Counter[str] = Counter()
    for split in ("train", "val"):
        for sample in samples(tmp_path / "out", split).values():
            expected = dict.fromkeys(VOC_CLASSES, -1)
            for item in sample.objects:
                expected[item.name] = max(expected[item.name], int(not item.difficult))
            assert sample.image_labels == expected, sample.key
            total.update(name for name, label in expected.items() if label == 1)
        counted = split_of(tmp_path / "out", split)["counts"]["pictures"]
        total.subtract(counted)
    assert sum(counted.values()) > 400
    assert not any(total.values())


# Layout ---------------------------------------------------------------------------------------

PERSON = (
    "<object><name>person</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    "</bndbox>{parts}</object>"
)
PART = (
    "<part><name>{}</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>4</ymax>"
    "</bndbox></part>"
)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    tree = voc_tree(tmp_path / "in", pictures(3))
    head, hand = PART.format("head", 5), PART.format("hand", 25)  # reaches beyond the picture
    write(
        tree / "Annotations/000002.xml",
        f"<annotation>{PERSON.format(parts='')}{PERSON.format(parts=head + hand)}"
        f"{PERSON.format(parts=hand)}</annotation>".encode(),
    )
    write(tree / "ImageSets/Layout/train.txt", b"000002  3\r\n000002  2\r\n000001  1\r\n")
    return tree


def test_layout_keeps_parts_and_says_which_objects_the_list_names(
    layout: Path, tmp_path: Path
) -> None:
    converted(layout, tmp_path / "out", task="layout")
    found = samples(tmp_path / "out", "train")
    assert {key: sample.listed_objects for key, sample in found.items()} == {
        "000001": (1,),
        "000002": (2, 3),
    }
    parts = [[(p.name, p.bbox) for p in item.parts or ()] for item in found["000002"].objects]
    head, hand = ("head", (1.0, 1.0, 5.0, 4.0)), ("hand", (1.0, 1.0, 25.0, 4.0))
    assert parts == [[], [head, hand], [hand]]
    assert split_of(tmp_path / "out")["counts"] == {"parts": {"hand": 2, "head": 1}}
    assert is_clean(tmp_path / "out")


def test_layout_of_2007_names_pictures_alone(layout: Path, tmp_path: Path) -> None:
    write(layout / "ImageSets/Layout/train.txt", b"000002\r\n\r\n000001\r\n")
    converted(layout, tmp_path / "out", task="layout")
    found = samples(tmp_path / "out", "train")
    assert {key: sample.listed_objects for key, sample in found.items()} == {
        "000001": None,
        "000002": None,
    }


def test_list_with_the_number_of_a_missing_object_is_refused(layout: Path, tmp_path: Path) -> None:
    write(layout / "ImageSets/Layout/train.txt", b"000002  4\n")
    with pytest.raises(AnnotationError) as caught:
        converted(layout, tmp_path / "out", task="layout")
    problem = "has 3 objects, a list of the split names object 4"
    assert str(caught.value) == f"{layout}/Annotations/000002.xml: {problem}"


def test_real_layout_picture_keeps_its_parts(voc_sample: Path, tmp_path: Path) -> None:
    tree = voc_sample / "VOCdevkit/VOC2012"
    converted(tree, tmp_path / "out", task="layout", splits=("train",))
    sample = samples(tmp_path / "out", "train")["2007_000027"]
    (person,) = sample.objects
    assert [part.name for part in person.parts or ()] == ["head", "hand", "foot", "foot"]
    assert sample.listed_objects == (1,)


# Action ---------------------------------------------------------------------------------------


@pytest.fixture
def action(tmp_path: Path) -> Path:
    tree = voc_tree(tmp_path / "in", [Picture(key="2011_000001"), Picture(key="2011_000002")])
    done = "<actions><jumping>1</jumping><reading>0</reading></actions>"
    boxed = PERSON.format(parts=done + "<point><x>4</x><y>5</y></point>")
    boxless = (
        "<object><name>person</name><actions><jumping>1</jumping><reading>1</reading></actions>"
        "<point><x>10</x><y>3</y></point></object>"
    )
    write(
        tree / "Annotations/2011_000001.xml", f"<annotation>{boxed}{boxless}</annotation>".encode()
    )
    write(tree / "ImageSets/Action/train.txt", b"2011_000001\n2011_000002\n")
    write(tree / "ImageSets/Action/jumping_train.txt", b"2011_000001  1  1\n2011_000001  2  1\n")
    write(tree / "ImageSets/Action/reading_train.txt", b"2011_000001  1 -1\n")
    return tree


def test_action_keeps_boxes_with_actions_and_points_without_boxes(
    action: Path, tmp_path: Path
) -> None:
    converted(action, tmp_path / "out", task="action")
    found = samples(tmp_path / "out", "train")
    boxed, boxless = found["2011_000001"].objects
    assert (boxed.bbox, boxed.point) == ((0.0, 0.0, 9.0, 9.0), (3.0, 4.0))
    assert (boxless.bbox, boxless.point) == (None, (9.0, 2.0))
    assert boxless.actions == {"jumping": True, "reading": True}
    assert boxed.actions == {"jumping": True, "reading": False}
    assert found["2011_000001"].listed_objects == (1, 2)
    assert found["2011_000002"].listed_objects is None
    assert split_of(tmp_path / "out")["counts"] == {
        "actions": {"jumping": 2, "reading": 1},
        "points": {"person": 1},
    }
    assert is_clean(tmp_path / "out")


# All ------------------------------------------------------------------------------------------


def test_fields_of_other_tasks_are_not_written(layout: Path, tmp_path: Path) -> None:
    """A detection dataset has the bytes it had before there were other tasks."""
    converted(layout, tmp_path / "out")
    for parts in samples_of(tmp_path / "out", "train").values():
        assert not {"image_labels", "listed_objects"} & json.loads(parts["json"]).keys()
    assert "counts" not in split_of(tmp_path / "out")


def test_verify_counts_what_the_task_is_about(layout: Path, tmp_path: Path) -> None:
    converted(layout, tmp_path / "out", task="layout")

    def change(document: dict[str, Any]) -> None:
        document["splits"]["train"]["counts"]["parts"]["head"] = 7

    reworded(tmp_path / "out", change)
    report = verify(Folder(str(tmp_path / "out")), workers=1)
    place = f"{tmp_path}/out: split 'train'"
    assert report.problems == (f"{place}: parts of 'head' is 7, counted 1",)


def test_duplicate_free_objects_are_what_the_tree_has(tmp_path: Path) -> None:
    """Checks the kit's tree, on which the other tests rely."""
    tree = voc_tree(tmp_path / "in", pictures(1))
    converted(tree, tmp_path / "out")
    (sample,) = samples(tmp_path / "out", "train").values()
    assert [item.name for item in sample.objects] == [CAT[0], DOG[0]]


@pytest.mark.parametrize("task", ["layout", "action"])
def test_datasets_of_tasks_without_targets_of_their_own_stream_as_members(
    classes: Path, tmp_path: Path, task: str
) -> None:
    """They stream in the promised order; the user's transform interprets a sample."""
    write(classes / "ImageSets/Layout/train.txt", b"000001 1\n000002 1\n000003 2\n")
    write(classes / "ImageSets/Action/train.txt", b"000001\n000002\n000003\n")
    converted(classes, tmp_path / "out", task=task, splits=("train",), shard_bytes=1)

    def labelled(sample: dict[str, Any]) -> tuple[str, tuple[int, ...] | None]:
        parsed = parse_sample(sample["json"], place=sample["__key__"])
        return parsed.key, parsed.listed_objects

    dataset = ShardDataset(str(tmp_path / "out"), "train", transform=labelled)
    batches = list(ShardLoader(dataset, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 1]
    found = dict(item for batch in batches for item in batch)
    assert sorted(found) == ["000001", "000002", "000003"]
    assert found["000003"] == ((2,) if task == "layout" else None)
