"""Each global batch has one size, the same on all ranks and workers and after a resume."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
from jsonargparse import ArgumentParser
from torchvision.transforms import v2

from datamodules import ShardDataset, ShardLoader, VOCDataModule, presets
from datamodules.transforms.multi_scale import MultiScale
from shard_tool.errors import OptionError
from tests.kit.datasets.samples import load, raw_of, refusal, sample_of
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import digest
from tests.kit.simulate import Topology, assert_resumes_everywhere, simulate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from datamodules import Batch, World

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

SIZES = [24, 32, 40]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return stored(tmp_path_factory.mktemp("voc") / "voc", {"train": [7, 9, 11, 5], "val": [4]})


def data(root: Path, world: World | None = None, **options: Any) -> ShardDataset:
    transform = presets.multi_scale(presets.ssdlite, SIZES)
    return ShardDataset(str(root), **{"transform": transform, "seed": 7, "world": world, **options})


def sizes(batches: Iterable[Batch]) -> dict[int, int]:
    """First position of each batch to the one size of its pictures."""
    found = {}
    for batch in batches:
        (size,) = {side for size in batch.sizes.tolist() for side in size}
        found[batch.start] = size
    return found


def drawn(starts: Iterable[int], epoch: int = 0) -> dict[int, int]:
    """The sizes as the key alone says."""
    numbers = MultiScale(tuple(make(size) for size in SIZES))
    return {start: numbers.drawn("batch", 7, epoch, start)() for start in starts}


def make(size: int) -> Any:
    return lambda: size


# A batch has one size -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_promise_5_all_ranks_and_workers_draw_the_size_of_a_batch(
    root: Path, num_workers: int, world_size: int
) -> None:
    """Of (seed, epoch, first position); at one global batch size the same on any number of ranks"""
    topology = Topology(world_size=world_size, batch_size=2 // world_size, num_workers=num_workers)
    whole = list(ShardLoader(data(root, lanes=1), batch_size=2))
    steps = simulate(data(root, lanes=1).order(1, 8), topology)
    for world in topology.worlds:
        loader = ShardLoader(
            data(root, world, lanes=1), topology.batch_size, num_workers=num_workers
        )
        batches = list(loader)
        assert [batch.start for batch in batches] == [step.start for step in steps]
        assert [tuple(batch.sample_ids.tolist()) for batch in batches] == [
            step.ids[world.rank] for step in steps
        ]
        assert sizes(batches) == sizes(whole) == drawn(step.start for step in steps)
        if world_size == 1:
            assert [digest(batch) for batch in batches] == [digest(batch) for batch in whole]
    assert set(sizes(whole).values()) == set(SIZES)


def test_another_epoch_and_another_seed_draw_other_sizes(root: Path) -> None:
    loader = ShardLoader(data(root), batch_size=2)
    epochs = [sizes(loader) for _ in range(3)]
    assert epochs == [drawn(epochs[0], epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert sizes(ShardLoader(data(root, seed=8), batch_size=2)) != epochs[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_6_a_resume_draws_what_would_have_been_drawn(root: Path, num_workers: int) -> None:
    workers = [0]

    def loader() -> ShardLoader:
        return ShardLoader(data(root), batch_size=7, num_workers=workers[0])

    def parts(batch: Batch) -> Any:
        return [(batch.start, digest(batch))]

    running = loader()
    next(iter(running))
    workers[0] = num_workers  # those that go on have others than the one that stopped
    assert_resumes_everywhere(loader, parts=parts)


def test_all_sizes_are_equally_likely() -> None:
    found = list(drawn(range(3000)).values())
    assert all(abs(found.count(size) - 1000) < 130 for size in SIZES)


def test_a_substitute_has_the_size_of_its_batch(root: Path) -> None:
    bad = ShardDataset(str(root)).sample_id_at(5)

    def checked(image: Any, target: Any) -> Any:
        if int(target["image_id"]) == bad:
            message = "bad"
            raise ValueError(message)
        return image, target

    transform = presets.multi_scale(lambda size: presets.ssdlite(size).then(checked), SIZES)
    loader = ShardLoader(data(root, transform=transform, on_bad_sample="substitute"), batch_size=2)
    found = list(loader)
    assert set(loader.bad_samples) == {bad}
    assert sizes(found) == drawn(batch.start for batch in found)


# Without batches ------------------------------------------------------------------------------


def test_in_the_dataset_itself_each_sample_has_the_size_that_its_id_draws(root: Path) -> None:
    """So `read` returns what iteration yielded, on any number of ranks."""
    whole = data(root)
    found = {int(target["image_id"]): (image, target) for image, target in whole}
    assert {tuple(image.shape[1:]) for image, _ in found.values()} == {(s, s) for s in SIZES}
    for world in Topology(world_size=2).worlds:
        for image, target in data(root, world, lanes=1):
            assert image.equal(found[int(target["image_id"])][0])
    for sample_id, (image, target) in found.items():
        again, boxes = whole.read(sample_id)
        assert image.equal(again)
        assert target["boxes"].equal(boxes["boxes"])


def test_multi_scale_is_refused_where_the_batch_is_unknown() -> None:
    chain = v2.Compose([presets.multi_scale(presets.ssd, SIZES)])
    message = refusal(chain)
    assert "a size is drawn for a whole batch: give multi_scale itself to the dataset" in message


# What it is made of ---------------------------------------------------------------------------


def test_transforms_of_any_kind_can_be_drawn_from(root: Path) -> None:
    plain = presets.multi_scale(lambda size: v2.Resize((size, size)), SIZES)
    loader = ShardLoader(data(root, transform=plain), batch_size=4)
    found = sizes(loader)
    assert found == drawn(found)


def test_multi_scale_reaches_spawned_workers() -> None:
    found = presets.multi_scale(lambda size: presets.ssd(size + 1), SIZES)
    copied = pickle.loads(pickle.dumps(found))
    assert (copied.__name__, len(copied.transforms)) == ("ssd", 3)
    raw = raw_of(sample_of())
    image = load(copied.drawn("batch", 1), raw=raw).image
    assert image.equal(load(found.drawn("batch", 1), raw=raw).image)


def test_lists_without_transforms_to_draw_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^multi_scale: there is no size to draw from$"):
        presets.multi_scale(presets.ssd, [])
    root = stored(tmp_path / "voc", {"train": [2]})
    nothing: Any = presets.multi_scale(lambda _: None, SIZES)  # type: ignore[arg-type, return-value]
    with pytest.raises(OptionError, match="NoneType is not callable as"):
        ShardDataset(str(root), transform=nothing)


# VOCDataModule --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_the_module_trains_at_sizes_drawn_and_evaluates_at_the_largest(
    root: Path, num_workers: int
) -> None:
    module = VOCDataModule(
        str(root), batch_size=4, image_size=SIZES, seed=7, num_workers=num_workers, decode="fast"
    )
    train, val = module.train_dataloader(), module.val_dataloader()
    found = sizes(train)
    assert found == drawn(found)
    assert sizes(val) == {0: 40}
    made = train.dataset.dataset.transform.transforms
    assert [(recipe.__name__, recipe.decode) for recipe in made] == [("ssdlite", "fast")] * 3


def test_the_modules_state_goes_on_with_the_sizes_of_an_undisturbed_run(root: Path) -> None:
    def module() -> VOCDataModule:
        return VOCDataModule(str(root), batch_size=4, image_size=SIZES, seed=7)

    whole = list(module().train_dataloader())
    loader = module().train_dataloader()
    running = iter(loader)
    for _ in range(3):
        next(running)
    resumed = module()
    resumed.load_state_dict(loader.state_dict())
    rest = list(resumed.train_dataloader())
    assert [(batch.start, digest(batch)) for batch in rest] == [
        (batch.start, digest(batch)) for batch in whole[3:]
    ]


def test_pictures_of_a_batch_stack(root: Path) -> None:
    module = VOCDataModule(str(root), batch_size=3, image_size=SIZES, task="classification")
    found = {batch.images.shape[2:] for batch in module.train_dataloader()}
    assert len(found) > 1


def test_sizes_are_given_on_the_command_line(root: Path) -> None:
    """By the parser LightningCLI uses."""
    parser = ArgumentParser()
    parser.add_class_arguments(VOCDataModule, "data")
    for text, expected in (("[24, 32, 40]", SIZES), ("32", 32), ("null", None)):
        arguments = [f"--data.data_dir={root}", f"--data.image_size={text}"]
        assert parser.parse_args(arguments).data.image_size == expected


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "there is no size in the list"),
        ([32, 0], "0 is not a number of pixels from 1"),
        ([32, "40"], "'40' is not a number of pixels from 1"),
        ((300, 400), "(300, 400) is not a number of pixels from 1"),
    ],
)
def test_lists_of_other_things_than_sizes_are_refused(given: Any, problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        VOCDataModule("voc", image_size=given)
    assert str(caught.value).startswith(f"image_size: {problem}")
