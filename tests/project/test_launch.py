"""`scripts/launch` on two nodes of loopback: by two agents of torchrun, and by a fake SLURM."""

from __future__ import annotations

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from datamodules import VOCDataModule
from scripts.requeue import Requeue
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.datamodules.loading.test_many_nodes import free_port
from tests.kit.datasets.converted import files_of
from tests.kit.models.recorder import Recorder, trainer
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.processes.slurm import JOB_ID, SCRIPT, slurm_job
from tests.kit.processes.warm_python import warm_python
from tests.kit.servers.s3 import objects, upload

if TYPE_CHECKING:
    from tests.kit.servers.s3 import S3

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ROOT / "scripts/launch/torchrun.sh"
DEADLINE_S = 300.0
"""Four processes that import torch start in 10 s on a free machine, in minutes on a full one."""


def with_warm_python() -> dict[str, str]:
    python = Path(warm_python())
    return {
        "PYTHONPATH": str(ROOT),
        "PYTHON_EXEC": str(python),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PATH": f"{python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


TINY = {"class_path": "scripts.train.Detector", "init_args": {"model": "tiny_ssd"}}
UNEVEN = {**TINY, "class_path": "tests.kit.models.slow_rank.SlowRank"}


def write_config(
    folder: Path, data: dict[str, Any], *, model: dict[str, Any] = TINY, **trainer: Any
) -> Path:
    """Write the configuration that both launchers train; metrics go to ``folder/metrics.csv``."""
    logger = {"save_dir": str(folder), "name": "", "version": "", "flush_logs_every_n_steps": 1}
    path = folder / "config.yaml"
    document = {
        "model": model,
        "data": {"batch_size": 2, "image_size": 160, "num_workers": 0, **data},
        "trainer": {
            "accelerator": "cpu",
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "logger": {
                "class_path": "pytorch_lightning.loggers.CSVLogger",
                "init_args": logger,
            },
            **trainer,
        },
    }
    path.write_text(yaml.safe_dump(document))
    return path


def steps_of(path: Path) -> list[int]:
    """Steps whose loss is logged so far; the last line may be half written."""
    if not path.exists():
        return []
    with path.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get("train_loss")]


def end(processes: list[subprocess.Popen[bytes]], deadline_s: float = DEADLINE_S) -> list[int]:
    """Wait for processes and return their exit statuses; kill what is left."""
    deadline = time.monotonic() + deadline_s
    try:
        return [process.wait(max(0, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()  # an agent takes its ranks along
                with suppress(subprocess.TimeoutExpired):
                    process.wait(45)
                process.kill()
                process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_agents_of_torchrun_train_from_a_bucket_by_one_command_each(
    mini_dataset: Path, s3: S3, bucket: str, tmp_path: Path
) -> None:
    url = f"{bucket}/voc"
    upload(mini_dataset, s3, url)
    before = objects(s3, url)
    # A relative cache is each node's own, for each runs in a folder of its own.
    config = write_config(tmp_path, {"cache_dir": "cache"}, max_steps=4, strategy="ddp")
    command = [str(TORCHRUN), "2", f"127.0.0.1:{free_port()}", "--config", str(config)]
    environment = {
        **os.environ,
        **s3.environment,
        **with_warm_python(),
        "RANKS_PER_NODE": "1",
        "JOB": tmp_path.name,
        "PET_LOCAL_ADDR": "127.0.0.1",
    }
    agents, nodes = [], [tmp_path / "node-0", tmp_path / "node-1"]
    for node in nodes:
        node.mkdir()
        line = [*command, "--data.data_dir", url]
        agents.append(subprocess.Popen(line, cwd=node, env=environment))
    assert end(agents) == [0, 0]
    assert steps_of(tmp_path / "metrics.csv") == [0, 1, 2, 3]
    for node in nodes:
        assert list((node / "cache").rglob("*.tar")), "a node fetched nothing of its lane"
    assert objects(s3, url) == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slurm_job_converts_on_each_node_is_requeued_by_its_signal_and_continues(
    mini_archive: Path, tmp_path: Path
) -> None:
    """The job runs twice, as SLURM starts a requeued job again.

    One rank is slower: the signal reaches it in a forward pass, while the other waits for
    gradients. Saving in the signal handler, as Lightning itself does, would hang there.
    """
    metrics = tmp_path / "metrics.csv"
    # A relative folder is each node's own, for srun starts them in folders of their own.
    data = {"data_dir": "voc", "source": str(mini_archive)}
    config = write_config(tmp_path, data, model=UNEVEN, max_steps=2000, strategy="ddp")
    environment = {**with_warm_python(), "MASTER_PORT": str(free_port())}
    arguments = ["--config", str(config), "--requeue.every_n_steps", "2"]
    with slurm_job(tmp_path, arguments, nodes=2, environment=environment) as job:
        assert eventually(lambda: len(steps_of(metrics)) > 3, deadline_s=DEADLINE_S), log(tmp_path)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(DEADLINE_S) == -signal.SIGKILL, log(tmp_path)
    assert (tmp_path / "requeued").read_text() == f"{JOB_ID}\n"
    datasets = [files_of(tmp_path / f"node-{node}/voc") for node in range(2)]
    assert datasets[0] == datasets[1]
    assert load_manifest(Folder(str(tmp_path / "node-0/voc"))).splits["train"].num_samples > 0
    (checkpoint,) = (tmp_path / f"voc-shards-{JOB_ID}").glob("hpc_ckpt_*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["global_step"]
    metrics.unlink()
    environment["MASTER_PORT"] = str(free_port())
    arguments += ["--trainer.max_steps", str(saved + 2)]
    with slurm_job(tmp_path, arguments, nodes=2, environment=environment) as job:
        assert job.wait(DEADLINE_S) == 0, log(tmp_path)
    assert steps_of(metrics) == [saved, saved + 1]


def log(folder: Path) -> str:
    return (folder / "slurm.log").read_text()[-5000:]


# In one process -------------------------------------------------------------------------------


class Signalled(Recorder):
    """Sends SIGUSR1 to its process in step `at`, after the optimizer's step."""

    at = -1

    def on_before_zero_grad(self, optimizer: Any) -> None:
        if self.global_step == self.at:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def allocation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Pretend to be a task of an array job; return the file that records calls of scontrol."""
    program, asked = tmp_path / "bin/scontrol", tmp_path / "asked"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> "{asked}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    numbers = {"JOB_ID": 45, "ARRAY_JOB_ID": 40, "ARRAY_TASK_ID": 5, "NTASKS": 1, "PROCID": 0}
    for name, number in {**numbers, "LOCALID": 0, "NODEID": 0, "JOB_NUM_NODES": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(number))
    return asked


def trained_ids(root: Path, data: Path, at: int, **options: Any) -> list[int]:
    model = Signalled()
    model.at = at
    requeue = Requeue(every_n_steps=2)
    fit = trainer(root, callbacks=[requeue], limit_val_batches=0, **options)
    fit.fit(model, VOCDataModule(str(data), batch_size=4, image_size=32))
    return model.ids()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning, not of ours
@pytest.mark.parametrize(
    ("accumulated", "num_trained"),
    [
        pytest.param(1, 4 * 4, id="each batch a step"),
        # Of the first epoch's 8 batches the steps take 3, 3 and 2, of the second's the fourth 3.
        pytest.param(3, 29 + 3 * 4, id="three batches a step"),
    ],
)
def test_a_requeued_job_is_saved_after_a_step_and_loses_none(
    mini_dataset: Path, tmp_path: Path, allocation: Path, accumulated: int, num_trained: int
) -> None:
    options = {"max_epochs": 2, "accumulate_grad_batches": accumulated}
    whole = trained_ids(tmp_path / "whole", mini_dataset, at=-1, **options)
    assert not allocation.exists()
    root = tmp_path / "run"
    handler = signal.getsignal(signal.SIGUSR1)
    trained_ids(root, mini_dataset, at=3, **options)
    assert signal.getsignal(signal.SIGUSR1) is handler
    assert allocation.read_text() == "requeue 40_5\n"
    (checkpoint,) = root.glob("hpc_ckpt_*.ckpt")
    assert checkpoint.name == "hpc_ckpt_4.ckpt"
    rest = trained_ids(root, mini_dataset, at=-1, **options)
    assert rest == whole[num_trained:]


def test_requeue_does_nothing_outside_slurm(mini_dataset: Path, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGUSR1)
    fit = trainer(tmp_path, max_steps=1)
    requeue = Requeue()
    requeue.setup(fit, Recorder(), "fit")
    assert signal.getsignal(signal.SIGUSR1) is handler
    with pytest.raises(ValueError, match="every_n_steps 0 is below 1"):
        Requeue(every_n_steps=0)


# Without any process --------------------------------------------------------------------------


def sbatch_options() -> dict[str, str]:
    lines = SCRIPT.read_text().splitlines()
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    options = {}
    for number, line in enumerate(lines):
        if line.startswith("#SBATCH"):
            assert number < commands[0], "sbatch reads no options below the first command"
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            options[name] = value
    return options


def test_the_sbatch_header_asks_for_two_nodes_and_for_a_signal_before_the_end() -> None:
    options = sbatch_options()
    assert options["nodes"] == "2"
    name, _, seconds = options["signal"].partition("@")
    assert signal.Signals[name] is signal.SIGUSR1, "Lightning's SLURMEnvironment listens to it"
    assert int(seconds) >= 60
    assert options["requeue"] == ""
    assert re.fullmatch(r"\d+:\d\d:\d\d", options["time"])


@pytest.mark.parametrize("script", [TORCHRUN, SCRIPT], ids=lambda path: path.name)
def test_launchers_are_bash_scripts_that_stop_at_errors(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script.read_text()
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["2"], id="no place to meet"),
        pytest.param(["two", "node0:29500"], id="no number"),
        pytest.param(["0", "node0:29500"], id="no node"),
        pytest.param(["2", "node0"], id="no port"),
    ],
)
def test_torchrun_sh_prints_its_usage(arguments: list[str]) -> None:
    done = subprocess.run([str(TORCHRUN), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    usage = "usage: torchrun.sh NODES HEAD:PORT [arguments of scripts/train.py fit]\n"
    assert (done.stdout, done.stderr) == ("", usage)


def test_slurm_sbatch_refuses_to_run_outside_slurm() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    said = "error: this is for sbatch: sbatch slurm.sbatch [arguments of scripts/train.py fit]\n"
    assert done.stderr == said


@pytest.mark.parametrize("script", [TORCHRUN, SCRIPT], ids=lambda path: path.name)
def test_commands_in_launchers_guides_and_configs_name_files_that_exist(script: Path) -> None:
    pages = [script, ROOT / "docs/guides/many-nodes.md", ROOT / "configs/ssdlite_s3_two_nodes.yaml"]
    for page in pages:
        for name in re.findall(r"(?:scripts|configs|docs)/[\w./+-]+\w", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_a_launcher_puts_its_own_options_after_given_ones() -> None:
    """num_nodes of a config must not contradict the nodes there are."""
    for script in (TORCHRUN, SCRIPT):
        words = shlex.split(script.read_text(), comments=True)
        assert words.index("$@") < words.index("--trainer.num_nodes=$nodes")
