"""Reads data.yaml, as ultralytics, Roboflow and CVAT write it.

Only the values that a dataset needs are looked at, as text and where they stand: YAML would read a
class called ``no`` as false, and nothing is built of aliases that a hostile file repeats.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from shard_tool.errors import SourceError
from shard_tool.sources.yolo.data_file import (
    SPLIT_KEYS,
    DataFile,
    check_count,
    checked_names,
    splits_of,
)
from shard_tool.sources.yolo.text import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shard_tool.sources.files.file_span import FileSpan

MAX_BYTES = 1 << 20
"""A larger file is no data.yaml."""
_NAMES = re.compile(r"^[\"']?names[\"']?[ \t]*:", re.MULTILINE)
_SPLITS = re.compile(rf"^[\"']?({'|'.join(SPLIT_KEYS)})[\"']?[ \t]*:", re.MULTILINE)
"""What tells that a broken file is a dataset's."""
_NULL = ("", "~", "null", "Null", "NULL")
_MOST_SHOWN = 60


def parse_data_yaml(content: bytes, span: FileSpan, place: str) -> DataFile | None:
    """Parse a YAML file.

    Args:
        content: The file's bytes.
        span: Where it lies.
        place: Its name in messages.

    Returns:
        None: it is no dataset's, since it does not have `names` and a split.

    Raises:
        SourceError: It is a dataset's and is not YAML, or says something that cannot be.
    """
    if b"n\0a\0m\0e\0s" not in content and b"names" not in content:
        return None
    root = _root(content, place)
    if not isinstance(root, yaml.MappingNode):
        return None
    values = _values_of(root, place)
    names, splits = values.get("names"), [values.get(key) for key in SPLIT_KEYS]
    has_splits = any(isinstance(its, yaml.ScalarNode | yaml.SequenceNode) for its in splits)
    if not isinstance(names, yaml.SequenceNode | yaml.MappingNode) or not has_splits:
        return None
    found = checked_names(_names(names, place), place)
    if count := _text(values.get("nc"), "nc", place):
        check_count(count, found, place, "nc")
    return DataFile(
        spans=(span,),
        place=place,
        names=found,
        splits=_splits(values, place),
        path=_text(values.get("path"), "path", place),
        num_keypoints=_num_keypoints(values.get("kpt_shape"), place),
    )


def _root(content: bytes, place: str) -> yaml.Node | None:
    """The root node; None where the file is not YAML, and no dataset's either."""
    try:
        text = text_of(content, place)
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, SourceError) as exc:
        plain = content.replace(b"\0", b"").decode("latin-1")
        if not (_NAMES.search(plain) and _SPLITS.search(plain)):
            return None
        if isinstance(exc, SourceError):
            raise
        mark = getattr(exc, "problem_mark", None)
        where = f"{place}: line {mark.line + 1}" if mark else place
        problem = getattr(exc, "problem", "") or getattr(exc, "reason", "") or "nested too deeply"
        raise SourceError(where, f"is not YAML: {problem}") from exc
    return root


def _values_of(root: yaml.MappingNode, place: str) -> dict[str, yaml.Node]:
    """The root's values by their keys.

    Raises:
        SourceError: A key is there twice, and the file is a dataset's.
    """
    found = dict[str, yaml.Node]()
    twice: SourceError | None = None
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in found and twice is None:
            twice = SourceError(_where(key, place), f"{key.value!r} is there twice", "keep one")
        found[key.value] = value
    if twice is not None and "names" in found and not SPLIT_KEYS.keys().isdisjoint(found):
        raise twice
    return found


def _names(node: yaml.SequenceNode | yaml.MappingNode, place: str) -> Iterator[tuple[int, str]]:
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield number, _scalar(value, "a name", place)
        return
    for key, value in node.value:
        text = _scalar(key, "the number of a name", place)
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            problem = f"{text[:_MOST_SHOWN]!r} is no number of a class"
            raise SourceError(_where(key, place), problem, "write names as `0: cat`")
        yield int(text), _scalar(value, "a name", place)


def _splits(values: dict[str, yaml.Node], place: str) -> dict[str, tuple[str, ...]]:
    found = dict[str, tuple[str, ...]]()
    for key in SPLIT_KEYS:
        node = values.get(key)
        if isinstance(node, yaml.SequenceNode):
            found[key] = tuple(_scalar(value, key, place) for value in node.value)
        elif text := _text(node, key, place):
            found[key] = (text,)
    return splits_of(found, place)


def _num_keypoints(node: yaml.Node | None, place: str) -> int:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value in _NULL):
        return 0
    texts = []
    if isinstance(node, yaml.SequenceNode):
        texts = [_scalar(value, "kpt_shape", place) for value in node.value]
    if not re.fullmatch(r"\d{1,4} [23]", " ".join(texts)):
        problem = "kpt_shape is not [number of keypoints, 2 or 3]"
        raise SourceError(_where(node, place), problem)
    return int(texts[0]) * int(texts[1])


def _text(node: yaml.Node | None, key: str, place: str) -> str:
    """The text of a value that may be missing; '' for none."""
    text = "" if node is None else _scalar(node, key, place)
    return "" if text in _NULL else text


def _scalar(node: yaml.Node, what: str, place: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        problem = f"{what} is a {'list' if isinstance(node, yaml.SequenceNode) else 'mapping'}"
        raise SourceError(_where(node, place), f"{problem} (expected text)")
    return str(node.value).strip()


def _where(node: yaml.Node, place: str) -> str:
    return f"{place}: line {node.start_mark.line + 1}"
