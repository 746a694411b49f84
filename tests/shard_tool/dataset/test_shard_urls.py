"""A manifest names shards as seen from its dataset, and never with a secret."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import pytest

from shard_tool.dataset.shard_urls import locate_shard, storage_options_for, url_in_manifest
from shard_tool.errors import OptionError
from shard_tool.storage.location import Folder
from tests.kit.datasets.foreign_tars import adopted, entries_of, read_by_index, read_by_webdataset
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path


SECRET = "tr0ub4dor"


def test_a_symlink_to_a_tar_is_recorded_under_its_own_name(
    shards: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "links").symlink_to(tmp_path / "shards")
    (tmp_path / "one.tar").symlink_to(shards[1])
    adopted([tmp_path / "links/part-000.tar", tmp_path / "one.tar"], tmp_path / "out")
    urls = [entry.url for entry in entries_of(tmp_path / "out")]
    assert urls == ["../shards/part-000.tar", "../one.tar"]
    assert read_by_index(tmp_path / "out", shards[:2]) == read_by_webdataset(shards[:2])


@pytest.mark.parametrize(
    ("shard", "dest", "link"),
    [
        ("/data/voc/a/b.tar", "/data/voc", "a/b.tar"),
        ("/data/voc/b.tar", "file:///data/voc", "b.tar"),
        ("file:///data/shards/b.tar", "/data/voc", "../shards/b.tar"),
        ("/other/b.tar", "/data/voc", "/other/b.tar"),
        ("/b.tar", "/data/voc", "/b.tar"),
        ("/data/b.tar", "s3://bucket/voc", "/data/b.tar"),
        ("s3://bucket/voc/a/b.tar", "s3://bucket/voc/", "a/b.tar"),
        ("s3://bucket/voc2/b.tar", "s3://bucket/voc", "s3://bucket/voc2/b.tar"),
        ("https://host/b.tar", "/data/voc", "https://host/b.tar"),
        (f"https://me:{SECRET}@host/voc/b.tar", f"https://me:{SECRET}@host/voc", "b.tar"),
    ],
)
def test_shard_url_is_relative_to_the_dataset_and_found_again(
    shard: str, dest: str, link: str
) -> None:
    folder = Folder(dest)
    assert url_in_manifest(shard, folder) == link
    found, name = locate_shard(link, folder)
    expected = shard.removeprefix("file://").replace(f"me:{SECRET}@", "")
    assert found.place(name).removeprefix("file://").replace("/./", "/") == expected


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{SECRET}@host/a.tar",
        f"https://host/a.tar?X-Amz-Signature={SECRET}",
        f"s3://{SECRET}@bucket/a.tar",
        f"s3://{SECRET}:{SECRET}@bucket/*.tar",
        f"https://host/a.tar#{SECRET}",
    ],
)
def test_promise_8_url_with_a_secret_is_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        adopted([url], tmp_path / "out")
    assert SECRET not in str(caught.value)
    assert "secrets go into --storage-option" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["b{.tar", "{b,b}.tar", "*.tar"])
def test_promise_8_pattern_with_a_password_is_not_shown(pattern: str, tmp_path: Path) -> None:
    """A shard on the dataset's own server is named without the password, so it would be allowed."""
    with web_server(tmp_path) as web:
        url = web.replace("://", f"://me:{SECRET}@")
        with pytest.raises(OptionError) as caught:
            adopted([f"{url}/{pattern}"], url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("dest", "shard", "is_given"),
    [
        ("/data/voc", "https://host/a.tar", True),
        ("https://host/voc", "https://host/elsewhere/a.tar", True),
        (f"https://me:{SECRET}@host/voc", "https://host/a.tar", True),
        ("https://host/voc", "https://evil/a.tar", False),
        ("https://host/voc", "s3://bucket/a.tar", False),
        ("s3://bucket/voc", "s3://other/a.tar", True),
        ("s3://bucket/voc", "https://bucket/a.tar", False),
    ],
)
def test_promise_8_storage_options_are_given_only_to_hosts_of_the_dataset(
    dest: str, shard: str, is_given: bool
) -> None:
    options = {"headers": {"Authorization": SECRET}}
    assert storage_options_for(shard, Folder(dest, options)) == (options if is_given else {})
