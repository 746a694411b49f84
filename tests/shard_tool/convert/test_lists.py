"""Lists of splits as people and tools write them, and pictures that no list names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert.rules import Choices
from shard_tool.errors import OptionError, SourceError
from shard_tool.sources.keys import key_of
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.wild import boxes, counted, documents, folder, pairs, picture, xml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Files = dict[str, bytes | str]


def devkit(lists: Mapping[str, str | bytes], *stems: str, suffix: str = ".jpg") -> Files:
    """Pictures and XML in VOC's folders; lists by their paths below ImageSets."""
    its = pairs(
        *(stems or ("a", "b", "c")),
        pictures="JPEGImages/",
        annotations="Annotations/",
        suffix=suffix,
    )
    return {**its, **{f"ImageSets/{name}.txt": content for name, content in lists.items()}}


def keys(tmp_path: Path, files: Mapping[str, bytes | str], **options: Any) -> dict[str, list[str]]:
    """Split to its keys."""
    converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    splits = list(manifest_of(tmp_path / "out")["splits"])
    return {split: list(documents(tmp_path / "out", split)) for split in splits}


def refusal(tmp_path: Path, files: Files, **options: Any) -> str:
    with pytest.raises((SourceError, OptionError)) as caught:
        converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    return str(caught.value).replace(f"{tmp_path}/in", "")


# Lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *[
            "{}.jpg",
            "{}.JPG",
            "{}.xml",
            "JPEGImages/{}.jpg",
            "JPEGImages/{}",
            "./JPEGImages/{}.jpg",
        ],
        *["/home/someone/VOC/JPEGImages/{}.jpg", r"C:\data\JPEGImages\{}.jpg", "{} 1", "{}\t1"],
        *["JPEGImages/{}.jpg Annotations/{}.xml", "{}.jpg {}.xml", '"{}.jpg"', "{} {}"],
    ],
)
def test_line_that_is_more_than_an_id_means_the_picture_it_names(tmp_path: Path, line: str) -> None:
    lines = "".join(line.replace("{}", stem) + "\n" for stem in ("a", "c"))
    found = keys(tmp_path, devkit({"Main/train": lines}))
    assert found == {"train": ["a", "c"]}
    assert counted(tmp_path / "out") == {"list-line-other": 2, "in-no-list": 1}


@pytest.mark.parametrize(
    "content",
    [
        *[b"a\r\nc\r\n", b"\xef\xbb\xbfa\nc\n", b"\n\na\n\n c \n", b"# pictures\na\nc", b"c\na"],
        b'"a"\n"c"\n',
    ],
)
def test_line_ends_blanks_comments_and_marks_are_no_part_of_ids(
    tmp_path: Path, content: bytes
) -> None:
    assert keys(tmp_path, devkit({"Main/train": content})) == {"train": ["a", "c"]}
    assert counted(tmp_path / "out") == {"in-no-list": 1}


def test_names_with_dots_and_blanks_are_found_as_lists_write_them(tmp_path: Path) -> None:
    """CVAT writes names with blanks as they are in Main, and in quotes in other lists.

    Source: datumaro, plugins/data_formats/voc/exporter.py, save_clsdet_lists, save_layout_lists.
    """
    stems = ("my cat 1", "my cat 2", "v1.2.jpg", "v1.2", "猫 3", "plain")
    lines = ["my cat 1", '"my cat 2"', "v1.2.jpg.jpg", "v1.2", "JPEGImages/猫 3.jpg", "plain 1"]
    files = devkit({"Main/train": "\n".join(lines)}, *stems)
    found = keys(tmp_path, files)["train"]
    encoded = ["my%20cat%201", "my%20cat%202", "v1%2E2%2Ejpg", "v1%2E2", "猫%203", "plain"]
    assert found == sorted(encoded)
    assert counted(tmp_path / "out") == {"list-line-other": 3, "name-encoded": 5}


