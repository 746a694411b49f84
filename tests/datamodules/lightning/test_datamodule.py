"""Stages, hyperparameters, drawings and error messages of VOCDataModule."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import VOCDataModule
from datamodules.presets import resize, ssdlite
from shard_tool.errors import ObjectMissing, OptionError, ResumeError, SampleError
from tests.kit.datasets.stored import in_memory, stored
from tests.kit.models.recorder import Recorder, trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]

FEW: dict[str, Any] = {"max_steps": 2, "limit_val_batches": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": [5, 4], "val": [5], "test": [3]}
    return stored(tmp_path_factory.mktemp("module") / "voc", splits)


def module(root: Path | str, **options: Any) -> VOCDataModule:
    return VOCDataModule(str(root), **{"batch_size": 4, "image_size": 32, **options})


# Stages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_setup_without_a_dataset_is_an_error(tmp_path: Path, stage: str) -> None:
    with pytest.raises(ObjectMissing, match="no dataset here"):
        module(tmp_path / "none").setup(stage)


@pytest.mark.parametrize(
    ("stage", "name"),
    [("fit", "train"), ("validate", "val"), ("test", "test"), ("predict", "test")],
)
def test_setup_without_the_split_of_its_stage_is_an_error(
    tmp_path: Path, stage: str, name: str
) -> None:
    root = stored(tmp_path / "voc", {"other": [4]})
    with pytest.raises(OptionError, match=f"has no split '{name}', only other.*{name}_split"):
        module(root).setup(stage)


def test_setup_opens_validation_data_only_if_there_is_validation(tmp_path: Path) -> None:
    class Trains(Recorder):
        validation_step = LightningModule.validation_step

    root = stored(tmp_path / "voc", {"train": [8]})
    data = module(root)
    with pytest.raises(OptionError, match="has no split 'val'"):
        trainer(tmp_path, max_steps=1).fit(Recorder(), data)
    trainer(tmp_path, **FEW).fit(Recorder(), data)
    trainer(tmp_path, max_steps=1).fit(Trains(), data)


def test_a_loader_after_setup_opens_nothing_again(root: Path, tmp_path: Path) -> None:
    url = in_memory(root, f"memory://{tmp_path.name}")
    data = module(url, cache_dir=str(tmp_path / "cache"))
    data.setup("fit")
    opened = data._opened["train"]
    assert data.train_dataloader().dataset.dataset is opened
    assert data.train_dataloader().dataset.dataset is not opened
    data.setup("test")
    assert list(data._opened) == ["test"]
    data.teardown("test")
    assert not data._opened


def test_predict_loads_the_test_samples_once_each(root: Path) -> None:
    batches = list(module(root, batch_size=2).predict_dataloader())
    assert [i for batch in batches for i in batch.sample_ids.tolist()] == [14, 15, 16]


def test_several_roots_are_one_dataset(root: Path, tmp_path: Path) -> None:
    other = stored(tmp_path / "other", {"train": [6], "val": [2]}, name="other")
    data = VOCDataModule([str(root), str(other)], batch_size=5, image_size=32)
    data.setup("fit")
    ids = [i for batch in data.train_dataloader() for i in batch.sample_ids.tolist()]
    assert sorted(ids) == [*range(9), *range(17, 23)]


def test_default_transforms_are_those_of_the_loaders(root: Path) -> None:
    data = module(root)
    assert repr(data.default_transforms()) == repr(ssdlite(32))
    assert repr(data.default_transforms("val")) == repr(resize(32))
    assert repr(module(root, task="classification").default_transforms()).startswith("FusedTr")
    with pytest.raises(OptionError, match="stage: 'valid' is not one of train, val, test"):
        data.default_transforms("valid")
    data = module(root, transforms="ssd", decode="fast")
    loader = data.train_dataloader()
    assert repr(loader.dataset.dataset.transform) == repr(data.default_transforms("train"))


# What is saved ------------------------------------------------------------------------------


def hyperparameters(root: Path | str, folder: Path, **options: Any) -> dict[str, Any]:
    """The hyperparameters in a checkpoint."""
    data = module(root, **options)
    fit = trainer(folder, **FEW)
    fit.fit(Recorder(), data)
    fit.save_checkpoint(folder / "saved.ckpt", weights_only=False)
    saved = torch.load(folder / "saved.ckpt", weights_only=True)
    found: dict[str, Any] = saved["datamodule_hyper_parameters"]
    return found


def test_hyperparameters_travel_in_checkpoints_as_plain_types(root: Path, tmp_path: Path) -> None:
    found = hyperparameters(root, tmp_path, seed=7, train_transforms=ssdlite(32))
    assert found["data_dir"] == [str(root)]
    assert (found["batch_size"], found["seed"], found["transforms"]) == (4, 7, None)
    assert not {"train_transforms", "collate_fn", "storage_options"} & found.keys()
    again = VOCDataModule.load_from_checkpoint(tmp_path / "saved.ckpt", weights_only=True)
    assert (again.roots, again.batch_size, again.seed) == ([str(root)], 4, 7)


def test_no_secret_is_saved() -> None:
    url = "https://me:pass@host/voc?X-Amz-Signature=abc"
    data = VOCDataModule([url], source=url, storage_options={"key": "k", "secret": "s3cr3t"})
    assert data.roots == [url]
    assert data.hparams["data_dir"] == ["https://host/voc"]
    assert data.hparams["source"] == "https://host/voc"
    for saved in (data.hparams, data.hparams_initial):
        assert not any(word in str(saved) for word in ("pass", "abc", "s3cr3t"))


def test_arguments_of_a_subclass_are_not_saved(root: Path) -> None:
    class Mine(VOCDataModule):
        def __init__(self, token: str, **options: Any) -> None:
            super().__init__(str(root), **options)

    assert "secret" not in str(Mine("secret", batch_size=3).hparams)


# What is drawn ------------------------------------------------------------------------------


def test_show_batch_draws_boxes_and_moves_no_loader(mini_dataset: Path) -> None:
    data = VOCDataModule(str(mini_dataset), batch_size=6, image_size=96)
    data.setup("fit")
    before = data.train_dataloader()
    sheet = data.show_batch(side=100)
    assert sheet.size == (3 * 104 + 4, 2 * 104 + 4)
    assert (np.asarray(sheet) == [255, 255, 0]).all(2).sum() > 200, "no yellow boxes"
    assert data.show_batch(epoch=1, side=100).tobytes() != sheet.tobytes()
    assert data.show_batch(side=100).tobytes() == sheet.tobytes()
    assert before.state_dict()["samples"] == 0


def test_show_batch_draws_masks(mini_masks: Path) -> None:
    data = VOCDataModule(str(mini_masks), batch_size=2, image_size=64)
    assert data.show_batch("val", side=64).size == (2 * 68 + 4, 68 + 4)


def test_show_batch_names_the_classes_of_a_picture(mini_dataset: Path) -> None:
    data = VOCDataModule(str(mini_dataset), task="classification", batch_size=2, image_size=64)
    assert data.show_batch("val", side=64).size == (2 * 68 + 4, 68 + 4)


def test_show_batch_does_the_work_left_to_a_device(mini_dataset: Path) -> None:
    options: dict[str, Any] = {"transforms": "ssd", "image_size": 64, "batch_size": 4}
    here = VOCDataModule(str(mini_dataset), **options).show_batch(side=64)
    there = VOCDataModule(str(mini_dataset), recolor_on="device", **options).show_batch(side=64)
    difference = np.asarray(here).astype(int) - np.asarray(there)
    assert abs(difference).max() <= 2


# What is said of misuse ---------------------------------------------------------------------

ANEW = "to begin anew with a checkpoint's weights alone, Model.load_from_checkpoint reads them"


def saved(root: Path, folder: Path) -> Path:
    """A checkpoint from the middle of an epoch."""
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit = trainer(folder, callbacks=[saving], enable_checkpointing=True, **FEW)
    fit.fit(Recorder(), module(root))
    return folder / "step=1.ckpt"


def refusal(path: Path, data: VOCDataModule) -> str:
    with pytest.raises(ResumeError) as caught:
        trainer(path.parent, **FEW).fit(Recorder(), data, ckpt_path=path)
    return str(caught.value)


def test_a_checkpoint_of_another_dataset_seed_or_version_is_refused(
    root: Path, tmp_path: Path
) -> None:
    path = saved(root, tmp_path)
    other = stored(tmp_path / "other", {"train": [9]}, name="other")
    state = torch.load(path, weights_only=True)
    mine = state["VOCDataModule"]["fingerprint"]
    theirs = module(other).train_dataloader().state_dict()["fingerprint"]
    assert refusal(path, module(other)) == (
        f"cursor: saved with fingerprint {mine!r}, this run has {theirs!r}; "
        f"the data, splits or shuffle differ: give those it was saved with; {ANEW}"
    )
    assert refusal(path, module(root, seed=8)) == (
        "cursor: saved with seed 0, this run has 8; "
        f"the order would be another: give seed=0; {ANEW}"
    )
    state["VOCDataModule"]["version"] = 9
    torch.save(state, path)
    assert refusal(path, module(root)) == (
        "cursor: version 9 is unknown (this release reads 1); "
        f"resume with the release that saved it; {ANEW}"
    )


def test_too_many_workers_are_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    module(root, num_workers=6).setup("fit")
    with pytest.warns(UserWarning, match="VOCDataModule") as caught:
        module(root, num_workers=7).setup("fit")
    (warning,) = caught
    assert str(warning.message) == (
        "VOCDataModule: num_workers=7: so many processes share 3 cores and slow each other down; "
        "num_workers=3 will be as fast"
    )


def fails(image: Any, target: Any) -> Any:
    raise ZeroDivisionError("no")


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        pytest.param(fails, ": transform 'fails' raised ZeroDivisionError: no", id="raises"),
        pytest.param(
            lambda *sample: (sample[0], {}),
            ", by transform '<lambda>': the transform's target has no 'boxes' and 'labels'; "
            "return the target's dict, also where no box is left ([0, 4] boxes, [0] labels)",
            id="no boxes",
        ),
        pytest.param(
            lambda image, target: (image.to(torch.int16), target),
            ", by transform '<lambda>': the transform's image is torch.int16, "
            "expected uint8 or float",
            id="dtype",
        ),
    ],
)
def test_a_bad_transform_is_named_with_the_sample(
    root: Path, tmp_path: Path, transform: Callable[..., Any], problem: str
) -> None:
    data = module(root, train_transforms=transform, shuffle=False)
    with pytest.raises(SampleError) as caught:
        trainer(tmp_path, **FEW).fit(Recorder(), data)
    place = f"{root}/train-000000.tar: sample 'voc-train-000-0000'"
    assert str(caught.value) == f"{place}{problem}"


class Classifier(Recorder):
    """Expects one tensor of images."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, _ = batch
        return torch.nn.functional.conv2d(images, self.weight.expand(1, 3, 1, 1)).mean()


