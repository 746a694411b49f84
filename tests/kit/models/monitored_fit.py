"""Fits under `Monitor`, and what it logged."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import CSVLogger

from datamodules import Monitor, VOCDataModule
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    import pytest


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
    """The rows of 'data', 'data_epoch' or 'data_val', with their steps."""
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
    """The warnings of Monitor."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "datamodules.lightning.monitor" and record.levelno == logging.WARNING
    ]
