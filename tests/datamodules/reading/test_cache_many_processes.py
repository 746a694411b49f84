"""Eight real processes hammer one cache, from a real S3 server; some of them are killed.

A proxy in front of the server counts what is downloaded, hooks in each process what becomes of the
files, and this process looks at the folder meanwhile.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from datamodules import ShardDataset, ShardLoader
from tests.kit.datasets.converted import manifest_of
from tests.kit.datasets.stored import hashes_of, hashes_read, stored, whole_downloads
from tests.kit.models.recorder import sample_digests
from tests.kit.processes.cache_users import PARTIAL, Options, Story, command, stories_of
from tests.kit.processes.shard_tool_process import group_of_processes
from tests.kit.processes.warm_python import warm_python
from tests.kit.servers.fault_proxy import fault_proxy
from tests.kit.servers.s3 import upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kit.servers.s3 import S3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LENGTHS = [8, 9, 7, 8, 10, 6, 8, 8]
"""64 samples, so that eight ranks have the same number."""
DEADLINE_S = 300.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two datasets. Read only."""
    root = tmp_path_factory.mktemp("hammer")
    return [stored(root / name, {"train": LENGTHS}, name=name, padding=6400) for name in "ab"]


def digest_of_shard(folder: Path) -> dict[str, str]:
    """Name of each shard's file in a cache, to its name in its dataset."""
    shards = manifest_of(folder)["splits"]["train"]["shards"]
    return {f"{shard['sha256']}.tar": shard["name"] for shard in shards}


