"""Two ways to count pixels hide behind VOC's XML: what speaks for which, and what the user says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.convert.rules import Choices
from shard_tool.errors import BoxError, DataError
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.voc_tools import MAKERS, cvat
from tests.kit.datasets.wild import Item, boxes, counted, folder, picture, xml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kit.datasets.voc_tools import Maker

ASKED = (
    "add --boxes corners if the numbers count from zero, as labelImg, CVAT and Roboflow write "
    "them; or --boxes devkit if these boxes are mistakes, to be clipped"
)


def source(path: Path, *items: Item, size_wh: tuple[int, int] = (20, 10)) -> Path:
    """A picture for each object, in order: 0, 1 …"""
    files = {}
    for number, item in enumerate(items):
        files[f"{number}.jpg"] = picture(size_wh, shade=4000 * number)
        files[f"{number}.xml"] = xml(size_wh, item)
    return folder(path, files)


def chosen(**options: Any) -> Choices:
    return Choices(**options)


def found(path: Path) -> list[list[float]]:
    """The boxes of the pictures in order."""
    return [its[0][1] for its in boxes(path).values()]


# Which convention ---------------------------------------------------------------------------------


def test_vocs_classes_count_from_1_with_both_corners_inside(tmp_path: Path) -> None:
    its = source(tmp_path / "in", ("cat", (1, 1, 20, 10)), ("dog", (5, 3, 5, 4)))
    converted(its, tmp_path / "out")
    assert found(tmp_path / "out") == [[0.0, 0.0, 20.0, 10.0], [4.0, 2.0, 5.0, 4.0]]
    assert manifest_of(tmp_path / "out")["options"]["boxes"] == "devkit"
    assert counted(tmp_path / "out") == {}


def test_own_classes_are_corners_from_zero(tmp_path: Path) -> None:
    its = source(tmp_path / "in", ("ant", (1, 1, 20, 10)), ("bee", (0, 0, 5, 4)))
    converted(its, tmp_path / "out")
    assert found(tmp_path / "out") == [[1.0, 1.0, 20.0, 10.0], [0.0, 0.0, 5.0, 4.0]]
    assert manifest_of(tmp_path / "out")["options"]["boxes"] == "corners"


@pytest.mark.parametrize(("boxes_", "first"), [("devkit", 2.0), ("corners", 3.0)])
@pytest.mark.parametrize("name", ["cat", "ant"])
def test_the_user_says_it_whatever_the_classes_are(
    tmp_path: Path, name: str, boxes_: str, first: float
) -> None:
    its = source(tmp_path / "in", (name, (3, 3, 20, 10)))
    converted(its, tmp_path / "out", choices=chosen(boxes=boxes_))
    assert found(tmp_path / "out") == [[first, first, 20.0, 10.0]]
    assert manifest_of(tmp_path / "out")["options"]["boxes"] == boxes_


@pytest.mark.parametrize("box", [(0, 3, 9, 9), (3, 0, 9, 9), (0.0, 0.0, 20, 10), (-1, 2, 9, 9)])
@pytest.mark.parametrize("on_bad_record", ["fail", "skip"])
def test_a_0_among_vocs_classes_is_asked_about_and_never_skipped(
    tmp_path: Path, box: Any, on_bad_record: str
) -> None:
    """A set of zero-based boxes: those at no border would be shifted by a pixel without a word."""
    its = source(tmp_path / "in", ("cat", (3, 3, 20, 10)), ("dog", box), ("dog", (0, 1, 2, 3)))
    with pytest.raises(DataError) as caught:
        converted(its, tmp_path / "out", on_bad_record=on_bad_record)
    example = f"1.xml: dog {tuple(map(float, box))}"
    problem = f"2 of 3 boxes have a 0 or less for xmin or ymin (such as {example})"
    counts = "and VOC's devkit counts pixels from 1"
    assert str(caught.value) == f"{its}: {problem}, {counts}; {ASKED}"
    assert not (tmp_path / "out").exists()


def test_either_answer_to_a_0_is_taken_and_counted(tmp_path: Path) -> None:
    its = source(tmp_path / "in", ("cat", (3, 3, 20, 10)), ("dog", (0, 0, 20, 10)))
    converted(its, tmp_path / "corners", choices=chosen(boxes="corners"))
    assert found(tmp_path / "corners") == [[3.0, 3.0, 20.0, 10.0], [0.0, 0.0, 20.0, 10.0]]
    assert counted(tmp_path / "corners") == {}
    converted(its, tmp_path / "devkit", choices=chosen(boxes="devkit"))
    assert found(tmp_path / "devkit") == [[2.0, 2.0, 20.0, 10.0], [0.0, 0.0, 20.0, 10.0]]
    assert counted(tmp_path / "devkit") == {"box-clipped": 1}


def test_fractions_count_as_any_number_also_below_1(tmp_path: Path) -> None:
    its = source(tmp_path / "in", ("ant", (0.25, 0.5, 0.75, 9.5)), ("bee", (1.5, 1.25, 19.9, 10)))
    converted(its, tmp_path / "own")
    assert found(tmp_path / "own") == [[0.25, 0.5, 0.75, 9.5], [1.5, 1.25, 19.9, 10.0]]
    its = source(tmp_path / "voc_in", ("cat", (0.25, 0.5, 3.5, 9.5)), ("dog", (1.5, 1.25, 19, 10)))
    converted(its, tmp_path / "voc")
    assert found(tmp_path / "voc") == [[0.0, 0.0, 3.5, 9.5], [0.5, 0.25, 19.0, 10.0]]
    assert counted(tmp_path / "voc") == {"box-clipped": 1}


def test_two_sources_of_different_origin_are_asked_about_by_name(tmp_path: Path) -> None:
    """One counts from 1 and another from 0: no single answer suits both, so they convert apart."""
    one = source(tmp_path / "one", ("cat", (1, 1, 20, 10)))
    two = source(tmp_path / "two", ("cat", (0, 0, 20, 9)))
    for sources in ([one, two], [two, one]):
        names = [str(path) for path in sources]
        with pytest.raises(DataError) as caught:
            convert(ConvertOptions(source=names, dest=str(tmp_path / "out"), workers=1))
        assert str(caught.value).startswith(f"{two}: 1 of 1 boxes have a 0 or less")


# Boxes that fit in neither ------------------------------------------------------------------------

BAD: list[tuple[Any, str]] = [
    ((1, 1, 22, 10), "xmax 22 is outside width 20"),
    ((1, 1, 20, 12), "ymax 12 is outside height 10"),
    ((1, 1, 20.5, 12), "ymax 12 is outside height 10"),
    ((-2, 1, 20, 10), "xmin -2 is below 0"),
    ((1, -1.5, 20, 10), "ymin -1.5 is below 0"),
    ((9, 1, 8, 10), "xmin 9 lies right of xmax 8"),
    ((1, 7.4, 20, 7.1), "ymin 7.4 lies below ymax 7.1"),
    ((1, 5, 20, 5), "ymin 5 is ymax: the box is empty"),
    ((30, 1, 40, 10), "xmax 40 is outside width 20"),
    ((20, 1, 20.5, 10), "xmax 20.5 is outside width 20"),
    ((1, -9, 20, -3), "ymin -9 is below 0"),
]
"""(corners, what is wrong with them) where corners count from zero."""
NUM_TO_CLIP = 5
"""The first ones have something inside."""


@pytest.mark.parametrize(("box", "told"), BAD)
def test_bad_box_is_an_error_that_names_object_numbers_and_options(
    tmp_path: Path, box: Any, told: str
) -> None:
    its = source(tmp_path / "in", ("ant", (1, 1, 5, 5)), ("bee", box))
    with pytest.raises(BoxError) as caught:
        converted(its, tmp_path / "out")
    ways = "clip or drop" if (box, told) in BAD[:NUM_TO_CLIP] else "drop"
    assert str(caught.value) == (
        f"{its}/1.xml: object 1 'bee': {told}; correct the file, or convert with --bad-boxes {ways}"
        ", or with --on-bad-record skip"
    )


@pytest.mark.parametrize("convention", ["devkit", "corners"])
@pytest.mark.parametrize("by", [0.001, 0.3, 0.999, 1])
def test_inverted_by_any_amount_is_no_box_in_either_convention(
    tmp_path: Path, convention: str, by: float
) -> None:
    """The devkit's rule makes xmin 10.5, xmax 10.2 a box 0.7 wide: a mistake, and no object."""
    for number, box in enumerate([(10, 1, 10 - by, 5), (1, 9, 5, 9 - by)]):
        its = source(tmp_path / str(number), ("ant", box))
        for bad_boxes in ("fail", "clip"):
            with pytest.raises(
                BoxError, match=r"xmin 10 lies right of xmax|ymin 9 lies below ymax"
            ):
                converted(
                    its, tmp_path / "out", choices=chosen(boxes=convention, bad_boxes=bad_boxes)
                )


