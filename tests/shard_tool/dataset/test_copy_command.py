"""`copy` refuses unusable options; its command reports what it copied and shows no secret."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.copy import CopyOptions
from shard_tool.errors import OptionError
from tests.kit.datasets.converted import files_of, manifest_of
from tests.kit.datasets.copies import NAMES, assert_no_dataset, copied, spoil
from tests.kit.processes.shard_tool_process import (
    SHARD_TOOL,
    eventually,
    group_is_gone,
    group_of_processes,
)
from tests.kit.servers.fault_proxy import Fault, FaultProxy
from tests.kit.servers.s3 import S3, objects, upload
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[str | int | None, str, str]]


SECRET = "tr0ub4dor"


def test_unusable_options_are_refused() -> None:
    with pytest.raises(OptionError) as caught:
        CopyOptions(source="a", dest="b", on_existing="ask")  # type: ignore[arg-type]
    assert str(caught.value) == "--on-existing: 'ask' is not one of fail, resume, overwrite"
    with pytest.raises(OptionError, match="--workers: 0 is below 1"):
        CopyOptions(source="a", dest="b", workers=0)
    with pytest.raises(OptionError, match="--engine"):
        CopyOptions(source="a", dest="b", engine="slurm")


def masked(text: str) -> str:
    """Cut off the time that it took."""
    head, _, tail = text.rstrip().rpartition(" in ")
    assert tail.endswith(" s")
    return head


def test_command_copies_and_reports_what(source: Path, tmp_path: Path, run_here: Run) -> None:
    size = sum(entry["num_bytes"] for entry in shards_of_manifest(source)) / 1024
    what = f"{tmp_path}/copy: 18 samples, 4 shards, {size:.1f} KiB"
    status, out, err = run_here("copy", source, tmp_path / "copy", "--dry-run")
    assert (status, err) == (0, "")
    assert out.startswith(f"from {source}: voc\ntrain: 15 samples, 3 shards, ")
    assert out.endswith(f"\n{tmp_path}/copy: nothing is written (--dry-run)\n")
    assert not (tmp_path / "copy").exists()
    status, out, err = run_here("copy", source, tmp_path / "copy", "--workers", 1)
    assert (status, masked(out), err) == (0, f"{what} copied", "")
    assert files_of(tmp_path / "copy") == files_of(source)
    resume = ("copy", source, tmp_path / "copy", "--on-existing", "resume")
    status, out, err = run_here(*resume)
    assert (status, masked(out)) == (0, f"{what} copied")
    assert err == "4 shards of an earlier run are kept\n"


def shards_of_manifest(folder: Path) -> list[dict[str, Any]]:
    splits = manifest_of(folder)["splits"].values()
    return [entry for split in splits for entry in split["shards"]]


def test_command_reports_in_json(source: Path, tmp_path: Path, run_here: Run) -> None:
    document = {
        "source": str(source),
        "dest": f"{tmp_path}/copy",
        "fingerprint": manifest_of(source)["fingerprint"],
        "num_samples": 18,
        "num_shards": 4,
        "num_bytes": sum(entry["num_bytes"] for entry in shards_of_manifest(source)),
    }
    status, out, _ = run_here("copy", source, tmp_path / "copy", "--dry-run", "--format", "json")
    said = json.loads(out)
    assert (status, said.pop("dry_run"), len(said.pop("splits")), said) == (0, True, 2, document)
    arguments = ("--workers", 1, "--format", "json")
    status, out, _ = run_here("copy", source, tmp_path / "copy", *arguments)
    said = json.loads(out)
    assert said.pop("seconds") >= 0
    assert (status, said) == (0, document | {"num_kept_shards": 0})


def test_command_fails_with_a_hint(source: Path, mine: Path, tmp_path: Path, run_here: Run) -> None:
    copied(source, tmp_path / "copy")
    status, out, err = run_here("copy", source, tmp_path / "copy")
    assert (status, out) == (1, "")
    assert err == (
        f"error: {tmp_path}/copy: already holds a dataset\n\n"
        "hint: use --on-existing overwrite to replace it, or another DEST\n"
    )
    status, out, err = run_here("copy", mine, mine)
    assert (status, out) == (2, "")
    assert err == (
        f"error: DEST: '{mine}' is the same folder as SRC ('{mine}')\n\nhint: give another folder\n"
    )
    status, out, err = run_here("copy", mine, tmp_path / "x", "--source-option", "key")
    assert (status, out, err) == (2, "", "error: --source-option: 'key' is not KEY=VALUE\n")


@pytest.mark.slow
def test_ctrl_c_exits_130_and_prints_the_resuming_command(
    tmp_path: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str], other: Path
) -> None:
    """The source never answers, so the copy cannot end by itself."""
    upload(other, s3, f"{bucket}/voc")
    proxy.inject(Fault("stall", path="train-000001.tar", times=None))
    options = [f"--source-option={name}={value}" for name, value in on_s3.items()]
    command = [SHARD_TOOL, "copy", f"{bucket}/voc", str(tmp_path / "copy"), "--workers", "1"]
    with group_of_processes([*command, *options]) as process:
        assert eventually(lambda: proxy.hits > 0, deadline_s=60)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert eventually(lambda: group_is_gone(process)), "a worker lives on"
    assert (process.returncode, out) == (130, "")
    said, resuming = err.strip().splitlines()[-2:]
    assert said == "interrupted: nothing is committed; continue with"
    shown = [
        f"--source-option={name}={value if name == 'endpoint_url' else '…'}"
        for name, value in on_s3.items()
    ]
    assert shlex.split(resuming) == [
        *("shard-tool", *command[1:], *shown),
        *("--on-existing", "resume"),
    ]
    assert_no_dataset(tmp_path / "copy")
    proxy.clear()
    copied(f"{bucket}/voc", tmp_path / "copy", source_options=on_s3, on_existing="resume")
    assert files_of(tmp_path / "copy") == files_of(other)


@pytest.mark.slow
def test_no_secret_is_printed_or_stored(
    mine: Path, source: Path, tmp_path: Path, s3: S3, bucket: str, run_here: Run
) -> None:
    said: list[str] = []

    def run(*arguments: object) -> None:
        said.extend(map(str, run_here("copy", *arguments, "--workers", 1)))

    spoil(mine / NAMES[2])
    into = [f"--storage-option={name}={value}" for name, value in s3.storage_options.items()]
    with web_server(mine) as url:
        secret_url = f"{url.replace('://', f'://me:{SECRET}@')}/?token={SECRET}"
        run(secret_url, f"{bucket}/copy", *into)  # fails at the third shard
        kept = objects(s3, f"{bucket}/copy")
        run(secret_url, f"{bucket}/copy", *into)
        run(secret_url, tmp_path / "copy", "--dry-run")
        run(secret_url, tmp_path / "copy", "--dry-run", "--format", "json")
        shutil.copy(source / NAMES[2], mine / NAMES[2])
        run(secret_url, f"{bucket}/copy", *into, "--on-existing", "resume", "--format", "json")
    wrong = s3.storage_options | {"secret": SECRET}
    options = [f"--source-option={name}={value}" for name, value in wrong.items()]
    run(f"{bucket}/copy", tmp_path / "copy", *options)
    run(f"{bucket}/copy", f"{bucket}/copy", *into)
    assert any("sha256" in text for text in said), "nothing failed"
    assert ".conversion/plan.json" in kept
    everything = "\n".join(said).encode() + b"".join(kept.values())
    everything += b"".join(objects(s3, f"{bucket}/copy").values())
    for secret in (SECRET, s3.secret, "token"):
        assert secret.encode() not in everything
