"""Finds VOC-like data among the files of a source, and makes a `VocSource` of each devkit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shard_tool.errors import OptionError
from shard_tool.sources.found import Found
from shard_tool.sources.report import Report
from shard_tool.sources.voc.labelmap import read_labelmap
from shard_tool.sources.voc.layout import find_layouts
from shard_tool.sources.voc.source import VocSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shard_tool.sources.files.listing import Listing
    from shard_tool.sources.voc.layout import Layout


def find_voc(listing: Listing, split_files: Mapping[str, str]) -> Found:
    """Find one dataset for each devkit, else one of all pictures.

    Args:
        listing: The files of the source.
        split_files: Split to the path of a local list of its pictures.

    Raises:
        SourceError: There is nothing of these formats, or it leaves a choice; says what there is.
    """
    layouts = find_layouts(listing.table, listing.files.shown, needs_splits=not split_files)
    told = "; ".join(dict.fromkeys(layout.evidence for layout in layouts))
    return Found(layouts[0].format, told, lambda: _open(listing, layouts, split_files))


def _open(
    listing: Listing, layouts: Sequence[Layout], split_files: Mapping[str, str]
) -> list[VocSource]:
    """Make the sources.

    Raises:
        SourceError: A file that is read is there twice.
        OptionError: Lists of splits are given for several devkits.
    """
    files = listing.files
    listing.check_twice({folder for layout in layouts for folder in layout.folders()})
    if split_files and len(layouts) > 1:
        roots = ", ".join(layout.root for layout in layouts)
        problem = f"{files.shown} holds several devkits ({roots})"
        raise OptionError("--split-file", problem, "give one")
    return [
        VocSource(
            files=replace(files, inner=layout.root, number=files.number + at),
            table=listing.table,
            layout=layout,
            num_bytes=listing.num_bytes,
            sha256=listing.sha256,
            stamp=listing.stamp,
            labelmap=read_labelmap(files, listing.table, layout),
            split_files=split_files,
            report=listing.report if not at else Report(),
        )
        for at, layout in enumerate(layouts)
    ]