@pytest.mark.parametrize(
    ("convention", "box", "expected"),
    [
        ("corners", (1, 1, 21, 11), [1.0, 1.0, 20.0, 10.0]),
        ("corners", (-1, -0.5, 20, 10), [0.0, 0.0, 20.0, 10.0]),
        ("devkit", (1, 1, 21, 10.5), [0.0, 0.0, 20.0, 10.0]),
        ("devkit", (0, 0, 20, 10), [0.0, 0.0, 20.0, 10.0]),
    ],
)
def test_box_that_leaves_by_a_pixel_is_clipped_and_counted(
    tmp_path: Path, convention: str, box: Any, expected: list[float]
) -> None:
    its = source(tmp_path / "in", ("ant", box))
    converted(its, tmp_path / "out", choices=chosen(boxes=convention))
    assert found(tmp_path / "out") == [expected]
    assert counted(tmp_path / "out") == {"box-clipped": 1}
    assert not (tmp_path / "out/bad_records.jsonl").exists()


def test_clip_keeps_what_is_inside_and_lists_each(tmp_path: Path) -> None:
    its = source(tmp_path / "in", ("ant", (-5, 2, 30, 8)), ("ant", (4, 3, 9, 100)))
    converted(its, tmp_path / "out", choices=chosen(bad_boxes="clip"))
    assert found(tmp_path / "out") == [[0.0, 2.0, 20.0, 8.0], [4.0, 3.0, 9.0, 10.0]]
    assert counted(tmp_path / "out") == {"bad-box-clipped": 2}


