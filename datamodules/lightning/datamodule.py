"""Gives a Lightning Trainer loaders over datasets of shards: `VOCDataModule`.

It also resumes training at the exact sample. Lightning saves a loader's state, but ignores it after
the end of an epoch, and it counts batches of the run that saved, not of the run that resumes. So
the data module keeps the cursor in its own state, tells the loader how many batches were trained,
and corrects Lightning's counts when training starts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable  # noqa: TC003  (LightningCLI reads annotations)
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningDataModule

from datamodules import presets
from datamodules.lightning.advice import warn_of_workers
from datamodules.lightning.callbacks import BatchNotesCallback, ResumeCallback
from datamodules.lightning.preparation import (
    DatasetSource,
    is_needed_on_each_node,
    make_missing_datasets,
)
from datamodules.lightning.recipe_options import RecipeOptions
from datamodules.lightning.world_of import world_of
from datamodules.loading.batch import Batch
from datamodules.loading.classes import names_by_label, num_classes_of
from datamodules.loading.dataset import DEFAULT_WINDOW, ShardDataset
from datamodules.loading.items import Transform  # noqa: TC001  (LightningCLI reads annotations)
from datamodules.loading.joined import Joined
from datamodules.loading.loader import ShardLoader
from datamodules.loading.on_device import check_decoder, finish
from datamodules.preview import sheet
from datamodules.profiling.device_clock import DeviceCopy, DeviceEvent
from shard_tool.errors import OptionError
from shard_tool.storage.location import public_url
from shard_tool.storage.ranges import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

STAGES = ("train", "val", "test")
_NOT_SAVED = {"self", "__class__", "storage_options", "collate_fn"} | {
    f"{stage}_transforms" for stage in STAGES
}
"""Arguments that are not saved as hyperparameters: secrets, and objects that need pickle."""
_READING = (
    *("lanes", "window", "cache_dir", "cache_limit", "on_bad_sample", "max_bad_samples"),
    *("check_crc", "fetch_timeout_s", "classes", "unmasked"),
)
"""Arguments that go to `ShardDataset` unchanged."""


class VOCDataModule(LightningDataModule):
    """Makes training, validation and test loaders over datasets of VOC shards.

    A model gets a `Batch` (``images, targets = batch``) of float32 in [0, 1], scaled on the device.

    Args:
        data_dir: The dataset: a folder or URL that holds a manifest, or a list of them.
        year: VOC release that `download` fetches: '2007' … '2012'.
        num_workers: Processes that decode, for each loader.
        normalize: Subtract ImageNet's mean and divide by its standard deviation, on the device. Off
            for torchvision's detection models, which do it themselves.
        batch_size: Samples of a batch on each rank.
        shuffle: Shuffle training samples.
        pin_memory: Put batches into page-locked memory, where there is an accelerator.
        drop_last: Drop the last incomplete training batch instead of making the last ones even.
        train_transforms: ``(image, target) -> (image, target)``; None: a default for the task.
        val_transforms: Likewise, for validation.
        test_transforms: Likewise, for test and predict.
        source: A VOC archive or folder. `prepare_data` converts it if `data_dir` holds no dataset.
        download: If `data_dir` holds no dataset, `prepare_data` downloads, verifies and converts
            the official archive of `year`, which stays in ``<data_dir>.archives``.
        prepare_data_per_node: Whether one process of each node makes the dataset, or one of all
            alone. None: one of each node if `data_dir` is a local folder. Nodes that share a folder
            make one dataset in any case: the second one waits.
        task: 'detection', 'segmentation', 'classification' or 'instances': the task whose targets
            samples get, as for `ShardDataset`, and for which `prepare_data` converts. None: the
            task of the shards; 'detection' if they are made here.
        transforms: Name of a recipe of `presets.RECIPES` ('ssd', 'ssdlite', 'retinanet', …), for
            stages whose transforms are not given. None: 'ssdlite' for detection,
            'random_resized_crop' for segmentation, 'imagenet' for classification, 'retinanet' for
            instances.
        decode: How the recipe decodes: 'exact'; 'fast': quicker, with slightly different pixels
            (docs/concepts/pixels.md gives the differences); 'cuda': on the GPU, with the rest of
            the recipe.
        recolor_on: Where the recipe changes colours: 'worker' or 'device'; None: where it decodes.
        image_size: Pixels of the recipe's output: height and width, or the shorter side for
            'retinanet'. None: its usual size (320 for 'ssdlite', 300 for 'ssd', …). A list: one
            size is drawn for each training batch (`presets.multi_scale`); evaluation takes the
            largest.
        seed: Seed of the order of samples and of random transforms.
        lanes: Lanes of the order; None: the number of nodes of the first run.
        window: Number of shards that are mixed.
        train_split: Split to train on; one name or several.
        val_split: Split to validate on.
        test_split: Split to test and predict on.
        persistent_workers: Keep workers between epochs.
        cache_dir: Where remote shards are kept, as for `ShardDataset`; None: its default.
        cache_limit: Bytes that the cache may hold, also as '200GB'; None: half of the free space.
        on_bad_sample: What happens to a sample that cannot be decoded or transformed: 'raise' or,
            in training, 'substitute'.
        max_bad_samples: More substituted samples than this on one rank are an error.
        check_crc: Compare samples of local shards with their CRC-32, as is done for remote ones.
        fetch_timeout_s: Seconds for which a failing request to storage is repeated.
        multiprocessing_context: 'fork', 'forkserver' or 'spawn'; None: the platform's default.
        storage_options: fsspec's options for `data_dir`; never saved.
        collate_fn: Makes a batch of generic samples, as for `ShardLoader`.
        classes: Names of all classes in the order of their labels, as for `ShardDataset`.
        unmasked: What becomes of objects without an outline in task 'instances', as for
            `ShardDataset`.
    """

    def __init__(  # the first twelve in the order of lightning-bolts
        self,
        data_dir: str | Path | list[str],
        year: str = "2012",
        num_workers: int = 0,
        normalize: bool = False,  # noqa: FBT001, FBT002
        batch_size: int = 32,
        shuffle: bool = True,  # noqa: FBT001, FBT002
        pin_memory: bool = True,  # noqa: FBT001, FBT002
        drop_last: bool = False,  # noqa: FBT001, FBT002
        train_transforms: Transform | None = None,
        val_transforms: Transform | None = None,
        test_transforms: Transform | None = None,
        *,
        source: str | None = None,
        download: bool = False,
        prepare_data_per_node: bool | None = None,
        task: str | None = None,
        transforms: str | None = None,
        decode: str = "exact",
        recolor_on: str | None = None,
        image_size: int | list[int] | None = None,
        seed: int = 0,
        lanes: int | None = None,
        window: int | None = DEFAULT_WINDOW,
        train_split: str | list[str] = "train",
        val_split: str | list[str] = "val",
        test_split: str | list[str] = "test",
        persistent_workers: bool = True,
        cache_dir: str | None = None,
        cache_limit: int | str | None = None,
        on_bad_sample: str = "raise",
        max_bad_samples: int = 10,
        check_crc: bool = False,
        fetch_timeout_s: float = TIMEOUT_S,
        multiprocessing_context: str | None = None,
        storage_options: dict[str, Any] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        classes: list[str] | None = None,
        unmasked: str = "fail",
    ) -> None:
        given = dict(locals())
        super().__init__()
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            if given[name] < least:
                raise OptionError(name, f"{given[name]} is below {least}")
        roots = data_dir if isinstance(data_dir, list | tuple) else [data_dir]
        self.roots = [str(root) for root in roots]
        self._source_of_missing = DatasetSource(source=source, download=download, year=year)
        self._source_of_missing.check_for(self.roots)
        self.year, self.source, self.download = year, source, download
        self._recipe = RecipeOptions(
            name=transforms, decode=decode, recolor_on=recolor_on, image_size=image_size
        )
        self.transforms = {stage: given[f"{stage}_transforms"] for stage in STAGES}
        self._recipe.check_beside(self.transforms.values())
        self.recipe, self.decode, self.recolor_on = transforms, decode, recolor_on
        self.image_size, self.lanes, self.window = image_size, lanes, window
        self.splits = {stage: given[f"{stage}_split"] for stage in STAGES}
        self.task, self.seed, self.shuffle, self.normalize = task, seed, shuffle, normalize
        self.batch_size, self.drop_last, self.collate_fn = batch_size, drop_last, collate_fn
        self.num_workers, self.multiprocessing_context = num_workers, multiprocessing_context
        self.pin_memory, self.persistent_workers = pin_memory, persistent_workers
        self.storage_options = storage_options or {}
        self.reading = {name: given[name] for name in _READING}
        if prepare_data_per_node is None:
            prepare_data_per_node = is_needed_on_each_node(self.roots)
        self.prepare_data_per_node = prepare_data_per_node  # Lightning reads it
        saved = {name: value for name, value in given.items() if name not in _NOT_SAVED}
        saved["data_dir"] = [public_url(root) for root in self.roots]
        saved["source"] = source and public_url(source)
        # Not for loggers: a model may have hyperparameters of the same names.
        self.save_hyperparameters(saved, logger=False)
        self._callbacks = [ResumeCallback(self), BatchNotesCallback()]
        self._opened: dict[str, ShardDataset] = {}
        self._train_loader: ShardLoader | None = None
        self.restored: dict[str, Any] = {}
        """The state of the training loader that a checkpoint held; empty without one."""
        self._arrived: DeviceEvent | None = None
        self.last_copy: DeviceCopy | None = None
        """The copy of the latest batch to the device."""

    @property
    def classes(self) -> dict[str, int]:
        """Class name to label from 1 on; 0 is the background.

        Read from the dataset each time, as are `class_names` and `num_classes`.

        Raises:
            ObjectMissing: There is no dataset, and `prepare_data` has not made it yet.
        """
        return self._task_and_classes()[1]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes: that of label k at k - 1."""
        return names_by_label(self.classes)

    @property
    def num_classes(self) -> int:
        """Number of labels: 21 for VOC with background (0); classification has none, 20 for VOC."""
        task, classes = self._task_and_classes()
        return num_classes_of(classes, task)

    def default_transforms(self, stage: str = "train") -> Transform:
        """The transform of a stage ('train', 'val', 'test') whose transforms are not given.

        Raises:
            OptionError: There is no such stage, or the data is generic and has no default.
        """
        task, _ = self._task_and_classes()
        if task not in presets.DEFAULT_RECIPES:
            problem = f"data for {task} is generic and has no default transforms"
            raise OptionError("default_transforms", problem, "give train_transforms and the like")
        _check_stage(stage)
        return self._recipe.transform(task, train=stage == "train")

    def show_batch(self, stage: str = "train", *, epoch: int = 0, side: int = 240) -> Image.Image:
        """Draw the first batch of an epoch as a model gets it, with boxes and masks.

        Pixels are those before the division by 255 and `normalize`. Loaders stay where they are.

        Args:
            stage: 'train', 'val' or 'test'.
            epoch: Number of the training epoch; evaluation is the same in all.
            side: Pixels of each sample's square.

        Raises:
            OptionError: There is no such stage, or the data is generic and cannot be drawn.
        """
        _check_stage(stage)
        dataset = self._dataset(stage)
        if dataset.is_generic:
            problem = f"data for {dataset.task} is generic: only you know how to draw its samples"
            raise OptionError("show_batch", problem, "draw `next(iter(dm.train_dataloader()))`")
        loader = ShardLoader(dataset, batch_size=self.batch_size, drop_last=self.drop_last)
        loader.set_epoch(epoch)
        batch = finish(next(iter(loader)))  # what is left to a device is done here
        return sheet(zip(*batch, strict=True), side=side, class_names=dataset.class_names)

    # Data ---------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Make the dataset if it is missing and `source` or `download` is given.

        If another process is making it, on this node or on one that shares the folder, wait for
        its end; if that process died, go on with what it left.

        Raises:
            ObjectMissing: There is no dataset, and neither `source` nor `download` was given.
            ObjectExists: The folder holds other files, or an unfinished conversion with other
                options (says which).
        """
        make_missing_datasets(
            self.roots,
            self._source_of_missing,
            task=self.task,
            storage_options=self.storage_options,
        )

    def setup(self, stage: str) -> None:
        """Open the stage's datasets, so that their errors come before anything else starts.

        Raises:
            ObjectMissing: A root holds no dataset.
            OptionError: A split is missing, or an argument does not fit the data.
        """
        self.restored = {}  # of an earlier run; Lightning loads this one's, if any, after setup
        # Lightning warns that the length of an IterableDataset may be wrong. Ours is exact on every
        # rank, for any number of workers.
        warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")
        trainer: Any = self.trainer  # Lightning sets these attributes without declaring them
        if trainer is not None and self._recipe.decode == "cuda":
            check_decoder(trainer.strategy.root_device)
        if trainer is not None:
            trainer.callbacks += [own for own in self._callbacks if own not in trainer.callbacks]
        self._opened = {name: self._dataset(name) for name in self._stages_of(stage)}
        warn_of_workers(self.num_workers, trainer)

    def teardown(self, stage: str) -> None:  # noqa: ARG002
        """Drop datasets that no loader asked for."""
        self._opened = {}

    def train_dataloader(self) -> ShardLoader:
        """Make the training loader; it continues where the checkpoint ended."""
        trainer: Any = self.trainer
        loader = self._loader(self._open("train"), drop_last=self.drop_last, resumable=True)
        if self.restored:
            loader.load_state_dict(self.restored)
        if trainer is not None and trainer.state.status == "running":
            self.follow(loader)
        return loader

    def val_dataloader(self) -> ShardLoader:
        """Make the validation loader: every sample exactly once, on any number of ranks."""
        return self._loader(self._open("val"))

    def test_dataloader(self) -> ShardLoader:
        """Make the test loader: every sample exactly once, on any number of ranks."""
        return self._loader(self._open("test"))

    def predict_dataloader(self) -> ShardLoader:
        """Make the test loader."""
        return self.test_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Note when the batch arrived, for `Monitor`."""
        if self.trainer is not None:
            self._arrived = DeviceEvent(self.trainer.strategy.root_device)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Finish the batch on the device: float32 in [0, 1], normalised if `normalize` is set."""
        if self.trainer is not None and self._arrived is not None:
            self.last_copy = DeviceCopy(
                self._arrived, DeviceEvent(self.trainer.strategy.root_device)
            )
            self._arrived = None
        if not isinstance(batch, Batch):
            return batch
        batch = finish(batch, normalize=self.normalize)
        if self.trainer is not None:  # bf16-true, say: pixels alone, boxes stay float32
            precision: Any = self.trainer.precision_plugin
            batch = batch.with_pixels(precision.convert_input(batch.pixels))
        return batch

    # State --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of the training loader, as plain types; empty before training."""
        loader = self._live_loader()
        return loader.state_dict() if loader is not None else dict(self.restored)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep a saved cursor for the next training loader.

        Raises:
            ResumeError: It belongs to other data, another seed or another version. Raised here:
                an error of a loader hook would leave Lightning's patches of DataLoader behind.
        """
        if (train := self._opened.get("train")) is not None:
            train.cursor_from_state(state_dict)
        self.restored = dict(state_dict)

    def follow(self, loader: ShardLoader) -> None:
        """Make `loader` count only the batches that Lightning has trained."""
        trainer = self.trainer
        self._train_loader = loader
        if trainer is not None:
            progress: Any = trainer.fit_loop.epoch_loop.batch_progress
            loader.trained_batches = lambda: int(progress.current.processed)

    def _live_loader(self) -> ShardLoader | None:
        """The loader that the Trainer iterates over; Lightning may have rebuilt it."""
        live = self.trainer.train_dataloader if self.trainer is not None else None
        return live if isinstance(live, ShardLoader) else self._train_loader

    # Parts --------------------------------------------------------------------------------

    def _task_and_classes(self) -> tuple[str, dict[str, int]]:
        """Those of all datasets, read as one."""
        joined = Joined.of(self.roots, self.task, self.reading["classes"], self.storage_options)
        return joined.task, joined.classes

    def _stages_of(self, stage: str) -> list[str]:
        """The stages whose loaders Lightning will ask for."""
        if stage != "fit":
            return ["val" if stage == "validate" else "test"]
        trainer: Any = self.trainer
        validates = trainer is not None and trainer.enable_validation
        return ["train", "val"] if validates else ["train"]

    def _open(self, stage: str) -> ShardDataset:
        """The dataset that setup opened; another one if a loader has it already."""
        return self._opened.pop(stage, None) or self._dataset(stage)

    def _dataset(self, stage: str) -> ShardDataset:
        trainer: Any = self.trainer
        overfits = trainer is not None and trainer.overfit_batches > 0
        shuffle = stage == "train" and self.shuffle and not overfits
        world = None if trainer is None else world_of(trainer)
        try:
            dataset = ShardDataset(
                self.roots,
                self.splits[stage],
                seed=self.seed,
                shuffle=shuffle,
                transform=self.transforms[stage],
                world=world,
                storage_options=self.storage_options,
                task=self.task,
                **self.reading,
            )
        except OptionError as exc:
            if not exc.problem.startswith("has no split"):
                raise
            hint = f"give VOCDataModule another {stage}_split"
            hint += ", or the Trainer limit_val_batches=0" if stage == "val" else ""
            raise OptionError(exc.place, exc.problem, hint) from exc
        if dataset.is_generic:
            self._recipe.refuse_generic(normalize=self.normalize)
        if dataset.transform is None and not dataset.is_generic:
            dataset.transform = self._recipe.transform(dataset.task, train=stage == "train")
        return dataset

    def _loader(
        self, dataset: ShardDataset, *, drop_last: bool = False, resumable: bool = False
    ) -> ShardLoader:
        return ShardLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            drop_last=drop_last,
            resumable=resumable,
            pin_memory=self.pin_memory and torch.accelerator.is_available(),
            persistent_workers=self.persistent_workers and self.num_workers > 0,
            collate_fn=self.collate_fn,
            multiprocessing_context=self.multiprocessing_context if self.num_workers else None,
        )


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise OptionError("stage", f"{stage!r} is not one of train, val, test")
