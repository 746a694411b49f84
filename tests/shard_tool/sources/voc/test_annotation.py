"""Annotation files as written: every field, every oddity, every refusal in full."""

from __future__ import annotations

import pytest

from shard_tool.errors import AnnotationError, SourceError
from shard_tool.sources.boxes import DEVKIT, box_of
from shard_tool.sources.voc.annotation import (
    Annotation,
    ImageSource,
    ObjectAnnotation,
    Owner,
    PartAnnotation,
    parse_annotation,
)
from shard_tool.sources.voc.imagesets import parse_ids
from tests.kit.datasets.annotations import found, thing

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
CAT = f"<object><name>cat</name>{BOX}</object>"


def parse(text: str | bytes) -> Annotation:
    content = text if isinstance(text, bytes) else text.encode()
    return parse_annotation(content, place="000005.xml")


def parse_object(inner: str) -> ObjectAnnotation:
    annotation = parse(f"<annotation><object>{inner}</object></annotation>")
    for bad in annotation.bad_objects:
        raise bad.problem
    (found,) = annotation.objects
    return found


# Every field ----------------------------------------------------------------------------------


def test_every_field_of_a_2007_file_is_read() -> None:
    content = """<annotation>
        <folder>VOC2007</folder>
        <filename>000005.jpg</filename>
        <source>
            <database>The VOC2007 Database</database>
            <annotation>PASCAL VOC2007</annotation>
            <image>flickr</image>
            <flickrid>325991873</flickrid>
        </source>
        <owner><flickrid>archintent louisville</flickrid><name>?</name></owner>
        <size><width>500</width><height>375</height><depth>3</depth></size>
        <segmented>0</segmented>
        <object>
            <name>chair</name>
            <pose>Rear</pose>
            <truncated>0</truncated>
            <difficult>1</difficult>
            <bndbox><xmin>263</xmin><ymin>211</ymin><xmax>324</xmax><ymax>339</ymax></bndbox>
        </object>
    </annotation>"""
    assert parse(content) == found(
        thing("chair", (263, 211, 324, 339), pose="Rear", truncated=False, difficult=True),
        folder="VOC2007",
        filename="000005.jpg",
        source=ImageSource(
            database="The VOC2007 Database",
            annotation="PASCAL VOC2007",
            image="flickr",
            flickrid="325991873",
        ),
        owner=Owner(flickrid="archintent louisville", name="?"),
        size_whd=(500, 375, 3),
        segmented=False,
    )


def test_every_field_of_a_later_object_is_read() -> None:
    inner = f"""<name>person</name><pose>Frontal</pose><truncated>1</truncated>
        <occluded>1</occluded><difficult>0</difficult>{BOX}
        <part><name>head</name>{BOX}</part>
        <part><name>foot</name>{BOX.replace("<xmax>3", "<xmax>9")}</part>
        <actions><walking>1</walking><other>0</other></actions>
        <point><x>2</x><y>3</y></point>"""
    head = PartAnnotation(name="head", corners=(1, 2, 3, 4))
    foot = PartAnnotation(name="foot", corners=(1, 2, 9, 4))
    assert parse_object(inner) == ObjectAnnotation(
        index=0,
        name="person",
        corners=(1, 2, 3, 4),
        pose="Frontal",
        truncated=True,
        occluded=True,
        difficult=False,
        parts=(head, foot),
        actions={"walking": True, "other": False},
        point=(2, 3),
    )


def test_absent_and_empty_tags_stay_none() -> None:
    assert parse("<annotation/>") == found()
    empty = "<annotation><folder/><source/><owner/><segmented> </segmented></annotation>"
    nothing = {"database": None, "annotation": None, "image": None, "flickrid": None}
    assert parse(empty) == found(
        source=ImageSource(**nothing), owner=Owner(flickrid=None, name=None)
    )
    assert parse_object(f"<name>cat</name>{BOX}<pose/><difficult/>") == thing("cat", (1, 2, 3, 4))


