"""Makes archives of named contents, and reads back what a scan finds in them."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shard_tool.sources.files.archive import FileSpan, SourceFiles, scan_archive
from shard_tool.storage.location import StoredObject
from tests.kit.datasets.tars import info
from tests.kit.servers.range_store import StoreServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from shard_tool.sources.files.archive import ArchiveScan

Contents = dict[str, bytes]

SOME: Contents = {
    "VOCdevkit/VOC2012/Annotations/a.xml": b"<annotation/>" * 50,
    "VOCdevkit/VOC2012/JPEGImages/a.jpg": bytes(range(256)) * 40,
    "VOCdevkit/VOC2012/JPEGImages/gr\u00fcn \u732b.jpg": b"\xff\xd8\xff" + b"x" * 3000,
    "VOCdevkit/VOC2012/ImageSets/Main/train.txt": b"",
}


def tar_with(contents: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in contents.items():
            tar.addfile(info(name, len(content)), io.BytesIO(content))
    return file.getvalue()


def zip_with(contents: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def scanned(
    where: object, options: Mapping[str, Any] | None = None, **keywords: Any
) -> tuple[SourceFiles, list[FileSpan], ArchiveScan]:
    """Scan an archive: its files, their spans in order, and what the scan learnt."""
    spans = list[FileSpan]()
    archive = StoredObject(str(where), options or {})
    scan = scan_archive(archive, spans.append, **keywords)
    source = SourceFiles(
        str(where),
        "",
        is_archive=True,
        options=options or {},
        state=scan.state,
        unpacked=scan.unpacked,
    )
    return source, spans, scan


def read_back(source: SourceFiles, spans: list[FileSpan]) -> Contents:
    """Name to content of all files, asked for together and from the last to the first."""
    backwards = spans[::-1]
    with source.opened() as read:
        return dict(zip([span.name for span in backwards], read(backwards), strict=True))


def contents_of(where: object, options: Mapping[str, Any] | None = None) -> Contents:
    source, spans, _ = scanned(where, options)
    return read_back(source, spans)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@contextmanager
def counting_server(content: bytes) -> Iterator[StoreServer]:
    """A web server of one object at any path, which lists the requests (`seen`)."""
    with StoreServer() as server:
        server.content, server.daemon_threads = content, True  # clients stay connected
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
