"""Reads a labelme file as far as it has to be to find its picture; leaves the rest to the parser.

labelme puts the picture itself into the file, as base64 (`imageData`), unless it is told not to. A
file may hold 50 MB of which the annotation is a kilobyte: the rest is cut out before it is parsed.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec

from shard_tool.sources.encodings import decoded

_WHERE = ("imagePath", "imageData", "imageHeight", "imageWidth", "version")
"""Beside `shapes`, one of these makes a file labelme's."""
_NOTHING = (b"null", b'""')


class LabelmeFile(NamedTuple):
    """A file, and what its picture is called."""

    document: bytes
    """Its JSON in UTF-8, without `imageData`."""
    image_path: str
    """`imagePath` as written; '' where it is none."""
    has_picture: bool
    """Whether the picture is in the file, too."""
    guess: str
    """Which encoding was guessed; '' if none was."""


def read_labelme(content: bytes) -> LabelmeFile | None:
    """Find the picture's path in a file; None for JSON that is not labelme's.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        found = _file({name: bytes(value) for name, value in fields.items()}, "")
        if found is not None:
            found.document.decode()  # msgspec looks into no value
    except msgspec.ValidationError:  # JSON, and no object
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_text(content)
    return found


def _read_text(content: bytes) -> LabelmeFile | None:
    """The same of text in another encoding, or with a NaN in it."""
    text, guess = decoded(content, first=b"{[ \t\r\n")
    try:
        document = json.loads(text)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if type(document) is not dict:
        return None
    return _file({name: _encoded(value) for name, value in document.items()}, guess)


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def _file(fields: dict[str, bytes], guess: str) -> LabelmeFile | None:
    if not fields.get("shapes", b"").startswith(b"[") or fields.keys().isdisjoint(_WHERE):
        return None
    has_picture = fields.pop("imageData", b"null") not in _NOTHING
    members = [_encoded(name) + b":" + value for name, value in fields.items()]
    path = json.loads(fields.get("imagePath", b"null"))
    path = path.encode(errors="replace").decode() if isinstance(path, str) else ""
    return LabelmeFile(b"{" + b",".join(members) + b"}", path, has_picture, guess)
