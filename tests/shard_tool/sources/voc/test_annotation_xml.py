"""Bytes of annotation files: encodings, junk, document types, and what safety refuses."""

from __future__ import annotations

import codecs

import pytest

from shard_tool.errors import AnnotationError
from shard_tool.sources.notes import MEANINGS, Note
from shard_tool.sources.voc.annotation_xml import parse_tree

PLACE = "a.xml"
DECLARED = '<?xml version="1.0" encoding="{}"?>\n'


def read(content: bytes) -> tuple[str | None, list[tuple[str, str]]]:
    """The text of the root element, and the notes."""
    root, notes = parse_tree(content, PLACE)
    assert all(note.place == PLACE and note.code in MEANINGS for note in notes)
    return root.text, [(note.code, note.detail) for note in notes]


def file_of(text: str, declared: str = "") -> str:
    return (DECLARED.format(declared) if declared else "") + f"<annotation>{text}</annotation>"


# Encodings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "declared", "encoding"),
    [
        ("Grün 猫", "", "utf-8"),
        ("Grün 猫", "", "utf-8-sig"),
        ("Grün 猫", "UTF-8", "utf-8-sig"),
        ("Grün 猫", "", "utf-16"),
        ("Grün 猫", "utf-16", "utf-16"),
        ("Grün 猫", "utf-16", "utf-16-le"),
        ("Grün 猫", "utf-16", "utf-16-be"),
        ("Grün 猫", "", "utf-32"),
        ("Grün", "ISO-8859-1", "latin-1"),
        ("Grün", "latin1", "latin-1"),
        ("Grün", "us-ascii", "ascii"),
        ("caf\u00e9 \u2013 \u20ac", "windows-1252", "cp1252"),
        ("кот", "windows-1251", "cp1251"),
        ("кот", "koi8-r", "koi8-r"),
        ("猫和狗", "gb2312", "gb2312"),
        ("猫和狗 鎔", "gb2312", "gbk"),  # more than the declared set holds
        ("猫和狗 \u20ac", "GBK", "gb18030"),
        ("猫和狗", "gb18030", "gb18030"),
        ("貓", "Big5", "big5"),
        ("ネコ", "Shift_JIS", "shift_jis"),
        ("ネコ", "EUC-JP", "euc_jp"),
        ("고양이", "euc-kr", "euc_kr"),
    ],
)
def test_declared_encoding_is_read_without_a_note(text: str, declared: str, encoding: str) -> None:
    content = file_of(text, declared).encode(encoding, "xmlcharrefreplace")
    assert read(content) == (text, [])


def test_byte_order_marks_of_the_other_order_are_understood() -> None:
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")):
        assert read(mark + file_of("Grün").encode(encoding)) == ("Grün", [])


@pytest.mark.parametrize(
    ("text", "declared", "encoding", "guess"),
    [
        ("猫和狗", "", "gbk", "gb18030"),
        ("Müll é ", "", "latin-1", "latin-1"),
        ("caf\u00e9", "", "latin-1", "latin-1"),  # é< is no pair of gb18030
        ("Grün, Käfer", "", "latin-1", "latin-1"),  # ün and äf are: accents stand alone
        ("Größe", "", "latin-1", "gb18030"),  # öß is, and a pair: the price of a guess
        ("猫和狗", "utf-8", "gbk", "gb18030 (declared utf-8)"),
        ("é", "UTF-8", "latin-1", "latin-1 (declared UTF-8)"),
        ("Grün", "us-ascii", "utf-8", "utf-8 (declared us-ascii)"),
        ("Grün", "utf-16", "utf-8", "utf-8 (declared utf-16)"),
        ("cat", "utf-16", "ascii", "utf-8 (declared utf-16)"),  # .NET's StringWriter
    ],
)
def test_encoding_that_is_not_declared_is_guessed_in_a_fixed_order_and_noted(
    text: str, declared: str, encoding: str, guess: str
) -> None:
    read_text = text.encode(encoding).decode(guess.partition(" ")[0])
    content = file_of(text, declared).encode(encoding)
    assert read(content) == (read_text, [("encoding-guessed", guess)])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (DECLARED.format("klingon").encode() + b"<annotation/>", "unknown encoding: klingon"),
        (DECLARED.format("utf-7").encode() + b"<annotation/>", "unknown encoding: utf-7"),
        (DECLARED.format("idna").encode() + b"<annotation/>", "unknown encoding: idna"),
        (DECLARED.format("zlib").encode() + b"<annotation/>", "unknown encoding: zlib"),
        (DECLARED.format("cp037").encode() + b"<annotation/>", "unknown encoding: cp037"),
        (DECLARED.format("\0").encode() + b"<annotation/>", "embedded null"),
        (file_of("é", "euc-kr").encode("latin-1"), "'euc_kr' codec can't decode byte 0xe9"),
        (codecs.BOM_UTF8 + b"<annotation>\xe9</annotation>", "'utf-8' codec can't decode"),
        (file_of("cat").encode("utf-16")[:-1], "'utf-16-le' codec can't decode byte"),
        (b"<annotation>\0</annotation>", "it holds NUL bytes"),
        (b"<annotation/>" + b"\0" * 9, "it holds NUL bytes"),
        (b"\0" * 512, "it holds NUL bytes"),
        (b"<annotation>\x01</annotation>", "not well-formed (invalid token): line 1, column 12"),
        (b"junk <annotation/>", "syntax error: line 1, column 0"),
        (b"<annotation/> junk", "junk after document element: line 1, column 14"),
        (b"<annotation>&cat;</annotation>", "undefined entity: line 1, column 12"),
    ],
)
def test_file_that_cannot_be_decoded_or_parsed_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse_tree(content, PLACE)
    assert str(caught.value).startswith(f"{PLACE}: not well-formed XML: {problem}")


