"""Where the cache's folder may lie, who shares it, and what its options refuse."""

from __future__ import annotations

import os
import pickle
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import ShardDataset, ShardLoader
from datamodules.reading.cache import ShardCache, default_folder
from shard_tool.errors import OptionError
from tests.kit.datasets.cached import A, fetch_all, fill, held, streamed
from tests.kit.datasets.stored import hashes_of, in_memory, sample_bytes, stored
from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_cache_in_shared_memory_serves(tmp_path: Path) -> None:
    folder = stored(tmp_path / "data", {"train": [4] * 3})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shared:
        cache_dir = Path(shared) / "not/there/yet"
        assert streamed(url, cache_dir) == [hashes_of(folder, "train")] * 2
        fetch_all(url, folder, cache_dir)


def test_several_datasets_share_a_cache_and_equal_shards_a_file(tmp_path: Path) -> None:
    folders = [stored(tmp_path / name, {"train": [4] * 3}, name=name) for name in "ab"]
    urls = [in_memory(folder, f"memory://{tmp_path.name}/{folder.name}") for folder in folders]
    for url, folder in zip(urls, folders, strict=True):
        assert streamed(url, tmp_path / "cache") == [hashes_of(folder, "train")] * 2
    names = {
        f"{sha256(path.read_bytes()).hexdigest()}{path.suffix}"
        for folder in folders
        for path in folder.glob("*.tar*")
    }
    cache, copy = ShardCache(tmp_path / "cache", 1), in_memory(folders[0], f"{urls[0]}-copy")

    def is_all_there() -> bool:
        for url in (copy, *urls):
            streamed(url, tmp_path / "cache")
        return held(cache).keys() == names

    assert len(names) == 12
    assert eventually(is_all_there)


def test_local_shards_are_never_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = stored(tmp_path / "data", {"train": [4] * 3})
    assert streamed(str(folder), tmp_path / "cache") == [hashes_of(folder, "train")] * 2
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "home").exists()


def test_the_default_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg/voc-shards"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache/voc-shards"
    folder = stored(tmp_path / "data", {"train": [4] * 3})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    assert ShardDataset(url).num_samples == 12
    assert default_folder().is_dir()


def test_a_relative_folder_means_the_one_it_meant_when_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache: ShardCache = pickle.loads(pickle.dumps(ShardCache(Path("here"), 1000)))
    monkeypatch.chdir("/")
    fill(cache, A)
    assert (tmp_path / "here" / A[:2] / A).exists()


def refusal(cache_dir: Path, limit: int | None = 1000) -> str:
    with pytest.raises(OptionError) as caught:
        ShardCache(cache_dir, limit)
    return str(caught.value)


def test_an_impossible_folder_is_an_option_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    long, hint = tmp_path / ("x" * 300), "give a local folder that can be written to"
    for folder, reason in {
        file: "File exists",
        file / "cache": "Not a directory",
        long: "File name too long",
        Path("a\0b"): "embedded null byte",
        Path("~nobody-of-this-name/cache"): "Could not determine home directory.",
    }.items():
        assert refusal(folder) == f"cache_dir {str(folder)!r}: cannot be used: {reason}; {hint}"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no such file system here")
def test_a_folder_that_takes_no_files_is_an_option_error() -> None:
    assert refusal(Path("/proc")).startswith("cache_dir '/proc': cannot be used: No such file")


def test_a_url_is_no_folder_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would make a local folder of that name."""
    monkeypatch.chdir(tmp_path)
    url = in_memory(stored(tmp_path / "data", {"train": [4]}), f"memory://{tmp_path.name}")
    with pytest.raises(OptionError, match=r"cache_dir 's3://bucket/cache': .*local folder"):
        ShardDataset(url, cache_dir="s3://bucket/cache")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_cannot_be_written_to_is_an_option_error(
    tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    folder = disk("size=64k,ro")
    for place in (folder, folder / "cache"):
        problem = "cannot be used: Read-only file system"
        assert refusal(place).startswith(f"cache_dir '{place}': {problem}; ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_another_users_folder_is_an_option_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for place in (tmp_path, tmp_path / "cache"):
        problem = "cannot be used: Permission denied"
        assert refusal(place).startswith(f"cache_dir '{place}': {problem}; ")
    tmp_path.chmod(0o755)


def test_a_limit_below_one_byte_is_an_option_error(tmp_path: Path) -> None:
    assert refusal(tmp_path, 0) == "cache_limit: 0 bytes are below 1"
    assert refusal(tmp_path, -5) == "cache_limit: -5 bytes are below 1"
    assert list(tmp_path.iterdir()) == []


def test_a_loader_with_workers_uses_the_cache_of_its_parent(tmp_path: Path) -> None:
    """The same bytes, from one folder, whoever reads: here the parent has filled it."""
    folder = stored(tmp_path / "data", {"train": [4, 3, 5]})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    fetch_all(url, folder, tmp_path / "cache")
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "cache_limit": 1 << 30}
    alone = ShardLoader(ShardDataset(url, **options), batch_size=2)
    expected = [batch.sample_ids.tolist() for batch in alone]
    loader = ShardLoader(
        ShardDataset(url, **options), batch_size=2, num_workers=2, multiprocessing_context="fork"
    )
    found = list(loader)
    assert [batch.sample_ids.tolist() for batch in found] == expected
    cost = [batch.cost for batch in found]
    assert sum(c.network_bytes + c.read_through_bytes + c.disk_bytes for c in cost) == 0
    assert sum(c.cache_bytes for c in cost) == sample_bytes(folder)


def test_the_limit_may_be_written_as_a_size(tmp_path: Path) -> None:
    folder = stored(tmp_path / "voc", {"train": [3]})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache")}
    data = ShardDataset(url, cache_limit="1.5 MiB", **options)
    assert data._cache is not None
    assert data._cache.limit_bytes == 3 << 19
    with pytest.raises(OptionError) as caught:
        ShardDataset(url, cache_limit="much", **options)
    assert str(caught.value) == "cache_limit: 'much' is not a size; write 64MiB or 100MB"
