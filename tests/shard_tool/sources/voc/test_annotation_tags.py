"""Tags as tools spell them: flags, numbers, sizes, another case, twice."""

from __future__ import annotations

import pytest

from shard_tool.errors import AnnotationError
from shard_tool.sources.voc.annotation import Annotation, ObjectAnnotation, parse_annotation

PLACE = "a.xml"
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"


def parse(inner: str) -> Annotation:
    return parse_annotation(f"<annotation>{inner}</annotation>".encode(), place=PLACE)


def notes_of(annotation: Annotation) -> list[tuple[str, str, int | None]]:
    return [(note.code, note.detail, note.object_index) for note in annotation.notes]


def one(inner: str) -> tuple[ObjectAnnotation, list[tuple[str, str]]]:
    """The only object, and the notes, which are all about it."""
    annotation = parse(f"<object>{inner}</object>")
    (found,) = annotation.objects
    assert all(index == 0 for _, _, index in notes_of(annotation))
    return found, [(code, detail) for code, detail, _ in notes_of(annotation)]


def bad(inner: str) -> str:
    """The problem of the only object."""
    (found,) = parse(f"<object>{inner}</object>").bad_objects
    return str(found.problem)


# Flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["difficult", "truncated", "occluded"])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, True) for text in ("True", "true", "YES", "1.0", "01", "2", "0.87", "3e1")],
        *[(text, False) for text in ("False", "no", "0.0", "00", "-0")],
        *[(text, None) for text in ("Unspecified", "UNKNOWN", "None", "null")],
    ],
)
def test_other_value_of_a_flag_has_one_meaning_and_a_note(
    tag: str, text: str, value: bool | None
) -> None:
    found, notes = one(f"<name>cat</name>{BOX}<{tag}> {text}\n</{tag}>")
    assert getattr(found, tag) is value
    assert notes == [("flag-other-value", f"<{tag}> {text!r}")]


@pytest.mark.parametrize(("text", "value"), [("0", False), (" 1\n", True), ("", None), (" ", None)])
def test_plain_flag_makes_no_note(text: str, value: bool | None) -> None:
    found, notes = one(f"<name>cat</name>{BOX}<truncated>{text}</truncated>")
    assert (found.truncated, notes) == (value, [])


@pytest.mark.parametrize("text", ["maybe", "-1", "-0.5", "nan", "inf", "1,0", "0x1", "hard" * 99])
def test_flag_without_a_meaning_is_an_error_of_its_object(text: str) -> None:
    problem = f"{PLACE}: object 1 'cat': <difficult> is {text[:40]!r}, expected 0 or 1; "
    assert bad(f"<name>cat</name>{BOX}<difficult>{text}</difficult>").startswith(problem)


def test_flag_of_the_file_has_the_same_meanings() -> None:
    annotation = parse("<segmented>Unspecified</segmented>")
    assert annotation.segmented is None
    assert notes_of(annotation) == [("flag-other-value", "<segmented> 'Unspecified'", None)]
    with pytest.raises(AnnotationError, match="<segmented> is 'maybe', expected 0 or 1"):
        parse("<segmented>maybe</segmented>")


# Case -----------------------------------------------------------------------------------------


def test_tags_in_another_case_are_read_and_noted() -> None:
    box = BOX.replace("bndbox", "BndBox").replace("xmin", "xMin")
    found, notes = one(f"<Name>cat</Name>{box}<Difficult>1</Difficult><POSE>Left</POSE>")
    assert (found.name, found.corners, found.difficult, found.pose) == (
        *("cat", (1, 2, 3, 4)),
        *(True, "Left"),
    )
    assert sorted(notes) == [
        ("tag-other-case", f"<{tag}>") for tag in ("BndBox", "Difficult", "Name", "POSE", "xMin")
    ]


def test_tags_of_parts_and_sizes_in_another_case_are_read() -> None:
    part = f"<Part><Name>head</Name>{BOX}</Part>"
    found, notes = one(f"<name>cat</name>{BOX}{part}{part}")
    assert [item.name for item in found.parts or ()] == ["head", "head"]
    assert notes.count(("tag-other-case", "<Part>")) == 2
    annotation = parse("<Size><Width>5</Width><height>4</height></Size>")
    assert annotation.size_whd == (5, 4, None)


