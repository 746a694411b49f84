"""Random files: any composition of habits reads like the plain file, and no bytes do harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_tool.errors import AnnotationError
from shard_tool.sources.notes import MEANINGS
from shard_tool.sources.voc.annotation import Annotation, parse_annotation
from tests.kit.datasets.annotations import found, thing
from tests.kit.datasets.damaged import damaged
from tests.kit.datasets.voc_tools import MAKERS

if TYPE_CHECKING:
    from shard_tool.sources.voc.annotation import ObjectAnnotation

PLACE = "a.xml"
SPELLINGS = {
    True: ("True", "yes", "1.0", "2", "0.87"),
    False: ("False", "NO", "0.0", "-0"),
    None: ("Unspecified", "unknown", "None"),
}
FLAGS = ("difficult", "truncated", "occluded")


@dataclass(frozen=True)
class Encoding:
    """How a file's text becomes bytes, and letters that can only be of this encoding."""

    codec: str
    declared: str = ""
    letters: str = "猫é ñ&<"
    ending: str = ""
    guessed: bool = False


ENCODINGS = (
    Encoding("utf-8"),
    Encoding("utf-8", "UTF-8"),
    Encoding("utf-8-sig"),
    Encoding("utf-16", "utf-16"),
    Encoding("utf-16-le"),
    Encoding("utf-16-be", "utf-16"),
    Encoding("utf-32"),
    Encoding("latin-1", "ISO-8859-1", letters="éñ ü&<"),
    Encoding("gb18030", "gbk", letters="猫狗 é&<"),
    Encoding("shift_jis", "Shift_JIS", letters="ネコ a&<"),
    Encoding("utf-8", "utf-16", guessed=True),
    Encoding("gb18030", letters="猫狗 a&<", ending="和狗", guessed=True),  # BA begins no UTF-8
    Encoding("gb18030", "utf-8", letters="猫狗 a&<", ending="和狗", guessed=True),
    Encoding("latin-1", letters="aé &<", ending=" é", guessed=True),  # 'é<' is no gb18030
)


@st.composite
def spelled(draw: st.DrawFn, codes: set[str], tag: str, text: str) -> str:
    """An element, perhaps in another case or twice; adds the codes of its notes."""
    name = tag
    if draw(st.integers(0, 5)) == 0:
        name = draw(st.sampled_from([tag.upper(), tag.title()]))
        codes.add("tag-other-case")
    element = f"<{name}>{text}</{name}>"
    if draw(st.integers(0, 9)) == 0:
        codes.add("tag-twice")
        return element * 2
    return element


@st.composite
def objects(draw: st.DrawFn, encoding: Encoding, codes: set[str]) -> tuple[str, ObjectAnnotation]:
    """An object's text, and what it says plainly."""
    letters = st.text(encoding.letters, max_size=5)
    name = ("n" + draw(letters) + encoding.ending).strip()
    if not encoding.guessed:
        name += draw(letters).rstrip()
    numbers = draw(st.tuples(*[st.integers(0, 999) | st.sampled_from([0.25, 7.5])] * 4))
    tags = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(
        draw(spelled(codes, tag, str(number))) for tag, number in zip(tags, numbers, strict=True)
    )
    parts = [draw(spelled(codes, "name", escape(name))), draw(spelled(codes, "bndbox", box))]
    values: dict[str, bool | None] = {}
    for flag in FLAGS:
        value = draw(st.sampled_from([True, False, None]))
        text = {True: "1", False: "0", None: ""}[value]
        if draw(st.integers(0, 3)) == 0:
            text = draw(st.sampled_from(SPELLINGS[value]))
            codes.add("flag-other-value")
        parts.append(draw(spelled(codes, flag, text)))
        values[flag] = value
    return "\n".join(draw(st.permutations(parts))), thing(name, numbers, **values)


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, Annotation, set[str]]:
    """A file's bytes, what it says plainly, and the codes of the notes that it must make."""
    codes: set[str] = set()
    encoding = draw(st.sampled_from(ENCODINGS))
    made = [draw(objects(encoding, codes)) for _ in range(draw(st.integers(0, 3)))]
    texts = []
    for text, _ in made:
        tag = draw(st.sampled_from(["object"] * 5 + ["Object"]))
        codes |= {"tag-other-case"} if tag == "Object" else set()
        texts.append(f"<{tag}>{text}</{tag}>")
    inner = "\n".join(texts)
    if draw(st.integers(0, 3)) == 0:
        inner = f"<objects>{inner}</objects>"
        codes.add("wrapper")
    head = f'<?xml version="1.0" encoding="{encoding.declared}"?>' if encoding.declared else ""
    if draw(st.integers(0, 3)) == 0:
        head += "<!DOCTYPE annotation>\n"
        codes.add("doctype")
    if encoding.declared and draw(st.integers(0, 3)) == 0:
        head = "\n" + head
        codes.add("leading-blanks")
    text = f"{head}<annotation>{inner}</annotation>"
    if encoding.guessed:
        text = text.replace("</annotation>", f"<!-- {encoding.ending} --></annotation>")
        codes.add("encoding-guessed")
    return text.encode(encoding.codec), found(*[item for _, item in made]), codes


@pytest.mark.slow
@given(files())
def test_any_composition_reads_like_the_plain_file(
    file: tuple[bytes, Annotation, set[str]],
) -> None:
    content, plain, codes = file
    annotation = parse_annotation(content, place=PLACE)
    assert annotation._replace(notes=()) == plain
    assert {note.code for note in annotation.notes} == codes


SEEDS = [maker("a.jpg", (60, 50), [("cat", (1, 2, 30, 40))] * 2) for maker in MAKERS.values()]
PIECES = (
    *(b"<object>", b"</object>", b"<objects>", b"<name>", b"</name>", b"<bndbox>", b"<Polygon>"),
    *(b"<x1>", b"<robndbox>", b"<attributes>", b"rotation", b"<!DOCTYPE annotation>", b"]]>"),
    *(b"<!ENTITY a 'b'>", b"&a;", b"&#0;", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xa1", b"nan"),
    *(b'<?xml version="1.0" encoding="gbk"?>', b'<?xml version="1.0" encoding="x"?>', b"1e999"),
    *(b"9" * 400, b"<difficult>2</difficult>", b"<size>", b"<owner>", b"<part>", b"-", b"\n"),
)


@pytest.mark.slow
@settings(max_examples=400)
@given(damaged(SEEDS, PIECES) | st.binary(max_size=200))
def test_any_bytes_give_an_annotation_or_our_error(content: bytes) -> None:
    try:
        annotation = parse_annotation(content, place=PLACE)
    except AnnotationError as exc:
        assert exc.place == PLACE  # noqa: PT017  (either is right)
        return
    numbers = [item.index for item in annotation.objects]
    numbers += [item.index for item in annotation.bad_objects]
    assert sorted(numbers) == list(range(len(numbers)))
    assert all(note.code in MEANINGS and note.place == PLACE for note in annotation.notes)
    assert {note.object_index for note in annotation.notes} <= {None, *numbers}
    assert all(str(bad.problem).startswith(PLACE) for bad in annotation.bad_objects)
