"""docs/guides/from-older-tutorials.md: the left side of each row fails, the right side runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DistributedSampler
from torchvision.transforms import v2

from datamodules import ShardDataset, VOCDataModule
from scripts import train
from tests.kit.models.recorder import trainer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/guides/from-older-tutorials.md"

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning and torch, not of ours


class Row(NamedTuple):
    then: str
    now: str


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    found = [re.findall(r"`([^`]+)`", cell)[0] for line in lines for cell in line.split("|")[1:3]]
    return [Row(*pair) for pair in zip(found[::2], found[1::2], strict=True)]


ROWS = rows()
SMALL = {"batch_size": 4, "image_size": 64}


@pytest.fixture(scope="module")
def prepared(mini_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the page describes."""
    folder = tmp_path_factory.mktemp("tutorial")
    shutil.copytree(mini_dataset, folder / "voc2012")
    (folder / "config.yaml").write_text(
        "model: {model: tiny_ssd, input_size: 64}\n"
        "data: {data_dir: voc2012, batch_size: 2, image_size: 64}\n"
        "trainer: {max_steps: 1, limit_val_batches: 0, accelerator: cpu}\n"
    )
    saving = ModelCheckpoint(dirpath=folder, filename="last", every_n_train_steps=1)
    options = {"max_steps": 1, "callbacks": [saving], "enable_checkpointing": True}
    data = VOCDataModule(str(folder / "voc2012"), **SMALL)
    trainer(folder, limit_val_batches=0, **options).fit(train.Detector("tiny_ssd"), data)
    return folder


@pytest.fixture
def names(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that a row may use."""
    monkeypatch.chdir(prepared)
    return {
        "Trainer": Trainer,
        "LightningDataModule": LightningDataModule,
        "DistributedSampler": DistributedSampler,
        "ShardDataset": ShardDataset,
        "VOCDataModule": VOCDataModule,
        "v2": v2,
        "model": train.Detector("tiny_ssd"),
        "data": VOCDataModule("voc2012", **SMALL),
        "trainer": trainer(prepared, max_steps=2, limit_val_batches=1),
    }


def test_the_page_names_the_arguments_and_classes_of_older_tutorials() -> None:
    text = " ".join(row.then for row in ROWS)
    for name in ("gpus", "resume_from_checkpoint", "add_argparse_args", "from_argparse_args"):
        assert name in text
    for name in ("train_transforms", "replace_sampler_ddp", "VOCDetectionDataModule"):
        assert name in text


@pytest.mark.parametrize("row", ROWS, ids=[f"{i} {row.then}" for i, row in enumerate(ROWS)])
def test_the_left_side_of_a_row_is_refused(row: Row, names: dict[str, Any]) -> None:
    names |= {"parser": None, "args": None}
    refused = (TypeError, AttributeError, ValueError, ImportError, NameError)
    with pytest.raises(refused) as caught:
        exec(row.then, names)
    if isinstance(caught.value, NameError) and not isinstance(caught.value, AttributeError):
        assert "VOCDetectionDataModule" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[f"{i} {row.now}" for i, row in enumerate(ROWS)])
def test_the_right_side_of_a_row_runs(row: Row, names: dict[str, Any]) -> None:
    if not row.now.startswith("python "):
        exec(row.now, names)
        return
    script, *arguments = shlex.split(row.now)[1:]
    assert script == "scripts/train.py"
    quick = ["--model.model=tiny_ssd", "--model.input_size=64", "--data.image_size=64"]
    quick += ["--trainer.accelerator=cpu", "--trainer.limit_val_batches=0"]
    quick += ["--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    train.main([*arguments, *quick])
    assert not Path("lightning_logs").exists()
