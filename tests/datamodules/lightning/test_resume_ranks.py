"""Resume on another number of real processes and at another global batch size, under Lightning.

One process trains, two that torchrun started go on from several of its checkpoints at twice, thrice
and the same global batch size, and one process goes on from theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import VOCDataModule
from tests.datamodules.loading.test_distributed import run
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import Recorder, read_log, trainer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]

NUM_TRAIN, NUM_VAL = 97, 11
NUM_EPOCHS = 2
POSITIONS = (1, 4, 8, 13)
"""Steps of 10 samples after which two processes go on: in the first epoch, the last in the next."""
BATCH_SIZES = (5, 10, 15)
"""Of each of the two: 10, 20 and 30 samples a step."""

Trained = dict[tuple[int, int], tuple[int, str]]
"""(epoch, position) to (sample id, digest of its pixels)."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": [30, 25, 42], "val": [NUM_VAL]}
    return stored(tmp_path_factory.mktemp("ranks") / "voc", splits)


DATA: dict[str, Any] = {"image_size": 32, "seed": 4}
PAIR: dict[str, Any] = {"max_epochs": NUM_EPOCHS, "devices": 2, "strategy": "ddp"}


def run_alone(root: Path, log: Path, **more: Any) -> None:
    """One process, this one: 10 samples a step, a checkpoint after each."""
    saving = ModelCheckpoint(
        log.with_suffix(".steps"), "{step}", every_n_train_steps=1, save_top_k=-1
    )
    data = VOCDataModule(str(root), batch_size=10, **DATA)
    fit = trainer(log.parent, max_epochs=NUM_EPOCHS, callbacks=[saving], enable_checkpointing=True)
    fit.fit(Recorder(str(log)), data, **more)


def trained(log: Path, *, ranks: int) -> Trained:
    """What was trained, by position; fails if ranks took different steps."""
    found: Trained = {}
    lines = [[x for x in read_log(str(log), r) if x["stage"] == "train"] for r in range(ranks)]
    for step in zip(*lines, strict=True):
        assert len({(line["epoch"], line["start"], line["stop"]) for line in step}) == 1
        for rank, line in enumerate(step):
            first = line["start"] + (rank - line["start"]) % ranks
            positions = range(first, line["stop"], ranks)
            for at, *sample in zip(positions, line["ids"], line["digests"], strict=True):
                assert (line["epoch"], at) not in found, "a position was trained twice"
                found[line["epoch"], at] = (sample[0], sample[1])
    return found


def validated(log: Path, *, ranks: int) -> list[int]:
    """Ids of all samples validated, over all ranks, sorted."""
    lines = [line for rank in range(ranks) for line in read_log(str(log), rank)]
    return sorted(i for line in lines if line["stage"] == "val" for i in line["ids"])


def test_promise_6_one_process_two_processes_and_one_again(root: Path, tmp_path: Path) -> None:
    run_alone(root, tmp_path / "whole")
    whole = trained(tmp_path / "whole", ranks=1)
    assert sorted(whole) == [(e, p) for e in range(NUM_EPOCHS) for p in range(NUM_TRAIN)]

    def check(log: Path, done: int, *, ranks: int) -> None:
        """All samples after so many were trained once, and each epoch's end validated once.

        A checkpoint of an epoch's last step was saved before its validation.
        """
        assert trained(log, ranks=ranks) == dict(list(whole.items())[done:]), log.name
        ids = list(range(NUM_TRAIN, NUM_TRAIN + NUM_VAL)) * (NUM_EPOCHS - (done - 1) // NUM_TRAIN)
        assert validated(log, ranks=ranks) == sorted(ids), log.name

    done = {step: num_trained(tmp_path / "whole", step) for step in POSITIONS}
    logs = {
        (size, step): tmp_path / f"pair-{size}-{step}" for size in BATCH_SIZES for step in POSITIONS
    }
    on_two = [
        {
            "log": str(log),
            "data": {"data_dir": str(root), "batch_size": size, **DATA},
            "trainer": PAIR,
            "ckpt_path": str(tmp_path / f"whole.steps/step={step}.ckpt"),
            "checkpoints": f"{log}.steps",
        }
        for (size, step), log in logs.items()
    ]
    run(on_two, ranks=2)
    for (_, step), log in logs.items():
        check(log, done[step], ranks=2)

    source = logs[10, 4]  # 40 samples in steps of 10, then steps of 20
    for step in (5, 6, 7, 9):
        log = tmp_path / f"again-{step}"
        run_alone(root, log, ckpt_path=source.with_suffix(".steps") / f"step={step}.ckpt")
        check(log, done[4] + num_trained(source, step - 4, ranks=2), ranks=1)


def num_trained(log: Path, step: int, *, ranks: int = 1) -> int:
    """Samples that all ranks together trained in the first steps of a run."""
    lines = [[x for x in read_log(str(log), r) if x["stage"] == "train"] for r in range(ranks)]
    return sum(len(line["ids"]) for rank in lines for line in rank[:step])
