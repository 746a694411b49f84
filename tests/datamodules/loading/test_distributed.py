"""Real processes: torchrun with gloo, SIGKILL, and resuming on another number of ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from datamodules import ShardDataset
from shard_tool import ConvertOptions, convert
from tests.kit.models.recorder import read_log
from tests.kit.processes.warm_python import warm_python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = str(ROOT / "tests/kit/processes/train_recorder.py")
DEADLINE_S = 240.0
"""Four processes that import torch start in 10 s on a free machine, in minutes on a full one."""


@pytest.fixture(scope="module")
def sample_dataset(voc_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 900 real photographs of the sample archive as shards."""
    dest = tmp_path_factory.mktemp("sample") / "voc2007"
    source = str(voc_sample / "VOCtrainval_sample-2007.tar")
    convert(ConvertOptions(source=source, dest=str(dest), shard_bytes=2 << 20, workers=2))
    return dest


def start(
    options: dict[str, Any] | list[dict[str, Any]], *, ranks: int = 1
) -> subprocess.Popen[bytes]:
    launcher = [warm_python()]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHON_EXEC": warm_python(),
    }
    command = [*launcher, SCRIPT, json.dumps(options)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def run(options: dict[str, Any] | list[dict[str, Any]], *, ranks: int = 1) -> None:
    with start(options, ranks=ranks) as process:
        try:
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


def kill_after(steps: int, options: dict[str, Any], *, ranks: int = 1) -> None:
    """SIGKILL every rank once rank 0 has written down so many steps."""
    with start(options, ranks=ranks) as process:
        deadline = time.monotonic() + DEADLINE_S
        try:
            while len(read_log(options["log"], 0)) < steps:
                assert process.poll() is None, "ended before it was killed"
                assert time.monotonic() < deadline, "did not get so far in time"
                time.sleep(0.02)
        finally:
            for rank in range(ranks):
                pid = Path(f"{options['log']}.pid{rank}")
                if pid.exists():
                    os.kill(int(pid.read_text()), signal.SIGKILL)
            process.kill()


def options_for(root: Path, log: Path, **more: Any) -> dict[str, Any]:
    data = {"data_dir": str(root), "batch_size": 16, "image_size": 32, "num_workers": 2, "seed": 4}
    options: dict[str, Any] = {
        "log": str(log),
        "data": {**data, **more.pop("data", {})},
        "trainer": {"max_epochs": 1, "devices": 1, **more.pop("trainer", {})},
    }
    return {**options, **more}


def samples(lines: list[dict[str, Any]]) -> dict[int, str]:
    """Id to digest of pixels; fails on an id seen twice."""
    pairs = [pair for line in lines for pair in zip(line["ids"], line["digests"], strict=True)]
    assert len(dict(pairs)) == len(pairs), "a sample was seen twice"
    return dict(pairs)


def test_promise_4_two_ranks_with_two_workers_see_every_sample_once(
    sample_dataset: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    trainer = {"devices": 2, "strategy": "ddp", "limit_val_batches": 0}
    options = options_for(sample_dataset, log, trainer=trainer)
    run({**options, "trainer": {**trainer, "max_epochs": 1, "limit_val_batches": 1.0}}, ranks=2)
    ranks = [read_log(str(log), rank) for rank in range(2)]
    for stage, split in (("train", "train"), ("val", "val")):
        lines = [[line for line in rank if line["stage"] == stage] for rank in ranks]
        assert len(lines[0]) == len(lines[1]) > 0
        assert [line["start"] for line in lines[0]] == [line["start"] for line in lines[1]]
        seen = samples(lines[0] + lines[1])
        dataset = ShardDataset(str(sample_dataset), split, shuffle=False)
        first = 0 if split == "train" else 450
        assert sorted(seen) == list(range(first, first + dataset.num_samples))


def test_promise_5_and_6_killed_runs_go_on_with_the_same_pixels_on_any_number_of_ranks(
    sample_dataset: Path, tmp_path: Path
) -> None:
    """Uninterrupted on 1; killed on 1 and resumed on 1; killed on 2 and resumed on 1."""
    two_epochs = {"max_epochs": 2, "limit_val_batches": 0}
    run(options_for(sample_dataset, tmp_path / "whole", trainer=two_epochs))
    whole = read_log(str(tmp_path / "whole"), 0)
    assert len(whole) == 2 * 29

    checkpoints = tmp_path / "one"
    hanging = {"hang_at": 11, "checkpoints": str(checkpoints)}
    killed = options_for(sample_dataset, tmp_path / "killed", trainer=two_epochs, **hanging)
    kill_after(11, killed)
    state = checkpoints / "last.ckpt"
    resumed = options_for(sample_dataset, tmp_path / "resumed", trainer=two_epochs)
    run({**resumed, "ckpt_path": str(state)})
    tail = read_log(str(tmp_path / "resumed"), 0)
    assert 0 < len(tail) <= len(whole) - 10
    assert tail == whole[-len(tail) :]
    assert whole[: len(read_log(killed["log"], 0))] == read_log(killed["log"], 0)

    checkpoints = tmp_path / "two"
    hanging = {"hang_at": 9, "checkpoints": str(checkpoints)}
    trainer = {**two_epochs, "devices": 2, "strategy": "ddp"}
    pair = options_for(sample_dataset, tmp_path / "pair", trainer=trainer, **hanging)
    pair["data"] |= {"batch_size": 8, "num_workers": 1}
    kill_after(9, pair, ranks=2)
    alone = options_for(sample_dataset, tmp_path / "alone", trainer=two_epochs)
    run({**alone, "ckpt_path": str(checkpoints / "last.ckpt")})
    tail = read_log(str(tmp_path / "alone"), 0)
    assert 0 < len(tail) <= len(whole) - 8
    assert tail == whole[-len(tail) :]
    before = [read_log(pair["log"], rank) for rank in range(2)]
    common = min(len(lines) for lines in before)
    assert common >= 8
    for step in range(common):
        both = samples([before[0][step], before[1][step]])
        assert both == samples([whole[step]])


def test_promise_6_an_epoch_end_checkpoint_starts_the_next_epoch_in_a_new_process(
    sample_dataset: Path, tmp_path: Path
) -> None:
    two_epochs = {"max_epochs": 2, "limit_val_batches": 0}
    data = {"train_split": "val", "batch_size": 50}
    run(options_for(sample_dataset, tmp_path / "whole", trainer=two_epochs, data=data))
    whole = read_log(str(tmp_path / "whole"), 0)
    one_epoch = {**two_epochs, "max_epochs": 1}
    first = options_for(sample_dataset, tmp_path / "first", trainer=one_epoch, data=data)
    run({**first, "checkpoints": str(tmp_path / "steps")})
    second = options_for(sample_dataset, tmp_path / "second", trainer=two_epochs, data=data)
    run({**second, "ckpt_path": str(tmp_path / "steps/last.ckpt")})
    lines = read_log(str(tmp_path / "first"), 0) + read_log(str(tmp_path / "second"), 0)
    assert lines == whole
