"""darknet's obj.data and files of names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import FileSpan
from shard_tool.sources.yolo.darknet import parse_obj_data
from shard_tool.sources.yolo.places import TextFile

if TYPE_CHECKING:
    from shard_tool.sources.yolo.data_file import DataFile

NAMES = FileSpan("x/obj.names", 0, 8)


def parsed(text: str | bytes, names: bytes | None = b"cat\ndog\n") -> DataFile | None:
    content = text.encode() if isinstance(text, str) else text

    def find(written: str, folder: str) -> tuple[TextFile, bytes] | None:
        assert (written, folder) == ("data/obj.names", "x")
        return None if names is None else (TextFile(NAMES, None), names)

    span = FileSpan("x/obj.data", 0, len(content))
    return parse_obj_data(content, span, "in/x/obj.data", find)


def refusal(text: str, names: bytes | None = b"cat\ndog\n") -> str:
    with pytest.raises(SourceError) as caught:
        parsed(text, names)
    return str(caught.value).removeprefix("in/x/obj.data: ")


TEXT = "classes = 2\ntrain = data/train.txt\nvalid=data/valid.txt\nnames = data/obj.names\n"


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("\n", "\r\n"),
        f"\ufeff# of mine\n\n{TEXT}backup = backup/\neval = coco\n",
        TEXT.replace(" = ", "="),
        f"{TEXT}classes=2\n",
        TEXT.replace("classes = 2\n", ""),
    ],
)
@pytest.mark.parametrize("names", [b"cat\ndog\n", b"cat\r\ndog", b"\xef\xbb\xbf cat\ndog \n\n\n"])
def test_obj_data(text: str, names: bytes) -> None:
    found = parsed(text, names)
    assert found is not None
    assert found.names == {0: "cat", 1: "dog"}
    assert found.splits == {"train": ("data/train.txt",), "val": ("data/valid.txt",)}
    assert [span.name for span in found.spans] == ["x/obj.data", "x/obj.names"]
    told = "in/x/obj.data: names: 'data/obj.names' is x/obj.names"
    assert found.notes == (("path-mended", told),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5.1,3.5,1.4,0.2,Iris-setosa\n",
        "names = data/obj.names\n",
        "train = a\n",
        "[net]\nbatch=64\ntrain=1\n",
        b"\xff\x00\x01names = x\ntrain = y\n",
    ],
)
def test_data_of_other_programs(text: str | bytes) -> None:
    assert parsed(text) is None


@pytest.mark.parametrize(
    ("text", "names", "told"),
    [
        (TEXT, None, "names = 'data/obj.names': there is no such file"),
        (TEXT, b"", "names = data/obj.names: names no class"),
        (TEXT, b"cat\n\ndog\n", "names = data/obj.names: class 1 has no name"),
        (TEXT, b"cat\ncat\n", "names = data/obj.names: classes 0 and 1 are both called 'cat'"),
        (TEXT, b"cat\n", "classes is '2', and there are 1 names"),
        (f"{TEXT}train = other.txt\n", b"cat\ndog\n", "'train' is there twice; keep one"),
        (f"{TEXT}val = other.txt\n", b"cat\ndog\n", "has val and valid, with other paths"),
    ],
)
def test_obj_data_that_cannot_be(text: str, names: bytes | None, told: str) -> None:
    assert told in refusal(text, names)
