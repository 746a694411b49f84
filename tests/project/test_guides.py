"""The commands of the guides run as written, on a real bucket, with two steps of training."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.processes.warm_python import warm_python

if TYPE_CHECKING:
    from tests.kit.servers.s3 import S3

ROOT = Path(__file__).resolve().parents[2]
TOY = (
    "--trainer.accelerator cpu --trainer.devices 1 --trainer.precision 32"
    " --trainer.limit_val_batches 0 --data.batch_size 2 --data.image_size 64 --data.num_workers 0"
    " --model.input_size 64 --trainer.callbacks.init_args.every_n_train_steps 1"
)


def commands(page: str) -> str:
    text = (ROOT / "docs/guides" / page).read_text()
    return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))


@pytest.mark.slow
@pytest.mark.timeout(900)  # three quarters of a minute of a core, which tests share
def test_commands_of_convert_once_and_train_from_a_bucket_run_as_written(
    mini_archive: Path, s3: S3, bucket: str, tmp_path: Path
) -> None:
    """One reader follows both guides, from the archive to the resumed training."""
    shutil.copy(mini_archive, tmp_path / "VOCtrainval_11-May-2012.tar")
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = commands("convert-once.md") + commands("train-from-a-bucket.md")
    assert script.count("scripts/train.py fit") == 2
    script = script.replace("s3://bucket", bucket).replace("\\\n", " ")
    steps = iter((2, 4))  # the second one goes on
    script = re.sub(
        r"(?m)^python scripts/train.py fit .*$",
        lambda command: f"{command[0]} {TOY} --trainer.max_steps {next(steps)}",
        script,
    )
    tools = f"{Path(warm_python()).parent}:{Path(sys.executable).parent}"
    environment = {
        **os.environ,
        **s3.environment,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "masks.png").stat().st_size > 1000
    assert "ok: 58 samples" in done.stdout
    saved = sorted(path.name for path in (tmp_path / "lightning_logs").rglob("epoch=*.ckpt"))
    assert saved == ["epoch=0-step=2.ckpt", "epoch=0-step=4.ckpt"]
