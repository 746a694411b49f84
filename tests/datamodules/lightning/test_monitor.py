"""What `Monitor` logs in real fits."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import TensorDataset

from datamodules import Monitor, ShardDataset, ShardLoader, VOCDataModule
from shard_tool.errors import OptionError
from tests.kit.datasets.foreign_tars import adopted
from tests.kit.datasets.stored import sample_bytes, stored
from tests.kit.models.monitored_fit import data_of, fit, group, texts
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


class Counting(LightningModule):
    """Accepts any batch."""

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


# What is logged ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_step_and_epoch_is_logged_with_all_costs(
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


def test_validation_is_logged_separately_and_sanity_checks_are_not(
    folder: Path, tmp_path: Path
) -> None:
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


def test_the_loader_reports_costs_of_generic_samples(folder: Path, tmp_path: Path) -> None:
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


def test_a_loader_without_costs_is_a_warning_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader: Any = torch.utils.data.DataLoader(TensorDataset(torch.zeros(8, 1)), batch_size=2)
    rows = fit(tmp_path, Counting(), loader)
    assert len(rows) == 4
    assert [group(rows, name) for name in ("data", "data_epoch")] == [[], []]
    text = "Monitor: DataLoader reports no costs, so nothing is logged of it: use a ShardLoader"
    assert texts(caplog) == [text]


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_without_the_data_module_all_but_the_copy_is_measured(folder: Path, tmp_path: Path) -> None:
    loader = ShardLoader(ShardDataset(str(folder), seed=2), batch_size=3)
    rows = group(fit(tmp_path, Counting(), loader), "data")
    assert [row.get("copy_s", 0.0) for row in rows] == [0.0] * 6
    assert {row["decode_s"] > 0 for row in rows} == {True}


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
