"""Classes of datasets that are read as one: joined by name, and never mixed up in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from datamodules import ShardDataset, ShardLoader, VOCDataModule
from shard_tool.errors import OptionError, SampleError
from shard_tool.format.sample import VOC_CLASSES
from tests.kit.datasets.converted import resealed
from tests.kit.datasets.own_classes import labels_of, own_classes
from tests.kit.datasets.samples import PLACE, load, raw_of, refusal, sample_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FOX, HARE, WOLF = NAMES = ("fox", "hare", "wolf")
LABELS = {"fox": 1, "hare": 2, "wolf": 3}
AGAIN = "convert both again with the same --classes"
MEND = "convert or index the data again, so that its manifest has all classes"


def made(folder: Path, *names: str, task: str = "detection") -> str:
    return str(own_classes(folder, names, task=task, splits={"train": 3, "val": 1}))


def names_shown(*tables: Sequence[str]) -> list[list[str]]:
    """The classes of each training sample of datasets made of these tables, root after root."""
    return [
        [names[k - 1] for k in labels_of(row, len(names))] for names in tables for row in (0, 1, 2)
    ]


def found_in(data: ShardDataset) -> list[list[str]]:
    """The classes of each sample by its target."""
    names = {label: name for name, label in data.classes.items()}
    return [[names[k] for k in target["labels"].tolist()] for _, target in data]


def without_names(folder: str) -> str:
    """The dataset with objects that say a label alone."""

    def change(samples: dict[str, dict[str, bytes]]) -> None:
        for members in samples.values():
            document = json.loads(members["json"])
            for item in document["objects"]:
                del item["name"]
            members["json"] = json.dumps(document).encode()

    resealed(Path(folder), "train", change)
    return folder


# Tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "joined"),
    [
        ([(FOX, HARE, WOLF), (WOLF, FOX, HARE)], {"fox": 1, "hare": 2, "wolf": 3}),
        ([(WOLF, FOX), (FOX, WOLF)], {"wolf": 1, "fox": 2}),
        ([(FOX, WOLF), (FOX, HARE, WOLF)], LABELS),
        ([(FOX, HARE, WOLF), (WOLF,)], LABELS),
        ([(WOLF,), (HARE, WOLF, FOX), (FOX, HARE)], {"hare": 1, "wolf": 2, "fox": 3}),
        ([(FOX, HARE), (FOX, HARE)], {"fox": 1, "hare": 2}),
    ],
)
def test_labels_follow_the_names_and_the_largest_table(
    tables: list[tuple[str, ...]], joined: dict[str, int], tmp_path: Path
) -> None:
    roots = [made(tmp_path / str(i), *names) for i, names in enumerate(tables)]
    data = ShardDataset(roots, shuffle=False)
    assert data.classes == joined
    assert found_in(data) == names_shown(*tables)


def test_classification_has_the_columns_of_the_joined_table(tmp_path: Path) -> None:
    roots = [made(tmp_path / "a", WOLF, FOX), made(tmp_path / "b", FOX, HARE, WOLF)]
    data = ShardDataset(roots, task="classification", shuffle=False)
    for (_, labels), (easy, difficult) in zip(
        data, names_shown((WOLF, FOX), (FOX, HARE, WOLF)), strict=True
    ):
        expected = torch.zeros(3)
        expected[LABELS[difficult] - 1] = -1
        expected[LABELS[easy] - 1] = 1
        assert torch.equal(labels, expected)


def test_tables_of_which_none_has_all_names_are_refused_until_one_is_given(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", FOX, WOLF), made(tmp_path / "b", HARE, WOLF)
    with pytest.raises(OptionError) as caught:
        ShardDataset([a, b])
    assert str(caught.value) == (
        f"{b}: its classes differ from those of {a}: 'hare' only here, 'fox' only there; give "
        f"classes=[…], all names in the order of their labels, or {AGAIN}"
    )
    data = ShardDataset([a, b], classes=[WOLF, HARE, FOX], shuffle=False)
    assert data.classes == {"wolf": 1, "hare": 2, "fox": 3}
    assert found_in(data) == names_shown((FOX, WOLF), (HARE, WOLF))
    batch = next(iter(ShardLoader(data, batch_size=6, num_workers=1)))
    assert batch.labels.unique().tolist() == [1, 2, 3]


def test_a_given_table_has_to_have_all_names_once(tmp_path: Path) -> None:
    root = made(tmp_path / "a", *NAMES)
    with pytest.raises(OptionError) as caught:
        ShardDataset(root, classes=[FOX])
    assert str(caught.value) == (
        f"classes: 'hare', 'wolf' of {root} is not among them; name all classes in the order of "
        "their labels, or convert the data again with --classes"
    )
    for wrong, said in (([FOX, HARE, FOX], "'fox' twice"), ("fox", "'fox'"), ([], "[]")):
        with pytest.raises(OptionError) as caught:
            ShardDataset(root, classes=wrong)
        assert str(caught.value) == f"classes: {said}: expected a list of names, each once"
    assert found_in(ShardDataset(root, classes=[WOLF, "lynx", *NAMES[:2]], shuffle=False)) == (
        names_shown(NAMES)
    )


def test_many_names_that_differ_are_cut_short(tmp_path: Path) -> None:
    a = made(tmp_path / "a", *[f"a{i}" for i in range(9)])
    b = made(tmp_path / "b", *[f"b{i}" for i in range(6)])
    with pytest.raises(
        OptionError, match=r"'b0', 'b1', 'b2', 'b3', 'b4' and 1 more only here, 'a0'"
    ):
        ShardDataset([a, b])


def test_masks_of_other_numbers_are_refused(tmp_path: Path) -> None:
    a = made(tmp_path / "a", FOX, WOLF, task="segmentation")
    b = made(tmp_path / "b", FOX, HARE, WOLF, task="segmentation")
    with pytest.raises(OptionError) as caught:
        ShardDataset([a, b])
    assert str(caught.value) == (
        f"classes: 'wolf' has label 2 in {a}, 3 where they are joined, and masks hold numbers, not "
        "names; convert the data again with the same --classes"
    )
    assert ShardDataset([a, b], task="detection").classes == LABELS
    c = made(tmp_path / "c", FOX, HARE, task="segmentation")
    assert ShardDataset([c, b]).classes == LABELS, "its numbers are the same"


def test_the_module_joins_as_its_datasets_do(tmp_path: Path) -> None:
    roots = [made(tmp_path / "a", WOLF), made(tmp_path / "b", FOX, WOLF)]
    data = VOCDataModule(roots, batch_size=6, image_size=32, shuffle=False)
    assert (data.classes, data.num_classes) == ({"fox": 1, "wolf": 2}, 3)
    data.setup("fit")
    assert next(iter(data.train_dataloader())).labels.unique().tolist() == [1, 2]
    given: Any = VOCDataModule(roots, classes=[WOLF, HARE, FOX], batch_size=6, image_size=32)
    assert (given.class_names, given.num_classes) == ((WOLF, HARE, FOX), 4)
    given.setup("fit")
    assert next(iter(given.train_dataloader())).labels.unique().tolist() == [1, 3]
    assert given.hparams["classes"] == [WOLF, HARE, FOX]


# Objects --------------------------------------------------------------------------------------


def test_objects_without_names_keep_their_labels(tmp_path: Path) -> None:
    a = without_names(made(tmp_path / "a", *NAMES))
    b = made(tmp_path / "b", FOX, HARE)
    data = ShardDataset([a, b], shuffle=False)
    assert found_in(data) == names_shown(NAMES, (FOX, HARE))


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_objects_without_names_are_refused_where_numbers_changed(task: str, tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", FOX, WOLF), without_names(made(tmp_path / "b", WOLF, FOX))
    data = ShardDataset([a, b], task=task, shuffle=False)
    with pytest.raises(SampleError) as caught:
        list(data)
    assert str(caught.value).endswith(
        "train-0000'.json: an object has label 2 and no name, but joined datasets number their "
        "classes differently; index the data again with the same --classes"
    )


def edited(**changes: Any) -> Any:
    """A sample of two objects; the second one's JSON is changed, None removes a field."""
    raw = raw_of(sample_of([(0, 0, 10, 10), (5, 5, 20, 20)]))
    document = json.loads(bytes(raw.members["json"]))
    for name, value in changes.items():
        document["objects"][1][name] = value
        if value is None:
            del document["objects"][1][name]
    raw.members["json"] = memoryview(json.dumps(document).encode())
    return raw


