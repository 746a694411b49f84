"""When `Monitor` warns and what it says, by a fake clock in simulated and real fits."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules import Monitor, ShardDataset, ShardLoader
from datamodules.profiling.batch_cost import Cost
from tests.kit.datasets.stored import sample_bytes, stored
from tests.kit.fake_clock import FakeClock
from tests.kit.models.monitored_fit import data_of, fit, group, texts
from tests.kit.models.recorder import Recorder
from tests.kit.processes.warm_python import warm_python

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),  # on purpose
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # 2 cores
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:The number of training batches"),  # fewer than are logged
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # other callbacks
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

ROOT = Path(__file__).resolve().parents[3]
TRAIN, VAL = [6, 7, 5], [4, 3]
"""18 samples to train on, 7 to validate on."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset. Read only."""
    return stored(tmp_path_factory.mktemp("monitor") / "voc", {"train": TRAIN, "val": VAL})


class SlowTransform:
    """A transform that takes 20 ms for each sample, by a clock that nothing else moves."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def __call__(self, image: Any, target: Any) -> Any:
        self.clock.advance(0.02)
        return image, target


class Fed:
    """A simulated fit with a fake clock and given costs; it keeps the logged rows."""

    now = 0.0
    """The time, in all fits."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, monitor: Monitor, **options: Any
    ) -> None:
        clock = SimpleNamespace(perf_counter=lambda: Fed.now)
        patch.setattr("datamodules.profiling.device_clock.time", clock)
        patch.setattr("datamodules.lightning.monitor.time", clock)
        patch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
        recipe = data_of(folder).train_dataloader().dataset.dataset.transform
        dataset = ShardDataset(str(folder), transform=recipe)
        loader = ShardLoader(dataset, num_workers=options.pop("num_workers", 2))
        self.rows: list[tuple[int, dict[str, float]]] = []
        log = SimpleNamespace(log_metrics=lambda row, step: self.rows.append((step, row)))
        self.trainer: Any = SimpleNamespace(
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            train_dataloader=loader,
            val_dataloaders=loader,
            loggers=[log],
            accumulate_grad_batches=1,
            is_last_batch=False,
            is_global_zero=True,
            sanity_checking=False,
            world_size=1,
            current_epoch=0,
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=0)),
            _logger_connector=SimpleNamespace(should_update_logs=False),
        )
        self.trainer.__dict__.update(options)
        self.monitor, self.loader = monitor, loader
        monitor.on_train_start(self.trainer, None)  # type: ignore[arg-type]

    def step(self, cost: Cost, step_s: float = 0.0) -> None:
        """Wait for a batch as long as its cost says, then take a step of so many seconds."""
        Fed.now += cost.wait_s
        self.loader.last_cost = cost
        self.monitor.on_train_batch_start(self.trainer, None, None, 0)  # type: ignore[arg-type]
        Fed.now += step_s
        self.monitor.on_train_batch_end(self.trainer, None, None, None, 0)  # type: ignore[arg-type]

    def first(self) -> None:
        """Take the first step of an epoch, after a long wait."""
        self.step(Cost(num_samples=4, wait_s=60.0, start_s=60.0), step_s=0.5)

    def end_epoch(self) -> None:
        self.monitor.on_train_epoch_end(self.trainer, None)  # type: ignore[arg-type]


STARVED = Cost(num_samples=4, wait_s=0.5, decode_s=0.71, transform_s=0.29)
BUSY = Cost(num_samples=4, wait_s=0.0, decode_s=0.71, transform_s=0.29)


def test_a_high_stall_share_is_a_warning_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fed = Fed(folder, monkeypatch, Monitor(warn_after=10))
    fed.first()
    for _ in range(9):
        fed.step(STARVED, step_s=0.5)
    assert texts(caplog) == []
    for _ in range(50):
        fed.step(STARVED, step_s=0.5)
    fed.end_epoch()
    assert texts(caplog) == [
        "training waited for data 50 % of the time of 10 steps; decode takes 71 % of the workers' "
        'time: raise num_workers from 2 to 3, or decode="fast"'
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param([STARVED] * 9, id="too-short"),
        pytest.param([STARVED] * 5 + [BUSY] * 5 + [STARVED] * 5 + [BUSY] * 5, id="comes-and-goes"),
        pytest.param([BUSY] * 40, id="busy"),
    ],
)
def test_a_stall_share_that_does_not_stay_high_is_no_warning(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pattern: list[Cost],
) -> None:
    fed = Fed(folder, monkeypatch, Monitor(warn_above=0.3, warn_after=10))
    fed.first()
    for cost in pattern:
        fed.step(cost, step_s=0.5)
    fed.end_epoch()
    assert texts(caplog) == []


