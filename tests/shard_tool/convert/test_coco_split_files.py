"""`--split-file` makes splits of COCO JSON, by names of pictures or ids of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import OptionError, SourceError
from tests.kit.datasets.coco_files import coco, image, one_of_each, written
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.wild import boxes, counted

if TYPE_CHECKING:
    from pathlib import Path

STEMS = ("a", "b", "c d", "e.f")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One JSON, and pictures in `images`."""
    pictures = [f"images/{stem}.jpg" for stem in STEMS]
    return written(tmp_path / "in", {"annotations.json": one_of_each(*STEMS)}, pictures)


def lists(root: Path, **splits: str) -> dict[str, str]:
    """Split to the path of its list."""
    for split, text in splits.items():
        (root / f"{split}.txt").write_text(text)
    return {split: str(root / f"{split}.txt") for split in splits}


@pytest.mark.parametrize(
    "lines",
    [
        *("a.jpg\ne.f.jpg", "a\ne.f", "images/a.jpg\n./images/e.f.jpg"),
        *("images/a\r\n\r\nimages/e.f", "1\n4", "# comment\n a.jpg 1\n4\n"),
        *("\ufeffimages\\a.jpg\n4",),
    ],
)
def test_lines_may_be_names_paths_or_ids(tmp_path: Path, source: Path, lines: str) -> None:
    files = lists(tmp_path, train=lines, val="c d.jpg\n")
    converted(source, tmp_path / "out", split_files=files)
    assert [*boxes(tmp_path / "out")] == ["images/a", "images/e%2Ef"]
    assert [*boxes(tmp_path / "out", "val")] == ["images/c%20d"]
    assert counted(tmp_path / "out")["in-no-list"] == 1


def test_a_name_twice_is_counted(tmp_path: Path, source: Path) -> None:
    files = lists(tmp_path, train="a.jpg\nb\n1\n")
    converted(source, tmp_path / "out", split_files=files)
    assert counted(tmp_path / "out") == {"in-no-list": 2, "list-name-twice": 1}


def test_lists_make_splits_of_files_that_share_one(tmp_path: Path) -> None:
    files = {"one.json": one_of_each("a"), "two.json": one_of_each("b")}
    source = written(tmp_path / "in", files, ["a.jpg", "b.jpg"])
    with pytest.raises(SourceError, match="--split-file train=LIST"):
        converted(source, tmp_path / "none")
    converted(source, tmp_path / "out", split_files=lists(tmp_path, mine="b\n", val="a.jpg\n"))
    assert [*manifest_of(tmp_path / "out")["splits"]] == ["mine", "val"]
    assert [*boxes(tmp_path / "out", "mine")] == ["b"]


def test_lists_may_name_pictures_of_files_with_other_ids(tmp_path: Path) -> None:
    turned = coco([image(1, "b.jpg")], [], [{"id": 2, "name": "ant"}, {"id": 1, "name": "bee"}])
    source = written(
        tmp_path / "in", {"x.json": one_of_each("a"), "y.json": turned}, ["a.jpg", "b.jpg"]
    )
    converted(source, tmp_path / "out", split_files=lists(tmp_path, train="a\n", val="b\n"))
    assert [*boxes(tmp_path / "out", "val")] == ["b"]
    converted(source, tmp_path / "one", split_files=lists(tmp_path, train="a\nb\n"))
    assert [*boxes(tmp_path / "one")] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg\nx.jpg\ny\n", "2 lines name no image of the JSON, such as 'x.jpg' (line 2)"),
        ("# nothing\n", "names no picture"),
        ("\udce9", "is not a text file"),
    ],
)
def test_lists_that_cannot_be_followed_are_refused(
    tmp_path: Path, source: Path, text: str, expected: str
) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(OptionError) as caught:
        converted(source, tmp_path / "out", split_files={"train": str(path)})
    assert expected in str(caught.value)
    assert f"--split-file train={path}" in str(caught.value)
    with pytest.raises(OptionError, match="cannot be read"):
        converted(source, tmp_path / "out", split_files={"train": str(tmp_path / "none.txt")})


def test_a_line_that_may_mean_two_images_is_refused(tmp_path: Path) -> None:
    document: Any = one_of_each("1", "0")  # the image 1 is 1.jpg, the image 2 is 0.jpg
    document["images"][0]["file_name"], document["images"][1]["file_name"] = "0.jpg", "1.jpg"
    source = written(tmp_path / "in", {"x.json": document}, ["0.jpg", "1.jpg"])
    with pytest.raises(OptionError) as caught:
        converted(source, tmp_path / "out", split_files=lists(tmp_path, train="1\n"))
    assert "line 1, '1', may mean image 1 ('0.jpg') of x.json or image 2 ('1.jpg')" in str(
        caught.value
    )
    converted(source, tmp_path / "out", split_files=lists(tmp_path, train="1.jpg\n"))
    assert [*boxes(tmp_path / "out")] == ["1"]


def test_a_picture_in_two_lists_is_refused(tmp_path: Path, source: Path) -> None:
    files = lists(tmp_path, train="a\n", val="a\nb\n")
    with pytest.raises(SourceError, match="picture 'images/a' is in split 'train' as well"):
        converted(source, tmp_path / "out", split_files=files)
