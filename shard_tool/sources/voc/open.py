"""Opens a source of VOC-like data: lists its files, makes a `VocSource` of each devkit in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ObjectMissing, OptionError, SourceError
from shard_tool.sources.archive import (
    ArchiveScan,
    FileSpan,
    SourceFiles,
    os_errors_named,
    scan_archive,
    scan_tree,
    unsafe_member,
)
from shard_tool.sources.file_table import KIND_OF_SUFFIX, FileTableBuilder
from shard_tool.sources.report import Report
from shard_tool.sources.voc.labelmap import read_labelmap
from shard_tool.sources.voc.layout import find_layouts
from shard_tool.sources.voc.source import VocSource
from shard_tool.storage.location import StoredObject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shard_tool.sources.file_table import Twice

FORMATS = ("voc", "voc-flat", "masks")
_MAX_NAME_BYTES = 255
"""The limit of file systems; a longer name in an archive is an attack or damage."""
_UNPRINTABLE = frozenset(map(chr, [*range(32), 127, *range(0xD800, 0xE000)]))


def open_voc(
    source: str,
    *,
    options: Mapping[str, Any] | None = None,
    number: int = 0,
    split_files: Mapping[str, str] | None = None,
    format_: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[VocSource]:
    """List the files of an archive or a folder, and find the datasets in it.

    Args:
        source: Path or URL of an archive, or path of a folder.
        options: fsspec's storage options, for a URL.
        number: The first dataset's place among the sources of one dataset.
        split_files: Split to the path of a local list of its pictures.
        format_: One of `FORMATS` to insist on, or 'auto'.
        on_progress: Called with (bytes read, all bytes) while a remote archive is streamed.

    Returns:
        One source for each devkit; else one of all pictures.

    Raises:
        ObjectMissing: There is nothing at `source`.
        SourceError: The source is damaged, holds nothing of the format, or a member is a link,
            leads out of the archive, or has the name of another with other bytes.
        StoreError: Storage failed, and went on failing.
    """
    archive = StoredObject(source, options or {})
    path = archive.local
    if path is not None and not path.exists():
        raise ObjectMissing(source, "there is no such archive or folder")
    builder, report = FileTableBuilder(), Report()
    scan: ArchiveScan | None = None
    stamp = ""
    if path is not None and path.is_dir():
        with os_errors_named(source):
            stamp = scan_tree(path, builder.add)
        files = SourceFiles(str(path.absolute()), "", is_archive=False, number=number, shown=source)
    else:
        scan = scan_archive(archive, lambda span: _note(builder, archive.place, span), on_progress)
        where = source if path is None else str(path.absolute())
        files = SourceFiles(
            where,
            "",
            is_archive=True,
            options=options or {},
            number=number,
            state=scan.state,
            unpacked=scan.unpacked,
            shown=archive.place,
        )
        report.add("name-with-backslash", archive.place, scan.num_backslashed)
    table = builder.table()
    report.add("hidden", files.place(table.first_hidden), table.num_hidden)
    layouts = find_layouts(table, files.shown, needs_splits=not split_files)
    folders = {folder for layout in layouts for folder in layout.folders()}
    its = [twice for twice in table.twice if twice.one.name.rpartition("/")[0] in folders]
    _check_twice(files, its, report)
    found = [
        VocSource(
            files=replace(files, inner=layout.root, number=number + at),
            table=table,
            layout=layout,
            num_bytes=None if scan is None else scan.num_bytes,
            sha256=None if scan is None else scan.sha256,
            stamp=stamp,
            labelmap=read_labelmap(files, table, layout),
            split_files=split_files or {},
            report=report if not at else Report(),
        )
        for at, layout in enumerate(layouts)
    ]
    if format_ != "auto" and any(its.format != format_ for its in found):
        told = ", ".join(f"{its.format} ({its.evidence})" for its in found)
        raise OptionError("--source-format", f"{source} is not {format_}: found {told}")
    if split_files and len(found) > 1:
        roots = ", ".join(layout.root for layout in layouts)
        raise OptionError("--split-file", f"{source} holds several devkits ({roots})", "give one")
    return found


def _note(builder: FileTableBuilder, place: str, span: FileSpan) -> None:
    """Note a member of an archive.

    Raises:
        SourceError: It is a file to read, and has an unprintable name or one that is too long.
    """
    name = span.name.rpartition("/")[2]
    if f".{name.rpartition('.')[2].lower()}" in KIND_OF_SUFFIX:
        if not name.isprintable() and not _UNPRINTABLE.isdisjoint(name):
            problem = "has an unprintable name (control characters, or not UTF-8)"
            raise unsafe_member(place, span.name, problem)
        length = len(name.encode())
        if length > _MAX_NAME_BYTES:
            problem = f"member {name[:60]!r}… has a name of {length} bytes"
            raise SourceError(place, f"{problem} (most: {_MAX_NAME_BYTES})")
    path = span.name
    while path.startswith("./"):  # `tar -cf x.tar .` writes them
        path = path[2:]
    if name:  # else it is a folder
        builder.add(span if path == span.name else span._replace(name=path))


def _check_twice(files: SourceFiles, twice: list[Twice], report: Report) -> None:
    """Count members of one name and the same bytes; refuse others, and two pictures of one stem."""
    with files.opened() as read:
        for one, other in twice:
            if one.name != other.name:
                problem = f"has the name of {other.name!r} but for the suffix"
                hint = "remove or rename one of them: the stem is the key of the sample"
                raise SourceError(files.place(one), problem, hint)
            if one.size != other.size or len(set(read([one, other]))) > 1:
                problem = "is in the archive twice, with other bytes"
                raise SourceError(files.place(one), problem, "pack the archive again without one")
            report.add("member-twice", files.place(one))