def test_name_with_blanks_is_the_whole_line_even_where_its_first_word_is_a_picture(
    tmp_path: Path,
) -> None:
    """'cat 0' could be the picture cat of a list of a class; a picture is called so."""
    files = devkit({"Main/train": "cat 0\ncat 1\n"}, "cat", "cat 0", "cat 1")
    assert keys(tmp_path, files) == {"train": ["cat%200", "cat%201"]}
    assert counted(tmp_path / "out") == {"in-no-list": 1, "name-encoded": 2}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        *[("写真\u30001", "写真\u30001"), ("a  b", "a  b"), ("a  b.jpg", "a  b")],
        *[("n\xa01", "n\xa01"), ("n\xa01.jpg 1", "n\xa01"), ("n\xa01\xa0", "n\xa01")],
        *[("#1", "#1"), ("#1.jpg", "#1"), ("# comment\n #1\n# a", "#1"), ("#1 1", "#1")],
        *[
            ("a JPEGImages/a.xml", "a"),
            ("a.jpg masks/a  b.jpg", "a"),
            (" a", "a"),
            ("#b c", "#b c"),
        ],
        *[("my data/JPEGImages/a.jpg", "a"), ("写真 masks/a", "写真"), ('"#1"', "#1")],
    ],
)
def test_line_takes_the_picture_of_its_whole_name(
    tmp_path: Path, lines: str, expected: str
) -> None:
    stems = ("写真", "写真\u30001", "a", "a  b", "n\xa01", "n", "#1", "#b c", "my")
    found = keys(tmp_path, devkit({"Main/train": lines + "\n"}, *stems))
    assert found == {"train": [key_of(expected)]}


@pytest.mark.parametrize(
    ("line", "missing"),
    [("IMG 08.jpg", "IMG 08.jpg"), ("IMG  08.JPG", "IMG  08.JPG"), ("x y", "x y"), ("x 1", "x")],
)
@pytest.mark.parametrize("others", [(), ("b c",)])
def test_missing_name_with_blanks_is_an_error_and_no_other_picture(
    tmp_path: Path, line: str, missing: str, others: tuple[str, ...]
) -> None:
    message = refusal(tmp_path, devkit({"Main/train": f"IMG\n{line}\n"}, "IMG", *others))
    assert message.endswith(f"there is no such file (Main/train names {missing!r})")


def test_list_of_a_class_is_no_split(tmp_path: Path) -> None:
    message = refusal(tmp_path, devkit({"Main/train": "a 1\nb -1\n"}))
    problem = "is a list of a class, with labels: its pictures are those of its split"
    assert message == f"/ImageSets/Main/train.txt: {problem}; name a list of ids, such as train"


@pytest.mark.parametrize("splits", [(), ("train",), ("mine",)])
def test_names_twice_in_a_list_are_taken_once_and_counted_once(
    tmp_path: Path, splits: tuple[str, ...]
) -> None:
    """Also where the same picture is written in two ways; a list is read several times."""
    lines = "a\nb\na\na.jpg\nJPEGImages/b.jpg\n"
    found = keys(tmp_path, devkit({"Main/train": lines, "Main/mine": lines}), splits=splits)
    assert list(found.values()) == [["a", "b"]]
    twice = {"list-name-twice": 3, "list-line-other": 2, "in-no-list": 1}
    assert counted(tmp_path / "out") == twice


def test_name_of_no_picture_is_an_error_that_names_the_list(tmp_path: Path) -> None:
    message = refusal(tmp_path, devkit({"Main/train": "a\nz.jpg\n"}))
    problem = "is missing: there is no such file (Main/train names 'z.jpg')"
    assert message == f"/JPEGImages/z.jpg.jpg: {problem}"


@pytest.mark.parametrize("content", [b"\xff\xfea\x00\n\x00", b"\xe9t\xe9\n"])
def test_list_that_is_no_utf8_is_refused(tmp_path: Path, content: bytes) -> None:
    message = refusal(tmp_path, devkit({"Main/train": content}))
    assert message.startswith("/ImageSets/Main/train.txt: not a text file: ")


# Names of lists -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), ["train", "val", "test"]),
        (("training", "validation", "testing"), ["train", "val", "test"]),
        (("train", "valid", "test"), ["train", "val", "test"]),
    ],
)
@pytest.mark.parametrize("place", ["ImageSets/Main/", "imagesets/main/", "ImageSets/"])
def test_lists_of_usual_names_are_the_splits(
    tmp_path: Path, names: tuple[str, ...], splits: list[str], place: str
) -> None:
    files = devkit({}) | {
        f"{place}{name}.txt": f"{stem}\n" for name, stem in zip(names, "abc", strict=True)
    }
    found = keys(tmp_path, files)
    assert list(found.items()) == [(name, [stem]) for name, stem in zip(splits, "abc", strict=True)]
    assert counted(tmp_path / "out") == {}


