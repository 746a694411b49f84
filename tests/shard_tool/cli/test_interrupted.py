"""What `shard-tool` prints and leaves when the disk is full or Ctrl-C is pressed."""

from __future__ import annotations

import os
import resource
import shlex
import signal
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import ObjectMissing
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.tars import many_pictures
from tests.kit.processes.shard_tool_process import (
    SHARD_TOOL,
    eventually,
    group_is_gone,
    group_of_processes,
    shard_tool,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_full_disk_prints_one_line_and_leaves_no_partial_file(tmp_path: Path) -> None:
    """A limit of file size stands in for a full disk: the write fails in the same place."""
    archive = many_pictures(tmp_path / "voc.tar", 200)
    limit = 64 * 1024

    done = shard_tool(
        *("convert", archive, tmp_path / "voc", "--workers", 1),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    place = f"{tmp_path}/voc/train-000000.tar"
    assert done.stderr.startswith(f"error: {place}: cannot be written: File too large")
    assert files_of(tmp_path / "voc") == {}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_exits_130_commits_nothing_and_prints_the_resuming_command(
    tmp_path: Path, workers: int
) -> None:
    """A terminal sends SIGINT to the whole group, workers included."""
    archive = many_pictures(tmp_path / "voc.tar", 3000)
    dest = tmp_path / "voc"
    command = [SHARD_TOOL, "convert", str(archive), str(dest), "--shard-size", "1B"]
    with group_of_processes([*command, "--workers", str(workers)]) as process:
        assert eventually(lambda: any(dest.glob(".conversion/*.tar.json")), deadline_s=200)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
        assert eventually(lambda: group_is_gone(process), deadline_s=200), "workers are left"
    assert process.returncode == 130
    assert out == ""
    assert err.count("\n") == 2, err
    said, resuming = err.splitlines()
    assert said == "interrupted: nothing is committed; continue with"
    assert not (dest / "manifest.json").exists()
    with pytest.raises(ObjectMissing, match=r"conversion not finished \(\d+ shards"):
        load_manifest(Folder(str(dest)))
    # A shard counts once its record is written: a shard without one is made again.
    recorded = [path.name.removesuffix(".json") for path in dest.glob(".conversion/*.tar.json")]
    finished = {name: (dest / name).stat().st_ino for name in recorded}
    done = shard_tool(*shlex.split(resuming)[1:])
    assert done.returncode == 0
    assert done.stdout.splitlines()[2].startswith("train: 3000 samples, 3000 shards, ")
    assert f"{len(finished)} shards of an earlier run are kept" in done.stderr
    assert (
        finished.items() <= {path.name: path.stat().st_ino for path in dest.glob("*.tar")}.items()
    )