def test_root_in_another_case_is_read_and_noted() -> None:
    content = f"<Annotation><object><name>cat</name>{BOX}</object></Annotation>".encode()
    annotation = parse_annotation(content, place=PLACE)
    assert [item.name for item in annotation.objects] == ["cat"]
    assert notes_of(annotation) == [("tag-other-case", "<Annotation>", None)]


# Twice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "tag"),
    [
        (f"<name>cat</name><name> cat </name>{BOX}", "name"),
        (f"<name>cat</name><Name>cat</Name>{BOX}", "name"),
        (f"<name>cat</name>{BOX}{BOX.replace('>1<', '>1.0<')}", "bndbox"),
        (f"<name>cat</name>{BOX.replace('<xmin>', '<xmin>1</xmin><xmin>')}", "xmin"),
        (f"<name>cat</name>{BOX}<difficult>1</difficult><difficult>1</difficult>", "difficult"),
    ],
)
def test_tag_twice_counts_once_if_both_are_equal(inner: str, tag: str) -> None:
    found, notes = one(inner)
    assert (found.name, found.corners) == ("cat", (1, 2, 3, 4))
    assert ("tag-twice", f"<{tag}>") in notes


@pytest.mark.parametrize(
    ("inner", "where"),
    [
        (f"<name>cat</name><name>dog</name>{BOX}", "object 1: has two <name>"),
        (f"<name>cat</name><NAME>dog</NAME>{BOX}", "object 1: has two <name>"),
        (f"<name>cat</name>{BOX}{BOX.replace('>1<', '>0<')}", "object 1: has two <bndbox>"),
        (
            f"<name>cat</name>{BOX.replace('<xmin>', '<xmin>0</xmin><xmin>')}",
            "object 1 'cat': has two <xmin>",
        ),
        (
            f"<name>cat</name>{BOX}<part><name>head</name><name>foot</name>{BOX}</part>",
            "object 1 'cat': part 1: has two <name>",
        ),
    ],
)
def test_two_tags_that_differ_are_an_error_of_their_object(inner: str, where: str) -> None:
    assert bad(inner) == f"{PLACE}: {where} that differ"


def test_later_of_two_flags_counts() -> None:
    """Supervisely writes its default, and then the tag that somebody set."""
    flags = "<truncated>0</truncated><truncated>yes</truncated><pose>Left</pose><pose>Rear</pose>"
    found, notes = one(f"<name>cat</name>{BOX}{flags}")
    assert (found.truncated, found.pose) == (True, "Rear")
    assert notes == [
        ("tag-twice", "<truncated> '0', then 'yes'"),
        ("tag-twice", "<pose> 'Left', then 'Rear'"),
        ("flag-other-value", "<truncated> 'yes'"),
    ]


def test_two_sizes_must_agree() -> None:
    size = "<size><width>5</width><height>4</height></size>"
    assert parse(size * 2).size_whd == (5, 4, None)
    with pytest.raises(AnnotationError, match="has two <size> that differ"):
        parse(size + size.replace("5", "6"))
    assert parse("<folder>a</folder><folder>b</folder>").folder == "b"


# Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1 2", "1,5", "one", "9" * 400, "\u0663", "\u00b2", "<b>1</b>"])
def test_corner_that_is_no_number_is_an_error_of_its_object(text: str) -> None:
    problem = bad(f"<name>cat</name>{BOX.replace('>1<', f'>{text}<')}")
    assert problem.startswith(f"{PLACE}: object 1 'cat': <")
    assert "xmin" in problem


@pytest.mark.parametrize(("text", "value"), [("1.5", 1.5), ("+3", 3), ("-2", -2), ("1e2", 100)])
def test_corner_may_be_any_plain_number(text: str, value: float) -> None:
    found, _ = one("<name>cat</name>" + BOX.replace(">1<", f"> {text}\n<"))
    assert found.corners == (value, 2, 3, 4)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        ("5", "4", (5, 4)),
        ("5.0", "4", (5, 4)),
        *[(text, text, None) for text in ("0", "None", "0.0", "-5", "5.5", "\u0663", "9" * 400)],
        ("5", "0", None),
    ],
)
def test_size_is_positive_whole_numbers_or_unusable(
    width: str, height: str, size: tuple[int, int] | None
) -> None:
    tags = f"<width>{width}</width><height>{height}</height><depth>Unspecified</depth>"
    annotation = parse(f"<size>{tags}</size>")
    assert annotation.size_whd == (None if size is None else (*size, None))
    unusable = ("size-unusable", f"{width[:20]} x {height[:20]}", None)
    assert notes_of(annotation) == ([] if size else [unusable])
