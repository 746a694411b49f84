"""The Monitor in real fits: what it logs, where, and what it says."""

from __future__ import annotations

import csv
import logging
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import TensorDataset

from datamodules import Monitor, ShardDataset, ShardLoader, VOCDataModule
from datamodules.profiling.batch_cost import Cost
from shard_tool.errors import OptionError
from tests.kit.datasets.foreign_tars import adopted
from tests.kit.datasets.stored import sample_bytes, stored
from tests.kit.fake_clock import FakeClock
from tests.kit.models.recorder import Recorder, trainer

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
STEP = {"stall_share", "samples_per_s", "step_s", "wait_s", "hand_over_s", "copy_s"}
BATCH = {f"{name}_s" for name in ("fetch", "decode", "transform", "collate")}
BATCH |= {f"{name}_bytes" for name in ("disk", "cache", "read_through", "network")}
BATCH |= {"queue_depth", "cache_hits"}


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


class Counting(LightningModule):
    """Takes whatever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("loss", 1.0, batch_size=1)
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def keys_of(samples: list[dict[str, Any]]) -> list[str]:
    """A batch of generic samples."""
    return [sample["__key__"] for sample in samples]


def data_of(folder: Path, **options: Any) -> VOCDataModule:
    return VOCDataModule(str(folder), **{"batch_size": 3, "image_size": 16, **options})


def fit(
    tmp_path: Path, model: Any, data: Any, monitor: Monitor | None = None, **options: Any
) -> list[dict[str, str]]:
    """Train an epoch and read what the CSV logger got."""
    ckpt_path = options.pop("ckpt_path", None)
    settings: dict[str, Any] = {"max_epochs": 1, "log_every_n_steps": 1, **options}
    callbacks = [monitor or Monitor(warn_above=1), *settings.pop("callbacks", [])]
    logger = CSVLogger(tmp_path, name="", version="log")
    run = trainer(tmp_path, logger=logger, callbacks=callbacks, **settings)
    run.fit(model, data, ckpt_path=ckpt_path)
    with Path(tmp_path, "log/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def group(rows: list[dict[str, str]], name: str) -> list[dict[str, float]]:
    """The rows of 'data', 'data_epoch' or 'data_val': what is in them, and their step."""
    found = []
    for row in rows:
        kept = {
            key.removeprefix(f"{name}/"): float(value)
            for key, value in row.items()
            if key.startswith(f"{name}/") and value
        }
        if kept:
            found.append(kept | {"step": float(row["step"])})
    return found


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "datamodules.lightning.monitor" and record.levelno == logging.WARNING
    ]


# What is logged ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_step_and_epoch_is_logged_with_all_it_cost(
    folder: Path, tmp_path: Path, num_workers: int
) -> None:
    data = data_of(folder, num_workers=num_workers)
    rows = fit(tmp_path, Recorder(), data, max_epochs=2)
    of_steps = group(rows, "data")
    assert [row["step"] for row in of_steps] == list(range(12))
    for number, row in enumerate(of_steps):
        measured = BATCH | ({"first_batch_s"} if number % 6 == 0 else STEP)
        assert row.keys() == measured | {"step"}
        assert row["cache_hits"] == 1.0
        assert min(row["decode_s"], row["transform_s"], row["collate_s"]) > 0
        assert 0 <= row.get("stall_share", 0) <= 1
        assert row.get("hand_over_s", 0) <= row.get("wait_s", 0)
    of_epochs = group(rows, "data_epoch")
    assert [row["step"] for row in of_epochs] == [5, 11]
    assert {row.keys() == STEP | BATCH | {"first_batch_s", "step"} for row in of_epochs} == {True}
    expected = sample_bytes(folder, "train")
    assert [row["disk_bytes"] for row in of_epochs] == [expected] * 2
    for epoch in range(2):
        steps = of_steps[6 * epoch : 6 * epoch + 6]
        assert sum(row["disk_bytes"] for row in steps) == expected
        decode_s = sum(row["decode_s"] for row in steps) / 6
        assert of_epochs[epoch]["decode_s"] == pytest.approx(decode_s)


def test_tensorboard_gets_the_same(folder: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        events_of = import_module("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path, name="", version="log")
    run = trainer(tmp_path, logger=logger, callbacks=[Monitor(warn_above=1)], max_epochs=1)
    run.fit(Recorder(), data_of(folder))
    events = events_of.EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"data_epoch/{name}" for name in STEP | BATCH | {"first_batch_s"}} <= tags
    assert {f"data_val/{name}" for name in STEP | BATCH | {"first_batch_s"}} <= tags
    assert not [tag for tag in tags if tag.startswith("data/")], "six steps, every 50th is logged"


def test_a_logged_step_covers_all_batches_since_the_last(folder: Path, tmp_path: Path) -> None:
    """Six batches in steps of two, every other step logged: a row of four, and two left over."""
    options: dict[str, Any] = {
        "accumulate_grad_batches": 2,
        "log_every_n_steps": 2,
        "limit_val_batches": 0,
    }
    rows = fit(tmp_path, Recorder(), data_of(folder), **options)
    (row,) = group(rows, "data")
    (epoch,) = group(rows, "data_epoch")
    assert (row["step"], epoch["step"]) == (1, 2)
    assert epoch["disk_bytes"] / 2 < row["disk_bytes"] < epoch["disk_bytes"]
    assert "first_batch_s" in row
    assert "stall_share" in row


def test_validation_is_logged_apart_and_sanity_checks_are_not(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_sanity_val_steps": 2, "val_check_interval": 0.5}
    rows = fit(tmp_path, Recorder(), data_of(folder), **options)
    of_val = group(rows, "data_val")
    assert [row["step"] for row in of_val] == [2, 5]
    assert [row["disk_bytes"] for row in of_val] == [sample_bytes(folder, "val")] * 2
    (epoch,) = group(rows, "data_epoch")
    assert epoch["disk_bytes"] == sample_bytes(folder, "train")


def test_several_validation_loaders_are_logged_by_list_and_by_name(
    folder: Path, tmp_path: Path
) -> None:
    class TwoLoaders(Recorder):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    class Several(VOCDataModule):
        is_named = False

        def val_dataloader(self) -> Any:
            loaders = [super().val_dataloader(), super().val_dataloader()]
            return dict(zip("ab", loaders, strict=True)) if self.is_named else loaders

    found = []
    for is_named in (False, True):
        data = Several(str(folder), batch_size=3, image_size=16)
        data.is_named = is_named
        own = tmp_path / str(is_named)
        own.mkdir()
        rows = fit(own, TwoLoaders(), data)
        found.append([row["disk_bytes"] for row in group(rows, "data_val")])
    assert found[0] == found[1]
    assert sum(found[0]) == 2 * sample_bytes(folder, "val")


def test_a_resume_logs_on_the_same_axis_and_begins_with_a_first_batch(
    folder: Path, tmp_path: Path
) -> None:
    saved = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=4)
    options: dict[str, Any] = {"limit_val_batches": 0}
    fit(
        tmp_path,
        Recorder(),
        data_of(folder),
        callbacks=[saved],
        enable_checkpointing=True,
        **options,
    )
    again = tmp_path / "again"
    again.mkdir()
    checkpoint = str(tmp_path / "step=4.ckpt")
    rows = fit(again, Recorder(), data_of(folder), ckpt_path=checkpoint, **options)
    steps = group(rows, "data")
    assert [row["step"] for row in steps] == [4, 5]
    assert ["first_batch_s" in row for row in steps] == [True, False]
    assert ["stall_share" in row for row in steps] == [False, True]


def test_generic_samples_say_their_cost_through_the_loader(folder: Path, tmp_path: Path) -> None:
    adopted(sorted(folder.glob("train-*.tar")), tmp_path / "generic")
    data = VOCDataModule(str(tmp_path / "generic"), batch_size=3, collate_fn=keys_of)
    rows = group(fit(tmp_path, Counting(), data), "data")
    assert len(rows) == 6
    assert {row["disk_bytes"] > 0 and row["collate_s"] > 0 for row in rows} == {True}
    assert {row["copy_s"] > 0 for row in rows[1:]} == {True}


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"logger": False}])
def test_a_run_without_a_log_runs(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    run = trainer(tmp_path, callbacks=[Monitor(warn_after=2)], max_epochs=1, **options)
    model = Recorder()
    run.fit(model, data_of(folder, num_workers=1))
    assert model.of("train")
    assert run.state.finished


def test_another_loader_is_said_to_say_no_costs_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader: Any = torch.utils.data.DataLoader(TensorDataset(torch.zeros(8, 1)), batch_size=2)
    rows = fit(tmp_path, Counting(), loader)
    assert len(rows) == 4
    assert [group(rows, name) for name in ("data", "data_epoch")] == [[], []]
    text = "Monitor: DataLoader reports no costs, so nothing is logged of it: use a ShardLoader"
    assert texts(caplog) == [text]


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_without_the_data_module_all_but_the_copy_is_seen(folder: Path, tmp_path: Path) -> None:
    loader = ShardLoader(ShardDataset(str(folder), seed=2), batch_size=3)
    rows = group(fit(tmp_path, Counting(), loader), "data")
    assert [row.get("copy_s", 0.0) for row in rows] == [0.0] * 6
    assert {row["decode_s"] > 0 for row in rows} == {True}


# What is said --------------------------------------------------------------------------------


class Fed:
    """A Monitor in a made-up fit: a clock that is set, costs that are given, rows kept."""

    now = 0.0
    """What the clock says, to all of them."""

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
        """A batch that was waited for as its cost says, and a step of so many seconds after it."""
        Fed.now += cost.wait_s
        self.loader.last_cost = cost
        self.monitor.on_train_batch_start(self.trainer, None, None, 0)  # type: ignore[arg-type]
        Fed.now += step_s
        self.monitor.on_train_batch_end(self.trainer, None, None, None, 0)  # type: ignore[arg-type]

    def first(self) -> None:
        """The first batch of an epoch, long waited for."""
        self.step(Cost(num_samples=4, wait_s=60.0, start_s=60.0), step_s=0.5)

    def end_epoch(self) -> None:
        self.monitor.on_train_epoch_end(self.trainer, None)  # type: ignore[arg-type]


STARVED = Cost(num_samples=4, wait_s=0.5, decode_s=0.71, transform_s=0.29)
BUSY = Cost(num_samples=4, wait_s=0.0, decode_s=0.71, transform_s=0.29)


def test_a_share_that_stays_high_is_warned_of_once(
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
def test_a_share_that_does_not_stay_high_is_not_warned_of(
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


def test_another_ranks_stall_is_said_at_the_end_of_the_epoch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rank 0 waits for it in the exchange of gradients and looks busy itself."""
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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = str(ROOT / "tests/kit/processes/train_monitored.py")
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", script, str(folder), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warn_above": 0}, "warn_above: 0 is not in (0, 1]"),
        ({"warn_above": 1.5}, "warn_above: 1.5 is not in (0, 1]"),
        ({"warn_after": 1}, "warn_after: 1 is below 2"),
    ],
)
def test_numbers_nobody_can_act_on_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        Monitor(**options)
    assert str(error.value) == message
