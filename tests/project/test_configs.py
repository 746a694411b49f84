"""Every file of configs/ trains, and every argument is an option of the command line."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from docstring_parser import parse as parse_docstring

from datamodules import ShardDataset, ShardLoader, VOCDataModule
from scripts import train
from scripts.segmenter import MODELS, VOID, Segmenter, _loss, stacks
from scripts.train import Detector
from shard_tool.errors import OptionError
from tests.kit.datasets.converted import converted
from tests.kit.datasets.instances import outlined
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning and torch, not of ours


@pytest.fixture
def commandline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Run scripts/train.py in this process; return what it printed to stdout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> str:
        train.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def toys(mini_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset of a few small pictures for each task."""
    folder = tmp_path_factory.mktemp("toys")
    boxes = stored(folder / "boxes", {"train": [6], "val": [3], "test": [3]})
    converted(mini_archive, folder / "masks", task="segmentation", resize=96)
    masks = outlined(folder / "outlines", {"train": [6], "val": [3]})
    return {"detection": boxes, "segmentation": folder / "masks", "instances": masks}


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_config_trains_and_validates_at_toy_size(
    path: Path, commandline: Callable[..., str], toys: dict[str, Path]
) -> None:
    task = yaml.safe_load(path.read_text())["data"].get("task", "detection")
    arguments = [
        *("--data.data_dir", toys[task], "--data.image_size", 64, "--data.batch_size", 2),
        *("--data.num_workers", 0, "--trainer.fast_dev_run", 1, "--trainer.accelerator", "cpu"),
        *("--trainer.num_nodes", 1, "--trainer.devices", 1, "--trainer.limit_val_batches", 1),
        *("--trainer.check_val_every_n_epoch", 1, "--trainer.enable_model_summary", "false"),
        *("--trainer.precision", "32-true"),  # bf16 is slow on a CPU
    ]
    if task != "segmentation":
        arguments += ["--model.input_size", 64]
    commandline("fit", "--config", path, *arguments)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_print_config_of_each_config_keeps_what_the_file_says(
    path: Path, commandline: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        commandline("fit", "--config", path, "--data.data_dir", "elsewhere", "--print_config")
    assert caught.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    wanted = yaml.safe_load(path.read_text())
    assert printed["data"]["data_dir"] == "elsewhere"
    wanted["data"].pop("data_dir", None)
    for section in ("data", "trainer"):
        given = {name: value for name, value in wanted[section].items() if name != "callbacks"}
        assert given.items() <= {**printed[section], **_filled(given, printed[section])}.items()
    model = wanted["model"]
    assert model.get("init_args", model).items() <= printed["model"]["init_args"].items()


def _filled(given: dict[str, Any], printed: dict[str, Any]) -> dict[str, Any]:
    """The given objects whose class the printed ones have too."""
    return {
        name: value
        for name, value in given.items()
        if isinstance(value, dict) and value["class_path"] == printed[name]["class_path"]
    }


@cache
def help_of_fit() -> str:
    with io.StringIO() as text:
        with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
            train.main(["fit", "--help"])
        return text.getvalue()


def words(text: str) -> str:
    """Join the words of a text: line breaks depend on the width of the terminal."""
    return " ".join(text.split())


ARGUMENTS = [name for name in inspect.signature(VOCDataModule).parameters if name != "self"]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_argument_of_the_data_module_is_an_option_with_the_docstring_s_help(name: str) -> None:
    described = {
        parameter.arg_name: parameter.description or ""
        for parameter in parse_docstring(VOCDataModule.__doc__ or "").params
    }
    entry = re.search(rf"\n  --data\.{name}[ ,\n](.*?)(?=\n  -|\Z)", help_of_fit(), re.DOTALL)
    assert entry, f"--data.{name} is no option"
    assert words(described[name]) in words(entry[1])


@pytest.mark.slow
def test_the_default_model_is_a_detector_and_another_has_its_own_defaults(
    commandline: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for named in ([], ["--model", "Segmenter"]):
        with pytest.raises(SystemExit):
            commandline("fit", *named, "--data.data_dir", "x", "--print_config")
        found.append(yaml.safe_load(capsys.readouterr().out)["model"])
    detector, segmenter = found
    assert detector["class_path"] == "scripts.train.Detector"
    assert detector["init_args"]["learning_rate"] == 1e-3
    assert segmenter["class_path"] == "scripts.segmenter.Segmenter"
    assert segmenter["init_args"] == {
        "model": "lraspp",
        "num_classes": None,
        "learning_rate": 0.01,
        "weight_decay": 1e-4,
    }


# Segmentation ---------------------------------------------------------------------------------


def test_a_segmenter_evaluates_each_picture_in_its_own_size(mini_masks: Path) -> None:
    """A batch gives the same as single pictures: evaluation uses no batch statistics."""
    dataset = ShardDataset(str(mini_masks), "val", shuffle=False)
    batch = next(iter(ShardLoader(dataset, batch_size=6)))
    assert len({tuple(size) for size in batch.sizes.tolist()}) > 1
    for (image, mask), sample_id in zip(stacks(batch), batch.sample_ids.tolist(), strict=True):
        stored_image, stored_mask = dataset.read(sample_id)
        assert torch.equal(image[0], torch.as_tensor(stored_image))
        assert torch.equal(mask[0], torch.as_tensor(stored_mask).to(torch.int64))


def test_void_pixels_are_neither_trained_nor_counted() -> None:
    masks = torch.tensor([[[0, 1, 2], [VOID, 1, VOID]]])
    model = Segmenter("lraspp", num_classes=3)
    model.evaluator.update([7], torch.tensor([[[0, 1, 1], [2, 2, 0]]]), masks)
    scores = model.evaluator.compute(1)
    assert scores.confusion.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 0]]
    assert scores.miou == pytest.approx((1 + 1 / 3 + 0) / 3)  # 1 of 1, 1 of 3, 0 of 2
    predictions = torch.randn(1, 3, 2, 3)
    others = torch.where((masks == VOID)[:, None], torch.randn(1, 3, 2, 3), predictions)
    assert torch.equal(_loss(predictions, masks), _loss(others, masks))