@pytest.mark.parametrize("box", [(30, 1, 40, 10), (9, 1, 8, 10), (1, 5, 20, 5)])
def test_clip_leaves_boxes_of_which_nothing_is_inside_an_error(tmp_path: Path, box: Any) -> None:
    its = source(tmp_path / "in", ("ant", (1, 1, 5, 5)), ("ant", box))
    with pytest.raises(BoxError):
        converted(its, tmp_path / "out", choices=chosen(bad_boxes="clip"))


@pytest.mark.parametrize(("box", "told"), BAD)
@pytest.mark.parametrize(
    "options", [{"choices": Choices(bad_boxes="drop")}, {"on_bad_record": "skip"}]
)
def test_drop_leaves_out_the_object_keeps_the_others_and_lists_it(
    tmp_path: Path, box: Any, told: str, options: dict[str, Any]
) -> None:
    good, bad = ("ant", (1, 1, 5, 5)), ("bee", box)
    files = {"a.jpg": picture(), "a.xml": xml((20, 10), good, bad, good)}
    its = folder(tmp_path / "in", files)
    report = converted(its, tmp_path / "out", **options)
    assert boxes(tmp_path / "out")["a"] == [("ant", [1.0, 1.0, 5.0, 5.0])] * 2
    (line,) = (tmp_path / "out/bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line)] == list(report.bad_records)
    listed = json.loads(line)
    assert (listed["key"], listed["object"], listed["split"]) == ("a", 2, "train")
    assert listed["error"].startswith(f"{its}/a.xml: object 2 'bee': {told}")
    code = "bad-box-dropped" if "choices" in options else "bad-object-dropped"
    assert counted(tmp_path / "out") == {code: 1}
    assert manifest_of(tmp_path / "out")["num_bad_records"] == 0


def test_picture_whose_boxes_are_all_bad_is_no_background(tmp_path: Path) -> None:
    """It shows an object; with --bad-boxes drop it is an error, and skipped when asked."""
    its = source(tmp_path / "in", ("ant", (1, 1, 5, 5)), ("bee", (30, 1, 40, 10)))
    with pytest.raises(DataError) as caught:
        converted(its, tmp_path / "no", choices=chosen(bad_boxes="drop"))
    told = "none of its 1 objects can be read: object 1 'bee': "
    assert str(caught.value).startswith(f"{its}/1.xml: {told}")
    assert str(caught.value).endswith("; add --on-bad-record skip to leave it out")
    skip: dict[str, Any] = {"on_bad_record": "skip", "choices": chosen(bad_boxes="drop")}
    report = converted(its, tmp_path / "out", **skip)
    assert list(boxes(tmp_path / "out")) == ["0"]
    assert counted(tmp_path / "out") == {"bad-record-skipped": 1}
    (bad,) = report.bad_records
    assert "object" not in bad
    assert bad["error"].startswith(f"{its}/1.xml: {told}")


# What the user reads ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        (
            "ant",
            (),
            "boxes: corners (counted from 0, as labelImg, CVAT, Label Studio and Roboflow do), "
            "since the classes are not VOC's; of 1 boxes none have a 0, 1 have fractions",
        ),
        (
            "cat",
            (),
            "boxes: devkit (counted from 1 with both corners inside, as VOC's devkit does), since "
            "the classes are VOC's; of 1 boxes none have a 0, 1 have fractions",
        ),
        (
            "cat",
            ("--boxes", "corners"),
            "boxes: corners (counted from 0, as labelImg, CVAT, Label Studio and Roboflow do), as "
            "--boxes says; of 1 boxes none have a 0, 1 have fractions",
        ),
    ],
)
@pytest.mark.parametrize("mode", [(), ("--dry-run",)])
def test_convention_and_its_evidence_are_printed(
    tmp_path: Path,
    run_here: Callable[..., tuple[str | int | None, str, str]],
    name: str,
    arguments: tuple[str, ...],
    told: str,
    mode: tuple[str, ...],
) -> None:
    its = source(tmp_path / "in", (name, (1.5, 2, 5, 5)))
    status, stdout, _ = run_here("convert", its, tmp_path / "out", *arguments, *mode)
    assert status == 0
    assert told in stdout.splitlines()


