"""Which objects a file has: wrappers, objects elsewhere, bad ones, and files that hide theirs."""

from __future__ import annotations

import pickle

import pytest

from shard_tool.errors import AnnotationError
from shard_tool.sources.voc.annotation import Annotation, parse_annotation

PLACE = "a.xml"
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"


def thing(name: str) -> str:
    return f"<object><name>{name}</name>{BOX}</object>"


def parse(inner: str, encoding: str = "utf-8") -> Annotation:
    return parse_annotation(f"<annotation>{inner}</annotation>".encode(encoding), place=PLACE)


def names_of(annotation: Annotation) -> list[tuple[int, str]]:
    return [(item.index, item.name) for item in annotation.objects]


def notes_of(annotation: Annotation) -> list[tuple[str, str]]:
    return [(note.code, note.detail) for note in annotation.notes]


CAT, DOG, COW = thing("cat"), thing("dog"), thing("cow")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    ("inner", "names", "notes"),
    [
        (f"{CAT}{DOG}", ["cat", "dog"], []),
        (f"<objects>{CAT}{DOG}</objects>", ["cat", "dog"], [("wrapper", "<objects>")]),
        (
            f"{CAT}<objects>{DOG}</objects>{COW}",
            ["cat", "dog", "cow"],
            [("wrapper", "<objects>")],
        ),
        (
            f"{CAT}{DOG.replace('object', 'Object')}",
            ["cat", "dog"],
            [("tag-other-case", "<Object>")],
        ),
        (
            f"<Objects>{CAT.replace('object', 'OBJECT')}</Objects>",
            ["cat"],
            [
                ("tag-other-case", "<Objects>"),
                ("wrapper", "<Objects>"),
                ("tag-other-case", "<OBJECT>"),
            ],
        ),
        (f"{CAT}<source>{DOG}</source>", ["cat"], [("object-elsewhere", "1 of 2")]),
        (f"{CAT}<!-- {DOG} -->", ["cat"], []),
        ("<objects/>", [], [("wrapper", "<objects>")]),
        ("<object_count>0</object_count>", [], []),
        ("", [], []),
    ],
)
def test_objects_are_found_in_the_files_order(
    encoding: str, inner: str, names: list[str], notes: list[tuple[str, str]]
) -> None:
    annotation = parse(inner, encoding)
    assert names_of(annotation) == list(enumerate(names))
    assert notes_of(annotation) == notes


def test_bad_object_leaves_the_others_and_their_numbers_alone() -> None:
    broken = "<object><Name> dog </Name><bndbox/></object>"
    annotation = parse(f"{CAT}{broken}<object/>{COW.replace('>1<', '>one<')}{DOG}")
    assert names_of(annotation) == [(0, "cat"), (4, "dog")]
    assert [(item.index, item.name, str(item.problem)) for item in annotation.bad_objects] == [
        (1, "dog", f"{PLACE}: object 2 'dog': <bndbox> has no <xmin>"),
        (2, None, f"{PLACE}: object 3 has no <name>"),
        (3, "cow", f"{PLACE}: object 4 'cow': <xmin> is 'one', expected a number"),
    ]
    assert all(item.problem.__traceback__ is None for item in annotation.bad_objects)
    assert annotation.notes == ()  # nothing of objects that were not read


def test_notes_name_the_number_of_their_object() -> None:
    hard = DOG.replace("</object>", "<difficult>2</difficult></object>")
    annotation = parse(f"{CAT}{hard}<segmented>no</segmented>")
    assert [(note.code, note.object_index) for note in annotation.notes] == [
        ("flag-other-value", 1),
        ("flag-other-value", None),
    ]


def test_what_was_read_can_be_pickled() -> None:
    annotation = parse(f"{CAT}<object/>{DOG.replace('name', 'Name')}")
    copy = pickle.loads(pickle.dumps(annotation))
    assert (copy.objects, copy.notes) == (annotation.objects, annotation.notes)
    assert str(copy.bad_objects) == str(annotation.bad_objects)


@pytest.mark.parametrize(
    ("inner", "found"),
    [
        (f"<outputs>{CAT}</outputs>", "<object>, <name>, <bndbox>, <xmin>"),
        ("<item><Name>cat</Name></item>", "<Name>"),
        (BOX, "<bndbox>, <xmin>"),
        ("<name>cat</name>", "<name>"),
        ("<outputs><object><item><polygon/></item></object></outputs>", "<object>, <polygon>"),
        ("<objects><thing><BBox/></thing></objects>", "<BBox>"),
        ("<outputs><object/></outputs><owner><name>Anna</name></owner>", "<object>"),
    ],
)
def test_file_without_objects_that_looks_as_if_it_had_some_is_refused(
    inner: str, found: str
) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse(inner)
    assert str(caught.value) == (
        f"{PLACE}: no object was found, though the file has {found}; "
        "objects are <object> tags in <annotation>: export as PASCAL VOC"
    )


def test_names_of_owner_and_source_are_no_objects() -> None:
    assert parse("<owner><name>Anna</name></owner><source><name>x</name></source>").objects == ()


def test_boxes_beside_the_objects_are_noted() -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    good = f"<object><name>fox</name>{box}</object>"
    for other in (f"<obj><name>wolf</name>{box}</obj>", f"<Objects><item>{box}</item></Objects>"):
        found = parse_annotation(f"<annotation>{good}{other}</annotation>".encode(), place="a.xml")
        assert [item.name for item in found.objects] == ["fox"]
        (note,) = [its for its in found.notes if its.code == "box-elsewhere"]
        assert note.detail == "1 boxes beside 1 objects"
    plain = parse_annotation(f"<annotation>{good}{good}</annotation>".encode(), place="a.xml")
    assert plain.notes == ()
