"""Epochs and resume of VOCDataModule under Lightning are exact."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from datamodules import ShardDataset, ShardLoader, VOCDataModule
from datamodules.presets import IMAGENET_MEAN, IMAGENET_STD, detection_train
from shard_tool.errors import OptionError, ResumeError
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import Recorder, trainer

if TYPE_CHECKING:
    from pathlib import Path

    from pytorch_lightning import Trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),  # on purpose
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # 2 cores
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # other callbacks
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


def module(root: Path, **options: Any) -> VOCDataModule:
    defaults: dict[str, Any] = {"batch_size": 5, "image_size": 32, "seed": 2}
    return VOCDataModule(str(root), **{**defaults, **options})


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1, save_last=False
    )


def resumed(
    tmp_path: Path, data: VOCDataModule, checkpoint: Path | str, **options: Any
) -> Recorder:
    model = Recorder()
    trainer(tmp_path, max_epochs=2, **options).fit(model, data, ckpt_path=str(checkpoint))
    return model


@pytest.fixture(scope="module")
def uninterrupted(
    mini_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recorder, Path]:
    """A run of two epochs, with a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("steps")
    model = Recorder()
    fit = trainer(folder, max_epochs=2, callbacks=[every_step(folder)], enable_checkpointing=True)
    fit.fit(model, module(mini_dataset))
    return model, folder


def test_epochs_equal_those_of_the_loader_without_lightning(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path]
) -> None:
    model, _ = uninterrupted
    loader = ShardLoader(
        ShardDataset(str(mini_dataset), seed=2, transform=detection_train(32)), batch_size=5
    )
    expected = [[i for batch in loader for i in batch.sample_ids.tolist()] for _ in range(2)]
    assert [model.ids(epoch=0), model.ids(epoch=1)] == expected
    assert model.val_epochs == [0, 1]


@pytest.mark.slow
def test_promise_6_a_checkpoint_of_any_step_goes_on_exactly(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path
) -> None:
    """Compares ids and pixels of every later step, from mid-epoch and from both ends of epochs."""
    whole, folder = uninterrupted
    lines = whole.of("train")
    assert len(lines) >= 10
    for step in range(1, len(lines)):
        model = resumed(tmp_path, module(mini_dataset), folder / f"step={step}.ckpt")
        assert model.of("train") == lines[step:], f"after step {step}"


def test_promise_6_an_epoch_end_checkpoint_starts_the_next_epoch(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path
) -> None:
    """Lightning ignores the loader's own state here; the order of epoch 0 must not be repeated."""
    whole, _ = uninterrupted
    first = trainer(tmp_path, max_epochs=1)
    first.fit(Recorder(), module(mini_dataset))
    first.save_checkpoint(tmp_path / "end.ckpt")
    model = resumed(tmp_path, module(mini_dataset), tmp_path / "end.ckpt")
    assert model.of("train") == whole.of("train", epoch=1)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_promise_6_another_batch_size_trains_the_rest_once_and_validates_once(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path, batch_size: int
) -> None:
    whole, folder = uninterrupted
    ids, lines = whole.ids(), whole.of("train")
    for step in range(1, len(lines)):
        data = module(mini_dataset, batch_size=batch_size)
        model = resumed(tmp_path, data, folder / f"step={step}.ckpt")
        done = sum(len(line["ids"]) for line in lines[:step])
        assert model.ids() == ids[done:], f"after step {step}"
        assert model.val_epochs == [0, 1][lines[step - 1]["epoch"] :], f"after step {step}"


def test_promise_6_a_trainer_that_has_run_a_fit_resumes_as_a_new_one(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path
) -> None:
    """The Trainer remembers that a validation has run; in the checkpoint none has."""
    whole, folder = uninterrupted
    num_steps = len(whole.of("train", epoch=0))
    for step in (num_steps - 1, num_steps):
        fit = trainer(tmp_path, max_epochs=1)
        fit.fit(Recorder(), module(mini_dataset))
        fit.fit_loop.max_epochs = 2
        model = Recorder()
        fit.fit(model, module(mini_dataset), ckpt_path=str(folder / f"step={step}.ckpt"))
        assert model.of("train") == whole.of("train")[step:], f"after step {step}"
        assert model.val_epochs == [0, 1], f"after step {step}"