# Oddities -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inner",
    [
        pytest.param(f"<name>cat</name>{BOX}", id="usual"),
        pytest.param(f"{BOX}<name>cat</name>", id="box first"),
        pytest.param(f"<name>\r\n\tcat </name>\r\n{BOX}\r\n", id="blanks around values"),
        pytest.param(
            "<name>cat</name><bndbox><xmax>3</xmax><xmin>1</xmin><ymax>4</ymax><ymin>2</ymin>"
            "</bndbox>",
            id="xmax first",
        ),
        pytest.param(f"<!-- a dog? --><name>cat</name>{BOX}<!-- no -->", id="comments"),
        pytest.param(
            BOX.replace("<ymin>2<", "<ymin>2.0<") + "<name>cat</name><shape>odd</shape>",
            id="decimal points and unknown tags",
        ),
    ],
)
def test_order_and_trimmings_of_tags_do_not_matter(inner: str) -> None:
    assert parse_object(inner) == thing("cat", (1, 2, 3, 4))


@pytest.mark.parametrize("part_first", [True, False])
def test_box_of_a_part_is_never_taken_for_its_objects(part_first: bool) -> None:
    part = f"<part><name>hand</name>{BOX}</part>"
    box = BOX.replace("<xmin>1", "<xmin>2").replace("<ymax>4", "<ymax>7")
    read = parse_object(f"<name>person</name>{part + box if part_first else box + part}")
    assert read.corners == (2.0, 2.0, 3.0, 7.0)
    assert read.parts == (PartAnnotation(name="hand", corners=(1, 2, 3, 4)),)
    with pytest.raises(AnnotationError, match=r"object 1 'person': has no <bndbox>"):
        parse_object(f"<name>person</name>{part}")


def test_object_inside_a_comment_or_another_tag_is_no_object() -> None:
    hidden = f"<!-- {CAT} --><source>{CAT}</source>"
    assert parse(f"<annotation>{hidden}{CAT}</annotation>").objects == (thing("cat", (1, 2, 3, 4)),)


def test_fraction_of_a_coordinate_is_kept() -> None:
    box = BOX.replace("<ymin>2", "<ymin>45.70000076293945").replace("<ymax>4", "<ymax>90")
    corners = parse_object(f"<name>cat</name>{box}").corners
    assert corners == (1.0, 45.70000076293945, 3.0, 90.0)
    assert box_of(corners, DEVKIT) == (0.0, 44.70000076293945, 3.0, 90.0)


def test_point_alone_is_enough_for_an_object() -> None:
    read = parse_object("<name>cat</name><point><x>12</x><y>7.5</y></point>")
    assert read == thing("cat", None, point=(12, 7.5))


@pytest.mark.parametrize("size", ["<size/>", "<size><width>15</width></size>"])
def test_size_without_its_numbers_counts_as_missing(size: str) -> None:
    """The JPEG's header gives the size: an unused tag must not stop a conversion."""
    assert parse(f"<annotation>{size}</annotation>").size_whd is None


def test_size_may_lack_its_depth() -> None:
    size = "<size><width>15</width><height>11</height></size>"
    assert parse(f"<annotation>{size}</annotation>").size_whd == (15, 11, None)


