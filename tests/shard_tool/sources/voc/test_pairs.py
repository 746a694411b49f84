"""Folders of XML and of pictures: pairs are found, and few folders are compared with each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.sources.files.archive import FileSpan
from shard_tool.sources.files.file_table import FileTableBuilder
from shard_tool.sources.voc import pairs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shard_tool.sources.files.file_table import FileTable


def table_of(names: Iterable[str]) -> FileTable:
    builder = FileTableBuilder()
    for at, name in enumerate(names):
        builder.add(FileSpan(name, at, 10))
    return builder.table()


@pytest.mark.parametrize(
    ("picture", "annotation"),
    [
        *[("seq/{}/a.jpg", "seq/{}/a.xml"), ("seq/{}/a.jpg", "seq/{}/xml/a.xml")],
        *[("seq/{}/img/a.jpg", "seq/{}/xml/a.xml"), ("img/{}/a.jpg", "xml/{}/a.xml")],
    ],
)
def test_folder_for_each_picture_is_compared_with_few_others(
    picture: str, annotation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of folders beside each other differ by one name, each from each."""
    num = 300
    names = [name.format(f"{at:04d}") for at in range(num) for name in (picture, annotation)]
    table = table_of([*names, "seq/lonely/more.xml", "seq/0007/left.xml", "seq/0008/over.xml"])
    num_compared, best = 0, pairs._best

    def counting(stems: Any, xml: str, images: Any) -> str | None:
        nonlocal num_compared
        num_compared += len(images)
        return best(stems, xml, images)

    monkeypatch.setattr(pairs, "_best", counting)
    found = pairs.pair_folders(table.of_kind("annotation"), table.of_kind("picture"), "here")
    folders = [
        tuple(name.format(f"{at:04d}").rpartition("/")[0] for name in (picture, annotation))
        for at in range(num)
    ]
    assert found == folders
    assert num_compared < 8 * num