@pytest.mark.parametrize("limits", [{"drop_last": True}, {"limit_train_batches": 4}], ids=str)
def test_promise_6_an_epoch_with_no_batch_of_the_new_size_left_ends_and_validates(
    mini_dataset: Path, tmp_path: Path, limits: dict[str, Any]
) -> None:
    """Too few samples are left for a full batch, or the limit of batches is reached."""
    options = {key: value for key, value in limits.items() if key == "drop_last"}
    limit = {key: value for key, value in limits.items() if key != "drop_last"}
    num_samples = ShardDataset(str(mini_dataset)).num_samples
    old, new, step = (4, num_samples - 5, 2) if options else (6, 3, 3)
    first = trainer(
        tmp_path,
        max_epochs=1,
        callbacks=[every_step(tmp_path / "steps")],
        enable_checkpointing=True,
        **limit,
    )
    first.fit(Recorder(), module(mini_dataset, batch_size=old, **options))
    data = module(mini_dataset, batch_size=new, **options)
    model = resumed(tmp_path, data, tmp_path / "steps" / f"step={step}.ckpt", **limit)
    assert model.of("train", epoch=0) == []
    assert len(model.of("train", epoch=1)) == (1 if options else 4)
    assert model.val_epochs == [0, 1]


def test_lanes_of_the_first_run_hold_after_an_epoch_end_checkpoint_too(
    mini_dataset: Path, tmp_path: Path
) -> None:
    """Lightning does not load the loader's state then, so the data module's state holds them."""
    whole = Recorder()
    trainer(tmp_path, max_epochs=2).fit(whole, module(mini_dataset, lanes=3))
    first = trainer(tmp_path, max_epochs=1)
    first.fit(Recorder(), module(mini_dataset, lanes=3))
    first.save_checkpoint(tmp_path / "end.ckpt")
    model = resumed(tmp_path, module(mini_dataset), tmp_path / "end.ckpt")
    assert model.of("train") == whole.of("train", epoch=1)


@pytest.mark.parametrize("earlier", ["fit", "validate"])
def test_a_fresh_fit_does_not_start_where_an_earlier_checkpoint_was(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path, earlier: str
) -> None:
    whole, folder = uninterrupted
    data, checkpoint = module(mini_dataset), str(folder / "step=3.ckpt")
    if earlier == "fit":
        trainer(tmp_path, max_epochs=1).fit(Recorder(), data, ckpt_path=checkpoint)
    else:
        trainer(tmp_path).validate(Recorder(), data, ckpt_path=checkpoint, verbose=False)
    model = Recorder()
    trainer(tmp_path, max_epochs=1).fit(model, data)
    assert model.of("train") == whole.of("train", epoch=0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 3}, {"val_check_interval": 0.5}])