def test_starting_workers_and_validating_are_no_stalls(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fed = Fed(folder, monkeypatch, Monitor(warn_after=4))
    quick = Cost(num_samples=4, wait_s=0.01, decode_s=0.5)
    for _ in range(20):  # short epochs, each of which waits a minute for its first batch
        fed.first()
        fed.step(quick, step_s=0.49)
        fed.monitor.on_validation_start(fed.trainer, None)  # type: ignore[arg-type]
        Fed.now += 100.0
        fed.monitor.on_validation_end(fed.trainer, None)  # type: ignore[arg-type]
        fed.step(quick, step_s=0.49)
        fed.end_epoch()
    assert texts(caplog) == []
    assert len(fed.rows) == 20
    for _, row in fed.rows:
        assert row["data_epoch/stall_share"] == pytest.approx(0.02, abs=0.001)
        assert row["data_epoch/step_s"] == pytest.approx(0.495)
        assert row["data_epoch/first_batch_s"] == 60.0


def test_a_stall_of_another_rank_is_a_warning_at_the_end_of_the_epoch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rank 0 waits for its gradients and looks busy."""
    sent: list[torch.Tensor] = []

    def all_gather(values: torch.Tensor) -> torch.Tensor:
        sent.append(values)
        return torch.stack([values, sent[0]])

    strategy = SimpleNamespace(root_device=torch.device("cpu"), all_gather=all_gather)
    options: dict[str, Any] = {"world_size": 2, "strategy": strategy}
    starved = Fed(folder, monkeypatch, Monitor(warn_after=10), is_global_zero=False, **options)
    busy = Fed(folder, monkeypatch, Monitor(warn_after=10), **options)
    for fed, cost in ((starved, STARVED), (busy, BUSY)):
        fed.first()
        for _ in range(12):
            fed.step(cost, step_s=0.5)
    assert (sent, texts(caplog)) == ([], []), "nothing is exchanged in a step"
    starved.end_epoch()
    busy.end_epoch()
    assert starved.rows == []
    ((_, row),) = busy.rows
    assert (row["data_epoch/stall_share"], row["data_epoch/stall_rank"]) == (0.5, 1.0)
    assert texts(caplog) == [
        "rank 1 of 2 waited for data 50 % of the time of 12 steps; decode takes 71 % of the "
        'workers\' time: raise num_workers from 2 to 3, or decode="fast"'
    ]


def test_a_slow_transform_is_found_in_a_real_fit(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)

    class Step(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            clock.advance(0.02)
            return super().training_step(batch, batch_idx)

    data = data_of(folder, train_transforms=SlowTransform(clock))
    fit(tmp_path, Step(), data, Monitor(warn_after=4), max_epochs=2, limit_val_batches=0)
    assert texts(caplog) == [
        "training waited for data 75 % of the time of 4 steps; transform takes 100 % of the time "
        "a batch takes to make: raise num_workers from 0 to 3, or take a recipe, which does "
        "geometry and colours in one go"
    ]


@pytest.mark.slow
def test_a_slow_rank_of_two_real_ones_is_named(folder: Path, tmp_path: Path) -> None:
    launcher = [warm_python(), "-m", "torch.distributed.run", "--standalone"]
    script = str(ROOT / "tests/kit/processes/train_monitored.py")
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", script, str(folder), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHON_EXEC": warm_python()},
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    said = re.findall(r".* waited for data .*", done.stderr)
    assert len(said) == 1, done.stderr
    assert re.search(
        r"rank 1 of 2 waited for data \d+ % of the time of 8 steps; transform", said[0]
    )
    with (tmp_path / "log/metrics.csv").open(newline="") as file:
        (epoch,) = group(list(csv.DictReader(file)), "data_epoch")
    assert epoch["stall_rank"] == 1.0
    assert epoch["disk_bytes"] == sample_bytes(folder, "train"), "of both ranks"