def test_lists_of_usual_names_in_another_case_are_the_splits(tmp_path: Path) -> None:
    """CVAT names lists as its subsets, which it calls Train, Validation and Test."""
    files = devkit({"Main/Train": "a\n", "Main/Validation": "b\n", "Main/TEST": "c\n"})
    assert keys(tmp_path, files) == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert counted(tmp_path / "out") == {}


def test_lists_of_classes_alone_are_the_splits_together(tmp_path: Path) -> None:
    """VoTT, src/providers/export/pascalVOC.ts: a list of each tag with all pictures of a split."""
    lists = {
        "Main/ant_train": "a.jpg 1\nc d.jpg -1\n",
        "Main/bee_train": "a.jpg -1\r\nc d.jpg  1\r\n",
        "Main/ant_val": "b.jpg\t1\n",
    }
    files = devkit(lists, "a", "b", "c d", "e")
    assert keys(tmp_path, files) == {"train": ["a", "c%20d"], "val": ["b"]}
    assert counted(tmp_path / "out") == {"split-of-classes": 3, "in-no-list": 1, "name-encoded": 1}
    files["ImageSets/Main/train.txt"] = "e\n"
    converted(folder(tmp_path / "in", files), tmp_path / "own")
    assert list(documents(tmp_path / "own")) == ["e"], "a list of pictures goes first"


def test_lists_that_are_neither_of_splits_nor_of_classes_name_the_way_out(tmp_path: Path) -> None:
    message = refusal(tmp_path, devkit({"Main/my_train": "a\nb 1\n"}))
    problem = "no list of train, val, trainval, test names a picture"
    way = "name the pictures by --split-file train=LIST"
    assert message == f"/ImageSets/Main: {problem}; {way}"


def test_default_list_of_cvat_is_the_split_train(tmp_path: Path) -> None:
    files = devkit({"Main/default": "a\nb\nc\n"})
    files |= {"labelmap.txt": "# label:color_rgb:parts:actions\nant:128,0,0::\nbackground:0,0,0::"}
    assert keys(tmp_path, files) == {"train": ["a", "b", "c"]}
    assert documents(tmp_path / "out")["a"]["image_sets"] == ["Main/train"]


def test_lists_of_other_names_alone_are_named_in_the_message(tmp_path: Path) -> None:
    files = devkit({"Main/part1": "a\n", "Main/part2": "b\n", "Main/ant_part1": "a 1\n"})
    problem = "no list of train, val, trainval, test names a picture"
    ways = "other lists there: part1, part2; name one by --split"
    assert refusal(tmp_path, files) == f"/ImageSets/Main: {problem}; {ways}"
    assert keys(tmp_path, files, splits=("part1",)) == {"part1": ["a"]}


def test_pictures_in_lists_of_other_names_alone_are_counted(tmp_path: Path) -> None:
    """CVAT's subset without a name beside others: its pictures must not vanish without a word."""
    files = devkit({"Main/train": "a\n", "Main/default": "b\n"})
    assert keys(tmp_path, files) == {"train": ["a"]}
    assert counted(tmp_path / "out") == {"in-other-list": 1, "in-no-list": 1}
    converted(tmp_path / "in", tmp_path / "both", splits=("train", "default"))
    assert counted(tmp_path / "both") == {"in-no-list": 1}
    assert list(documents(tmp_path / "both", "default")) == ["b"]


# Pictures without annotation ----------------------------------------------------------------------


def unlabelled(lists: Mapping[str, str]) -> Files:
    return devkit(lists, "a") | {"JPEGImages/bare.jpg": picture(shade=3)}


def test_listed_picture_without_annotation_is_an_error_with_both_ways_out(tmp_path: Path) -> None:
    files = unlabelled({"Main/train": "a\nbare\n"})
    problem = "is missing: a picture without its annotation (Main/train names 'bare')"
    way = "leave it out by --unlabelled drop, or take it by --unlabelled background"
    assert refusal(tmp_path, files) == f"/Annotations/bare.xml: {problem}; {way}"
    assert keys(tmp_path, files, choices=Choices(unlabelled="drop")) == {"train": ["a"]}
    assert counted(tmp_path / "out") == {"unlabelled": 1}
    converted(tmp_path / "in", tmp_path / "bg", choices=Choices(unlabelled="background"))
    assert boxes(tmp_path / "bg") == {"a": [("ant", [2.0, 3.0, 10.0, 8.0])], "bare": []}
    assert counted(tmp_path / "bg") == {"unlabelled-background": 1}