def test_resume_is_exact_with(
    mini_dataset: Path,
    uninterrupted: tuple[Recorder, Path],
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    lines = uninterrupted[0].of("train")
    callbacks = [
        ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    ]
    fit = trainer(tmp_path, max_epochs=2, callbacks=callbacks, enable_checkpointing=True, **options)
    fit.fit(Recorder(), module(mini_dataset))
    checkpoints = sorted(tmp_path.glob("step=*.ckpt"))
    assert len(checkpoints) >= 3
    for checkpoint in checkpoints:
        model = resumed(tmp_path, module(mini_dataset), checkpoint, **options)
        seen = model.of("train")
        assert seen == lines[len(lines) - len(seen) :]
        batches = int(checkpoint.stem.removeprefix("step=")) * options.get(
            "accumulate_grad_batches", 1
        )
        assert len(seen) == len(lines) - batches


def test_half_precision_touches_pixels_only(mini_dataset: Path, tmp_path: Path) -> None:
    class Looking(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            dtypes.append((batch.pixels.dtype, batch.boxes.dtype, batch.sample_ids.dtype))
            return self.weight * batch.pixels.mean()

    dtypes: list[tuple[torch.dtype, ...]] = []
    fit = trainer(tmp_path, max_steps=1, precision="bf16-true", limit_val_batches=0)
    fit.fit(Looking(), module(mini_dataset))
    assert dtypes == [(torch.bfloat16, torch.float32, torch.int64)]


def test_a_used_data_module_can_be_copied_and_pickled(mini_dataset: Path, tmp_path: Path) -> None:
    data = module(mini_dataset, num_workers=1)  # persistent: the loader holds live workers
    loader = data.train_dataloader()
    first = next(iter(loader))
    again = pickle.loads(pickle.dumps(loader))
    assert again.state_dict() == loader.state_dict()
    assert next(iter(again)).start == first.stop
    assert len(copy.deepcopy(data).train_dataloader()) == len(loader)


def test_the_batch_in_flight_at_an_exception_is_trained_after_the_resume(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path
) -> None:
    class Failing(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch_idx == 3:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    class SaveOnException(Callback):
        def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
            trainer.save_checkpoint(tmp_path / "exception.ckpt")

    model = Failing()
    fit = trainer(tmp_path, max_epochs=2, callbacks=[SaveOnException()])
    with pytest.raises(ZeroDivisionError):
        fit.fit(model, module(mini_dataset))
    whole, _ = uninterrupted
    again = resumed(tmp_path, module(mini_dataset), tmp_path / "exception.ckpt")
    assert model.of("train") + again.of("train") == whole.of("train")


def test_a_checkpoint_holds_plain_types_only(uninterrupted: tuple[Recorder, Path]) -> None:
    _, folder = uninterrupted
    checkpoint = torch.load(folder / "step=3.ckpt", weights_only=True)
    state = checkpoint["VOCDataModule"]
    assert state["samples"] == 15
    assert {type(value) for value in state.values()} == {int, str}


def test_a_checkpoint_of_other_data_is_refused_and_both_are_named(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path
) -> None:
    _, folder = uninterrupted
    with pytest.raises(ResumeError, match="saved with seed 2, this run has 3"):
        resumed(tmp_path, module(mini_dataset, seed=3), folder / "step=3.ckpt")
    data = module(mini_dataset, train_split="val")
    with pytest.raises(ResumeError, match="saved with fingerprint"):
        resumed(tmp_path, data, folder / "step=3.ckpt")


def plain_loader(root: Path, batch_size: int) -> ShardLoader:
    dataset = ShardDataset(str(root), seed=2, transform=detection_train(32))
    return ShardLoader(dataset, batch_size=batch_size)


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_without_the_data_module_the_same_topology_resumes_and_another_is_an_error(
    mini_dataset: Path, tmp_path: Path
) -> None:
    whole, model, checkpoint = Recorder(), Recorder(), str(tmp_path / "step=2.ckpt")
    callbacks = [every_step(tmp_path)]
    fit = trainer(tmp_path, max_epochs=1, callbacks=callbacks, enable_checkpointing=True)
    fit.fit(whole, plain_loader(mini_dataset, 5))
    again = trainer(tmp_path, max_epochs=1)
    again.fit(model, plain_loader(mini_dataset, 5), ckpt_path=checkpoint)
    assert model.of("train") == whole.of("train")[2:]
    other, loader = trainer(tmp_path, max_epochs=1), plain_loader(mini_dataset, 3)
    with pytest.raises(ResumeError) as error:
        other.fit(model, loader, ckpt_path=checkpoint)
    assert str(error.value) == (
        "ShardLoader under Lightning: saved with 5 samples a global batch, this run has 3; "
        "pass a VOCDataModule to the Trainer: it restates Lightning's count of batches"
    )


def test_evaluation_counts_every_sample_once(mini_dataset: Path, tmp_path: Path) -> None:
    model, data = Recorder(), module(mini_dataset, batch_size=4, test_split=["train", "val"])
    fit = trainer(tmp_path)
    fit.validate(model, data, verbose=False)
    assert sorted(model.ids("val")) == sorted(set(model.ids("val")))
    assert len(model.ids("val")) == ShardDataset(str(mini_dataset), "val").num_samples
    fit.test(model, data, verbose=False)
    assert model.ids("test") == list(range(ShardDataset(str(mini_dataset), "trainval").num_samples))


def test_predict_rebuilds_the_loader(mini_dataset: Path, tmp_path: Path) -> None:
    predictions = trainer(tmp_path).predict(Recorder(), module(mini_dataset, test_split="val"))
    assert predictions is not None
    ids = [i for batch in predictions for i in batch]
    first = ShardDataset(str(mini_dataset), "train").num_samples
    assert ids == list(range(first, first + len(ids)))
    assert len(ids) == ShardDataset(str(mini_dataset), "val").num_samples


def test_overfit_batches_repeats_the_same_samples_in_order(
    mini_dataset: Path, tmp_path: Path
) -> None:
    model = Recorder()
    fit = trainer(tmp_path, max_epochs=3, overfit_batches=2, limit_val_batches=0)
    fit.fit(model, module(mini_dataset))
    assert model.ids() == list(range(10)) * 3


def test_limited_epochs_take_the_beginning_of_each_epoch(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path
) -> None:
    model = Recorder()
    fit = trainer(tmp_path, max_epochs=2, limit_train_batches=2, limit_val_batches=1)
    fit.fit(model, module(mini_dataset))
    whole, _ = uninterrupted
    for epoch in range(2):
        assert model.of("train", epoch) == whole.of("train", epoch)[:2]


def test_fast_dev_run_and_a_second_fit_start_at_the_beginning(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path
) -> None:
    data, whole = module(mini_dataset), uninterrupted[0]
    model = Recorder()
    trainer(tmp_path, fast_dev_run=True).fit(model, data)
    assert model.of("train") == whole.of("train")[:1]
    again = Recorder()
    trainer(tmp_path, max_epochs=1).fit(again, data)
    assert again.of("train") == whole.of("train", epoch=0)


def test_only_lightnings_warning_about_the_length_is_filtered(
    mini_dataset: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(Recorder(), module(mini_dataset))
    assert not [w for w in recwarn if "__len__" in str(w.message)]


def test_training_in_manifest_order_resumes_as_well(mini_dataset: Path, tmp_path: Path) -> None:
    callbacks = [every_step(tmp_path)]
    whole = Recorder()
    fit = trainer(tmp_path, max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    fit.fit(whole, module(mini_dataset, shuffle=False))
    assert whole.ids(epoch=1) == list(range(len(whole.ids(epoch=1))))
    data = module(mini_dataset, shuffle=False)
    model = resumed(tmp_path, data, tmp_path / "step=3.ckpt")
    assert model.of("train") == whole.of("train")[3:]


@pytest.mark.slow
def test_workers_change_nothing(
    mini_dataset: Path, uninterrupted: tuple[Recorder, Path], tmp_path: Path
) -> None:
    model = Recorder()
    data = module(mini_dataset, num_workers=2, persistent_workers=True)
    trainer(tmp_path, max_epochs=2).fit(model, data)
    assert model.lines == uninterrupted[0].lines


# Pixels and preparation ---------------------------------------------------------------------


def test_pixels_are_scaled_and_normalised_after_the_transfer(mini_dataset: Path) -> None:
    data = module(mini_dataset)
    batch = next(iter(data.train_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    assert torch.allclose(images[0], batch.images[0].float() / 255)
    data = module(mini_dataset, normalize=True)
    normalized, _ = data.on_after_batch_transfer(batch, 0)
    expected = (images[0] - IMAGENET_MEAN.view(3, 1, 1)) / IMAGENET_STD.view(3, 1, 1)
    assert torch.allclose(normalized[0], expected, atol=1e-6)


def test_bad_arguments_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="batch_size: 0 is below 1"):
        module(tmp_path, batch_size=0)
    with pytest.raises(OptionError, match="num_workers: -1 is below 0"):
        module(tmp_path, num_workers=-1)


def test_a_missing_split_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    root = stored(tmp_path / "voc", {"train": [8]})
    data = module(root)
    with pytest.raises(OptionError) as caught:
        data.val_dataloader()
    problem = f"{root}: has no split 'val', only train; give VOCDataModule another val_split"
    assert str(caught.value) == f"{problem}, or the Trainer limit_val_batches=0"
    model = Recorder()
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(model, data)
    assert model.global_step == 2


def test_recipes_are_chosen_by_name(mini_dataset: Path) -> None:
    data = module(mini_dataset, transforms="retinanet", image_size=48)
    sizes = {tuple(image.shape[1:]) for batch in data.train_dataloader() for image in batch.images}
    sizes |= {tuple(size) for batch in data.val_dataloader() for size in batch.sizes.tolist()}
    assert {min(size) for size in sizes if max(size) < 79} == {48}, "and the longer side is 79"
    with pytest.raises(OptionError, match="transforms: 'sdd' is not one of imagenet, letterbox, "):
        module(mini_dataset, transforms="sdd")


def test_segmentation_loads_by_the_same_module(mini_masks: Path, tmp_path: Path) -> None:
    images, masks = next(iter(module(mini_masks).train_dataloader()))
    assert images.shape == (5, 3, 32, 32)
    assert masks.shape == (5, 32, 32)
