"""`index` reads tars in a bucket and on a web server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.verify import verify
from shard_tool.errors import OptionError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.foreign_tars import adopted, entries_of, read_by_index, read_by_webdataset
from tests.kit.servers.s3 import objects, upload
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3


@pytest.mark.slow
def test_tars_in_a_bucket_are_indexed_into_a_local_folder_and_into_the_bucket(
    shards: list[Path], tmp_path: Path, s3: S3, bucket: str
) -> None:
    upload(tmp_path / "shards", s3, f"{bucket}/deep/shards")
    before = objects(s3, f"{bucket}/deep/shards")
    options: dict[str, Any] = {"storage_options": s3.storage_options}
    adopted(shards, tmp_path / "expected")
    for pattern in (
        "deep/shards/part-{000..002}.tar",
        "deep/shards/part-*.tar",
        "d*/shards/p?rt-*",
    ):
        dest = tmp_path / f"out{pattern.count('*')}{pattern.count('?')}"
        adopted([f"{bucket}/{pattern}"], dest, **options)
        names = [f"{bucket}/deep/shards/part-{number:03d}.tar" for number in range(3)]
        assert [entry.url for entry in entries_of(dest)] == names
        assert read_by_index(dest, shards) == read_by_webdataset(shards)
        assert verify(Folder(str(dest), s3.storage_options), workers=1).problems == ()
    dest_url = f"{bucket}/deep"
    adopted([f"{bucket}/deep/shards/*.tar"], dest_url, workers=2, **options)
    manifest = load_manifest(Folder(dest_url, s3.storage_options))
    assert [e.url for e in manifest.splits["train"].shards] == [
        f"shards/part-{number:03d}.tar" for number in range(3)
    ]
    assert verify(Folder(dest_url, s3.storage_options), workers=1).problems == ()
    assert objects(s3, f"{bucket}/deep/shards") == before
    index = files_of(tmp_path / "expected")["train-000001.tar.idx"]
    assert objects(s3, dest_url)["train-000001.tar.idx"] == index
    written = objects(s3, bucket) | files_of(tmp_path / "out00")
    assert not [name for name, content in written.items() if s3.secret.encode() in content]


def test_tars_on_a_web_server_are_indexed_by_braces(shards: list[Path], tmp_path: Path) -> None:
    with web_server(tmp_path / "shards") as url:
        adopted([f"{url}/part-{{000..002}}.tar"], tmp_path / "out")
        assert read_by_index(tmp_path / "out", shards) == read_by_webdataset(shards)
        assert verify(Folder(str(tmp_path / "out")), workers=1).problems == ()
        with pytest.raises(OptionError, match="a web server may not list its folders: use braces"):
            adopted([f"{url}/part-*.tar"], tmp_path / "out2")