def test_a_picture_that_is_all_void_gives_a_loss_of_zero() -> None:
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = _loss(scores, torch.full((1, 4, 4), VOID))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert not scores.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_segmentation_model_takes_our_batches(mini_masks: Path, name: str) -> None:
    data = VOCDataModule(str(mini_masks), batch_size=2, image_size=64)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    model = Segmenter(name, num_classes=data.num_classes)
    assert model(batch.images).shape == (2, 21, 64, 64)


def test_a_segmenter_refuses_an_unknown_model() -> None:
    with pytest.raises(ValueError, match="model 'unet' is not one of lraspp, deeplabv3_mobilenet"):
        Segmenter("unet")


# Data for another task ------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_model_refuses_data_for_another_task_before_reading(
    mini_dataset: Path, mini_masks: Path, tmp_path: Path, stage: str
) -> None:
    for model, folder, found, wanted in (
        (Detector("tiny_ssd"), mini_masks, "segmentation", "detection"),
        (Segmenter("lraspp"), mini_dataset, "detection", "segmentation"),
    ):
        problem = f"{folder}: is for {found}, this model for {wanted}; give --data.task {wanted}"
        run = getattr(trainer(tmp_path), stage)
        with pytest.raises(OptionError, match=rf"^{re.escape(problem)} where"):
            run(model, datamodule=VOCDataModule(str(folder), batch_size=2))


def test_segmentation_shards_train_a_detector_when_told_to(
    mini_masks: Path, tmp_path: Path
) -> None:
    data = VOCDataModule(str(mini_masks), batch_size=2, task="detection", image_size=64)
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(Detector("tiny_ssd"), data)
