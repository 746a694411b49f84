"""One devkit as a tar, a zip and a compressed tar, local or not, becomes the same shards."""

from __future__ import annotations

import gzip
import multiprocessing.util
import tarfile
import tempfile
import zipfile
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.convert.run import prepare
from shard_tool.errors import OptionError
from tests.kit.datasets.archives import tar_with, written, zip_with
from tests.kit.datasets.converted import converted, manifest_of, shards_of
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kit.datasets.archives import Contents

OPTIONS = {"task": "segmentation", "shard_bytes": 150_000}
KINDS: dict[str, Callable[[Contents], bytes]] = {
    "stored.zip": lambda contents: zip_with(contents, zipfile.ZIP_STORED),
    "deflated.zip": zip_with,
    "backslashes.zip": lambda contents: zip_with(with_backslashes(contents)),
    "backslashes.tar": lambda contents: tar_with(with_backslashes(contents)),
    "a.tgz": lambda contents: gzip.compress(tar_with(contents), 1),
}


def with_backslashes(contents: Contents) -> Contents:
    return {name.replace("/", "\\"): content for name, content in contents.items()}


@pytest.fixture(scope="module")
def contents(mini_archive: Path) -> Contents:
    with tarfile.open(mini_archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    multiprocessing.util.get_temp_dir()  # its sockets need a short path: it keeps the usual folder
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["local", "remote"])
def test_the_shards_are_those_of_the_plain_tar(
    contents: Contents, mini_masks: Path, tmp_path: Path, temporary: Path, kind: str, where: str
) -> None:
    packed = KINDS[kind](contents)
    path = written(tmp_path, kind, packed)
    with web_server(tmp_path) as url:
        source = f"{url}/{kind}" if where == "remote" else path
        converted(source, tmp_path / "out", **OPTIONS)  # type: ignore[arg-type]
    assert shards_of(tmp_path / "out") == shards_of(mini_masks)
    (entry,) = manifest_of(tmp_path / "out")["sources"]
    assert entry["sha256"] == sha256(packed).hexdigest()
    assert entry["num_bytes"] == len(packed)
    assert not [*temporary.glob("shard-tool-*")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deflated.zip", "a.tgz"])
def test_other_processes_convert_it(
    contents: Contents, mini_masks: Path, tmp_path: Path, kind: str
) -> None:
    path = written(tmp_path, kind, KINDS[kind](contents))
    converted(path, tmp_path / "out", workers=2, **OPTIONS)
    assert shards_of(tmp_path / "out") == shards_of(mini_masks)
    report = converted(path, tmp_path / "out", on_existing="resume", **OPTIONS)
    assert report.num_kept_shards


@pytest.mark.slow
def test_pictures_that_a_zip_shares_with_another_source_are_kept_once(
    contents: Contents, tmp_path: Path
) -> None:
    sources = [
        str(written(tmp_path, "a.tar", tar_with(contents))),
        str(written(tmp_path, "b.zip", zip_with(contents))),
    ]
    report = convert(ConvertOptions(source=sources, dest=str(tmp_path / "out"), workers=1))
    splits = report.manifest.splits.values()
    assert len(report.manifest.duplicates) == sum(split.num_samples for split in splits)


def test_workers_elsewhere_cannot_read_what_was_decompressed_here(
    contents: Contents, tmp_path: Path
) -> None:
    path = written(tmp_path, "a.tgz", KINDS["a.tgz"](contents))
    with pytest.raises(OptionError) as caught:
        converted(path, tmp_path / "out", engine="tcp://127.0.0.1:1")
    assert str(caught.value) == (
        f"{path}: was decompressed into a file that workers of tcp://127.0.0.1:1 cannot read; "
        "decompress it and give the tar"
    )


def test_what_systems_leave_in_archives_is_left_out(
    contents: Contents, mini_masks: Path, tmp_path: Path
) -> None:
    clutter = {f"__MACOSX/{n.replace('JPEGImages/', 'JPEGImages/._')}": b"x" for n in contents}
    clutter |= {"VOCdevkit/.DS_Store": b"x", "VOCdevkit/VOC2012/JPEGImages/Thumbs.db": b"x"}
    path = written(tmp_path, "a.zip", zip_with(contents | clutter))
    converted(path, tmp_path / "out", **OPTIONS)
    assert shards_of(tmp_path / "out") == shards_of(mini_masks)


def test_names_with_backslashes_are_reported(contents: Contents, tmp_path: Path) -> None:
    path = written(tmp_path, "a.zip", KINDS["backslashes.zip"](contents))
    (source,) = prepare(ConvertOptions(source=str(path), dest="unused")).sources
    counted = source.report.codes["name-with-backslash"]
    assert (counted.count, counted.examples) == (len(contents), [str(path)])
