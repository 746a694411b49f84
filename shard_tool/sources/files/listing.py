"""Lists the files of a source, before anybody knows of which format it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ObjectMissing, SourceError
from shard_tool.sources.files.archive import (
    ArchiveScan,
    FileSpan,
    SourceFiles,
    os_errors_named,
    scan_archive,
    scan_tree,
    unsafe_member,
)
from shard_tool.sources.files.file_table import KIND_OF_SUFFIX, FileTable, FileTableBuilder
from shard_tool.sources.report import Report
from shard_tool.storage.location import StoredObject

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_MAX_NAME_BYTES = 255
"""The limit of file systems; a longer name in an archive is an attack or damage."""
_UNPRINTABLE = frozenset(map(chr, [*range(32), 127, *range(0xD800, 0xE000)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of an archive or a folder; none is read yet."""

    files: SourceFiles
    table: FileTable = field(repr=False)
    num_bytes: int | None
    """Length of the archive; None for a folder."""
    sha256: str | None
    """Digest of the archive, if the scan read all of it."""
    stamp: str
    """Digest of the times of change of a folder's files."""
    report: Report = field(repr=False)
    """What was odd about names so far."""

    def check_twice(self, folders: Collection[str]) -> None:
        """Look at files of one name in these folders.

        Members of the same bytes are counted.

        Raises:
            SourceError: Two members of one name have other bytes, or two pictures have one name but
                for the suffix.
        """
        twice = [its for its in self.table.twice if its.one.name.rpartition("/")[0] in folders]
        with self.files.opened() as read:
            for one, other in twice:
                if one.name != other.name:
                    problem = f"has the name of {other.name!r} but for the suffix"
                    hint = "remove or rename one of them: the stem is the key of the sample"
                    raise SourceError(self.files.place(one), problem, hint)
                if one.size != other.size or len(set(read([one, other]))) > 1:
                    problem = "is in the archive twice, with other bytes"
                    hint = "pack the archive again without one"
                    raise SourceError(self.files.place(one), problem, hint)
                self.report.add("member-twice", self.files.place(one))


def list_files(
    source: str,
    *,
    options: Mapping[str, Any] | None = None,
    number: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """List the files of an archive or a folder.

    Args:
        source: Path or URL of an archive, or path of a folder.
        options: fsspec's storage options, for a URL.
        number: Its place among the sources of one dataset.
        on_progress: Called with (bytes read, all bytes) while a remote archive is streamed.

    Raises:
        ObjectMissing: There is nothing at `source`.
        SourceError: The source is damaged, or a member is a link or leads out of the archive.
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
    return Listing(
        files=files,
        table=table,
        num_bytes=None if scan is None else scan.num_bytes,
        sha256=None if scan is None else scan.sha256,
        stamp=stamp,
        report=report,
    )


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
