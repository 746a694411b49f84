"""VOC's ImageSets: the lists that say which pictures a split holds. Pure.

A list is a text file of lines ``id``, ``id label`` (class lists: -1, 0 only difficult ones, 1),
``id object-number`` (Layout; ids repeat) or ``id object-number label`` (Action). Line ends may be
CRLF, and blank lines occur; other tools write comments that begin with '#'.
"""

from __future__ import annotations

from shard_tool.errors import SourceError

SPLITS = ("train", "val", "trainval", "test")
"""Names a plain list of ids can have, beside ``<class>_<split>`` lists."""

LIST_FOLDERS = ("Main", "Segmentation", "Layout", "Action")

TASK_FOLDERS = {"detection": "Main", "segmentation": "Segmentation"}
"""The folder of ImageSets whose lists say what a task trains on."""


def parse_ids(content: bytes, *, place: str) -> list[str]:
    r"""The ids of a list in its order, each once.

    Raises:
        SourceError: The list is not text.

    >>> parse_ids(b"000005\r\n\r\n000007  1\r\n000007  2\r\n", place="trainval.txt")
    ['000005', '000007']
    """
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise SourceError(place, f"not a text file: {exc}") from exc
    ids = (fields[0] for line in lines if (fields := line.split()))
    return list(dict.fromkeys(key for key in ids if not key.startswith("#")))


def has_labels(content: bytes) -> bool:
    r"""Whether the lines have a second column, as the lists of a class do.

    >>> has_labels(b"000005 -1\n000007  1\n")
    True
    """
    return any(len(line.split()) > 1 for line in content.splitlines() if line[:1] != b"#")