class Hammering:
    """A run of many processes, and what was seen of it."""

    def __init__(self, folders: list[Path], tmp_path: Path, s3: S3, url: str) -> None:
        self.folders, self.cache, self.log_file = folders, tmp_path / "cache", tmp_path / "log"
        self._s3, self._url = s3, url
        self.downloads: Counter[str] = Counter()
        """By name of file."""
        self.largest_bytes = 0
        """The cache was never larger whenever it was looked at."""
        self.killed: list[int] = []
        for folder in folders:
            upload(folder, s3, f"{url}/{folder.name}")

    @property
    def names(self) -> set[str]:
        return {name for folder in self.folders for name in digest_of_shard(folder)}

    def run(self, cache_limit: int, **options: Any) -> None:
        """Run to the end, all processes successful."""
        with fault_proxy(self._s3.endpoint_url, bytes_per_s=2e6) as proxy, self._observed():
            whole = Options(
                urls=[f"{self._url}/{folder.name}" for folder in self.folders],
                cache_dir=str(self.cache),
                cache_limit=cache_limit,
                storage_options=self._s3.through(proxy).storage_options,
                log=str(self.log_file),
                **options,
            )
            with group_of_processes(command(whole)) as process:
                out, err = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, err
            self.killed += json.loads(out)["killed"]
            for folder in self.folders:
                mine = [r for r in proxy.requests if f"/{folder.name}/" in r.path]
                found = whole_downloads(mine, folder)
                for name, shard in digest_of_shard(folder).items():
                    self.downloads[name] += found[shard]

    def stories(self) -> dict[str, Story]:
        """What became of the shards' files."""
        found = stories_of(self.log_file)
        return {name: found[name] for name in self.names}

    def forget(self) -> None:
        """Begin anew, with the cache as it is."""
        for path in self.log_file.parent.glob("log*"):
            path.unlink()
        self.downloads, self.killed, self.largest_bytes = Counter(), [], 0

    def files(self) -> dict[str, int]:
        """Name to size of all in the cache except the lock for its space."""
        found = {}
        for path in self.cache.rglob("*.*"):
            if path.name != "room.lock":
                found[path.name] = path.stat().st_size
        return found

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Look at the cache again and again, while nobody may evict from it."""
        self.cache.mkdir(exist_ok=True)
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(0.1):
                sizes: dict[str, int] = {}
                with FileLock(self.cache / "room.lock"):
                    for path in self.cache.rglob("*.*"):
                        try:
                            sizes[path.name.removesuffix(PARTIAL)] = path.stat().st_size
                        except FileNotFoundError:
                            continue
                self.largest_bytes = max(self.largest_bytes, sum(sizes.values()))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


@pytest.fixture
def hammering(folders: list[Path], tmp_path: Path, s3: S3, bucket: str) -> Hammering:
    return Hammering(folders, tmp_path, s3, bucket)


def all_hashes(folders: list[Path]) -> dict[str, str]:
    return {key: what for folder in folders for key, what in hashes_of(folder, "train").items()}


def working_set(folders: list[Path]) -> int:
    """Bytes of all shards and indexes."""
    files = [path for folder in folders for path in folder.glob("*.tar*")]
    return sum(path.stat().st_size for path in files)


def test_promise_7_processes_that_are_killed_share_a_cache_too_small_for_them(
    hammering: Hammering, folders: list[Path]
) -> None:
    """No wrong byte, no deadlock, no leak; no shard is downloaded but where one had to be."""
    limit = working_set(folders) * 2 // 5
    expected = all_hashes(folders)
    hammering.run(limit, expected=expected, num_kills=12)
    assert len(hammering.killed) >= 8
    stories = hammering.stories()
    assert sum(story.torn for story in stories.values()) >= 3, "half are killed as they write"
    assert all(story.removed for story in stories.values()), "the limit was felt"
    for name, story in stories.items():
        assert story.published <= 1 + story.removed
        assert hammering.downloads[name] <= story.published + story.torn
    assert_within(limit, hammering)

    hammering.forget()
    hammering.run(limit, expected=expected, num_processes=4, epochs=1, num_kills=6)
    assert_within(limit, hammering)


def assert_within(limit: int, hammering: Hammering) -> None:
    """The cache never was above its limit, and holds nothing that blocks or grows.

    Killed processes leave locks that nobody holds and temporary files, at most one for each name.
    """
    files = hammering.files()
    assert sum(files.values()) <= limit
    assert hammering.largest_bytes <= limit
    assert {
        name.removesuffix(".lock").removesuffix(PARTIAL) for name in files
    } <= hammering.names | {
        f"{shard['index_sha256']}.idx"
        for folder in hammering.folders
        for shard in manifest_of(folder)["splits"]["train"]["shards"]
    }
    for path in hammering.cache.rglob("*.lock"):
        with FileLock(path, timeout=0):
            pass


@pytest.mark.parametrize("ranks", [False, True], ids=["of-many-jobs", "of-one-job"])
def test_a_cache_that_holds_everything_downloads_each_shard_once(
    hammering: Hammering, folders: list[Path], ranks: bool
) -> None:
    """Over all processes and epochs. Ranges of single samples, until a shard is there, are no
    downloads."""
    expected = pixels(folders) if ranks else all_hashes(folders)
    hammering.run(1 << 30, expected=expected, ranks=ranks, num_processes=4 if ranks else 8)
    assert hammering.downloads == dict.fromkeys(hammering.names, 1)
    assert hammering.stories() == dict.fromkeys(hammering.names, Story(1, 1, 0))
    files = hammering.files()
    assert {name for name in files if not name.endswith(".idx")} == hammering.names
    assert sum(files.values()) == working_set(folders)


def pixels(folders: list[Path]) -> dict[str, str]:
    """Key to digest of pixels and boxes, as one process decodes them from local shards."""
    found: dict[str, str] = {}
    for folder in folders:
        for batch in ShardLoader(ShardDataset(str(folder)), batch_size=8):
            found |= zip(batch.keys, sample_digests(batch), strict=True)
    return found


LEAVER = """
import json, sys
from datamodules import ShardDataset, ShardLoader
url, num_workers, options = json.loads(sys.argv[1])
data = ShardDataset(url, window=2, **options)
batches = iter(ShardLoader(data, batch_size=4, num_workers=num_workers))
for _ in range(2):
    next(batches)
"""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_process_may_end_in_the_middle_of_a_download(
    folders: list[Path], tmp_path: Path, s3: S3, bucket: str, num_workers: int
) -> None:
    """Without a word, and without waiting for it; what it leaves is in nobody's way."""
    upload(folders[0], s3, f"{bucket}/voc")
    cache_dir = tmp_path / "cache"
    with fault_proxy(s3.endpoint_url, bytes_per_s=1e5) as proxy:
        options: dict[str, Any] = {"cache_dir": str(cache_dir), "cache_limit": 1 << 30}
        options |= {"storage_options": s3.through(proxy).storage_options}
        arguments = json.dumps([f"{bucket}/voc", num_workers, options])
        with group_of_processes([warm_python(), "-c", LEAVER, arguments]) as process:
            out, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, out, err) == (0, "", "")
    assert list(cache_dir.rglob(f"*{PARTIAL}")), "it was in the middle of one"
    options["storage_options"] = s3.storage_options
    data = ShardDataset(f"{bucket}/voc", window=2, decode=False, **options)
    assert dict(hashes_read(data)) == hashes_of(folders[0], "train")
