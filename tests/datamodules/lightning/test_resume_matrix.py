"""Resume is exact under every pair of options of the Trainer and of ours that affect it.

Each row of a covering array is trained twice: uninterrupted, and while checkpoints are saved in the
row's way. A fresh model resumes from each checkpoint. It must get the ids and pixels, run the
validations and reach the weights of the uninterrupted run. So must one that resumes from the
checkpoint of a resumed run: jobs are requeued more than once.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import VOCDataModule
from tests.kit.covering import Row, pairwise
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import Recorder, trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from datamodules import Batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),  # on purpose
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # 2 cores
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # other callbacks
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]

BATCH_SIZE = 3
SPLITS = {"train": [5, 4, 8], "val": [5], "test": [4]}
"""17 = 5 · 3 + 2 to train on: batches differ in size or, with drop_last, two samples are left."""

INTERRUPTIONS = ("exception", "exception in validation", "SIGTERM", "SLURM")
OPTIONS: dict[str, tuple[Any, ...]] = {
    "save": ("every step", "epoch end", "validation", "after the fit", *INTERRUPTIONS),
    "batches": (
        {},
        {"limit_train_batches": 4},
        {"limit_train_batches": 0.7},
        {"overfit_batches": 2},
    ),
    "before": ("nothing", "fit", "predict"),
    "workers": ("none", "persistent", "new each epoch"),
    "validate": (
        {},
        {"val_check_interval": 0.5},
        {"limit_val_batches": 1},
        {"limit_val_batches": 0},
    ),
    "stop": ({"max_epochs": 3}, {"max_epochs": 3, "max_steps": 8}),
    "accumulate_grad_batches": (1, 3),
    "reload_dataloaders_every_n_epochs": (0, 1),
    "num_sanity_val_steps": (0, 2),
    "drop_last": (False, True),
}


def is_possible(row: Row) -> bool:
    needs_validation = row.get("save") in ("validation", "exception in validation")
    return not (needs_validation and row.get("validate") == {"limit_val_batches": 0})


ROWS = pairwise(OPTIONS, is_possible=is_possible)


class Killed(BaseException):
    """Ends a process that continued after a signal."""


class Learner(Recorder):
    """Learns, saves its progress in checkpoints, and can be interrupted.

    Args:
        interruption: One of `INTERRUPTIONS`, or nothing.
        at: Number of training steps before it; it comes in the next step or validation.
    """

    def __init__(self, interruption: str = "", at: int = 0) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 2)
        )
        self.interruption, self.at = interruption, at
        self.trained_before, self.validated_before, self.validated = 0, 0, 0

    @property
    def trained(self) -> int:
        return self.trained_before + len(self.of("train"))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.interruption and self.trained > self.at + 1:
            raise Killed
        if self.interruption and self.trained == self.at:
            self.interrupt()
        super().training_step(batch, batch_idx)
        loss: torch.Tensor = self.net(torch.stack(batch.images)).square().mean()
        return loss

    def interrupt(self) -> None:
        if self.interruption == "exception":
            raise ZeroDivisionError
        signals = {"SIGTERM": signal.SIGTERM, "SLURM": signal.SIGUSR1}
        if self.interruption in signals:
            signal.raise_signal(signals[self.interruption])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        in_validation = self.interruption == "exception in validation"
        if in_validation and self.trained >= self.at and not self.trainer.sanity_checking:
            raise ZeroDivisionError
        super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.validated += not self.trainer.sanity_checking

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trained"] = self.trained
        checkpoint["validated"] = self.validated_before + self.validated

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_before = checkpoint["trained"]
        self.validated_before = checkpoint["validated"]

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("matrix") / "voc", SPLITS)


@pytest.fixture(autouse=True)
def only_here() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)  # as `Trainer(deterministic=True)` leaves it


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The variables of a job; what its scontrol is told is in the file returned."""
    told, program = tmp_path / "told", tmp_path / "bin/scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    names = {"JOB_ID": "17", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0"}
    for name, value in {**names, "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return told


def data_module(root: Path, row: Mapping[str, Any], *, workers: str = "none") -> VOCDataModule:
    return VOCDataModule(
        str(root),
        batch_size=BATCH_SIZE,
        image_size=32,
        seed=2,
        drop_last=row["drop_last"],
        num_workers=0 if workers == "none" else 2,
        persistent_workers=workers == "persistent",
        transforms="ssd",
    )


def used_before(data: VOCDataModule, folder: Path, how: str) -> VOCDataModule:
    """A data module that was used for something else before."""
    if how == "fit":
        few = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
        trainer(folder, **few).fit(Learner(), data)
    elif how == "predict":
        trainer(folder).predict(Recorder(), data)
    return data


def options_of(row: Row) -> dict[str, Any]:
    """For the Trainer."""
    names = ("accumulate_grad_batches", "reload_dataloaders_every_n_epochs", "num_sanity_val_steps")
    parts = {**row["batches"], **row["validate"], **row["stop"]}
    return {**parts, **{name: row[name] for name in names}, "deterministic": True}


def saving(folder: Path, how: str) -> dict[str, Any]:
    """Options with which the Trainer saves in one of the ways."""
    on_exception = {"save_on_exception": True, "every_n_epochs": 100}
    options: dict[str, dict[str, Any]] = {
        "every step": {"every_n_train_steps": 1},
        "epoch end": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
        "exception": on_exception,
        "exception in validation": on_exception,
        "SIGTERM": on_exception,
    }
    if how not in options:
        return {}
    name = "{epoch}-{step}"
    callback = ModelCheckpoint(dirpath=folder, filename=name, save_top_k=-1, **options[how])
    return {"callbacks": [callback], "enable_checkpointing": True}


def checkpoints_of(number: int, whole: Learner, root: Path, folder: Path) -> list[Path]:
    """Train a row again and save in its way; returns the checkpoints, or some of them."""
    row, options = ROWS[number], options_of(ROWS[number])
    data = used_before(data_module(root, row, workers=row["workers"]), folder, row["before"])
    how, model = row["save"], Learner()
    if how in INTERRUPTIONS:
        model = Learner(how, at=1 + 3 * number % (whole.trained - 1))
    if how == "exception in validation":
        model.at = 1  # the next, and in whatever row there is one
    if how == "after the fit":
        options["max_steps"] = 1 + 3 * number % (whole.global_step - 1)
    fit = trainer(folder, **options, **saving(folder, how))
    with suppress(ZeroDivisionError, Killed, SystemExit):
        fit.fit(model, data)
    if how == "after the fit":
        fit.save_checkpoint(folder / "after.ckpt")
    lines = model.of("train")
    assert lines == whole.of("train")[: len(lines)]
    found = sorted(folder.glob("*.ckpt"))
    assert found, f"nothing was saved: {row}"
    return found if row["workers"] == "none" else found[number % 4 :: 4] or found[:1]


def check_rest(row: Row, path: Path, whole: Learner, root: Path, **options: Any) -> None:
    """Resume, and compare with the rest of the uninterrupted run."""
    model, workers = Learner(), options.pop("workers", "none")
    fit = trainer(path.parent, **options_of(row), **options)
    is_requeued = path.name.startswith("hpc_ckpt")  # Lightning finds it by itself
    data = data_module(root, row, workers=workers)
    fit.fit(model, data, ckpt_path=None if is_requeued else path)
    case = f"{row}, {path.name}: {model.trained_before} of {whole.trained} steps"
    assert model.of("train") == whole.of("train")[model.trained_before :], case
    num_validations = whole.validated - model.validated_before
    if done_by_steps(row, whole) and model.trained_before == whole.trained:
        num_validations = 0  # a fit with no step left is over before anything
    assert model.validated == num_validations, case
    val_lines = whole.of("val")[: len(whole.of("val")) // max(1, whole.validated)]
    assert [line["digests"] for line in model.of("val")] == num_validations * [
        line["digests"] for line in val_lines
    ]
    if row["accumulate_grad_batches"] == 1:  # then every checkpoint stands on an optimizer step
        for one, other in zip(model.parameters(), whole.parameters(), strict=True):
            assert torch.equal(one, other), case


def done_by_steps(row: Row, whole: Learner) -> bool:
    return bool(whole.global_step == row["stop"].get("max_steps"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(ROWS)))
def test_promise_6_a_resumed_fit_is_the_uninterrupted_one(
    number: int, root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    row, whole = ROWS[number], Learner()
    trainer(tmp_path, **options_of(row)).fit(whole, data_module(root, row))
    assert whole.trained >= 4
    if row["save"] == "SLURM":
        told = request.getfixturevalue("slurm")
    paths = checkpoints_of(number, whole, root, tmp_path / "first")
    if row["save"] == "SLURM":
        assert told.read_text() == "requeue 17\n"
    for n, path in enumerate(paths):
        again = saving(tmp_path / "second", "every step") if n == number % len(paths) else {}
        check_rest(row, path, whole, root, workers=row["workers"], **again)
    second = sorted((tmp_path / "second").glob("*.ckpt"))
    for path in second[number % max(1, len(second)) :][:1]:
        check_rest(row, path, whole, root)


def test_promise_6_a_fit_resumed_after_an_epochs_last_step_resumes_again(
    root: Path, tmp_path: Path
) -> None:
    row = {**ROWS[0], "batches": {"limit_train_batches": 4}, "validate": {"limit_val_batches": 0}}
    first, second, whole = tmp_path / "first", tmp_path / "second", Learner()
    options = {**options_of(row), **saving(first, "every step")}
    trainer(tmp_path, **options).fit(whole, data_module(root, row))
    check_rest(row, first / "epoch=0-step=4.ckpt", whole, root, **saving(second, "every step"))
    for step in (5, 6, 7):
        check_rest(row, second / f"epoch=1-step={step}.ckpt", whole, root)
