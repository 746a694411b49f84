"""`scripts/demo` as a user runs it, with a shorter training."""

from __future__ import annotations

import csv
import re
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from scripts import demo
from tests.kit.processes.warm_python import warm_python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # a minute of two cores, which tests share
]

ROOT = Path(__file__).resolve().parents[2]


def steps_of(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train_loss"]]
    return {int(row["step"]): float(row["train_loss"]) for row in rows}


def test_the_demo_converts_trains_is_killed_and_resumes(tmp_path: Path) -> None:
    done = subprocess.run(
        [warm_python(), str(ROOT / "scripts/demo.py"), "--seconds", "1", "--output", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.partition("== summary")[2]
    assert re.search(r"samples +193\n", summary)
    assert re.search(r"loss +\d+\.\d+ at the start, \d+\.\d+ at the end", summary)
    (run,) = tmp_path.glob("run-*")
    first, second = (steps_of(run / f"lightning_logs/version_{i}") for i in range(2))
    checkpoint = run / "lightning_logs/version_0/checkpoints/last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)["global_step"]
    assert sorted(first) == list(range(len(first)))
    assert len(first) >= demo.KILL_AFTER_STEPS
    assert min(second) == saved, "resumed at the last checkpoint"
    assert max(second) + 1 >= len(first) + demo.RESUMED_STEPS
    for step in first.keys() & second.keys():
        assert first[step] == second[step], "the same batch and the same weights again"
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 1000
