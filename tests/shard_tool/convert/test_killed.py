"""Promise 2: a conversion killed at any moment ends with the same bytes after a resume."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.errors import ObjectMissing
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import converted, files_of
from tests.kit.datasets.tars import many_pictures
from tests.kit.datasets.voc_tree import pictures, voc_tree
from tests.kit.processes.killed import killed_conversion, shorten_lock_timeouts
from tests.kit.processes.shard_tool_process import eventually, group_is_gone
from tests.kit.servers.s3 import objects

if TYPE_CHECKING:
    from tests.kit.servers.s3 import S3

ROOT = Path(__file__).resolve().parents[3]
IMPATIENT = """
from tests.kit.processes.killed import shorten_lock_timeouts
from shard_tool.cli.app import main
shorten_lock_timeouts()
main()
"""
SMALL = 2500  # bytes: a picture or two a shard


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return voc_tree(tmp_path / "in", [*pictures(2), *pictures(1, split="val", first=3)])


def finished(dest: Path) -> dict[str, int]:
    """The inode of each recorded shard."""
    records = (dest / ".conversion").glob("*.tar.json")
    return {path.stem: (dest / path.stem).stat().st_ino for path in records}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_promise_2_killed_between_any_two_storage_calls(
    tree: Path, tmp_path: Path, when: str
) -> None:
    converted(tree, tmp_path / "undisturbed", shard_bytes=SMALL)
    expected, deed, resumed = files_of(tmp_path / "undisturbed"), 0, 0
    while True:
        dest = tmp_path / f"{deed}"
        options = {"source": str(tree), "dest": str(dest), "shard_bytes": SMALL}
        if not killed_conversion(options, call_number=deed, when=when):
            break
        before = finished(dest)
        is_committed = (dest / "manifest.json").exists()
        if not is_committed:
            with pytest.raises(ObjectMissing):
                load_manifest(Folder(str(dest)))
        report = convert(ConvertOptions(**options, workers=1, on_existing="resume"))
        assert files_of(dest) == expected, f"killed {when} call {deed}"
        resumed += 0 if is_committed else report.num_kept_shards
        assert before.items() <= {p.name: p.stat().st_ino for p in dest.iterdir()}.items()
        deed += 1
    assert deed >= 14
    assert resumed >= 3, "nothing was ever kept"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_promise_2_killed_between_any_two_storage_calls_on_s3(
    tmp_path: Path, when: str, s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard_tool.dataset.publication.hold_writer_lock", None)
    shorten_lock_timeouts()
    tree = voc_tree(tmp_path / "less", [*pictures(1), *pictures(1, split="val", first=2)])
    converted(tree, tmp_path / "undisturbed", shard_bytes=SMALL)
    expected, deed, kept = files_of(tmp_path / "undisturbed"), 0, 0
    options: dict[str, Any] = {
        "source": str(tree),
        "shard_bytes": SMALL,
        "storage_options": s3.storage_options,
    }
    while True:
        options["dest"] = url = f"{bucket}/{when}{deed}"
        if not killed_conversion(options, call_number=deed, when=when):
            break
        is_committed = "manifest.json" in objects(s3, url)
        report = convert(ConvertOptions(**options, workers=1, on_existing="resume"))
        assert objects(s3, url) == expected, f"killed {when} call {deed}"
        kept += 0 if is_committed else report.num_kept_shards
        deed += 1 if when == "after" else 2  # before one call is after another, nearly
    assert deed >= 9
    assert kept >= 2, "nothing was ever kept"


def killed_somewhere(command: list[str], environment: dict[str, str], after_s: float) -> bool:
    """Run a command and kill it with all its workers; False if it ended before."""
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        _, err = process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)  # its workers must notice by themselves
        process.communicate()
        assert eventually(lambda: group_is_gone(process)), "its workers are still alive"
        return True
    assert process.returncode == 0, err
    return False


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "s3"])
def test_promise_2_killed_at_random_moments_again_and_again(
    tmp_path: Path, where: str, s3: S3, bucket: str
) -> None:
    """Each run goes on where the last one was killed; 25 kills on a disk, 6 on S3."""
    archive = many_pictures(tmp_path / "voc.tar", 1500 if where == "local" else 150)
    converted(archive, tmp_path / "undisturbed", shard_bytes=20_000)
    expected, dest = files_of(tmp_path / "undisturbed"), tmp_path / "out"
    url = str(dest) if where == "local" else f"{bucket}/out"
    command = [sys.executable, "-c", IMPATIENT, "convert", str(archive), url]
    command += ["--shard-size", "20000B", "--workers", "2", "--on-existing", "resume"]
    environment = dict(os.environ) | (s3.environment if where == "s3" else {})
    draw, kills, rounds = random.Random(7), 0, 0
    begun = time.monotonic()
    assert not killed_somewhere([*command[:5], url + "-once", *command[6:]], environment, 60)
    usual_s = time.monotonic() - begun
    while kills < (25 if where == "local" else 6):
        after_s = draw.uniform(0.2, 1.0) * usual_s
        if killed_somewhere(command, environment, after_s):
            kills += 1
            continue
        rounds += 1
        found = files_of(dest) if where == "local" else objects(s3, url)
        assert found == expected
        command[5] = url = f"{url}-{rounds}"
        dest = dest.with_name(f"{dest.name}-{rounds}")
    assert not killed_somewhere(command, environment, 120)
    assert (files_of(dest) if where == "local" else objects(s3, url)) == expected
