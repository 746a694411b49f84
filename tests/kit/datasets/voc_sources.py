"""Opens VOC-like sources and finds single files of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.sources.open import open_source
from shard_tool.sources.voc.source import VocSource

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.sources.files.archive import FileSpan


def opened(path: Path) -> VocSource:
    """The only dataset of a source."""
    (source,) = open_source(str(path))
    assert isinstance(source, VocSource)
    return source


def span_of(source: VocSource, name: str) -> FileSpan | None:
    """Where a file of a devkit lies, by its path below the devkit; None: there is no such file."""
    root = source.layout.root
    folder, _, file = (f"{root}/{name}" if root else name).rpartition("/")
    stem = file.rpartition(".")[0]
    for (its, _), files in source.table.files.items():
        span = files.find(stem) if its == folder else None
        if span is not None and span.name.endswith(f"/{file}"):
            return span
    return None
