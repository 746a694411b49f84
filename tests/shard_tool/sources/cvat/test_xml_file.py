"""A file of CVAT's is cut into its images, whatever is around them, and nothing is expanded."""

from __future__ import annotations

import tracemalloc

import pytest

from shard_tool.errors import DataError
from shard_tool.sources.cvat.annotation import parse_cvat
from shard_tool.sources.cvat.xml_file import CvatFile, is_cvat, read_cvat
from tests.kit.datasets.cvat_files import ANT, BEE, cvat, element, image, label

PLACE = "annotations.xml"
BOMB = b'<!DOCTYPE annotations [<!ENTITY a "b">]>'


def names(file: CvatFile) -> list[tuple[str, list[str]]]:
    """Name of each image, and the names of its objects, parsed from its slice alone."""
    found = [(its.name, parse_cvat(file.document(its), PLACE)) for its in file.images]
    assert all(name == annotation.filename for name, annotation in found)
    return [(name, [item.name for item in its.objects]) for name, its in found]


def test_each_image_is_a_slice_of_its_file() -> None:
    content = cvat(image("a.jpg", ANT, BEE), image("b.jpg", id_=1), image("c/d.jpg", BEE, id_=2))
    file = read_cvat(content, PLACE)
    assert names(file) == [("a.jpg", ["ant", "bee"]), ("b.jpg", []), ("c/d.jpg", ["bee"])]
    assert [its.id for its in file.images] == ["0", "1", "2"]
    assert (file.labels, file.other_labels, file.guess) == (("ant", "bee"), (), "")


@pytest.mark.parametrize(
    "between", ["", "\n", "<!-- a > b --> ", "<?mine?>", "<other/>", "&#10;", "<![CDATA[x]]>"]
)
def test_an_image_ends_where_it_ends(between: str) -> None:
    odd = '<image name="a&gt;/>&quot;.jpg" id="5"/>'
    content = f"<annotations>{between}{odd}{between}{odd}{between}</annotations>".encode()
    file = read_cvat(content, PLACE)
    assert names(file) == [('a>/>".jpg', [])] * 2


def test_subsets_are_those_of_images_or_of_the_task() -> None:
    file = read_cvat(cvat(image("a", subset="Val"), image("b"), subset="Train"), PLACE)
    assert (file.subset, [its.subset for its in file.images]) == ("Train", ["Val", ""])


def test_labels_are_in_their_order_without_tags_and_points_of_skeletons() -> None:
    labels = [
        *(label("zebra"), label("night", "tag"), label("body", "skeleton")),
        *(label("nose", "points", parent="body"), label("ant", "rectangle")),
    ]
    file = read_cvat(cvat(labels=labels), PLACE)
    assert file.labels == ("zebra", "body", "ant")
    assert file.other_labels == ("night", "nose")


@pytest.mark.parametrize(
    ("codec", "declared", "guess"),
    [
        *[("utf-8", "utf-8", ""), ("utf-8-sig", "utf-8", ""), ("utf-16", "utf-16", "")],
        *[("gb18030", "gbk", ""), ("gb18030", "utf-8", "gb18030 (declared utf-8)")],
        *[("utf-16-be", "utf-8", ""), ("utf-8", "", ""), ("gb18030", "", "gb18030")],
    ],
)
def test_files_are_read_in_any_usual_encoding(codec: str, declared: str, guess: str) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    inner = image("猫狗和狗.jpg", ANT)  # no UTF-8 as gb18030
    content = f"{head}<annotations>{inner}</annotations>".encode(codec)
    assert is_cvat(content)
    file = read_cvat(content, PLACE)
    assert names(file) == [("猫狗和狗.jpg", ["ant"])]
    assert file.guess == guess


def test_blanks_before_the_declaration_are_skipped() -> None:
    content = b"\n " + cvat(image("a.jpg", ANT))
    assert is_cvat(content)
    assert names(read_cvat(content, PLACE)) == [("a.jpg", ["ant"])]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not well-formed XML: no element found"),
        (cvat(image("a.jpg", ANT))[:-9], "not well-formed XML: "),
        (b"<annotation/>", "the root tag is 'annotation', expected 'annotations'"),
        (BOMB + cvat().partition(b"?>")[2], "refused for safety: it has a DTD or entities"),
        (b"<annotations>&a;</annotations>", "not well-formed XML: undefined entity"),
        (b"<annotations><image/></annotations>", "image 1 has no name"),
        (
            b'<annotations><image name="a"><image name="b"/></image></annotations>',
            "has an <image> in an <image>",
        ),
        (cvat(more=element("track", id=0)), "holds tracks: it is 'CVAT for video 1.1'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(DataError) as caught:
        read_cvat(content, PLACE)
    assert caught.value.problem.startswith(told)
    assert caught.value.place == PLACE


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        *[(cvat(), True), (BOMB + b"<annotations/>", True), (b"<annotation/>", False)],
        *[(b"<annotations", False), (b"no xml", False), (b"", False), (b"\xff\xfe", False)],
        (b"<!-- " + b"x" * 3000 + b" --><annotations>", True),
    ],
)
def test_the_root_tells_what_is_cvats(content: bytes, expected: bool) -> None:
    assert is_cvat(content) == expected


def test_a_large_file_takes_little_more_than_its_bytes() -> None:
    images = "".join(image(f"{number}.jpg", *[ANT] * 20) for number in range(2000))
    content = cvat(images)
    tracemalloc.start()
    file = read_cvat(content, PLACE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(file.images) == 2000
    assert len(content) > 4_000_000
    assert peak < 3_000_000  # a tree takes twenty times as much as the file
