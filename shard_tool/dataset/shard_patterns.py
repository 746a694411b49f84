"""Expands patterns with braces and wildcards into the URLs of shards.

`braceexpand` and `glob` do most of it. Three things here are our own. The texts of a pattern are
counted first, because `braceexpand` would build a range of a hundred million names in memory. URLs
are matched folder by folder, because `fsspec.glob` lists a whole bucket and keeps old listings. And
messages hide secrets.
"""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braceexpand import alphabet, braceexpand

from shard_tool.dataset.shard_urls import local_path, storage_options_for, url_in_manifest
from shard_tool.errors import OptionError
from shard_tool.storage.location import Folder, public_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MAX_SHARDS = 1_000_000
_BRACES = re.compile(r"\\.|[{},]", re.DOTALL)
"""Braces, commas and escaped characters."""
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.-?(\d+))?")


def shards_matching(patterns: Sequence[str], dest: Folder) -> list[str]:
    """Expand patterns into the URLs of shards as the manifest in `dest` will hold them, in order.

    Raises:
        OptionError: A pattern is wrong or matches nothing, a shard is named twice, or a URL holds a
            secret.
    """
    urls: dict[str, str] = {}
    for pattern in patterns:
        shown = _shown(pattern)
        for place in _expanded(pattern, dest):
            url = url_in_manifest(place, dest)
            if url in urls:
                both = dict.fromkeys([urls[url], shown])  # one text, if it is the same pattern
                problem = f"is named twice, by {' and by '.join(map(repr, both))}"
                raise OptionError(f"shard {url!r}", problem, "every shard must be given once")
            urls[url] = shown
    if not urls:
        raise OptionError("SHARDS", "there are none")
    if len(urls) > _MAX_SHARDS:
        problem = f"{len(urls)} are more than {_MAX_SHARDS}"
        raise OptionError("SHARDS", problem, "index them as several datasets")
    return list(urls)


def _expanded(pattern: str, dest: Folder) -> list[str]:
    path = local_path(pattern)
    if path is not None and path.is_dir():
        raise OptionError(repr(pattern), "is a folder", f"give its shards: {pattern}/*.tar")
    if path is not None and path.exists():  # even if its name looks like a pattern
        return [pattern]
    try:
        num = _num_texts(pattern)
        texts = list(islice(braceexpand(pattern), _MAX_SHARDS + 1)) if num <= _MAX_SHARDS else []
    except ValueError:  # its text and traceback hold the pattern, secrets and all
        raise OptionError(f"shards {_shown(pattern)!r}", "braces do not pair up") from None
    if num > _MAX_SHARDS:
        problem = f"are {num}, more than {_MAX_SHARDS}"
        hint = "index them as several datasets"
        raise OptionError(f"shards {_shown(pattern)!r}", problem, hint)
    return [place for text in texts for place in _matching(text, dest)]


def _num_texts(pattern: str) -> int:
    """Count the texts that a pattern with braces stands for.

    >>> _num_texts("{a,b{00..99}}-{0..9..3}{z..a}.tar")
    10504
    """
    levels = [_Level(0)]
    for found in _BRACES.finditer(pattern):
        level, is_inside = levels[-1], len(levels) > 1
        if found[0] == "{":
            levels.append(_Level(found.end()))
        elif found[0] == "," and is_inside:
            level.finished, level.product = level.finished + level.product, 1
        elif found[0] == "}" and is_inside:
            levels.pop()
            num = _num_of_range(pattern[level.start : found.start()])
            levels[-1].product *= num or level.finished + level.product
    return levels[0].product


@dataclass(slots=True)
class _Level:
    """Braces that are still open, and how many texts they stand for so far."""

    start: int
    finished: int = 0
    """Texts of the alternatives before the last comma."""
    product: int = 1
    """Texts of the alternative after it."""


def _num_of_range(text: str) -> int:
    """Count the texts of a range between braces; 0 if it is no range."""
    if not (found := _RANGE.fullmatch(text)) or found[1].isalpha() is not found[2].isalpha():
        return 0
    find = alphabet.index if found[1].isalpha() else int
    return abs(find(found[2]) - find(found[1])) // max(1, int(found[3] or 1)) + 1


def _matching(text: str, dest: Folder) -> list[str]:
    """Find the places that match a text with ``*`` and ``?``, sorted; any other text is a place."""
    is_web = _is_web(text)
    if not re.search("[*]" if is_web else "[*?]", text):
        return [text]
    url_in_manifest(
        re.sub("[*?]" if not is_web else "[*]", "_", text), dest
    )  # refuses secrets before anything is listed
    path = local_path(text)
    if path is not None:
        places = sorted(glob.glob(str(path)))  # noqa: PTH207  (Path's takes no absolute pattern)
        found = [place for place in places if Path(place).is_file()]
    else:
        found = list(_matching_urls(text, dest))
    if not found:
        hint = "a web server may not list its folders: use braces" if is_web else ""
        raise OptionError(f"shards {_shown(text)!r}", "match nothing", hint)
    return found


def _is_web(pattern: str) -> bool:
    """Tell whether the pattern is a web URL, in which '?' starts a query."""
    return pattern.startswith(("http://", "https://"))


def _shown(pattern: str) -> str:
    """The pattern as messages show it: without secrets, with wildcards."""
    if _is_web(pattern):
        return public_url(pattern)
    return public_url(pattern.replace("?", "\0")).replace("\0", "?")


def _matching_urls(text: str, dest: Folder) -> Iterator[str]:
    protocol, _, rest = text.partition("://")
    host, *parts = rest.split("/")
    if parts:
        yield from _below(f"{protocol}://{host}", parts, storage_options_for(text, dest))


def _below(url: str, parts: Sequence[str], options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the URLs below `url` that match a path, folder by folder."""
    part, rest = parts[0], parts[1:]
    if not rest or re.search("[*?]", part):
        names = [name for name in Folder(url, options).names() if fnmatchcase(name, part)]
    else:
        names = [part]
    for name in names:
        found = f"{url}/{name}"
        if rest:
            yield from _below(found, rest, options)
        else:
            yield found
