"""`VOCDataModule`: datasets of shards for a Lightning Trainer.

Besides loaders it carries the place: Lightning saves a loader's state but, after an epoch's end,
ignores it, and it counts batches of the run that saved, not of the one that resumes. So the data
module keeps the cursor in its own state, tells the loader how many batches were trained, and
restates Lightning's count when training starts.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable  # noqa: TC003  (LightningCLI reads annotations)
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.utilities import rank_zero_warn

from datamodules import presets
from datamodules.lightning import loop_counters
from datamodules.loading.batch import Batch
from datamodules.loading.dataset import DEFAULT_WINDOW, ShardDataset
from datamodules.loading.loader import ShardLoader
from datamodules.loading.on_device import check_decoder, finish
from datamodules.loading.targets import Transform  # noqa: TC001  (LightningCLI reads annotations)
from datamodules.order.world import World
from datamodules.preview import sheet
from datamodules.profiling.device_clock import Copied, Moment
from datamodules.transforms.fused import check_places
from shard_tool.errors import ObjectBusy, ObjectMissing, OptionError, ShardToolError
from shard_tool.storage.location import Folder, public_url
from shard_tool.storage.manifest_file import load_manifest
from shard_tool.storage.ranges import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image
    from pytorch_lightning import LightningModule, Trainer

    from datamodules.transforms.fused import FusedTransform

log = logging.getLogger(__name__)


_WORKERS_PER_CORE = 2
"""A few more workers than cores are no harm: they wait for storage, too."""
_NOT_SAVED = {"self", "__class__", "storage_options", "collate_fn"} | {
    f"{stage}_transforms" for stage in ("train", "val", "test")
}
"""Arguments that are no hyperparameters: secrets, and what only pickle could save."""


class VOCDataModule(LightningDataModule):
    """Train, validation and test loaders over datasets of VOC shards.

    Batches arrive as `Batch` (``images, targets = batch``) with pixels float32 in [0, 1], scaled on
    the device.

    Args:
        data_dir: The dataset: a folder or URL that holds a manifest, or a list of them.
        year: VOC release: names what `download` fetches.
        num_workers: Processes that decode, for each loader.
        normalize: Subtract ImageNet's mean and divide by its standard deviation, on the device. Off
            for torchvision's detection models, which do it themselves.
        batch_size: Samples of a batch on each rank.
        shuffle: Shuffle training samples.
        pin_memory: Batches in page-locked memory, where there is an accelerator.
        drop_last: Drop the last incomplete training batch instead of evening out the last ones.
        train_transforms: ``(image, target) -> (image, target)``; None: a default for the task.
        val_transforms: Likewise, for validation.
        test_transforms: Likewise, for test and predict.
        source: A VOC archive or folder that `prepare_data` converts into `data_dir` where that
            holds no dataset.
        download: `prepare_data` downloads and verifies the official archive of `year` and converts
            it where `data_dir` holds no dataset (the archive stays in ``<data_dir>.archives``).
        prepare_data_per_node: Whether one process of each node makes the dataset, or the first of
            all alone; None: of each node where `data_dir` is a local folder. Nodes that share a
            folder make one dataset either way: whoever comes second waits.
        task: 'detection', 'segmentation' or 'classification': what samples become targets for, as
            for `ShardDataset`, and what `prepare_data` converts for. None: what the shards were
            made for; 'detection' where they are made.
        transforms: Name of a recipe of `presets.RECIPES` ('ssd', 'ssdlite', 'retinanet', …), for
            stages whose transforms are not given; None: 'ssdlite' for detection,
            'random_resized_crop' for segmentation, 'imagenet' for classification.
        decode: How such a recipe decodes: 'exact'; 'fast': sooner done, with pixels that differ a
            little (docs/concepts/pixels.md says by how much); or 'cuda': on the GPU, along with all
            the recipe does to pictures.
        recolor_on: 'worker' or 'device': where such a recipe changes colours; None: where pictures
            are decoded.
        image_size: Pixels of the recipe's output: height and width, or the shorter side for
            'retinanet'; None: the recipe's usual size (320 for 'ssdlite', 300 for 'ssd', …). A list
            of them: one is drawn for each training batch (`presets.multi_scale`), and evaluation
            takes the largest.
        seed: Of the order of samples and the randomness of transforms.
        lanes: Lanes of the order; None: the number of nodes of the first run.
        window: Shards mixed together.
        train_split: Split to train on; one name or several.
        val_split: Split to validate on.
        test_split: Split to test and predict on.
        persistent_workers: Keep workers between epochs.
        cache_dir: Where remote shards are kept, as for `ShardDataset`; None: its default.
        cache_limit: Bytes the cache may hold, also as '200GB'; None: half of what is free.
        on_bad_sample: 'raise' or, in training, 'substitute': what happens to a sample that fails to
            decode or to transform.
        max_bad_samples: More substituted samples than this, on one rank, are an error.
        check_crc: Compare every sample of a local shard with its CRC-32; those of remote ones
            always are.
        fetch_timeout_s: Seconds one request to storage is repeated before its failure is raised.
        multiprocessing_context: 'fork', 'forkserver' or 'spawn'; None: the platform's default.
        storage_options: fsspec's options for `data_dir`; never saved.
        collate_fn: Makes a batch of generic samples, as for `ShardLoader`.
    """

    def __init__(  # the first twelve in the order people know from bolts
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
    ) -> None:
        saved = {name: value for name, value in locals().items() if name not in _NOT_SAVED}
        super().__init__()
        if batch_size < 1:
            raise OptionError("batch_size", f"{batch_size} is below 1")
        if num_workers < 0:
            raise OptionError("num_workers", f"{num_workers} is below 0")
        if transforms is not None and transforms not in list(presets.RECIPES):
            known = ", ".join(sorted(presets.RECIPES))
            hint = "give transforms themselves as train_transforms, val_transforms, test_transforms"
            raise OptionError("transforms", f"{transforms!r} is not one of {known}", hint)
        check_places(decode, recolor_on)
        given = (train_transforms, val_transforms, test_transforms)
        if (decode == "cuda" or recolor_on == "device") and given != (None, None, None):
            problem = "are for recipes by name, and transforms are given"
            hint = "give those as dataclasses.replace(recipe, decode=…, recolor_on=…)"
            raise OptionError("decode='cuda' and recolor_on='device'", problem, hint)
        if image_size is not None:
            _check_image_size(image_size)
        unused = {"transforms": transforms, "image_size": image_size}
        unused["decode"] = None if decode == "exact" else decode
        if None not in given and any(value is not None for value in unused.values()):
            name, value = next(item for item in unused.items() if item[1] is not None)
            hint = "leave it out, or leave out the transforms of a stage"
            problem = f"{value!r} is for a recipe, and all stages have transforms of their own"
            raise OptionError(name, problem, hint)
        roots = [str(r) for r in (data_dir if isinstance(data_dir, list | tuple) else [data_dir])]
        if (source or download) and len(roots) > 1:
            problem = f"{len(roots)} folders given, prepare_data can make one dataset"
            raise OptionError("data_dir", problem, "convert them with `shard-tool convert`")
        self.roots, self.year, self.task = roots, year, task
        self.source, self.download = source, download
        self.num_workers, self.normalize, self.batch_size = num_workers, normalize, batch_size
        self.shuffle, self.pin_memory, self.drop_last = shuffle, pin_memory, drop_last
        self.transforms = {
            "train": train_transforms,
            "val": val_transforms,
            "test": test_transforms,
        }
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.recipe, self.decode, self.recolor_on = transforms, decode, recolor_on
        self.image_size, self.seed, self.lanes, self.window = image_size, seed, lanes, window
        self.persistent_workers = persistent_workers
        self.reading: dict[str, Any] = {
            "cache_dir": cache_dir,
            "cache_limit": cache_limit,
            "on_bad_sample": on_bad_sample,
            "max_bad_samples": max_bad_samples,
            "check_crc": check_crc,
            "fetch_timeout_s": fetch_timeout_s,
        }
        self.multiprocessing_context = multiprocessing_context
        self.storage_options = storage_options or {}
        if prepare_data_per_node is None:
            prepare_data_per_node = not all(map(_is_elsewhere, roots))
        self.prepare_data_per_node = prepare_data_per_node  # Lightning reads it
        self.collate_fn = collate_fn
        public = {
            "data_dir": [public_url(r) for r in roots],
            "source": source and public_url(source),
        }
        # Not for loggers: a model may have hyperparameters of the same names.
        self.save_hyperparameters({**saved, **public}, logger=False)
        self._progress = _Progress(self)
        self._opened: dict[str, ShardDataset] = {}
        self._train_loader: ShardLoader | None = None
        self._state: dict[str, Any] = {}
        self._arrived: Moment | None = None
        self.last_copy: Copied | None = None
        """How the batch that came last got to the device."""

    @property
    def num_classes(self) -> int:
        """Labels a model must tell apart: 20 for classification, else 21, for 0 is background."""
        manifest = load_manifest(Folder(self.roots[0], self.storage_options))
        has_background = (self.task or manifest.task) != "classification"
        return max(manifest.classes.values(), default=0) + has_background

    def default_transforms(self, stage: str = "train") -> Transform:
        """What a stage ('train', 'val', 'test') does to samples where its transforms are not given.

        Raises:
            OptionError: There is no such stage, or the data is generic, to whose samples nothing
                is done by default.
        """
        task = self.task or load_manifest(Folder(self.roots[0], self.storage_options)).task
        if task not in presets.DEFAULT_RECIPES:
            problem = f"data for {task} is generic: nothing is done to its samples by default"
            raise OptionError("default_transforms", problem, "give train_transforms and the like")
        _check_stage(stage)
        return self._recipe(task, train=stage == "train")

    def show_batch(self, stage: str = "train", *, epoch: int = 0, side: int = 240) -> Image.Image:
        """Draw the first batch of an epoch, boxes and masks included, as a model will get it.

        Pixels are as before the division by 255 and `normalize`. No loader's place moves.

        Args:
            stage: 'train', 'val' or 'test'.
            epoch: Of training; evaluation is the same in all.
            side: Pixels of each sample's square.

        Raises:
            OptionError: There is no such stage, or the data is generic: nobody can tell how to draw
                it.
        """
        _check_stage(stage)
        dataset = self._dataset(stage)
        if dataset.is_generic:
            problem = f"data for {dataset.task} is generic: what its samples look like is yours"
            raise OptionError("show_batch", problem, "draw `next(iter(dm.train_dataloader()))`")
        loader = ShardLoader(dataset, batch_size=self.batch_size, drop_last=self.drop_last)
        loader.set_epoch(epoch)
        batch = finish(next(iter(loader)))  # what is left to a device is done here
        return sheet(zip(*batch, strict=True), side=side)

    # Data ---------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Make the dataset where it was asked for and there is none; else do nothing.

        Where another process is making it, of this node or of one that shares the folder, wait for
        its end, and go on with what it left where it died.

        Raises:
            ObjectMissing: There is no dataset, and neither `source` nor `download` was given.
            ObjectExists: The folder holds other files, or an unfinished conversion with other
                options (says which).
        """
        for root in self.roots:
            if not self._is_made(root):
                self._make(root)

    def setup(self, stage: str) -> None:
        """Open the stage's datasets, so that what is wrong with them is said before all else.

        Raises:
            ObjectMissing: A root holds no dataset.
            OptionError: A split is missing, or an argument does not fit the data.
        """
        self._state = {}  # of an earlier run; Lightning loads this one's, if any, after setup
        # Our length is exact on every rank and for any number of workers, which is what Lightning
        # warns it cannot know of an IterableDataset.
        warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")
        trainer: Any = self.trainer  # Lightning sets these attributes without declaring them
        if trainer is not None and self.decode == "cuda":
            check_decoder(trainer.strategy.root_device)
        if trainer is not None and self._progress not in trainer.callbacks:
            trainer.callbacks.append(self._progress)
        self._opened = {name: self._dataset(name) for name in self._stages_of(stage)}
        self._check_workers()

    def teardown(self, stage: str) -> None:  # noqa: ARG002
        """Let go of datasets that no loader asked for."""
        self._opened = {}

    def train_dataloader(self) -> ShardLoader:
        """Training batches, from where the last checkpoint left off."""
        trainer: Any = self.trainer
        loader = self._loader(self._open("train"), drop_last=self.drop_last, resumable=True)
        if self._state:
            loader.load_state_dict(self._state)
        if trainer is not None and trainer.state.status == "running":
            self.follow(loader)
        return loader

    def val_dataloader(self) -> ShardLoader:
        """Every validation sample exactly once, on any number of ranks."""
        return self._loader(self._open("val"))

    def test_dataloader(self) -> ShardLoader:
        """Every test sample exactly once, on any number of ranks."""
        return self._loader(self._open("test"))

    def predict_dataloader(self) -> ShardLoader:
        """The test samples."""
        return self.test_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Note that a batch has arrived, for `Monitor`."""
        if self.trainer is not None:
            self._arrived = Moment(self.trainer.strategy.root_device)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Finish the batch on the device: float32 in [0, 1], and normalised where asked."""
        if self.trainer is not None and self._arrived is not None:
            self.last_copy = Copied(self._arrived, Moment(self.trainer.strategy.root_device))
            self._arrived = None
        if not isinstance(batch, Batch):
            return batch
        batch = finish(batch, normalize=self.normalize)
        if self.trainer is not None:  # bf16-true and the like: pixels only, boxes stay float32
            precision: Any = self.trainer.precision_plugin
            batch = batch.with_pixels(precision.convert_input(batch.pixels))
        return batch

    # State --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The cursor of training, as plain types; empty before training."""
        loader = self._live_loader()
        return loader.state_dict() if loader is not None else dict(self._state)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep a saved cursor for the next training loader.

        Raises:
            ResumeError: It belongs to other data, another seed or another version. Said here, for
                an error of a loader hook leaves Lightning's patches of DataLoader behind.
        """
        if (train := self._opened.get("train")) is not None:
            train.cursor_from_state(state_dict)
        self._state = dict(state_dict)

    def follow(self, loader: ShardLoader) -> None:
        """Let `loader` count as handed over only what Lightning has trained."""
        trainer = self.trainer
        self._train_loader = loader
        if trainer is not None:
            progress: Any = trainer.fit_loop.epoch_loop.batch_progress
            loader.trained_batches = lambda: int(progress.current.processed)

    def _live_loader(self) -> ShardLoader | None:
        """The loader the Trainer iterates, which may be a rebuilt one."""
        live = self.trainer.train_dataloader if self.trainer is not None else None
        return live if isinstance(live, ShardLoader) else self._train_loader

    # Parts --------------------------------------------------------------------------------

    def _folder(self, root: str) -> Folder:
        return Folder(root, self.storage_options)

    def _is_made(self, root: str) -> bool:
        try:
            load_manifest(self._folder(root))
        except ObjectMissing:
            if self.source is None and not self.download:
                raise
            return False
        return True

    def _make(self, root: str) -> None:
        from shard_tool.dataset.writer_lock import wait_until_free

        while not self._is_made(root):
            try:
                self._convert(root)
            except ObjectBusy as exc:
                log.warning("%s: %s; waiting for its end", exc.place, exc.problem)
                wait_until_free(self._folder(root))

    def _convert(self, root: str) -> None:
        # Here, not above: training alone needs nothing of the converter.
        from shard_tool.convert.run import ConvertOptions, convert

        convert(
            ConvertOptions(
                source=self.source or self._downloaded(root),
                dest=root,
                task=self.task or "detection",
                on_existing="resume",  # goes on after a crash, and touches nothing of others
                storage_options=self.storage_options,
            )
        )

    def _downloaded(self, root: str) -> str:
        """The official archive of `year`, in ``<data_dir>.archives``."""
        from shard_tool.dataset.writer_lock import hold_writer_lock
        from shard_tool.sources.voc.download import download_archive
        from shard_tool.sources.voc.official import archives_of

        if self._folder(root).local is None:
            hint = "download and convert with shard-tool, then give the URL"
            raise OptionError("data_dir", "download=True needs a local folder", hint)
        (archive,) = archives_of(self.year, "trainval")
        folder = f"{root.rstrip('/')}.archives"
        # the archive's own lock is none between nodes without locks
        with hold_writer_lock(Folder(folder)):
            return str(download_archive(archive, Path(folder)))

    def _stages_of(self, stage: str) -> list[str]:
        """Whose datasets a run of Lightning's stage will ask for."""
        if stage != "fit":
            return ["val" if stage == "validate" else "test"]
        trainer: Any = self.trainer
        validates = trainer is not None and trainer.enable_validation
        return ["train", "val"] if validates else ["train"]

    def _open(self, stage: str) -> ShardDataset:
        """The stage's dataset: the one that setup opened, or another where that is in use."""
        return self._opened.pop(stage, None) or self._dataset(stage)

    def _check_workers(self) -> None:
        """Say in plain words that there are more workers than the machine can run."""
        trainer: Any = self.trainer
        ranks = 1 if trainer is None else trainer.world_size // trainer.num_nodes
        workers, cores = ranks * self.num_workers, _num_cores()
        if workers > _WORKERS_PER_CORE * cores:
            each = f"num_workers={self.num_workers}"
            each += f" on each of {ranks} ranks: {workers}" if ranks > 1 else ": so many"
            rank_zero_warn(
                f"VOCDataModule: {each} processes share {cores} cores and take each other's time; "
                f"num_workers={max(1, cores // ranks)} will be as fast"
            )

    def _dataset(self, stage: str) -> ShardDataset:
        trainer: Any = self.trainer
        overfits = trainer is not None and trainer.overfit_batches > 0
        shuffle = stage == "train" and self.shuffle and not overfits
        world = None if trainer is None else _world_of(trainer)
        try:
            dataset = ShardDataset(
                self.roots,
                self.splits[stage],
                seed=self.seed,
                shuffle=shuffle,
                transform=self.transforms[stage],
                world=world,
                lanes=self.lanes,
                window=self.window,
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
            self._check_generic()
        if dataset.transform is None and not dataset.is_generic:
            dataset.transform = self._recipe(dataset.task, train=stage == "train")
        return dataset

    def _check_generic(self) -> None:
        """Refuse options of recipes where there is none."""
        for name, value, unused in (
            ("transforms", self.recipe, None),
            ("image_size", self.image_size, None),
            ("decode", self.decode, "exact"),
            ("recolor_on", self.recolor_on, None),
            ("normalize", self.normalize, False),
        ):
            if value != unused:
                problem = f"{value!r} is for pictures with boxes, a mask or labels"
                raise OptionError(name, problem, "give train_transforms and the like")

    def _recipe(self, task: str, *, train: bool) -> Transform:
        """The chosen recipe, or the task's; at several sizes where several are given."""

        def at(size: int | None) -> FusedTransform:
            recipe = presets.recipe_by_name(self.recipe, task, size=size, train=train)
            return replace(recipe, decode=self.decode, recolor_on=self.recolor_on)

        if not isinstance(self.image_size, list):
            return at(self.image_size)
        return presets.multi_scale(at, self.image_size) if train else at(max(self.image_size))

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


_NOTES = {
    ("got (list", "not list", "'list' object", "expects each tensor to be equal size"): (
        "VOCDataModule: a detection batch unpacks into lists, of images [3, H, W] and of targets, "
        "as torchvision's detectors take them; a model that wants one tensor gets it by "
        "`torch.stack(images)`, where transforms give all pictures one size, as the recipes 'ssd' "
        "and 'ssdlite' do; a classifier, with its labels, by task='classification'"
    ),
    ("too many indices for tensor", "only integers, slices"): (
        "VOCDataModule: a batch for segmentation or classification unpacks into one tensor of "
        "images [B, 3, H, W] and one of masks or labels; a detector gets its lists of images and "
        "of targets by task='detection'"
    ),
}
"""What errors of models that expect another kind of batch say, and what helps."""


class _Progress(Callback):
    """Keeps Lightning's counts and our place in step, and explains what a batch is."""

    def __init__(self, datamodule: VOCDataModule) -> None:
        self._datamodule = datamodule

    def on_load_checkpoint(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Correct the counts Lightning is about to read, by the place restored just before."""
        if state := self._datamodule._state:
            loop_counters.correct_saved(checkpoint, epoch=state["epoch"], samples=state["samples"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Correct how far Lightning takes the epoch to be."""
        loader = trainer.train_dataloader
        if isinstance(loader, ShardLoader):
            self._datamodule.follow(loader)
            loop_counters.correct(trainer.fit_loop, loader)

    def on_exception(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        exception: BaseException,
    ) -> None:
        """Say what a batch holds where a model seems to have taken a list for a tensor."""
        text = str(exception)
        for words, note in _NOTES.items():
            if any(word in text for word in words) and not isinstance(exception, ShardToolError):
                exception.add_note(note)


def _check_stage(stage: str) -> None:
    if stage not in ("train", "val", "test"):
        raise OptionError("stage", f"{stage!r} is not one of train, val, test")


def _num_cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_image_size(given: object) -> None:
    """Callers without types give anything; a pair would be read as a height and a width."""
    sizes = given if isinstance(given, list) else [given]
    if not sizes:
        raise OptionError("image_size", "there is no size in the list")
    for size in sizes:
        if isinstance(size, bool) or not (isinstance(size, int) and size >= 1):
            hint = "give one number, or a list to draw one from for each batch"
            raise OptionError("image_size", f"{size!r} is not a number of pixels from 1", hint)


def _world_of(trainer: Trainer) -> World:
    return World(
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        node=trainer.node_rank,
        num_nodes=trainer.num_nodes,
        local_rank=trainer.local_rank,
    )


def _is_elsewhere(root: str) -> bool:
    """Whether it is a URL of what all nodes see alike; asks nothing of storage."""
    return "://" in root and not root.startswith(("file://", "local://"))