def test_declared_encodings_and_byte_order_marks_are_understood() -> None:
    text = '<?xml version="1.0" encoding="{}"?><annotation><folder>Gr\u00fcn</folder></annotation>'
    for encoding in ("utf-8", "latin-1", "utf-16"):
        assert parse(text.format(encoding).encode(encoding)) == found(folder="Gr\u00fcn")
    assert parse(text.format("utf-8").encode("utf-8-sig")) == found(folder="Gr\u00fcn")


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (BOX, "000005.xml: object 1 has no <name>"),
        (f"<name> </name>{BOX}", "000005.xml: object 1 has no <name>"),
        (
            "<name>cat</name>",
            "000005.xml: object 1 'cat': has no <bndbox> (nor a <point>)",
        ),
        (
            f"<name>cat</name>{BOX.replace('<ymin>2</ymin>', '')}",
            "000005.xml: object 1 'cat': <bndbox> has no <ymin>",
        ),
        (
            f"<name>cat</name>{BOX}<difficult>maybe</difficult>",
            "000005.xml: object 1 'cat': <difficult> is 'maybe', expected 0 or 1; "
            "true, false, yes, no, Unspecified are understood",
        ),
        (
            f"<name>cat</name>{BOX}<actions><walking>yes</walking></actions>",
            "000005.xml: object 1 'cat': <walking> is 'yes', expected 0 or 1",
        ),
        (
            f"<name>cat</name>{BOX}<point><x>1</x></point>",
            "000005.xml: object 1 'cat': <point> has no <y>",
        ),
        (
            f"<name>cat</name>{BOX}<part>{BOX}</part>",
            "000005.xml: object 1 'cat': part 1: needs a <name> and a <bndbox>",
        ),
        (
            f"<name>cat</name>{BOX}<part><name>head</name>{BOX.replace('>3<', '>0<')}</part>",
            "000005.xml: object 1 'cat': part 1: 'head' has an inverted box (1.0, 2.0, 0.0, 4.0)",
        ),
    ],
)
def test_object_that_cannot_be_read_is_refused(inner: str, message: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse_object(inner)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["45,7", "nan", "inf", "1e999", "1_0", "\u0661\u0662", "0x1"])
def test_coordinate_that_is_no_plain_number_is_refused(text: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse_object("<name>cat</name>" + BOX.replace("<ymax>4", f"<ymax>{text}"))
    problem = f"<ymax> is {text!r}, expected a number"
    assert str(caught.value) == f"000005.xml: object 1 'cat': {problem}"


BOMB = (
    '<!DOCTYPE annotation [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;">]>'
    "<annotation><folder>&b;</folder></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><folder>&x;</folder></annotation>"
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(BOMB, "refused for safety: it has a DTD", id="entity bomb"),
        pytest.param(EXTERNAL, "refused for safety: it has a DTD", id="external entity"),
        pytest.param(
            '<!DOCTYPE annotation SYSTEM "voc.dtd"><annotation/>',
            "refused for safety: it has a DTD",
            id="DTD",
        ),
        pytest.param(
            "\x89PNG", "not well-formed XML: not well-formed (invalid token): line 1", id="no XML"
        ),
        pytest.param("", "not well-formed XML: no element found: line 1, column 0", id="empty"),
        pytest.param(
            f"<annotation>{CAT}", "not well-formed XML: no element found: line 1", id="cut short"
        ),
        pytest.param(
            b'<?xml version="1.0" encoding="klingon"?><annotation/>',
            "not well-formed XML: unknown encoding: klingon",
            id="unknown encoding",
        ),
        pytest.param(
            "<a>" * 50_000 + "</a>" * 50_000,
            "the root tag is 'a', expected 'annotation'",
            id="deeply nested",
        ),
        pytest.param(
            f"<annotations>{CAT}</annotations>",
            "the root tag is 'annotations', expected 'annotation'",
            id="another root",
        ),
    ],
)
def test_file_that_is_no_annotation_is_refused(content: str | bytes, problem: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse(content)
    assert str(caught.value).startswith(f"000005.xml: {problem}")


# Lists of pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        pytest.param(b"000005\n000007\n", ["000005", "000007"], id="plain"),
        pytest.param(b"000005\r\n\r\n000007\r\n\r\n", ["000005", "000007"], id="CRLF and blanks"),
        pytest.param(b"000005 -1\n000007  1\n", ["000005", "000007"], id="class list"),
        pytest.param(b"000007  2\n000005  1\n000007  1\n", ["000007", "000005"], id="Layout"),
        pytest.param(b"2010_000001  1  1\n2010_000001  2 -1", ["2010_000001"], id="Action"),
        pytest.param(b" \n\n", [], id="nothing in it"),
    ],
)
def test_list_gives_each_id_once_in_its_order(content: bytes, ids: list[str]) -> None:
    assert parse_ids(content, place="train.txt") == ids


def test_list_that_is_no_text_is_refused() -> None:
    with pytest.raises(SourceError) as caught:
        parse_ids(b"\xff\xd8\xff", place="Main/train.txt")
    assert str(caught.value).startswith("Main/train.txt: not a text file: ")