# The tools ----------------------------------------------------------------------------------------

DRAWN: list[Item] = [("ant", (3, 2, 12, 9)), ("bee", (0, 0, 40, 30)), ("ant", (20, 10, 21, 11))]
TO_THE_PIXEL = ("cvat", "roboflow", "vott", "label_studio", "labelme2voc")


@pytest.mark.parametrize("tool", TO_THE_PIXEL)
@pytest.mark.parametrize("layout", ["{}", "{}|xml/", "train/{}", "JPEGImages/|Annotations/"])
def test_folder_of_a_tool_gives_the_boxes_that_were_drawn(
    tmp_path: Path, tool: str, layout: str
) -> None:
    """Without an option; in each layout, since all these tools leave it to the user."""
    images, _, annotations = layout.replace("{}", "").partition("|")
    annotations = annotations or images
    make: Maker = MAKERS[tool]
    files = {
        f"{images}a.jpg": picture((40, 30)),
        f"{annotations}a.xml": make("a.jpg", (40, 30), DRAWN),
    }
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    (its,) = boxes(tmp_path / "out").values()
    assert its == [(name, list(map(float, corners))) for name, corners in DRAWN]


@pytest.mark.parametrize("tool", TO_THE_PIXEL)
def test_tool_with_vocs_classes_is_asked_about_once_and_gives_what_was_drawn(
    tmp_path: Path, tool: str, run_here: Callable[..., tuple[str | int | None, str, str]]
) -> None:
    drawn: list[Item] = [("cat", corners) for _, corners in DRAWN]
    files = {"a.jpg": picture((40, 30)), "a.xml": MAKERS[tool]("a.jpg", (40, 30), drawn)}
    its = folder(tmp_path / "in", files)
    status, _, stderr = run_here("convert", its, tmp_path / "out")
    assert status == 1
    assert "add --boxes corners if the numbers count from zero" in " ".join(stderr.split())
    assert run_here("convert", its, tmp_path / "out", "--boxes", "corners")[0] == 0
    assert boxes(tmp_path / "out")["a"] == [
        (name, list(map(float, corners))) for name, corners in drawn
    ]


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        # labelImg raises a 0 to 1 and cuts fractions off: what it wrote is what there is.
        ("labelimg", [[3, 2, 12, 9], [1, 1, 40, 30], [20, 10, 21, 11]]),
        ("rolabelimg", [[3, 2, 12, 9], [1, 1, 40, 30], [20, 10, 21, 11]]),
    ],
)
def test_labelimg_gives_the_numbers_that_it_wrote(
    tmp_path: Path, tool: str, expected: list[list[float]]
) -> None:
    files = {"a.jpg": picture((40, 30)), "a.xml": MAKERS[tool]("a.jpg", (40, 30), DRAWN)}
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    assert [box for _, box in boxes(tmp_path / "out")["a"]] == expected


