"""Makes paths of files from keys of samples, so that none leaves the folder it is written into."""

from __future__ import annotations

import re
from urllib.parse import unquote

from shard_tool.errors import DataError

_NEVER = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")
_PLAIN = re.compile(r"[^A-Za-z0-9_%-]")
_BLANKS = re.compile(r"\s")
_FOLDERS_OF_SPLIT = {"val": "val|valid|validation", "train": "train|training"}


class FileNames:
    """Paths of the files of a split, without suffix; no two samples get the same.

    Args:
        split: The split. Its own folders do not become folders in it: ``train2017/a`` and
            ``train/images/a`` are ``a``, unless another sample is so called.
        blanks: Whether paths may hold blanks; else they stay percent-encoded.
        taken: Paths that other splits have in the same folders, which gets those of this split: a
            sample whose path is taken gets one below the split's name. None: there are none.
    """

    def __init__(self, split: str, *, blanks: bool = True, taken: set[str] | None = None) -> None:
        names = _FOLDERS_OF_SPLIT.get(split) or re.escape(split)
        self._folders = re.compile(rf"((({names})[0-9]*|images|JPEGImages)/)*")
        self._last = "" if taken is None else f"{split}/"
        self._blanks = blanks
        self._taken = set[str]() if taken is None else taken

    def of(self, key: str) -> str:
        """The path that a key names: percent-encoding is undone, slashes are folders.

        Raises:
            DataError: Another sample has it.

        >>> FileNames("train").of("train2017/holiday%201%2E2")
        'holiday 1.2'
        """
        short = self._folders.sub("", key, count=1)
        for name in (short, key, f"{self._last}{short}"):
            path = path_of_key(name, blanks=self._blanks)
            if path not in self._taken:
                self._taken.add(path)
                return path
        raise DataError(f"sample {key!r}", f"another sample's file would be called {path!r}, too")


def path_of_key(key: str, *, blanks: bool = True) -> str:
    """The relative path that a key names.

    A part that would leave its folder, or that no file system or JSON takes, stays encoded.

    Args:
        key: The key of a sample.
        blanks: Whether names may hold blanks.

    >>> path_of_key("train/holiday%201%2E2"), path_of_key("../x"), path_of_key("a%2Fb")
    ('train/holiday 1.2', '%2E%2E/x', 'a%2Fb')
    >>> path_of_key("holiday%201%2E2", blanks=False)
    'holiday%201.2'
    """
    return "/".join(_safe(part, blanks=blanks) for part in key.split("/"))


def safe_name(text: str) -> str:
    """A name of one file, made of any text.

    >>> safe_name("dining table"), safe_name("a/b")
    ('dining table', 'a%2Fb')
    """
    return _safe(text.replace("%", "%25").replace("/", "%2F"), blanks=True)


def _safe(part: str, *, blanks: bool) -> str:
    name = unquote(part, errors="surrogateescape")
    if name in ("", ".", "..") or _NEVER.search(name):
        return _PLAIN.sub(_encoded, part) or "%"
    return name if blanks else _BLANKS.sub(_encoded, name)


def _encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))