def test_picture_that_lies_there_without_annotation_is_left_out_and_counted(tmp_path: Path) -> None:
    files = {name: its for name, its in unlabelled({}).items() if not name.startswith("ImageSets")}
    assert keys(tmp_path, files) == {"train": ["a"]}
    assert counted(tmp_path / "out") == {"unlabelled": 1}
    place = f"{tmp_path}/in/Annotations/bare.xml"
    with pytest.raises(SourceError, match=f"{place}: is missing: a picture without its annotation"):
        converted(tmp_path / "in", tmp_path / "no", choices=Choices(unlabelled="fail"))


def test_annotation_without_objects_is_background_and_stays(tmp_path: Path) -> None:
    files = devkit({"Main/train": "a\nb\n"}, "a") | {
        "JPEGImages/b.jpg": picture(shade=5),
        "Annotations/b.xml": xml((20, 10)),
    }
    assert keys(tmp_path, files) == {"train": ["a", "b"]}
    assert boxes(tmp_path / "out")["b"] == []
    assert counted(tmp_path / "out") == {"background": 1}


# Lists by the user --------------------------------------------------------------------------------


def test_split_files_split_pictures_of_any_layout(tmp_path: Path) -> None:
    files = {f"pics/{name}": its for name, its in pairs("a", "b", "c d", "e").items()}
    train = tmp_path / "my train.lst"
    train.write_text("a\npics/c d.jpg\na\n", encoding="utf-8")
    (tmp_path / "held.txt").write_text("b.jpg\n")
    lists = {"train": str(train), "held-out": str(tmp_path / "held.txt")}
    assert keys(tmp_path, files, split_files=lists) == {
        "train": ["a", "c%20d"],
        "held-out": ["b"],
    }
    expected = {"list-line-other": 2, "list-name-twice": 1, "in-no-list": 1, "name-encoded": 1}
    assert counted(tmp_path / "out") == expected
    report = manifest_of(tmp_path / "out")["report"]
    assert report["list-name-twice"]["examples"] == ["my train.lst"]
    assert report["list-line-other"]["examples"] == ["my train.lst", "held.txt"]


def test_split_files_take_the_place_of_a_devkits_lists(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("b\n")
    files = devkit({"Main/train": "a\nb\nc\n"})
    found = keys(tmp_path, files, split_files={"train": str(tmp_path / "mine")})
    assert found == {"train": ["b"]}
    assert counted(tmp_path / "out") == {"in-no-list": 2}


def test_bad_split_files_are_refused(
    tmp_path: Path, run_here: Callable[..., tuple[str | int | None, str, str]]
) -> None:
    source = folder(tmp_path / "in", pairs("a"))
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "wrong").write_text("z\n")
    for given, message in {
        "train=": "--split-file: 'train=' is not NAME=FILE",
        f"train={tmp_path}/none": f"--split-file train={tmp_path}/none: cannot be read: No such",
        f"train={tmp_path}/empty": f"--split-file train={tmp_path}/empty: names no picture",
        f"train={tmp_path}/wrong": f"{source}/z.jpg: is missing: there is no such file",
        f"a/b={tmp_path}/wrong": "--split: 'a/b' cannot name a list and its shards",
    }.items():
        status, _, stderr = run_here("convert", source, tmp_path / "out", "--split-file", given)
        assert status in (1, 2)
        assert message in " ".join(stderr.split())
    assert not (tmp_path / "out").exists()


def test_picture_in_two_splits_is_refused(tmp_path: Path) -> None:
    files = devkit({"Main/train": "a\nb\n", "Main/val": "JPEGImages/b.jpg\nc\n"})
    problem = "picture 'b' is in split 'train' as well"
    way = "convert splits that share no picture, such as by --split train"
    assert refusal(tmp_path, files) == f"/ImageSets/Main/val.txt: {problem}; {way}"