def test_supervisely_counts_from_0_with_both_corners_inside(tmp_path: Path) -> None:
    """Neither convention is its own, and no number tells: the far corner lacks a pixel."""
    files = {
        "a.jpg": picture((40, 30)),
        "a.xml": MAKERS["supervisely"]("a.jpg", (40, 30), DRAWN[:2]),
    }
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    assert [box for _, box in boxes(tmp_path / "out")["a"]] == [[3, 2, 11, 8], [0, 0, 39, 29]]


def test_supervision_with_masks_counts_from_1(tmp_path: Path) -> None:
    """It adds 1 to both corners: --boxes devkit gives the near one back, the far one is 1 more."""
    files = {
        "a.jpg": picture((40, 30)),
        "a.xml": MAKERS["supervision_polygons"]("a.jpg", (40, 30), DRAWN[:2]),
    }
    source_ = folder(tmp_path / "in", files)
    converted(source_, tmp_path / "out", choices=chosen(boxes="devkit"))
    assert [box for _, box in boxes(tmp_path / "out")["a"]] == [[3, 2, 13, 10], [0, 0, 40, 30]]
    assert counted(tmp_path / "out")["box-clipped"] == 1


@pytest.mark.parametrize(
    ("degrees", "hull"), [(0, [10, 10, 30, 14]), (90, [18, 2, 22, 22]), (180, [10, 10, 30, 14])]
)
def test_rotated_boxes_of_cvat_become_their_hulls_and_are_counted(
    tmp_path: Path, degrees: float, hull: list[float]
) -> None:
    annotation = cvat("a.jpg", (40, 30), [("ant", (10, 10, 30, 14))], degrees)
    converted(
        folder(tmp_path / "in", {"a.jpg": picture((40, 30)), "a.xml": annotation}), tmp_path / "out"
    )
    assert boxes(tmp_path / "out")["a"][0][1] == pytest.approx(hull)
    assert counted(tmp_path / "out") == ({"rotated-box": 1} if degrees else {})
