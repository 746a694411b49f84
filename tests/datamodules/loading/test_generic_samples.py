"""Generic samples go through a user's transform and collate_fn, also in Lightning."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import ShardDataset, ShardLoader, VOCDataModule
from datamodules.presets import detection_train
from shard_tool.errors import OptionError, SampleError
from tests.kit.datasets.generic_samples import TOTAL, data, plain
from tests.kit.models.recorder import trainer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


pytestmark = [
    pytest.mark.usefixtures("small_chunks"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # 2 cores
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),  # on purpose
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # other callbacks
]


def drawn(sample: dict[str, Any]) -> dict[str, Any]:
    """A transform that draws from the three global generators."""
    numbers = [float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002
    return {"key": sample["__key__"], "numbers": torch.tensor(numbers, dtype=torch.float64)}


def stacked(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "keys": [sample["key"] for sample in samples],
        "numbers": torch.stack([sample["numbers"] for sample in samples]),
    }


def drawn_by_key(batches: Iterable[dict[str, Any]]) -> list[tuple[str, list[float]]]:
    return [
        pair
        for batch in batches
        for pair in zip(batch["keys"], batch["numbers"].tolist(), strict=True)
    ]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_promise_5_workers_do_not_change_what_a_transform_draws(
    indexed_root: Path, num_workers: int
) -> None:
    before = (torch.get_rng_state(), random.getstate())
    expected = [(s["key"], s["numbers"].tolist()) for s in data(indexed_root, transform=drawn)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    loader = ShardLoader(
        data(indexed_root, transform=drawn),
        batch_size=3,
        num_workers=num_workers,
        collate_fn=stacked,
    )
    found = drawn_by_key(loader)
    assert found == expected
    assert len({tuple(numbers) for _, numbers in found}) == TOTAL
    later = drawn_by_key(loader)  # the next epoch
    assert not {tuple(n) for _, n in later} & {tuple(n) for _, n in found}


def test_a_transform_may_change_its_sample_and_return_anything(indexed_root: Path) -> None:
    def lengths(sample: dict[str, Any]) -> int:
        sample.pop("__url__")
        sample["more"] = sample.pop("__key__")
        return len(sample)

    assert sum(data(indexed_root, transform=lengths)) == sum(
        len(members) + 1 for _, members in plain(data(indexed_root))
    )


def fails_at_key(sample: dict[str, Any]) -> str:
    key: str = sample["__key__"]
    if key in ("000/0003", "002/0000"):
        raise ValueError(key)
    return key


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sample_whose_transform_fails_is_named_or_substituted(
    indexed_root: Path, num_workers: int
) -> None:
    place = r"part-000\.tar: sample '000/0003'"
    problem = rf"{place}: transform 'fails_at_key' raised ValueError: 000/0003"
    options: dict[str, Any] = {"transform": fails_at_key}
    with pytest.raises(SampleError, match=problem):
        list(ShardLoader(data(indexed_root, shuffle=False, **options), 4, num_workers=num_workers))
    loader = ShardLoader(
        data(indexed_root, on_bad_sample="substitute", **options), 4, num_workers=num_workers
    )
    found = [key for batch in loader for key in batch]
    assert len(found) == TOTAL
    assert not {"000/0003", "002/0000"} & set(found)
    assert len(loader.bad_samples) == 2
    assert found == list(data(indexed_root, on_bad_sample="substitute", **options))


def test_options_that_do_not_fit_generic_samples_are_refused(
    indexed_root: Path, mini_dataset: Path
) -> None:
    with pytest.raises(OptionError, match=r"transform: recipe .* is for pictures with boxes"):
        data(indexed_root, transform=detection_train(64))
    with pytest.raises(OptionError, match=r"transform: int is not callable as \(sample\)"):
        data(indexed_root, transform=1)
    problem = "collate_fn: is for generic samples; those for detection are packed into a Batch"
    with pytest.raises(OptionError, match=problem):
        ShardLoader(data(mini_dataset), collate_fn=stacked)
    with pytest.raises(OptionError, match=r"made for task 'detection', .* for 'generic'$"):
        ShardDataset([str(indexed_root), str(mini_dataset)])


class RecordingModule(LightningModule):
    """Records the samples it trains and predicts on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, list[float]]] = []
        self.predicted: list[tuple[str, list[float]]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen += drawn_by_key([batch])
        loss: torch.Tensor = self.weight.sum()
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Lightning warns where there is none."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> int:
        self.predicted += drawn_by_key([batch])
        return len(batch["keys"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains_on_generic_samples_and_resumes(
    indexed_root: Path, tmp_path: Path
) -> None:
    def module(**options: Any) -> VOCDataModule:
        return VOCDataModule(
            str(indexed_root),
            val_split="train",
            train_transforms=drawn,
            val_transforms=drawn,
            test_transforms=drawn,
            test_split="train",
            collate_fn=stacked,
            seed=5,
            window=2,
            **{"batch_size": 4, **options},
        )

    whole = RecordingModule()
    trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(whole, datamodule=module())
    assert len(whole.seen) == 2 * TOTAL
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    part = RecordingModule()
    fit = trainer(tmp_path, max_steps=4, callbacks=[every], enable_checkpointing=True)
    fit.fit(part, datamodule=module())
    rest = RecordingModule()
    fit = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    fit.fit(rest, datamodule=module(batch_size=3), ckpt_path=str(tmp_path / "step=4.ckpt"))
    assert part.seen + rest.seen == whole.seen
    trainer(tmp_path).predict(whole, datamodule=module())  # a loader Lightning rebuilds
    assert [key for key, _ in whole.predicted] == [
        sample["__key__"] for sample in data(indexed_root, shuffle=False)
    ]
    expected, whole.predicted = whole.predicted, []
    bare = ShardLoader(data(indexed_root, shuffle=False, transform=drawn), 4, collate_fn=stacked)
    trainer(tmp_path).predict(whole, bare)  # made outside Lightning, which cannot rebuild it
    assert whole.predicted == expected
    # Without a Trainer: Lightning would record the arguments of all later loaders.
    for option in ({"transforms": "ssdlite"}, {"image_size": 64}, {"decode": "fast"}):
        value = next(iter(option.values()))
        with pytest.raises(OptionError, match=rf"{value!r} is for pictures with boxes, a mask"):
            VOCDataModule(str(indexed_root), **option).train_dataloader()
