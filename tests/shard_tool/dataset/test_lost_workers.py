"""A worker that is lost while it writes leaves nothing in the dataset.

Real Dask workers and real processes are killed or stopped.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.dataset.copy import CopyOptions, copy_dataset
from shard_tool.dataset.index import IndexOptions, index_tars
from shard_tool.errors import ShardToolError
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.stored import stored
from tests.kit.processes.lost_worker import (
    KILLED_WHILE_UPLOADING,
    KILLED_WHILE_WRITING,
    stopped_while_writing,
)
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.dask_cluster import DaskCluster, add_worker, dask_cluster
from tests.kit.servers.fault_proxy import Fault, fault_proxy
from tests.kit.servers.s3 import objects, upload
from tests.kit.servers.uploads import unfinished_uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.kit.servers.s3 import S3

pytestmark = pytest.mark.slow

LENGTHS = [2] * 12


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve small shards. Read only."""
    return stored(tmp_path_factory.mktemp("source") / "voc", {"train": LENGTHS})


@pytest.fixture
def run(mini_archive: Path, source: Path) -> Callable[..., object]:
    """Runs a verb: run('copy', dest, engine=…, storage_options=…, on_progress=…)."""

    def run_it(
        verb: str, dest: object, on_progress: Callable[[Any], None] | None = None, **options: Any
    ) -> object:
        into = {"dest": str(dest), **({"workers": 1} | options)}
        if verb == "convert":
            of_archive = ConvertOptions(source=str(mini_archive), shard_bytes=60_000, **into)
            return convert(of_archive, on_progress=on_progress)
        if verb == "copy":
            return copy_dataset(CopyOptions(source=str(source), **into), on_progress=on_progress)
        of_tars = IndexOptions(shards=(f"{source}/train-*.tar",), **into)
        return index_tars(of_tars, on_progress=on_progress)

    return run_it


@contextmanager
def cluster_that_loses_a_worker(folder: Path, preload: str) -> Iterator[DaskCluster]:
    """Two workers, of which one is lost by what it runs first."""
    with ExitStack() as stack:
        cluster = stack.enter_context(dask_cluster(folder, workers=1))
        stack.enter_context(add_worker(cluster, "lost", preload=preload))
        yield cluster


def is_dead(pid: int) -> bool:
    """Whether a process has ended, or is a child of this one that nobody has waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("verb", ["convert", "copy", "index"])
def test_killed_dask_worker_leaves_nothing_in_a_folder(
    run: Callable[..., object], tmp_path: Path, verb: str
) -> None:
    run(verb, tmp_path / "here")
    with cluster_that_loses_a_worker(tmp_path / "dask", KILLED_WHILE_WRITING) as cluster:
        run(verb, tmp_path / "there", engine=cluster.address)
        assert is_dead(cluster.pids[1]), "no worker was lost"
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


@pytest.mark.parametrize("verb", ["convert", "copy"])
def test_killed_dask_worker_leaves_no_unfinished_upload_in_a_bucket(
    run: Callable[..., object], tmp_path: Path, s3: S3, bucket: str, verb: str
) -> None:
    run(verb, tmp_path / "here")
    with cluster_that_loses_a_worker(tmp_path / "dask", KILLED_WHILE_UPLOADING) as cluster:
        run(verb, f"{bucket}/voc", engine=cluster.address, storage_options=s3.storage_options)
        assert is_dead(cluster.pids[1]), "no worker was lost"
    assert unfinished_uploads(s3, f"{bucket}/voc") == []
    assert objects(s3, f"{bucket}/voc") == files_of(tmp_path / "here")


@pytest.mark.parametrize("verb", ["convert", "copy", "index"])
def test_dask_worker_that_is_late_can_publish_nothing_more(
    run: Callable[..., object], tmp_path: Path, verb: str
) -> None:
    """It stops while it writes, the cluster gives it up, and it goes on after the manifest."""
    import distributed  # slow to import

    run(verb, tmp_path / "here")
    preload = stopped_while_writing(tmp_path)
    with cluster_that_loses_a_worker(tmp_path / "dask", preload) as cluster:
        lost: list[str] = []

        def lose_it(_: Any) -> None:
            if not lost:
                assert eventually(lambda: has_text(tmp_path / "stopped"), deadline_s=60)
                lost.append(cluster.addresses["lost"])
                with distributed.Client(cluster.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
                    client.run_on_scheduler(give_up, lost[0])

        run(verb, tmp_path / "there", lose_it, engine=cluster.address)
        (tmp_path / "go").touch()
        os.kill(int((tmp_path / "stopped").read_text()), signal.SIGCONT)
        assert eventually(lambda: has_text(tmp_path / "went-on"), deadline_s=60)
    assert (tmp_path / "went-on").read_text() == "FileNotFoundError"
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


async def give_up(worker: str, dask_scheduler: Any) -> None:
    """What a scheduler does of a worker that it has not heard of for long."""
    await dask_scheduler.remove_worker(worker, stimulus_id="test", close=False)


@pytest.mark.parametrize("finished", [(), ("train-000000.tar",)], ids=["nothing", "a shard"])
def test_killed_local_worker_leaves_nothing_but_finished_shards(
    source: Path, tmp_path: Path, s3: S3, bucket: str, finished: tuple[str, ...]
) -> None:
    """The source falls silent: a worker has begun a shard, and is killed before it can end it."""
    dest, conversion = tmp_path / "copy", tmp_path / "copy/.conversion"

    def kill_who_writes() -> None:
        writers: list[int] = []

        def is_time() -> bool:
            writers.extend(writers_of_shards(dest))
            return bool(writers) and all((conversion / f"{n}.json").exists() for n in finished)

        assert eventually(is_time, deadline_s=60)
        os.kill(writers[-1], signal.SIGKILL)

    upload(source, s3, f"{bucket}/voc")
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        proxy.inject(Fault("stall", times=None, where=lambda r: is_shard_but(finished, r.path)))
        options = {"source": f"{bucket}/voc", "dest": str(dest), "workers": 2}
        through = {"source_options": s3.through(proxy).storage_options}
        killer = threading.Thread(target=kill_who_writes)
        killer.start()
        with pytest.raises(ShardToolError, match="a worker process died"):
            copy_dataset(CopyOptions(**options, **through))  # type: ignore[arg-type]
        killer.join()
    names = {name for shard in finished for name in (shard, f"{shard}.idx")}
    records = {f".conversion/{name}" for name in ["plan.json", *(f"{n}.json" for n in finished)]}
    assert files_of(dest).keys() == (names | records if finished else set())
    assert dest.exists() == bool(finished)
    assert not list(dest.rglob("*writing*"))


def is_shard_but(names: tuple[str, ...], path: str) -> bool:
    """Whether a request is for a shard that is none of these."""
    return path.endswith(".tar") and not path.endswith(names)


def writers_of_shards(folder: Path) -> list[int]:
    """The processes that have an unfinished shard below a folder open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            path = link.readlink()
            if path.is_relative_to(folder) and ".tar.partial-" in path.name:
                found.append(int(link.parts[2]))
    return found
