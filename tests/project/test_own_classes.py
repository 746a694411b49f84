"""`scripts/train.py` and `draw_predictions.py` on classes of one's own: all come from the data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from datamodules import VOCDataModule
from scripts import draw_predictions, train
from scripts.scored import check_same_classes
from scripts.segmenter import Segmenter
from scripts.train import Detector
from shard_tool.errors import OptionError
from shard_tool.format.sample import VOC_CLASSES
from tests.kit.datasets.own_classes import THREE, many, own_classes
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., str]

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning and torch, not of ours

TINY = [
    *("--model.model", "tiny_ssd", "--model.input_size", 64),
    *("--data.image_size", 64, "--data.batch_size", 4, "--data.num_workers", 0),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.devices", 1),
    *("--trainer.enable_model_summary", "false", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture
def commandline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Run scripts/train.py in this process; return what it printed to stdout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> str:
        train.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


def config(root: Path) -> list[object]:
    return ["--config", ROOT / "configs/own_classes.yaml", "--data.data_dir", root]


def last_checkpoint(folder: Path) -> Path:
    (path,) = folder.glob("lightning_logs/version_0/checkpoints/epoch*.ckpt")
    return path


def saved(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.slow
def test_the_config_for_own_classes_trains_validates_resumes_predicts_and_draws(
    commandline: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = own_classes(tmp_path / "own")
    saving = ["--trainer.callbacks.init_args.every_n_train_steps", 2]
    commandline("fit", *config(root), *TINY, *saving, "--trainer.max_steps", 3)
    checkpoint = last_checkpoint(tmp_path)
    content = saved(checkpoint)
    assert content["class_names"] == list(THREE)
    assert content["hyper_parameters"]["num_classes"] == 4
    hparams = (tmp_path / "lightning_logs/version_0/hparams.yaml").read_text()
    assert "num_classes: 4" in hparams

    resumed = [*saving, "--ckpt_path", checkpoint, "--trainer.max_steps", 4]
    commandline("fit", *config(root), *TINY, *resumed)
    assert sorted(tmp_path.glob("lightning_logs/version_1/checkpoints/*step=4.ckpt"))

    for verb in ("validate", "test"):
        out = commandline(verb, *config(root), *TINY, "--ckpt_path", checkpoint)
        found = re.search(r"^voc_ap by class\n((?:  [01]\.\d{4}  .*\n)+)", out, re.MULTILINE)
        assert found, out
        printed = {line[10:] for line in found[1].splitlines()}
        assert printed <= set(THREE)
        assert len(printed) >= 2
    commandline("predict", *config(root), *TINY, "--ckpt_path", checkpoint)

    sheet = tmp_path / "sheet.png"
    options = ["--split", "val", "--samples", "2", "--min-score", "0.0"]
    draw_predictions.main([str(checkpoint), str(root), str(sheet), *options])
    out = capsys.readouterr().out
    assert out == f"{sheet}: 2 pictures\n  #2 is 'собака'\n  #3 is '狼 (серый)'\n"
    with Image.open(sheet) as picture:
        assert picture.size == (4 * 324 + 4, 324 + 4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [25, 300])
def test_any_number_of_classes_trains(commandline: Run, tmp_path: Path, count: int) -> None:
    root = own_classes(tmp_path / "own", many(count))
    commandline("fit", *config(root), *TINY, "--trainer.fast_dev_run", 2)


@pytest.mark.slow
def test_a_segmenter_takes_the_classes_of_the_data(commandline: Run, tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own", many(25), task="segmentation")
    options = [
        *("--model", "Segmenter", "--data.data_dir", root, "--data.batch_size", 4),
        *("--data.image_size", 64, "--trainer.accelerator", "cpu"),
        *("--trainer.enable_model_summary", "false", "--trainer.enable_progress_bar", "false"),
    ]
    commandline("fit", *options, "--trainer.max_steps", 1)
    checkpoint = last_checkpoint(tmp_path)
    assert saved(checkpoint)["hyper_parameters"]["num_classes"] == 26
    out = commandline("validate", *options, "--ckpt_path", checkpoint)
    assert re.search(r"^iou by class\n  [01]\.\d{4}  (background|class \d+)$", out, re.MULTILINE)
    model = Segmenter.load_from_checkpoint(checkpoint).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 26, 64, 64)
    assert model.class_names == many(25)


# Where the classes come from -------------------------------------------------------------------


@pytest.mark.slow
def test_a_dataset_made_in_prepare_data_says_its_classes(
    mini_archive: Path, tmp_path: Path
) -> None:
    data = VOCDataModule(
        str(tmp_path / "made"), source=str(mini_archive), batch_size=2, image_size=64
    )
    model = Detector("tiny_ssd", input_size=64)
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(model, data)
    assert model.class_names == VOC_CLASSES
    assert model.evaluator.num_classes == 21


def test_a_number_that_the_data_contradict_is_refused(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    data = VOCDataModule(str(root), batch_size=2, image_size=64)
    with pytest.raises(OptionError) as caught:
        trainer(tmp_path, max_steps=1).fit(Detector("tiny_ssd", num_classes=21), data)
    assert str(caught.value) == (
        f"num_classes: 21 given, and {root} has 4 with the background; "
        "leave out --model.num_classes, and take no checkpoint of other classes"
    )
    fit = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    fit.fit(model := Detector("tiny_ssd", num_classes=4), data)
    assert model.class_names == THREE


def test_without_our_data_module_the_number_has_to_be_given(tmp_path: Path) -> None:
    data = VOCDataModule(str(own_classes(tmp_path / "own")), batch_size=2, image_size=64)
    loader = data.train_dataloader()
    fit = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    with pytest.raises(OptionError, match=r"^num_classes: is not given, and there is no"):
        fit.fit(Detector("tiny_ssd"), loader)
    with pytest.raises(OptionError, match="give it, background included"):
        Detector("tiny_ssd").configure_model()


def test_a_callback_may_ask_for_the_network_before_setup(tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import Callback

    class Early(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            pl_module.configure_model()
            self.network = pl_module.detector

    data = VOCDataModule(str(own_classes(tmp_path / "own")), batch_size=2, image_size=64)
    model, early = Detector("tiny_ssd"), Early()
    trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=[early]).fit(model, data)
    assert model.detector is early.network


# Checkpoints of other classes -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("red fox", "狼 (серый)", "собака"),
            "label 2 for 'собака', which is '狼 (серый)' in the data",
        ),
        (many(25), "was trained on 3 classes, and the data have 25"),
    ],
)
def test_a_checkpoint_of_other_classes_is_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    data = VOCDataModule(str(own_classes(tmp_path / "own")), batch_size=2, image_size=64)
    fit = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    fit.fit(Detector("tiny_ssd", input_size=64), data)
    fit.save_checkpoint(tmp_path / "own.ckpt")
    other = own_classes(tmp_path / "other", names)
    again = trainer(tmp_path, limit_val_batches=1)
    with pytest.raises(OptionError, match=re.escape(message)):
        again.validate(
            Detector("tiny_ssd", input_size=64),
            VOCDataModule(str(other), batch_size=2),
            ckpt_path=tmp_path / "own.ckpt",
        )
    with pytest.raises(OptionError, match=re.escape(message)):
        draw_predictions.main([str(tmp_path / "own.ckpt"), str(other), str(tmp_path / "x.png")])


def test_equal_classes_pass() -> None:
    check_same_classes(list(THREE), THREE)


@pytest.mark.slow
def test_a_checkpoint_that_names_no_classes_loads(tmp_path: Path) -> None:
    """Checkpoints of older releases hold the number alone."""
    data = VOCDataModule(str(own_classes(tmp_path / "own")), batch_size=2, image_size=64)
    fit = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    fit.fit(Detector("tiny_ssd", num_classes=4), data)
    fit.save_checkpoint(path := tmp_path / "own.ckpt")
    content = saved(path)
    del content["class_names"]
    torch.save(content, path)
    assert Detector.load_from_checkpoint(path).class_names is None
    trainer(tmp_path, limit_val_batches=1).validate(Detector("tiny_ssd"), data, ckpt_path=path)


# Pictures ---------------------------------------------------------------------------------------


def test_a_detection_has_its_name_and_score() -> None:
    grey = torch.full((3, 64, 96), 128, dtype=torch.uint8)
    found = {
        "boxes": torch.tensor([[8.0, 10, 60, 54]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.93]),
    }
    names = [None, ["fox"], ["bear"], ["собака"], ["狼"]]
    sheets = [draw_predictions.labelled(grey, found, given) for given in names]
    plain, fox, bear, dog, wolf = sheets
    assert not torch.equal(plain, fox)
    assert not torch.equal(fox, bear)
    assert torch.equal(dog, wolf), "both are #1"
