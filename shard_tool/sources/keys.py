"""Makes the key of a sample from a picture's name in its source, so that the name can be read back.

A key is the stem of a tar's members: it may hold no dot, since what follows the first dot is the
extension, and no blanks or control characters. These are percent-encoded as in URLs, in UTF-8.

Source: https://github.com/webdataset/webdataset, the format's description.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

MAX_KEY_BYTES = 255 - len(".object.png")
"""The longest name of a file is 255 bytes on most systems; people extract tars."""

_NEVER = re.compile(r"[.%\\\s\x00-\x1f\x7f\udc80-\udcff]")
_NEVER_FIRST = re.compile(r"(^|/)__")
"""webdataset skips members whose name begins and ends with two underscores."""


def key_of(id_: str) -> str:
    """The key of a picture.

    >>> key_of("000005"), key_of("holiday 1.2"), key_of("train/é")
    ('000005', 'holiday%201%2E2', 'train/é')
    """
    if not _NEVER.search(id_) and not _NEVER_FIRST.search(id_):
        return id_
    encoded = _NEVER.sub(lambda match: _encoded(match[0]), id_)
    return _NEVER_FIRST.sub(lambda match: f"{match[1]}%5F_", encoded)


def id_of(key: str) -> str:
    """The picture's name that `key_of` encoded.

    >>> id_of("holiday%201%2E2")
    'holiday 1.2'
    """
    return unquote(key, errors="surrogateescape")


def _encoded(character: str) -> str:
    content = character.encode("utf-8", "surrogateescape")
    return "".join(f"%{byte:02X}" for byte in content)