class Stacker(Recorder):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight * torch.stack(batch.images).mean()


class Detector(Recorder):
    """Expects lists."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        _, targets = batch
        return self.weight * targets[0]["boxes"].sum()


LISTS = (
    "VOCDataModule: a detection batch unpacks into lists, of images [3, H, W] and of targets, "
    "as torchvision's detectors take them; a model that wants one tensor gets it by "
    "`torch.stack(images)`, where transforms give all pictures one size, as the recipes 'ssd' "
    "and 'ssdlite' do; a classifier, with its labels, by task='classification'"
)
STACKS = (
    "VOCDataModule: a batch for segmentation or classification unpacks into one tensor of "
    "images [B, 3, H, W] and one of masks or labels; a detector gets its lists of images and "
    "of targets by task='detection'"
)


def notes_of(model: Recorder, data: VOCDataModule, folder: Path) -> list[str]:
    with pytest.raises((TypeError, RuntimeError, IndexError)) as caught:
        trainer(folder, **FEW).fit(model, data)
    notes = list(caught.value.__notes__)
    assert "".join(traceback.format_exception(caught.value)).rstrip().endswith(notes[-1])
    return notes


def test_the_error_of_a_model_that_expects_one_tensor_explains_lists(
    root: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    assert notes_of(Classifier(), module(root), tmp_path) == [LISTS]
    odd = module(mini_dataset, transforms="retinanet")
    assert notes_of(Stacker(), odd, tmp_path) == [LISTS]


def test_the_error_of_a_model_that_expects_lists_explains_tensors(
    mini_masks: Path, tmp_path: Path
) -> None:
    assert notes_of(Detector(), module(mini_masks), tmp_path) == [STACKS]


def test_other_errors_get_no_note(root: Path, tmp_path: Path) -> None:
    class Failing(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError) as caught:
        trainer(tmp_path, **FEW).fit(Failing(), module(root))
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("option", "value"), [("image_size", 64), ("transforms", "ssd"), ("decode", "fast")]
)
def test_an_option_of_recipes_is_refused_if_all_stages_have_transforms(
    root: Path, option: str, value: Any
) -> None:
    names = ("train_transforms", "val_transforms", "test_transforms")
    given = dict.fromkeys(names, ssdlite(32))
    expected = (
        rf"^{option}: {value!r} is for a recipe, and all stages have transforms of their own; "
    )
    with pytest.raises(OptionError, match=expected):
        VOCDataModule(str(root), **given, **{option: value})
    del given["test_transforms"]
    VOCDataModule(str(root), **given, **{option: value})  # the test stage takes it