def test_a_name_wins_over_a_label() -> None:
    for changes, label in (
        ({"name": "dog", "label": 3}, 12),
        ({"name": "dog", "label": 0}, 12),
        ({"name": "dog", "label": None}, 12),
        ({"name": "", "label": 20}, 20),
        ({"name": None, "label": 1}, 1),
    ):
        assert load(raw=edited(**changes)).target["labels"].tolist() == [1, label]


@pytest.mark.parametrize("task", ["detection", "classification"])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "fox"}, "an object is 'fox', none of the 20 classes of the data"),
        ({"name": "Dog"}, "an object is 'Dog', none of the 20 classes of the data"),
        ({"name": "", "label": 21}, "an object without a name has label 21, expected 1 … 20"),
        ({"name": "", "label": 0}, "an object without a name has label 0, expected 1 … 20"),
        ({"name": "", "label": -5}, "an object without a name has label -5, expected 1 … 20"),
    ],
)
def test_an_object_of_no_class_is_a_bad_sample(changes: Any, problem: str, task: str) -> None:
    assert refusal(raw=edited(**changes), task=task) == f"{PLACE}.json: {problem}; {MEND}"


def test_vocs_own_objects_keep_their_labels() -> None:
    boxes = [(0, 0, 5, 5)] * len(VOC_CLASSES)
    assert load(sample=sample_of(boxes)).target["labels"].tolist() == list(range(1, 21))
