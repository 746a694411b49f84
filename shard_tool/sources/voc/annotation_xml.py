"""Turns the bytes of an annotation file into a tree of XML, in any encoding that people use.

`sources/encodings.py` says how the encoding is found.

**Safety.** Entities, internal subsets and external DTDs are refused. All need the keyword
`<!DOCTYPE` before the root element. A file that begins with its root has none, and is UTF-8: the
standard library parses its bytes. Any other file is decoded first and its *text* is searched for
the keyword, because an encoding may write it in other bytes (UTF-16, UTF-32). Texts with it go to
defusedxml, which takes five times as long.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError
from xml.etree.ElementTree import fromstring as fast_fromstring

from defusedxml.common import DefusedXmlException, DTDForbidden
from defusedxml.ElementTree import DefusedXMLParser

from shard_tool.errors import AnnotationError
from shard_tool.sources.encodings import decoded
from shard_tool.sources.notes import Note

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_DECLARATION = re.compile(rb"""\s*<\?xml\s[^>]*?\bencoding\s*=\s*["']([^"'>]+)["']""")


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
    declaration = _DECLARATION.match(content)
    declared = declaration[1].decode("ascii", "replace") if declaration else ""
    return decoded(content, first=b"< \t\r\n", declared=declared)