@pytest.mark.parametrize("junk", ["\n", "\r\n \t", "\ufeff\n", "\ufeff\ufeff"])
def test_blanks_before_the_declaration_are_skipped_and_noted(junk: str) -> None:
    content = (junk + file_of("cat", "utf-8")).encode()
    assert read(content) == ("cat", [("leading-blanks", "")])


def test_one_mark_or_blanks_without_a_declaration_are_plain_xml() -> None:
    assert read(b"\n  " + file_of("cat").encode()) == ("cat", [])
    assert read(file_of("cat", "utf-8").encode("utf-8-sig")) == ("cat", [])


# Document types -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gbk"])
def test_document_type_without_content_is_skipped_and_noted(encoding: str) -> None:
    content = f"{DECLARED.format(encoding)}<!DOCTYPE annotation>\n{file_of('猫')}"
    assert read(content.encode(encoding)) == ("猫", [("doctype", "")])


def test_keyword_in_a_comment_is_no_document_type() -> None:
    assert read(b"<!-- <!DOCTYPE x [ --><annotation>cat</annotation>") == ("cat", [])
    assert read(b"<annotation><![CDATA[<!DOCTYPE x [>]]></annotation>") == ("<!DOCTYPE x [>", [])


UNSAFE = {
    "entities": '<!DOCTYPE annotation [<!ENTITY a "lol"><!ENTITY b "&a;&a;">]>',
    "external entity": '<!DOCTYPE annotation [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
    "parameter entity": '<!DOCTYPE annotation [<!ENTITY % b SYSTEM "http://a.b/c.dtd"> %b;]>',
    "internal subset": "<!DOCTYPE annotation [<!ELEMENT annotation ANY>]>",
    "empty subset": "<!DOCTYPE annotation []>",
    "DTD": '<!DOCTYPE annotation SYSTEM "voc.dtd">',
    "DTD without a name": '<!DOCTYPE annotation SYSTEM "">',
    "public DTD": '<!DOCTYPE annotation PUBLIC "-//VOC" "http://a.b/voc.dtd">',
}


@pytest.mark.parametrize("doctype", UNSAFE.values(), ids=UNSAFE)
@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        *[("", name) for name in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32")],
        *[(name, name) for name in ("utf-8", "utf-16", "utf-32", "latin-1", "gb18030", "cp1252")],
        ("utf-16", "utf-8"),
        ("us-ascii", "gbk"),
    ],
)
def test_entities_and_dtds_are_refused_in_every_encoding(
    doctype: str, declared: str, encoding: str
) -> None:
    head = DECLARED.format(declared) if declared else ""
    content = f"{head}<!-- \u00b1 -->{doctype}<annotation>&b;</annotation>"
    with pytest.raises(AnnotationError) as caught:
        parse_tree(content.encode(encoding), PLACE)
    problem = "refused for safety: it has a DTD or entities; remove its <!DOCTYPE …>"
    assert str(caught.value) == f"{PLACE}: {problem}"


def test_document_type_in_bytes_of_another_encoding_slips_through_nowhere() -> None:
    """The declaration stays ASCII; the rest is in an encoding that writes '<' in other bytes."""
    for encoding in ("cp037", "cp500", "utf-7", "utf-16-le", "utf-32-le"):
        rest = f"{UNSAFE['entities']}<annotation>&b;</annotation>".encode(encoding)
        with pytest.raises(AnnotationError):
            parse_tree(DECLARED.format(encoding).encode() + rest, PLACE)


def test_note_says_where_and_of_which_object() -> None:
    assert Note("doctype", PLACE) == Note("doctype", PLACE, detail="", object_index=None)
