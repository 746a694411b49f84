"""Objects that are written oddly or badly: read where the meaning is certain, else said."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions
from shard_tool.convert.look import look
from shard_tool.convert.rules import Choices
from shard_tool.errors import AnnotationError, DataError, SourceError
from tests.kit.datasets.converted import converted, files_of, manifest_of, samples_of
from tests.kit.datasets.tars import info
from tests.kit.datasets.wild import (
    ANT,
    boxes,
    counted,
    documents,
    folder,
    pairs,
    picture,
    xml,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
OTHER = BOX.replace("<xmin>1", "<xmin>3")
BEE = f"<object><name>bee</name>{BOX}</object>"
READ = [("bee", [1.0, 2.0, 9.0, 8.0])]


def source(tmp_path: Path, *objects: str, **files: bytes) -> Path:
    """The picture a with these texts in its annotation, and z with one good object."""
    text = "<annotation><size><width>20</width><height>10</height></size>"
    its: dict[str, bytes | str] = {"a.jpg": picture(), "z.jpg": picture(shade=9000)}
    its |= {"a.xml": f"{text}{''.join(objects)}</annotation>", "z.xml": xml((20, 10), ANT)}
    return folder(tmp_path / "in", its | files)


def refusal(its: Path, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(AnnotationError) as caught:
        converted(its, tmp_path / "refused", **options)
    return str(caught.value).removeprefix(f"{its}/a.xml")


# Certain ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (BEE.replace("object>", "Object>"), {"tag-other-case": 1}),
        (BEE.replace("object>", "OBJECT>"), {"tag-other-case": 1}),
        (f"<objects>{BEE}</objects>", {"wrapper": 1}),
        (f"<Objects>{BEE}</Objects>", {"wrapper": 1, "tag-other-case": 1}),
        (BEE.replace("name>", "Name>"), {"tag-other-case": 1}),
        (BEE.replace("bndbox>", "BndBox>"), {"tag-other-case": 1}),
        (BEE.replace(BOX, BOX + BOX), {"tag-twice": 1}),
        (BEE.replace("</name>", "</name><name>bee</name>"), {"tag-twice": 1}),
        (BEE.replace("<xmax>9", "<xmax>9.0"), {}),
    ],
)
def test_object_that_is_written_oddly_is_read_and_counted(
    tmp_path: Path, text: str, codes: dict[str, int]
) -> None:
    converted(source(tmp_path, text), tmp_path / "out")
    assert boxes(tmp_path / "out")["a"] == READ
    assert counted(tmp_path / "out") == codes


@pytest.mark.parametrize(
    ("tag", "expected", "codes"),
    [
        ("<Difficult>1</Difficult>", True, {"tag-other-case": 1}),
        ("<difficult>True</difficult>", True, {"flag-other-value": 1}),
        ("<difficult>0.0</difficult>", False, {"flag-other-value": 1}),
        ("<difficult>0.87</difficult>", True, {"flag-other-value": 1}),
        ("<difficult>2</difficult>", True, {"flag-other-value": 1}),
        ("<difficult>Unspecified</difficult>", None, {"flag-other-value": 1}),
        ("<difficult></difficult>", None, {}),
        ("", None, {}),
        ("<difficult>0</difficult><difficult>1</difficult>", True, {"tag-twice": 1}),
    ],
)
def test_difficult_has_one_meaning_however_it_is_written(
    tmp_path: Path, tag: str, expected: bool | None, codes: dict[str, int]
) -> None:
    converted(source(tmp_path, BEE.replace("</object>", f"{tag}</object>")), tmp_path / "out")
    assert documents(tmp_path / "out")["a"]["objects"][0]["difficult"] is expected
    assert counted(tmp_path / "out") == codes
    difficult = manifest_of(tmp_path / "out")["splits"]["train"]["difficult"]
    assert difficult == ({"bee": 1} if expected else {})


@pytest.mark.parametrize(
    ("encoding", "declared", "name", "codes"),
    [
        ("latin-1", "", "Karp é", {"encoding-guessed": 1}),
        ("gb18030", "", "蚂蚁", {"encoding-guessed": 1}),
        ("gb18030", "UTF-8", "蚂蚁", {"encoding-guessed": 1}),
        ("gbk", "gb2312", "蚂蚁", {}),
        ("utf-16", "utf-16", "蚂蚁", {}),
        ("utf-8-sig", "", "Käfer", {}),
    ],
)
def test_names_survive_any_encoding(
    tmp_path: Path, encoding: str, declared: str, name: str, codes: dict[str, int]
) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    text = f"{head}<annotation>{BEE.replace('bee', name)}</annotation>"
    files = {"a.jpg": picture(), "a.xml": text.encode(encoding)}
    converted(folder(tmp_path / "in", files), tmp_path / "out")
    assert boxes(tmp_path / "out")["a"] == [(name, READ[0][1])]
    assert counted(tmp_path / "out") == {**codes, "size-absent": 1}


def test_plain_doctype_is_read_and_a_dtd_is_refused(tmp_path: Path) -> None:
    text = f"<!DOCTYPE annotation>\n<annotation>{BEE}</annotation>"
    its = folder(tmp_path / "in", {"a.jpg": picture(), "a.xml": text})
    converted(its, tmp_path / "out")
    assert boxes(tmp_path / "out")["a"] == READ
    assert counted(tmp_path / "out") == {"doctype": 1, "size-absent": 1}
    entity = '<!DOCTYPE annotation [<!ENTITY e "x">]>'
    folder(tmp_path / "in", {"a.xml": text.replace("<!DOCTYPE annotation>", entity)})
    assert refusal(its, tmp_path).startswith(": refused for safety: ")


# Uncertain ----------------------------------------------------------------------------------------

BAD = [
    (BEE.replace(BOX, BOX + OTHER), ": object 2: has two <bndbox> that differ"),
    (BEE.replace("</name>", "</name><name>wasp</name>"), ": object 2: has two <name> that differ"),
    (BEE.replace(BOX, ""), ": object 2 'bee': has no <bndbox> (nor a <point>)"),
    (BEE.replace("<name>bee</name>", ""), ": object 2 has no <name>"),
    (BEE.replace("<xmax>9", "<xmax>nine"), ": object 2 'bee': <xmax> is 'nine', expected a number"),
    (BEE.replace("<xmax>9", "<xmax>nan"), ": object 2 'bee': <xmax> is 'nan', expected a number"),
    (
        BEE.replace("</object>", "<difficult>maybe</difficult></object>"),
        ": object 2 'bee': <difficult> is",
    ),
    (BEE.replace("<xmin>1", "<xmin>19.5"), ": object 2 'bee': xmin 19.5 lies right of xmax 9"),
]
GOOD = BEE.replace("bee", "ant")


@pytest.mark.parametrize(("bad", "told"), BAD)
def test_object_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, bad: str, told: str
) -> None:
    its = source(tmp_path, GOOD, bad, GOOD)
    assert refusal(its, tmp_path).startswith(told)


@pytest.mark.parametrize(("bad", "told"), BAD)
def test_skipping_drops_the_object_keeps_the_others_and_lists_it(
    tmp_path: Path, bad: str, told: str
) -> None:
    its = source(tmp_path, GOOD, bad, GOOD)
    report = converted(its, tmp_path / "out", on_bad_record="skip")
    assert boxes(tmp_path / "out")["a"] == [("ant", READ[0][1])] * 2
    assert counted(tmp_path / "out") == {"bad-object-dropped": 1}
    (listed,) = report.bad_records
    assert (listed["split"], listed["key"], listed["object"]) == ("train", "a", 2)
    assert listed["error"].startswith(f"{its}/a.xml{told}")
    assert manifest_of(tmp_path / "out")["num_bad_records"] == 0
    assert json.loads((tmp_path / "out/bad_records.jsonl").read_text()) == listed


@pytest.mark.parametrize(("bad", "told"), BAD)
def test_record_of_bad_objects_alone_is_skipped_as_one_and_says_why(
    tmp_path: Path, bad: str, told: str
) -> None:
    """It is no background; its objects are not counted a second time."""
    its = source(tmp_path, bad.replace("bee", "bee"), bad)
    report = converted(its, tmp_path / "out", on_bad_record="skip")
    assert list(boxes(tmp_path / "out")) == ["z"]
    assert counted(tmp_path / "out") == {"bad-record-skipped": 1}
    (listed,) = report.bad_records
    assert "object" not in listed
    reason = told.removeprefix(": ").replace("object 2", "object 1")
    assert listed["error"].startswith(f"{its}/a.xml: none of its 2 objects can be read: {reason}")
    assert manifest_of(tmp_path / "out")["num_bad_records"] == 1


@pytest.mark.parametrize(
    "text",
    [
        f"<items>{BEE}</items>",
        BEE.replace("object>", "item>"),
        f"<region><name>bee</name>{BOX}</region>",
        "<object/>",
    ],
)
def test_annotation_with_names_or_boxes_and_no_object_is_no_background(
    tmp_path: Path, text: str
) -> None:
    message = refusal(source(tmp_path, text), tmp_path)
    assert "no object was found, though the file has" in message or "has no <name>" in message


def test_objects_inside_something_else_are_counted_as_left_out(tmp_path: Path) -> None:
    converted(source(tmp_path, BEE, f"<old>{BEE}</old>"), tmp_path / "out")
    assert boxes(tmp_path / "out")["a"] == READ
    assert counted(tmp_path / "out") == {"object-elsewhere": 1}


def test_numbers_of_lists_follow_the_objects_that_stay(tmp_path: Path) -> None:
    """Layout: the list names object 3; when object 1 is dropped, it is the second."""
    bad = GOOD.replace("<xmin>1", "<xmin>99")
    files: dict[str, bytes | str] = {
        "JPEGImages/a.jpg": picture(),
        "Annotations/a.xml": f"<annotation>{bad}{GOOD}{BEE}</annotation>",
        "ImageSets/Layout/train.txt": "a 3\na 1\n",
    }
    its = folder(tmp_path / "in", files)
    converted(its, tmp_path / "out", task="layout", on_bad_record="skip")
    document = documents(tmp_path / "out")["a"]
    assert [item["name"] for item in document["objects"]] == ["ant", "bee"]
    assert document["listed_objects"] == [2]


# Archives with members twice ----------------------------------------------------------------------


def packed(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            tar.addfile(info(f"set/{name}", len(content)), io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.xml"])
def test_members_twice_are_taken_once_and_counted(tmp_path: Path, name: str) -> None:
    """A real re-packed archive had 30."""
    members = pairs("a", "b")
    path = packed(
        tmp_path / "in.tar", [*members.items(), (name, members[name]), (name, members[name])]
    )
    converted(path, tmp_path / "out")
    assert counted(tmp_path / "out") == {"member-twice": 2}
    assert list(boxes(tmp_path / "out")) == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jpg", "a.xml"])
@pytest.mark.parametrize("is_longer", [True, False])
def test_members_of_one_name_that_differ_are_an_error(
    tmp_path: Path, name: str, is_longer: bool
) -> None:
    """No rule says which counts: tar takes the later one, people mean either."""
    members = pairs("a", "b")
    other = members[name] + b" " if is_longer else members[name][:-1] + b"?"
    path = packed(tmp_path / "in.tar", [*members.items(), (name, other)])
    for on_bad_record in ("fail", "skip"):
        with pytest.raises(SourceError) as caught:
            converted(path, tmp_path / "out", on_bad_record=on_bad_record)
        told = "is in the archive twice, with other bytes; pack the archive again without one"
        assert str(caught.value) == f"{path}:set/{name}: {told}"


# What the user reads ------------------------------------------------------------------------------


def bad_tree(tmp_path: Path) -> Path:
    """One of each: an odd object, a bad object, a bad record, a bare picture, lonely XML."""
    its = source(tmp_path, BEE.replace("object>", "Object>"), GOOD.replace("<xmin>1", "<xmin>99"))
    more: dict[str, bytes | str] = {"b.jpg": picture(shade=77), "b.xml": "<annotation>"}
    return folder(its, more | {"c.jpg": picture(shade=7777), "d.xml": xml((20, 10), ANT)})


MET = {
    "annotation-without-picture": 1,
    "bad-object-dropped": 1,
    "bad-record-skipped": 1,
    "tag-other-case": 1,
    "unlabelled": 1,
}
LINES = [
    "annotation-without-picture 1: an annotation has no picture; left out (such as d.xml)",
    "bad-object-dropped 1: a bad object was dropped (--on-bad-record skip) (such as a.xml: object "
    "2 'ant': xmin 99 lies right of xmax 9)",
    "bad-record-skipped 1: a bad record was skipped (--on-bad-record skip) (such as b.xml: not "
    "well-formed XML: no element found: line 1, column 12)",
    "tag-other-case 1: a tag in another case was read as the tag (such as a.xml: <Object>)",
    "unlabelled 1: a picture has no annotation (--unlabelled background takes it) or, for "
    "segmentation, no mask; left out (such as c.jpg)",
]


def test_report_is_the_same_in_text_json_and_the_manifest(
    tmp_path: Path, run_here: Callable[..., tuple[str | int | None, str, str]]
) -> None:
    its = bad_tree(tmp_path)
    skip = ("--on-bad-record", "skip")
    status, _, stderr = run_here("convert", its, tmp_path / "text", *skip)
    assert status == 0
    lines = [line for line in stderr.splitlines() if "such as" in line]
    assert lines == LINES
    status, stdout, _ = run_here("convert", its, tmp_path / "json", *skip, "--format", "json")
    document = json.loads(stdout)
    assert {code: found["count"] for code, found in document["report"].items()} == MET
    assert counted(tmp_path / "text") == counted(tmp_path / "json") == MET
    assert document["report"] == manifest_of(tmp_path / "json")["report"]
    assert document["num_bad_records"] == 1


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dry_run_and_any_number_of_workers_count_the_same(tmp_path: Path, workers: int) -> None:
    its = bad_tree(tmp_path)
    skip: dict[str, Any] = {"on_bad_record": "skip", "workers": workers}
    found = look(ConvertOptions(source=str(its), dest=str(tmp_path / "out"), **skip))
    converted(its, tmp_path / "out", shard_bytes=1, **skip)
    assert counted(tmp_path / "out") == MET
    met = {code: its.count for code, its in found.report.codes.items()}
    assert met == {code: count for code, count in MET.items() if code != "bad-record-skipped"}
    assert (found.num_bad, [problem.count for problem in found.problems.values()]) == (1, [1])


def test_report_does_not_grow_when_a_conversion_is_repeated(tmp_path: Path) -> None:
    its = bad_tree(tmp_path)
    converted(its, tmp_path / "out", on_bad_record="skip", shard_bytes=1)
    before = files_of(tmp_path / "out")
    converted(its, tmp_path / "out", on_bad_record="skip", shard_bytes=1, on_existing="resume")
    assert files_of(tmp_path / "out") == before
    assert counted(tmp_path / "out") == MET


def test_most_bad_records_count_records_and_not_objects(tmp_path: Path) -> None:
    its = bad_tree(tmp_path)
    converted(its, tmp_path / "one", on_bad_record="skip", max_bad_records=1)
    with pytest.raises(DataError, match="1 bad records exceed --max-bad-records 0"):
        converted(its, tmp_path / "none", on_bad_record="skip", max_bad_records=0)


STRICT: list[tuple[str, tuple[str, ...]]] = [
    ("record", ("--on-bad-record", "skip")),
    ("object", ("--on-bad-record", "skip")),
    ("box", ("--bad-boxes", "drop")),
    ("class", ("--classes", "ant", "--other-classes", "drop")),
    ("bare", ()),
    ("lonely", ()),
    ("elsewhere", ()),
]


@pytest.mark.parametrize(("what", "options"), STRICT)
def test_strict_exits_with_3_where_anything_was_left_out(
    tmp_path: Path,
    run_here: Callable[..., tuple[str | int | None, str, str]],
    what: str,
    options: tuple[str, ...],
) -> None:
    outside = GOOD.replace("<xmax>9", "<xmax>99")
    objects = {
        "record": ["<object/>"],
        "object": [GOOD, outside],
        "box": [GOOD, outside],
        "class": [GOOD, BEE],
        "elsewhere": [GOOD, f"<old>{GOOD}</old>"],
    }
    files = {"bare": {"c.jpg": picture(shade=5)}, "lonely": {"d.xml": xml((20, 10), ANT)}}
    its = source(tmp_path, *objects.get(what, [GOOD]), **files.get(what, {}))
    assert run_here("convert", its, tmp_path / "a", *options)[0] == 0
    assert run_here("convert", its, tmp_path / "b", *options, "--strict")[0] == 3
    assert samples_of(tmp_path / "a", "train") == samples_of(tmp_path / "b", "train")


def test_strict_exits_with_0_where_all_is_there(
    tmp_path: Path, run_here: Callable[..., tuple[str | int | None, str, str]]
) -> None:
    """Odd spelling and clipping by a pixel leave nothing out."""
    clipped = GOOD.replace("<xmax>9", "<xmax>20.5")
    its = source(tmp_path, BEE.replace("object>", "Object>"), clipped)
    assert run_here("convert", its, tmp_path / "out", "--strict")[0] == 0
    assert counted(tmp_path / "out") == {"tag-other-case": 1, "box-clipped": 1}


def test_clip_and_drop_are_in_the_manifest(tmp_path: Path) -> None:
    its = source(tmp_path, GOOD, GOOD.replace("<xmax>9", "<xmax>99"))
    for choice in ("clip", "drop"):
        options: Any = {"bad_boxes": choice}
        converted(its, tmp_path / choice, choices=Choices(**options))
        assert manifest_of(tmp_path / choice)["options"]["bad_boxes"] == choice
