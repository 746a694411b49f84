"""Fakes the part of SLURM that scripts/launch/slurm.sbatch uses: an allocation on loopback.

`srun` starts a process for each task, each node's in a folder of its own, and hands SIGUSR1 on to
them, as SLURM does before the time limit. `scontrol requeue` writes the job down and ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts/launch/slurm.sbatch"
JOB_ID = "4711"


@contextmanager
def slurm_job(
    folder: Path, arguments: Sequence[str], *, nodes: int, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run slurm.sbatch as SLURM would, one task a node; kills at the end what still runs.

    Args:
        folder: Where the job is submitted: gets its log, ``requeued`` and a folder for each node.
        arguments: Of the script.
        nodes: Nodes of the allocation.
        environment: More of it.
    """
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("srun", "scontrol"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        program.chmod(0o755)
    allocation = {
        "SLURM_JOB_ID": JOB_ID,
        "SLURM_JOB_NAME": "voc-shards",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS": str(nodes),
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_SUBMIT_DIR": str(folder),
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (
        (folder / "slurm.log").open("ab") as log,
        subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            cwd=folder,
            env={**os.environ, **environment, **allocation},
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def srun(arguments: Sequence[str]) -> int:
    """Start every task; end with the first bad exit status, or 0."""
    command = [argument for argument in arguments if not argument.startswith("--kill")]
    tasks = [_task(command, rank) for rank in range(int(os.environ["SLURM_NTASKS"]))]
    signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
    return max(abs(task.wait()) for task in tasks)


def _task(command: Sequence[str], rank: int) -> subprocess.Popen[bytes]:
    node = Path(os.environ["SLURM_SUBMIT_DIR"]) / f"node-{rank}"
    node.mkdir(exist_ok=True)
    its = {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"}
    environment = {**os.environ, **its, "SLURM_STEP_ID": "0"}
    cores = sorted(os.sched_getaffinity(0))
    bind = partial(os.sched_setaffinity, 0, {cores[rank % len(cores)]})  # as --cpus-per-task does
    return subprocess.Popen(command, cwd=node, env=environment, preexec_fn=bind)


def scontrol(arguments: Sequence[str]) -> None:
    """`show job` prints the command alone; `requeue` ends the job."""
    folder = Path(os.environ["SLURM_SUBMIT_DIR"])
    if arguments[0] == "show":
        said = f"JobId={arguments[2]} JobName=voc-shards\n   Command={SCRIPT} --config x\n"
        sys.stdout.write(said)
    else:
        with (folder / "requeued").open("a") as file:
            file.write(f"{arguments[1]}\n")
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](sys.argv[2:]))
