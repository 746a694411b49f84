"""Turns the bytes of an annotation file into a tree of XML, in any encoding that people use.

The encoding is that of the byte order mark (UTF-8, UTF-16, UTF-32), else the declared one, else
UTF-8. A text that is not in the declared Unicode encoding, or that declares none, is tried as
utf-8, gb18030 and latin-1, in this order. gb18030 fits only where most bytes above 127 come in
pairs, so western text seldom passes for it. Windows tools write in the system's encoding and
declare UTF-8 or none; .NET's StringWriter declares utf-16 whatever is saved.

**Safety.** Entities, internal subsets and external DTDs are refused. All need the keyword
`<!DOCTYPE` before the root element. A file that begins with its root has none, and is UTF-8: the
standard library parses its bytes. Any other file is decoded first and its *text* is searched for
the keyword, because an encoding may write it in other bytes (UTF-16, UTF-32). Texts with it go to
defusedxml, which takes five times as long. Encodings that are not text, or slow to decode, are not
understood.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError
from xml.etree.ElementTree import fromstring as fast_fromstring

from defusedxml.common import DefusedXmlException, DTDForbidden
from defusedxml.ElementTree import DefusedXMLParser

from shard_tool.errors import AnnotationError
from shard_tool.sources.notes import Note

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FIRST = b"< \t\r\n"
"""What an XML file begins with."""
_DECLARATION = re.compile(rb"""\s*<\?xml\s[^>]*?\bencoding\s*=\s*["']([^"'>]+)["']""")
_UNICODE = re.compile(r"utf-8(-sig)?|utf-(16|32)(-[lb]e)?|ascii")
_OTHERS = re.compile(
    r"iso8859-\d+|cp(437|850|852|866|874|932|949|950|125[0-8])|mac-\w+|koi8-[ru]|tis-620"
    r"|gb2312|gbk|gb18030|big5(hkscs)?|shift_jis|euc_(jp|kr)"
)
_GUESSES = ("utf-8", "gb18030", "latin-1")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")


def parse_tree(content: bytes, place: str) -> tuple[Element, list[Note]]:
    """Parse a file into its root element.

    Args:
        content: The file's bytes.
        place: Name of the file in errors and notes.

    Returns:
        The root, and notes on how it was read.

    Raises:
        AnnotationError: The file is not well-formed XML, its encoding is not understood, or it has
            entities or a DTD.
    """
    if content.startswith(b"<annotation"):
        try:
            return fast_fromstring(content), []
        except ParseError:  # perhaps another encoding
            pass
    try:
        return _parsed(content, place)
    except DefusedXmlException as exc:
        problem = "refused for safety: it has a DTD or entities"
        raise AnnotationError(place, problem, "remove its <!DOCTYPE …>") from exc
    except (ParseError, ValueError, LookupError) as exc:  # LookupError: an unknown encoding
        raise AnnotationError(place, f"not well-formed XML: {exc}") from exc


def _parsed(content: bytes, place: str) -> tuple[Element, list[Note]]:
    text, guess = _decoded(content)
    notes = [Note("encoding-guessed", place, guess)] if guess else []
    stripped = text.lstrip("\ufeff \t\r\n")
    if stripped.startswith("<?xml") and len(stripped) < len(text):  # XML allows nothing before it
        notes.append(Note("leading-blanks", place))
        text = stripped
    if "\0" in text:
        raise ValueError("it holds NUL bytes")
    if "<!DOCTYPE" not in text:
        return fast_fromstring(text), notes
    parser = _PlainDoctypeParser()
    parser.feed(text)
    root: Element = parser.close()
    if parser.saw_doctype:  # and not only its keyword, in a comment
        notes.append(Note("doctype", place))
    return root, notes


class _PlainDoctypeParser(DefusedXMLParser):
    """Accepts `<!DOCTYPE annotation>` and refuses a DTD, inside the file or outside."""

    saw_doctype = False

    def __init__(self) -> None:
        super().__init__(forbid_dtd=True)

    def defused_start_doctype_decl(
        self,
        name: str,
        sysid: str | None,
        pubid: str | None,
        has_internal_subset: bool,  # noqa: FBT001  (the parent's signature)
    ) -> None:
        self.saw_doctype = True
        if sysid is not None or has_internal_subset:
            raise DTDForbidden(name, sysid, pubid)


def _decoded(content: bytes) -> tuple[str, str]:
    """The text, and which encoding was guessed ('' if none was)."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding), ""
    if content[:2].count(0) == 1 and content[:2].strip(b"\0") in _FIRST:
        return content.decode("utf-16-le" if content[0] else "utf-16-be"), ""
    declaration = _DECLARATION.match(content)
    declared = declaration[1].decode("ascii", "replace") if declaration else "utf-8"
    codec = _codec(declared)
    if not _UNICODE.fullmatch(codec):
        return content.decode(codec), ""
    for encoding in _GUESSES:
        if encoding == "gb18030" and not _comes_in_pairs(content):
            continue
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" and (codec == "utf-8" or (codec == "ascii" and text.isascii())):
            return text, ""
        return text, encoding + (f" (declared {declared})" if declaration else "")
    raise AssertionError("latin-1 decodes anything")  # pragma: no cover


def _comes_in_pairs(content: bytes) -> bool:
    """Whether most bytes above 127 stand in runs of even length, as those of Chinese text do.

    Accents of western names stand alone: gb18030 would read them as Chinese, with the next letter.
    """
    runs = [len(run) for run in _HIGH_BYTES.findall(content)]
    return 2 * sum(length % 2 for length in runs) < len(runs)


def _codec(declared: str) -> str:
    """Python's name of a declared encoding; of Chinese ones the superset of all."""
    name = codecs.lookup(declared).name
    if not _UNICODE.fullmatch(name) and not _OTHERS.fullmatch(name):
        raise LookupError(f"unknown encoding: {declared}")
    return "gb18030" if name in {"gb2312", "gbk"} else name
