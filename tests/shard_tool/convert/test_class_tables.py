"""Which classes a dataset gets: the names found, VOC's table, the user's, or a question."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import DataError, OptionError, SourceError
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.sources.classes import ClassOptions
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.wild import Item, boxes, classes, counted, documents, folder, picture, xml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOX = (1, 1, 5, 5)


def source(path: Path, *names: str, split: str = "") -> Path:
    """A picture with an object of each of these classes."""
    files: dict[str, bytes | str] = {}
    for number, name in enumerate(names):
        item: Item = (name, BOX)
        files[f"{split}{number}.jpg"] = picture(shade=4000 * number + len(split) * 97)
        files[f"{split}{number}.xml"] = xml((20, 10), item)
    return folder(path, files)


def chosen(**options: Any) -> dict[str, Any]:
    return {"classes": ClassOptions(**options)}


def labels(dest: Path, split: str = "train") -> dict[str, tuple[str, int]]:
    """Key to (class, label) of the only object."""
    return {
        key: (document["objects"][0]["name"], document["objects"][0]["label"])
        for key, document in documents(dest, split).items()
    }


def question(tmp_path: Path, *names: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        converted(source(tmp_path / "in", *names), tmp_path / "no", **options)
    assert not (tmp_path / "no").exists()
    return str(caught.value).removeprefix(f"{tmp_path}/in: ")


# Without a word of the user -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("zebra", "ant", "Mücke", "ant"), ["Mücke", "ant", "zebra"]),
        (("raccoon",), ["raccoon"]),
        (("class2", "class10", "class1"), ["class1", "class10", "class2"]),
        (("cap", "cab", "car", "can"), ["cab", "can", "cap", "car"]),
        (("1", "2", "0"), ["0", "1", "2"]),
        (("dog", "helmet", "vest", "gloves"), ["dog", "gloves", "helmet", "vest"]),
        (("traffic light", "stop sign"), ["stop sign", "traffic light"]),
        (("猫", "犬"), ["犬", "猫"]),
    ],
)
def test_own_names_are_the_classes_sorted(
    tmp_path: Path, names: tuple[str, ...], expected: list[str]
) -> None:
    converted(source(tmp_path / "in", *names), tmp_path / "out")
    table = classes(tmp_path / "out")
    assert list(table.items()) == [(name, label) for label, name in enumerate(expected, start=1)]
    found = labels(tmp_path / "out")
    assert found == {str(n): (name, table[name]) for n, name in enumerate(names)}


def test_hundreds_of_classes_are_no_fewer(tmp_path: Path) -> None:
    names = [f"kind {number:03}" for number in range(400)]
    items: list[Item] = [(name, BOX) for name in reversed(names)]
    files = {"a.jpg": picture(), "a.xml": xml((20, 10), *items)}
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    assert list(classes(tmp_path / "out")) == names
    assert documents(tmp_path / "out")["a"]["objects"][0]["label"] == 400


@pytest.mark.parametrize("names", [("dog",), ("train", "cat"), VOC_CLASSES])
def test_names_of_voc_alone_give_vocs_table_whatever_is_missing(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    converted(source(tmp_path / "in", *names), tmp_path / "out")
    assert list(classes(tmp_path / "out")) == [*VOC_CLASSES]
    assert labels(tmp_path / "out") == {
        str(n): (name, VOC_CLASSES.index(name) + 1) for n, name in enumerate(names)
    }


def test_splits_share_one_table(tmp_path: Path) -> None:
    source(tmp_path / "in", "ant", split="train/")
    source(tmp_path / "in", "bee", split="valid/")
    converted(tmp_path / "in", tmp_path / "out")
    assert labels(tmp_path / "out") == {"train/0": ("ant", 1)}
    assert labels(tmp_path / "out", "val") == {"valid/0": ("bee", 2)}
    splits = manifest_of(tmp_path / "out")["splits"]
    assert splits["train"]["objects"] == {"ant": 1}
    assert splits["val"]["objects"] == {"bee": 1}


# Questions ----------------------------------------------------------------------------------------

ASKED = [
    (
        ("Dog", "dog", "dog", "cat"),
        "'Dog' (1) looks like 'dog' [all names: 'dog' (2), 'Dog' (1), 'cat' (1)]; add --rename "
        "Dog=dog to merge them, or add --classes Dog,cat,dog to take all names as they are",
    ),
    (
        ("moterbike", "dog"),
        "'moterbike' (1) looks like 'motorbike' [all names: 'dog' (1), 'moterbike' (1)]; add "
        "--rename moterbike=motorbike to merge them, or add --classes dog,moterbike to take all "
        "names as they are",
    ),
    (
        ("dog", "cat", "unicorn"),
        "'unicorn' (1) is none of VOC's classes, which the others are [all names: 'cat' (1), "
        "'dog' (1), 'unicorn' (1)]; add --other-classes drop to leave them out, or add --classes "
        "cat,dog,unicorn to take all names as they are",
    ),
    (
        ("traffic light", "traffic_light", "traffic light"),
        "'traffic_light' (1) looks like 'traffic light' [all names: 'traffic light' (2), "
        "'traffic_light' (1)]; add --rename 'traffic_light=traffic light' to merge them, or add "
        "--classes 'traffic light,traffic_light' to take all names as they are",
    ),
    (
        ("helmet", "helmett", "vest", "Vest"),
        "'helmett' (1) looks like 'helmet'; 'vest' (1) looks like 'Vest' [all names: 'Vest' (1), "
        "'helmet' (1), 'helmett' (1), 'vest' (1)]; add --rename helmett=helmet --rename vest=Vest "
        "to merge them, or add --classes Vest,helmet,helmett,vest to take all names as they are",
    ),
    (
        ("person", "perosn"),
        "'perosn' (1) looks like 'person' [all names: 'perosn' (1), 'person' (1)]; add --rename "
        "perosn=person to merge them, or add --classes perosn,person to take all names as they are",
    ),
    (
        ("tv monitor", "sofa", "chair"),
        "'tv monitor' (1) looks like 'tvmonitor' [all names: 'chair' (1), 'sofa' (1), 'tv monitor' "
        "(1)]; add --rename 'tv monitor=tvmonitor' to merge them, or add --classes 'chair,sofa,tv "
        "monitor' to take all names as they are",
    ),
]


@pytest.mark.parametrize(("names", "message"), ASKED)
def test_names_that_look_like_mistakes_are_asked_about_with_counts_and_options(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    assert question(tmp_path, *names) == message
    assert question(tmp_path, *names, on_bad_record="skip") == message


@pytest.mark.parametrize(("names", "message"), ASKED)
def test_each_way_out_of_a_message_works_as_it_is_written(
    tmp_path: Path,
    run_here: Callable[..., tuple[str | int | None, str, str]],
    names: tuple[str, ...],
    message: str,
) -> None:
    ways = re.findall(r"add (--.*?)(?= to (?:merge|leave|take))", message)
    assert len(ways) == 2
    its = source(tmp_path / "in", *names)
    for number, way in enumerate(ways):
        dest = tmp_path / str(number)
        status, _, stderr = run_here("convert", its, dest, *shlex.split(way))
        assert status == 0, stderr
        kept = set(names) if way.startswith("--classes") else None
        if kept:
            assert set(classes(dest)) == kept
        else:
            assert not {"Dog", "moterbike", "unicorn", "traffic_light", "helmett"} & {
                *classes(dest)
            }


@pytest.mark.parametrize(
    ("names", "way"),
    [
        (
            ("Cat, small", "cat, small"),
            "add --rename 'cat, small=Cat, small' to merge them, or add --classes FILE.txt (a file "
            "with these names, one a line: 'Cat, small', 'cat, small')",
        ),
        (("A=bcdef", "a=bcdef"), "add --classes A=bcdef,a=bcdef"),
    ],
)
def test_ways_out_for_names_with_commas_and_equals_signs_work(
    tmp_path: Path,
    run_here: Callable[..., tuple[str | int | None, str, str]],
    names: tuple[str, ...],
    way: str,
) -> None:
    """A comma parts names of --classes, an equals sign those of --rename."""
    message = question(tmp_path, *names)
    assert message.partition("]; ")[2] == f"{way} to take all names as they are"
    (tmp_path / "FILE.txt").write_text("\n".join(names))
    by_file = shlex.quote(str(tmp_path / "FILE.txt"))
    its = source(tmp_path / "in", *names)
    way = re.sub(r" \(a file .*\)", "", way).replace("FILE.txt", by_file)
    for number, option in enumerate(re.findall(r"add (--.*?)(?= to merge|$)", way)):
        dest = tmp_path / str(number)
        status, _, stderr = run_here("convert", its, dest, *shlex.split(option))
        assert status == 0, stderr
        assert set(classes(dest)) == ({*names} if "classes" in option else {names[0]})


def test_names_with_equals_signs_that_the_users_table_lacks_are_not_renamed(tmp_path: Path) -> None:
    message = question(tmp_path, "A=bcdef", **chosen(classes=("a=bcdef",)))
    assert message.endswith("looks like 'a=bcdef'; add --other-classes drop to leave them out")


def test_names_with_a_letter_more_are_two_classes_where_they_are_short(tmp_path: Path) -> None:
    converted(source(tmp_path / "in", "car", "cart", "cat", "hat"), tmp_path / "out")
    assert list(classes(tmp_path / "out")) == ["car", "cart", "cat", "hat"]


def test_blanks_around_a_name_are_no_part_of_it(tmp_path: Path) -> None:
    converted(source(tmp_path / "in", " ant ", "\n\tant\n", "ant"), tmp_path / "out")
    assert classes(tmp_path / "out") == {"ant": 1}


# The user's word ----------------------------------------------------------------------------------


def test_classes_of_the_user_fix_names_and_order(tmp_path: Path) -> None:
    its = source(tmp_path / "in", "ant", "bee")
    converted(its, tmp_path / "out", **chosen(classes=("wasp", "bee", "ant")))
    assert classes(tmp_path / "out") == {"wasp": 1, "bee": 2, "ant": 3}
    assert labels(tmp_path / "out") == {"0": ("ant", 3), "1": ("bee", 2)}


@pytest.mark.parametrize(
    "content",
    [
        "wasp\nant\nhead, upper\n",
        "\ufeffwasp\r\n\r\n ant \r\nhead, upper",
        "wasp\nant\nhead, upper\n\n",
    ],
)
def test_classes_may_be_a_file_with_one_a_line(
    tmp_path: Path, run_here: Callable[..., tuple[str | int | None, str, str]], content: str
) -> None:
    its = source(tmp_path / "in", "ant", "head, upper")
    (tmp_path / "names.txt").write_text(content, encoding="utf-8", newline="")
    status, _, _ = run_here("convert", its, tmp_path / "out", "--classes", tmp_path / "names.txt")
    assert status == 0
    assert classes(tmp_path / "out") == {"wasp": 1, "ant": 2, "head, upper": 3}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ant,,bee", "--classes: a name is empty"),
        ("ant,bee,ant", "--classes: 'ant' is given twice"),
        ("none.txt", "--classes none.txt: cannot be read as text: No such file or directory"),
    ],
)
def test_bad_classes_are_refused(
    tmp_path: Path,
    run_here: Callable[..., tuple[str | int | None, str, str]],
    given: str,
    told: str,
) -> None:
    status, _, stderr = run_here(
        "convert", source(tmp_path / "in", "ant"), tmp_path / "out", "--classes", given
    )
    assert status in (1, 2)
    assert told in " ".join(stderr.split())


@pytest.mark.parametrize(
    ("content", "told"), [(b"\n \n", "holds no name"), (b"m\xfccke\n", "cannot be read as text")]
)
def test_bad_files_of_classes_are_refused(
    tmp_path: Path,
    run_here: Callable[..., tuple[str | int | None, str, str]],
    content: bytes,
    told: str,
) -> None:
    path = tmp_path / "names.lst"
    path.write_bytes(content)
    its = source(tmp_path / "in", "ant")
    status, _, stderr = run_here("convert", its, tmp_path / "out", "--classes", path)
    assert status in (1, 2)
    assert f"--classes {path}: {told}" in stderr.replace("\n", "")


def test_names_that_the_users_table_lacks_are_asked_about(tmp_path: Path) -> None:
    options = chosen(classes=("ant", "helmet"))
    message = question(tmp_path, "ant", "helmets", "bee", "bee", **options)
    assert message == (
        "objects have names that --classes lacks: 'bee' (2); 'helmets' (1), which looks like "
        "'helmet'; add --rename helmets=helmet, or add --other-classes drop to leave them out"
    )
    assert question(tmp_path, "ant", "helmets", "bee", "bee", **options, on_bad_record="skip")


def test_dropped_classes_leave_the_good_objects_and_are_counted(tmp_path: Path) -> None:
    files = {"a.jpg": picture(), "a.xml": xml((20, 10), ("ant", BOX), ("bee", BOX), ("ant", BOX))}
    files |= {"b.jpg": picture(shade=9), "b.xml": xml((20, 10), ("bee", BOX))}
    its = folder(tmp_path / "in", files)
    options = chosen(classes=("ant",), other_classes="drop")
    report = converted(its, tmp_path / "out", **options)
    assert boxes(tmp_path / "out") == {"a": [("ant", [1.0, 1.0, 5.0, 5.0])] * 2, "b": []}
    assert counted(tmp_path / "out") == {"other-class-dropped": 2}
    assert not report.bad_records
    assert manifest_of(tmp_path / "out")["options"]["other_classes"] == "drop"


def test_strangers_among_vocs_classes_are_dropped_when_asked(tmp_path: Path) -> None:
    its = source(tmp_path / "in", "cat", "dog", "unicorn")
    converted(its, tmp_path / "out", **chosen(other_classes="drop"))
    assert list(classes(tmp_path / "out")) == [*VOC_CLASSES]
    assert [name for its in boxes(tmp_path / "out").values() for name, _ in its] == ["cat", "dog"]
    assert counted(tmp_path / "out") == {"other-class-dropped": 1}


def test_rename_renames_merges_and_is_counted(tmp_path: Path) -> None:
    rename = (("Ant", "ant"), ("ameise", "ant"), ("bee", "wasp"))
    its = source(tmp_path / "in", "Ant", "ameise", "ant", "bee")
    converted(its, tmp_path / "out", **chosen(rename=rename))
    assert classes(tmp_path / "out") == {"ant": 1, "wasp": 2}
    assert [its[0] for its in labels(tmp_path / "out").values()] == ["ant", "ant", "ant", "wasp"]
    assert counted(tmp_path / "out") == {"renamed": 3}
    assert manifest_of(tmp_path / "out")["options"]["rename"] == dict(rename)


def test_rename_to_vocs_names_gives_vocs_table_and_its_boxes(tmp_path: Path) -> None:
    its = source(tmp_path / "in", "Hund", "cat")
    converted(its, tmp_path / "out", **chosen(rename=(("Hund", "dog"),)))
    assert list(classes(tmp_path / "out")) == [*VOC_CLASSES]
    assert boxes(tmp_path / "out")["0"] == [("dog", [0.0, 0.0, 5.0, 5.0])]


def test_renames_of_nothing_and_twice_are_refused(tmp_path: Path) -> None:
    its = source(tmp_path / "in", "ant")
    with pytest.raises(OptionError) as caught:
        converted(its, tmp_path / "out", **chosen(rename=(("bee", "ant"),)))
    assert str(caught.value) == "--rename: no object is called 'bee'; names: 'ant' (1)"
    for rename, told in {
        (("ant", "bee"), ("ant", "wasp")): "--rename: 'ant' is renamed twice",
        (("ant", " "),): "--rename: ant=  has an empty name",
    }.items():
        with pytest.raises(OptionError) as caught:
            ClassOptions(rename=rename)
        assert str(caught.value) == told


def test_options_of_the_command_line_reach_the_table(
    tmp_path: Path, run_here: Callable[..., tuple[str | int | None, str, str]]
) -> None:
    its = source(tmp_path / "in", "Ant", "ant", "bee", "wasp")
    arguments = ["--classes", "bee,ant", "--rename", "Ant=ant", "--other-classes", "drop"]
    status, stdout, stderr = run_here("convert", its, tmp_path / "out", *arguments)
    assert status == 0
    assert "2 classes: bee 1, ant 2" in stdout
    assert "renamed 1: an object's class was renamed (--rename) (such as Ant to ant)" in stderr
    status, _, stderr = run_here("convert", its, tmp_path / "x", "--rename", "Ant")
    assert status in (1, 2)
    assert "--rename: 'Ant' is not OLD=NEW" in " ".join(stderr.split())


def test_dry_run_lists_every_question_and_the_table(
    tmp_path: Path, run_here: Callable[..., tuple[str | int | None, str, str]]
) -> None:
    its = source(tmp_path / "in", "Dog", "dog", "cat")
    status, stdout, _ = run_here("convert", its, tmp_path / "out", "--dry-run")
    assert status == 0
    assert "'Dog' (1) looks like 'dog'" in stdout
    status, stdout, _ = run_here("convert", its, tmp_path / "out", "--dry-run", "--format", "json")
    (asked,) = json.loads(stdout)["questions"]
    assert asked["place"] == str(its)
    assert asked["hint"].startswith("add --rename Dog=dog to merge them")


# Classification -----------------------------------------------------------------------------------


def lists(**of_classes: str) -> dict[str, bytes | str]:
    """A devkit of the pictures 0 (ant) and 1 (bee), and lists of classes: 'a b' are labels."""
    files: dict[str, bytes | str] = {"ImageSets/Main/train.txt": "0\n1\n"}
    for number, name in enumerate(("ant", "bee")):
        files[f"JPEGImages/{number}.jpg"] = picture(shade=4000 * number)
        files[f"Annotations/{number}.xml"] = xml((20, 10), (name, BOX))
    for name, numbers in of_classes.items():
        lines = [f"{key} {label}" for key, label in enumerate(numbers.split())]
        files[f"ImageSets/Main/{name}_train.txt"] = "\n".join(lines)
    return files


def test_lists_of_own_classes_give_the_labels_of_pictures(tmp_path: Path) -> None:
    its = folder(tmp_path / "in", lists(ant="1 -1", bee="0 1"))
    converted(its, tmp_path / "out", task="classification")
    found = {key: document["image_labels"] for key, document in documents(tmp_path / "out").items()}
    assert found == {"0": {"ant": 1, "bee": 0}, "1": {"ant": -1, "bee": 1}}
    counts = manifest_of(tmp_path / "out")["splits"]["train"]["counts"]
    assert counts == {"pictures": {"ant": 1, "bee": 1}, "only_difficult": {"bee": 1}}


def test_without_lists_of_classes_the_objects_are_what_pictures_show(tmp_path: Path) -> None:
    converted(folder(tmp_path / "in", lists()), tmp_path / "out", task="classification")
    document = documents(tmp_path / "out")["0"]
    assert "image_labels" not in document
    assert [item["name"] for item in document["objects"]] == ["ant"]
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2}


def test_list_of_one_class_alone_is_refused(tmp_path: Path) -> None:
    its = folder(tmp_path / "in", lists(ant="1 -1"))
    with pytest.raises(SourceError) as caught:
        converted(its, tmp_path / "out", task="classification")
    place = f"{its}/ImageSets/Main/bee_train.txt"
    way = "classification needs one for each class, or none; is the task another?"
    assert str(caught.value) == f"{place}: there is no such list; {way}"


def test_classification_of_a_flat_folder_takes_the_objects(tmp_path: Path) -> None:
    its = source(tmp_path / "in", "ant", "bee")
    converted(its, tmp_path / "out", task="classification")
    assert labels(tmp_path / "out") == {"0": ("ant", 1), "1": ("bee", 2)}
