"""Reads text files as people's editors leave them: with byte order marks and any ends of lines."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from typing import TYPE_CHECKING

from shard_tool.errors import SourceError

if TYPE_CHECKING:
    from shard_tool.errors import DataError


def text_of(content: bytes, place: str, error: type[DataError] = SourceError) -> str:
    r"""The text of a file, with ``\n`` at the ends of lines.

    Args:
        content: UTF-8, or UTF-16 with a byte order mark.
        place: Name of the file in messages.
        error: What is raised.

    Raises:
        DataError: It is no such text.
    """
    is_utf16 = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as exc:
        raise error(place, f"is not text in UTF-8: {exc.reason}", "save it as UTF-8") from exc
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
