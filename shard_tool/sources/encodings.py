"""Turns the bytes of a text file into text, in whatever encoding its tool wrote.

The encoding is that of the byte order mark (UTF-8, UTF-16, UTF-32), else the declared one, else
UTF-8. A text that is not in the declared Unicode encoding, or that declares none, is tried as
utf-8, gb18030 and latin-1, in this order. gb18030 fits only where most bytes above 127 come in
pairs, so western text seldom passes for it. Windows tools write in the system's encoding and
declare UTF-8 or none; .NET's StringWriter declares utf-16 whatever is saved. Encodings that are not
text, or slow to decode, are not understood.
"""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNICODE = re.compile(r"utf-8(-sig)?|utf-(16|32)(-[lb]e)?|ascii")
_OTHERS = re.compile(
    r"iso8859-\d+|cp(437|850|852|866|874|932|949|950|125[0-8])|mac-\w+|koi8-[ru]|tis-620"
    r"|gb2312|gbk|gb18030|big5(hkscs)?|shift_jis|euc_(jp|kr)"
)
_GUESSES = ("utf-8", "gb18030", "latin-1")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")


def decoded(content: bytes, *, first: bytes, declared: str = "") -> tuple[str, str]:
    """The text of a file.

    Args:
        content: The file's bytes.
        first: Characters that such a text begins with: they tell UTF-16 without a mark.
        declared: The encoding that the file declares; empty: none.

    Returns:
        The text, and which encoding was guessed ('' if none was).

    Raises:
        ValueError: The text is not in the encoding that the file says.
        LookupError: The declared encoding is not understood.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding), ""
    if content[:2].count(0) == 1 and content[:2].strip(b"\0") in first:
        return content.decode("utf-16-le" if content[0] else "utf-16-be"), ""
    codec = _codec(declared or "utf-8")
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
        return text, encoding + (f" (declared {declared})" if declared else "")
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
