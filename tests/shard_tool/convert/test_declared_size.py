"""Annotations that say another size than their picture has: boxes of another resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert.rules import Choices
from shard_tool.errors import AnnotationError
from tests.kit.datasets.converted import converted, manifest_of, samples_of
from tests.kit.datasets.wild import Item, Size, boxes, counted, documents, folder, picture, xml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INSIDE: Item = ("ant", (2, 4, 10, 8))
"""Inside a picture of 20 x 10 px, whatever size its annotation says."""
SCALE = "--size-mismatch scale (boxes are of the declared size) or ignore (of the picture)"
IGNORE = "--size-mismatch ignore (boxes are of the picture's size)"


def source(tmp_path: Path, declared: Size | None, *items: Item, size_wh: Size = (20, 10)) -> Path:
    files = {"a.jpg": picture(size_wh), "a.xml": xml(declared, *(items or (INSIDE,)))}
    files |= {"b.jpg": picture((20, 10), shade=99), "b.xml": xml((20, 10), INSIDE)}
    return folder(tmp_path / "in", files)


def mismatch(choice: str) -> Choices:
    options: Any = {"size_mismatch": choice}
    return Choices(**options)


@pytest.mark.parametrize(
    ("declared", "way"),
    [
        *[((40, 20), SCALE), ((10, 5), SCALE), ((200, 100), SCALE), ((41, 20), SCALE)],
        *[((19, 10), SCALE), ((20, 11), SCALE)],
        *[((10, 20), IGNORE), ((40, 40), IGNORE), ((20, 20), IGNORE), ((640, 480), IGNORE)],
    ],
)
def test_box_that_happens_to_fit_is_refused_all_the_same_with_the_ways_out(
    tmp_path: Path, declared: Size, way: str
) -> None:
    its = source(tmp_path, declared)
    with pytest.raises(AnnotationError) as caught:
        converted(its, tmp_path / "out")
    told = f"says {declared[0]} x {declared[1]} px, its picture has 20 x 10"
    assert str(caught.value) == f"{its}/a.xml: {told}; add {way}"
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize(
    ("declared", "box", "expected"),
    [
        ((40, 20), (4, 8, 40, 20), [2.0, 4.0, 20.0, 10.0]),
        ((10, 5), (1, 2, 10, 5), [2.0, 4.0, 20.0, 10.0]),
        ((200, 100), (15, 25, 200, 100), [1.5, 2.5, 20.0, 10.0]),
        ((41, 20), (4.1, 8, 41, 20), [2.0, 4.0, 20.0, 10.0]),
    ],
)
def test_scale_brings_boxes_from_the_declared_size_to_the_pictures(
    tmp_path: Path, declared: Size, box: Any, expected: list[float]
) -> None:
    converted(source(tmp_path, declared, ("ant", box)), tmp_path / "out", choices=mismatch("scale"))
    (found,) = boxes(tmp_path / "out")["a"]
    assert found[1] == pytest.approx(expected)
    assert (documents(tmp_path / "out")["a"]["width"], counted(tmp_path / "out")) == (
        20,
        {"size-scaled": 1},
    )
    assert boxes(tmp_path / "out")["b"] == [("ant", [2.0, 4.0, 10.0, 8.0])]
    assert manifest_of(tmp_path / "out")["options"]["size_mismatch"] == "scale"


def test_scale_works_with_the_devkits_counting_from_1(tmp_path: Path) -> None:
    """The near corner moves before it is scaled: pixel 1 of the declared size begins at 0."""
    files = {"a.jpg": picture(), "a.xml": xml((40, 20), ("dog", (1, 3, 40, 20)))}
    files |= {"b.jpg": picture(shade=9), "b.xml": xml((20, 10), ("cat", (1, 1, 20, 10)))}
    converted(folder(tmp_path / "in", files), tmp_path / "out", choices=mismatch("scale"))
    assert boxes(tmp_path / "out")["a"] == [("dog", [0.0, 1.0, 20.0, 10.0])]


@pytest.mark.parametrize("declared", [(10, 20), (40, 40), (40, 24)])
def test_scale_refuses_another_aspect(tmp_path: Path, declared: Size) -> None:
    its = source(tmp_path, declared)
    with pytest.raises(AnnotationError) as caught:
        converted(its, tmp_path / "out", choices=mismatch("scale"))
    told = f"says {declared[0]} x {declared[1]} px, its picture has 20 x 10: another aspect"
    assert str(caught.value).startswith(f"{its}/a.xml: {told}, which scaling does not mend")


@pytest.mark.parametrize("declared", [(40, 20), (10, 20), (1, 1)])
def test_ignore_takes_boxes_as_they_are(tmp_path: Path, declared: Size) -> None:
    converted(source(tmp_path, declared), tmp_path / "out", choices=mismatch("ignore"))
    assert boxes(tmp_path / "out")["a"] == [("ant", [2.0, 4.0, 10.0, 8.0])]
    document = documents(tmp_path / "out")["a"]
    assert (document["width"], document["height"]) == (20, 10)
    assert counted(tmp_path / "out") == {"size-ignored": 1}


@pytest.mark.parametrize(
    ("declared", "more"),
    [(None, {}), ((0, 0), {"size-unusable": 1}), ((0, 10), {"size-unusable": 1})],
)
@pytest.mark.parametrize("choice", ["fail", "scale", "ignore"])
def test_size_that_is_not_said_or_0_counts_as_absent(
    tmp_path: Path, declared: Size | None, more: dict[str, int], choice: str
) -> None:
    converted(source(tmp_path, declared), tmp_path / "out", choices=mismatch(choice))
    assert boxes(tmp_path / "out")["a"] == [("ant", [2.0, 4.0, 10.0, 8.0])]
    assert counted(tmp_path / "out") == {"size-absent": 1, **more}


def test_boxes_are_checked_against_the_picture_and_not_against_what_is_declared(
    tmp_path: Path,
) -> None:
    """Fits into 40 x 20, which no pixel has: refused as it is, clipped or dropped as boxes are."""
    its = source(tmp_path, None, INSIDE, ("ant", (2, 4, 30, 8)))
    with pytest.raises(
        AnnotationError, match=r"a.xml: object 2 'ant': xmax 30 is outside width 20"
    ):
        converted(its, tmp_path / "out")


def test_another_size_without_objects_changes_nothing(tmp_path: Path) -> None:
    files = {"a.jpg": picture(), "a.xml": xml((640, 480))}
    files |= {"b.jpg": picture(shade=9), "b.xml": xml((20, 10), INSIDE)}
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    document = documents(tmp_path / "out")["a"]
    assert (document["width"], document["height"], document["objects"]) == (20, 10, [])


def test_skipping_leaves_out_the_record_and_says_why(tmp_path: Path) -> None:
    report = converted(source(tmp_path, (40, 20)), tmp_path / "out", on_bad_record="skip")
    assert list(samples_of(tmp_path / "out", "train")) == ["b"]
    (bad,) = report.bad_records
    told = f"{tmp_path}/in/a.xml: says 40 x 20 px, its picture has 20 x 10"
    assert bad == {"split": "train", "key": "a", "error": told}
    assert counted(tmp_path / "out") == {"bad-record-skipped": 1}


@pytest.mark.parametrize("choice", ["scale", "ignore"])
def test_command_line_asks_once_and_then_does_as_told(
    tmp_path: Path, run_here: Callable[..., tuple[str | int | None, str, str]], choice: str
) -> None:
    its = source(tmp_path, (40, 20))
    status, _, stderr = run_here("convert", its, tmp_path / "out")
    assert status == 1
    assert SCALE in " ".join(stderr.split())
    status, stdout, _ = run_here("convert", its, tmp_path / "out", "--dry-run")
    assert status == 0
    assert f"1 x {its}/a.xml: says 40 x 20 px, its picture has 20 x 10; add {SCALE}" in stdout
    status, _, stderr = run_here("convert", its, tmp_path / "out", "--size-mismatch", choice)
    assert status == 0
    told = "such as a.xml: says 40 x 20 px, its picture has 20 x 10)"
    assert f"(--size-mismatch {choice}) ({told}" in " ".join(stderr.split())
