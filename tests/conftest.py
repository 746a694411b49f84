"""Fixtures every test may use. Real photographs come from VOC_SAMPLE_DIR, else ../shared/voc."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests share two cores

import pytest
from hypothesis import settings

from scripts.mini_voc import draw_archive
from shard_tool import ConvertOptions, convert
from shard_tool.cli.app import main
from tests.kit.processes.warm_python import python_of_pytest, warm_python
from tests.kit.servers.s3 import S3, make_bucket, s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")

# Processes that are spawned, and fork servers, begin with torch imported.
multiprocessing.set_executable(warm_python())


def pytest_configure(config: pytest.Config) -> None:
    """Let the processes of pytest-xdist begin with torch imported, too."""
    if not hasattr(config, "workerinput") and config.getoption("tx", None):
        config.option.tx = [f"popen//python={python_of_pytest()}" for _ in config.option.tx]


_OF_A_GROUP = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "RANK")


@pytest.fixture(autouse=True)
def _no_group_is_left_behind() -> Iterator[None]:
    """A Trainer with strategy ddp leaves its process group, and its port, to the whole process."""
    before = {name: os.environ.get(name) for name in _OF_A_GROUP}
    yield
    distributed = sys.modules.get("torch.distributed")  # most tests need no torch
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def voc_sample() -> Path:
    """The folder of real VOC data; see the README, "Tests"."""
    folder = Path(os.environ.get("VOC_SAMPLE_DIR", "../shared/voc"))
    if not (folder / "VOCtrainval_sample-2007.tar").exists():
        pytest.skip("no real VOC pictures: set VOC_SAMPLE_DIR to a folder that holds them")
    return folder.resolve()


@pytest.fixture(scope="session")
def mini_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini-VOC archive of 60 drawn pictures, in the official layout."""
    path = tmp_path_factory.mktemp("mini") / "mini-voc.tar"
    draw_archive(path, num_pictures=60)
    return path


@pytest.fixture(scope="session")
def mini_dataset(mini_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini-VOC archive converted for detection, several shards a split. Read only."""
    return _converted(mini_archive, tmp_path_factory.mktemp("detection") / "voc", "detection")


@pytest.fixture(scope="session")
def mini_masks(mini_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini-VOC archive converted for segmentation. Read only."""
    return _converted(mini_archive, tmp_path_factory.mktemp("segmentation") / "voc", "segmentation")


@pytest.fixture(scope="session")
def mini_labels(mini_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini-VOC archive converted for classification. Read only."""
    dest = tmp_path_factory.mktemp("classification") / "voc"
    return _converted(mini_archive, dest, "classification")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3) -> str:
    """The URL of a fresh bucket."""
    return make_bucket(s3)


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str | int | None, str, str]]:
    """Runs a command line in this process, seconds faster: (status, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> tuple[str | int | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["shard-tool", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return (caught.value.code, *capsys.readouterr())

    return run


def _converted(source: Path, dest: Path, task: str) -> Path:
    options = ConvertOptions(
        source=str(source), dest=str(dest), task=task, shard_bytes=150_000, workers=1
    )
    convert(options)
    return dest
