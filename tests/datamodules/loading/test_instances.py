"""Task 'instances': masks of objects beside their boxes, from whatever outlines samples have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from datamodules import ShardDataset, ShardLoader, finish, presets
from datamodules.loading.annotated import annotated
from datamodules.order.world import World
from datamodules.pixels.decode import decode_mask
from datamodules.pixels.upright import turned_size
from datamodules.reading.samples import RawSample
from shard_tool.errors import OptionError, SampleError
from shard_tool.format.sample import SampleObject, encode_sample
from tests.kit.datasets.converted import samples_of
from tests.kit.datasets.instances import CLASSES, WH, outlined, outlined_sample, runs_of
from tests.kit.datasets.pictures import encoded, turned
from tests.kit.datasets.samples import PLACE, load, raw_of, sample_of
from tests.kit.models.recorder import digest

if TYPE_CHECKING:
    from pathlib import Path

    from datamodules import Batch
    from shard_tool.format.sample import Sample

SQUARE = (10.0, 8.0, 30.0, 8.0, 30.0, 20.0, 10.0, 20.0)
BOX = (10.0, 8.0, 30.0, 20.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return outlined(tmp_path_factory.mktemp("outlined") / "set", {"train": [9, 8, 9], "val": [4]})


def thing(**fields: Any) -> SampleObject:
    return SampleObject(name="dog", label=12, bbox=fields.pop("bbox", BOX), **fields)


def with_objects(*objects: SampleObject) -> Sample:
    return replace(sample_of([], wh=WH), objects=objects)


def target_of(*objects: SampleObject, transform: Any = None, **options: Any) -> dict[str, Any]:
    raw = options.pop("raw", None) or raw_of(with_objects(*objects), **options)
    target: dict[str, Any] = load(transform, raw=raw, task="instances").target
    return target


def numbered(*boxes: tuple[int, int, int, int], void: Any = None) -> bytes:
    """The mask of objects that fill boxes, the later over the earlier ones."""
    values = np.zeros(WH[::-1], np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        values[y0:y1, x0:x1] = number
    if void is not None:
        values[values == void] = 255
    return encoded(Image.fromarray(values), "PNG")


# What a target has -------------------------------------------------------------------------------


def test_a_target_has_a_mask_for_each_box_from_outlines_of_any_kind() -> None:
    pixels = np.zeros(WH[::-1], np.uint8)
    pixels[8:20, 10:30] = 1
    target = target_of(
        thing(polygons=(SQUARE,)),
        SampleObject(name="cat", label=8, point=(3.0, 4.0)),
        thing(rle=runs_of(pixels), crowd=True),
        thing(rle=runs_of(pixels, is_text=False), crowd=False),
        thing(polygons=(SQUARE[:6], (*SQUARE[:2], *SQUARE[4:]))),
        thing(),
        object_png=numbered((0, 0, 0, 0), (1, 1, 2, 2), *[(0, 0, 0, 0)] * 3, (10, 8, 30, 20)),
    )
    assert (target["masks"].dtype, target["masks"].shape) == (torch.uint8, (5, 48, 64))
    assert type(target["masks"]) is torch.Tensor
    for mask in target["masks"]:
        assert np.array_equal(mask.numpy(), pixels)
    assert target["iscrowd"].tolist() == [0, 1, 0, 0, 0]
    assert target["boxes"].tolist() == [list(BOX)] * 5
    assert target["labels"].tolist() == [12] * 5


def test_masks_of_runs_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(5)
    for share in (0.0, 0.1, 0.5, 0.99):
        pixels = np.asfortranarray((rng.random(WH[::-1]) < share).astype(np.uint8))
        counts = coco.encode(pixels)["counts"].decode()
        target = target_of(thing(rle={"size": [48, 64], "counts": counts}))
        assert np.array_equal(target["masks"][0].numpy(), pixels)


def test_crowds_are_told_in_detection_too() -> None:
    sample = with_objects(thing(), thing(crowd=True), thing(crowd=False))
    assert load(None, sample).target["iscrowd"].tolist() == [0, 1, 0]
    assert "masks" not in load(None, sample).target


def test_a_picture_without_objects_has_no_masks() -> None:
    for transform in (None, presets.resize(20)):
        masks = target_of(transform=transform)["masks"]
        assert (masks.dtype, masks.shape[0]) == (torch.uint8, 0)
        assert masks.shape[1:] == ((48, 64) if transform is None else (20, 20))


# Objects without an outline -----------------------------------------------------------------------


def annotated_so(unmasked: str, *objects: SampleObject, **members: bytes) -> Any:
    raw = raw_of(with_objects(*objects), **members)
    return annotated(raw, sample_id=0, task="instances", unmasked=unmasked)


HINT = "give unmasked='box' to fill its box, or unmasked='drop' to leave such objects out"


@pytest.mark.parametrize(
    ("objects", "members", "problem"),
    [
        ([thing()], {}, "object 2 has no polygon and no run lengths"),
        ([thing(polygons=())], {}, "object 2 has no polygon and no run lengths"),
        ([thing()], {"object_png": numbered((0, 0, 5, 5))}, "object 2 has no pixel in object.png"),
        (
            [thing()],
            {"object_png": numbered((0, 0, 5, 5), (10, 8, 30, 20), void=2)},
            "object 2 has no pixel in object.png",
        ),
        (
            [thing(number=255)],
            {"object_png": numbered((0, 0, 5, 5), (10, 8, 30, 20), void=2)},
            "object 2 has no pixel in object.png",
        ),
    ],
    ids=["a box alone", "no polygons", "not in the mask", "all void", "void is no number"],
)
def test_an_object_without_an_outline_is_an_error_a_filled_box_or_dropped(
    objects: list[SampleObject], members: dict[str, bytes], problem: str
) -> None:
    outlined_one = thing(polygons=(SQUARE,), bbox=(9.0, 8.0, 30.0, 20.0))
    given = (outlined_one, *objects, outlined_one)
    with pytest.raises(SampleError) as caught:
        annotated_so("fail", *given, **members)
    assert str(caught.value) == f"{PLACE}.json: {problem}; {HINT}"
    found = annotated_so("box", *given, **members)
    masks = found.outlines.masks(found.size_hw)
    assert found.boxes.corners[:, 0].tolist() == [9, 10, 9]
    assert torch.equal(masks[1], masks[0])
    dropped = annotated_so("drop", *given, **members)
    assert dropped.boxes.corners[:, 0].tolist() == [9, 9]
    assert len(dropped.outlines.masks(found.size_hw)) == 2


def test_unmasked_reaches_samples_through_a_dataset(mini_dataset: Path) -> None:
    """Shards of VOC made for detection have no outlines."""
    options: dict[str, Any] = {"task": "instances", "shuffle": False}
    with pytest.raises(SampleError, match=r"object 1 has no polygon and no run lengths; give unm"):
        next(iter(ShardDataset(str(mini_dataset), **options)))
    _, target = next(iter(ShardDataset(str(mini_dataset), **options, unmasked="box")))
    area = target["area"].numpy()
    x0, y0, x1, y1 = target["boxes"].numpy().T
    assert area == pytest.approx((x1 - x0) * (y1 - y0), rel=0.2)
    _, target = next(iter(ShardDataset(str(mini_dataset), **options, unmasked="drop")))
    assert (len(target["boxes"]), target["masks"].shape[0]) == (0, 0)
    with pytest.raises(OptionError) as caught:
        ShardDataset(str(mini_dataset), **options, unmasked="skip")
    assert str(caught.value) == "unmasked: 'skip' is not one of 'fail', 'box', 'drop'"


@pytest.mark.parametrize(
    ("item", "members", "place", "problem"),
    [
        (
            thing(rle={"size": [64, 48], "counts": [3072]}),
            {},
            "json: object 1",
            "its run lengths are of 48 x 64 px, its picture has 64 x 48",
        ),
        (
            thing(rle={"size": [48, 64], "counts": [3]}),
            {},
            "json: object 1",
            "its run lengths are wrong: the runs have 3 pixels, a picture of 64 x 48 has 3072",
        ),
        (
            thing(),
            {"object_png": encoded(Image.new("L", (48, 64)), "PNG")},
            "object.png",
            "is 48 x 64 px, its picture 64 x 48",
        ),
    ],
)
def test_outlines_of_another_picture_are_refused_with_their_place(
    item: SampleObject, members: dict[str, bytes], place: str, problem: str
) -> None:
    with pytest.raises(SampleError) as caught:
        target_of(item, **members)
    assert str(caught.value) == f"{PLACE}.{place}: {problem}"


# VOC's masks of objects ---------------------------------------------------------------------------


def test_masks_of_voc_are_the_pixels_of_their_numbers(mini_masks: Path) -> None:
    stored = samples_of(mini_masks, "train")
    data = ShardDataset(str(mini_masks), task="instances", shuffle=False, unmasked="drop")
    classes = ShardDataset(str(mini_masks), task="segmentation", shuffle=False)
    count = 0
    for (_, target), (_, labels) in zip(data, classes, strict=True):
        values = decode_mask(stored[target["key"]]["object.png"], place="").numpy()
        known = np.array(sorted({*np.unique(values).tolist()} - {0, 255}))
        assert len(target["masks"]) == len(known)
        for mask, label, number in zip(target["masks"], target["labels"], known, strict=True):
            assert np.array_equal(mask.numpy() == 1, values == number)
            inside = np.unique(torch.as_tensor(labels).numpy()[mask.numpy() == 1]).tolist()
            assert inside == [int(label)], "as the mask of classes says"
            count += 1
    assert count > 10


def test_an_object_keeps_its_number_where_others_were_left_out() -> None:
    item = thing(bbox=(1.0, 1.0, 9.0, 9.0), number=3)
    png = numbered((40, 8, 50, 20), (20, 8, 30, 20), (1, 1, 9, 9))
    target = target_of(replace(item, number=1, bbox=(40.0, 8.0, 50.0, 20.0)), item, object_png=png)
    rows, columns = np.nonzero(target["masks"][1].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 8, 1, 8)
    assert target["masks"][0].sum() == 120


# Recipes ------------------------------------------------------------------------------------------

RECIPES = [
    presets.retinanet(40),
    presets.letterbox(56),
    presets.random_resized_crop(50, (0.3, 1.0)),
    presets.ssdlite(44),
    replace(presets.ssd(48), fill=(0, 0, 0)),
]
"""Flips, crops, zooms out, keeps the aspect or not."""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_masks_stay_on_their_objects_through_recipes(recipe: Any) -> None:
    """The picture is bright in one disc, and where the mask is."""
    ious = []
    y, x = np.mgrid[:48, :64] + 0.5
    for number in range(20):
        radius, middle = 6 + number % 5, (16 + number, 30 - number % 9)
        angles = np.linspace(0, 2 * np.pi, 40)
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + middle
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[(x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2] = 255
        box = (*(corners.min(0)), *(corners.max(0)))
        item = thing(polygons=(tuple(corners.ravel()),), bbox=box)
        raw = raw_of(with_objects(item), jpg=encoded(pixels, quality=100))
        found = load(recipe, raw=raw, task="instances", random_key=("t", number))
        masks = found.target["masks"].numpy().astype(bool)
        assert masks.shape[1:] == tuple(found.image.shape[1:])
        bright = found.image.numpy().min(0) > 150
        large = masks[masks.sum((1, 2)) > 40]
        ious += [(bright & mask).sum() / (bright | mask).sum() for mask in large]
    assert len(ious) > 10
    assert min(ious) > 0.75


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_polygons_runs_and_numbers_go_through_recipes_alike(recipe: Any) -> None:
    """The same object told in three ways; polygons are filled at the size of the output."""
    pixels = np.zeros(WH[::-1], np.uint8)
    pixels[8:20, 10:30] = 1
    told: list[tuple[SampleObject, dict[str, bytes]]] = [
        (thing(polygons=(SQUARE,)), {}),
        (thing(rle=runs_of(pixels)), {}),
        (thing(), {"object_png": numbered((10, 8, 30, 20))}),
    ]
    for number in range(15):
        masks = []
        for item, members in told:
            raw = raw_of(with_objects(item), **members)
            found = load(recipe, raw=raw, task="instances", random_key=("t", number))
            masks.append(found.target["masks"].numpy())
            box = found.target["boxes"].numpy()
        assert np.array_equal(masks[1], masks[2])
        assert masks[0].shape == masks[1].shape
        if len(box):
            x0, y0, x1, y1 = box[0].tolist()
            for mask in masks:
                rows, columns = np.nonzero(mask[0])
                ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert np.abs(np.array(ends) - (x0, y0, x1, y1)).max() <= 1.5


def test_boxes_are_those_of_detection_whatever_a_crop_leaves_of_a_mask() -> None:
    """A mask may be empty where its box is not: as for torchvision's transforms."""
    ring = (0.0, 0.0, 64.0, 0.0, 64.0, 48.0)  # a triangle: the lower left of its box is empty
    sample = with_objects(thing(polygons=(ring,), bbox=(0.0, 0.0, 64.0, 48.0)))
    empty = 0
    for number in range(60):
        recipe = presets.random_resized_crop(16, (0.02, 0.05))
        key = ("crop", number)
        found = load(recipe, sample, task="instances", random_key=key).target
        detected = load(recipe, sample, random_key=key).target
        assert torch.equal(found["boxes"], detected["boxes"])
        assert torch.equal(found["labels"], detected["labels"])
        empty += not found["masks"].any()
    assert empty > 5


@pytest.mark.parametrize("options", [{"decode": "cuda"}, {"recolor_on": "device"}])
def test_masks_come_from_workers_where_a_device_renders(
    dataset: Path, options: dict[str, str]
) -> None:
    expected = ShardDataset(str(dataset), transform=presets.ssd(40), task="instances")
    recipe = replace(presets.ssd(40), **options)
    left = ShardDataset(str(dataset), transform=recipe, task="instances")
    for ours, theirs in zip(
        ShardLoader(left, batch_size=5), ShardLoader(expected, batch_size=5), strict=True
    ):
        ours = finish(ours)
        assert ours.masks.any()
        assert torch.equal(ours.masks, theirs.masks)
        assert [len(image) for image in ours.images] == [3] * len(ours)
        for found, target in zip(ours.targets, theirs.targets, strict=True):
            assert torch.equal(found["masks"], target["masks"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_outlines_are_those_of_the_upright_picture(orientation: int) -> None:
    sample, pixels = outlined_sample(5, least=3)
    assert {item.rle is None for item in sample.objects} == {True, False}
    upright = raw_of(sample, jpg=encoded(pixels))
    stored_wh = turned_size(WH[::-1], orientation)[::-1]
    lying = np.zeros((stored_wh[1], stored_wh[0], 3), np.uint8)
    members = {
        "jpg": turned(lying, orientation, "JPEG"),
        "json": encode_sample(replace(sample, orientation=orientation)),
    }
    raw = RawSample("", "a", {name: memoryview(content) for name, content in members.items()})
    for transform in (None, presets.random_resized_crop(40)):
        options: dict[str, Any] = {"task": "instances", "sample_id": 0}
        found, expected = (
            load_known(transform, its, **options).target["masks"] for its in (raw, upright)
        )
        assert torch.equal(found, expected)


def load_known(transform: Any, raw: RawSample, **options: Any) -> Any:
    """An item of the classes of `outlined`."""
    from datamodules.loading.items import load_item
    from datamodules.profiling.batch_cost import Cost
    from datamodules.transforms.seeding import preserved_generators
    from shard_tool.keyed_random import digest_of

    with preserved_generators():
        sample = annotated(raw, classes=CLASSES, **options)
        return load_item(sample, transform=transform, random_key=digest_of(("t",)), cost=Cost())


# Batches ------------------------------------------------------------------------------------------


def batches(root: Path, *, num_workers: int = 0, world: World | None = None) -> list[Batch]:
    recipe = presets.multi_scale(presets.ssd, (32, 48, 64))
    data = ShardDataset(str(root), transform=recipe, task="instances", seed=2, world=world)
    return list(ShardLoader(data, batch_size=4, num_workers=num_workers))


def test_batches_have_the_masks_of_their_samples(dataset: Path) -> None:
    data = ShardDataset(str(dataset), transform=presets.ssd(40), task="instances")
    for batch in ShardLoader(data, batch_size=6):
        images, targets = batch
        assert batch.masks.dtype == torch.uint8
        for image, target in zip(images, targets, strict=True):
            alone_image, alone = data.read(int(target["image_id"]))
            assert torch.equal(image, alone_image)
            assert alone.keys() == target.keys()
            for name, value in alone.items():
                assert value == target[name] if name == "key" else torch.equal(value, target[name])
            assert target["masks"].shape == (len(target["boxes"]), 40, 40)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_masks_do_not_depend_on_workers(dataset: Path, num_workers: int) -> None:
    expected = [digest(batch) for batch in batches(dataset)]
    assert [digest(batch) for batch in batches(dataset, num_workers=num_workers)] == expected


@pytest.mark.slow
def test_masks_lie_in_the_segment_of_their_pixels(dataset: Path) -> None:
    """Whose growth keeps them, from the first batch on, which no other tells a size."""
    data = ShardDataset(str(dataset), transform=presets.resize(200), task="instances")
    expected = ShardLoader(data, batch_size=5)
    for batch, alone in zip(ShardLoader(data, batch_size=5, num_workers=1), expected, strict=True):
        assert digest(batch) == digest(alone)
        storage = batch.masks.untyped_storage()
        assert storage.data_ptr() == batch.pixels.untyped_storage().data_ptr()
        assert storage.nbytes() == batch.pixels.nbytes + batch.masks.nbytes


def test_masks_do_not_depend_on_ranks_nor_on_a_resume(dataset: Path) -> None:
    def sums(its: list[Batch]) -> dict[int, list[int]]:
        return {
            int(target["image_id"]): target["area"].int().tolist()
            for batch in its
            for target in batch.targets
        }

    options: dict[str, Any] = {"transform": presets.ssd(40), "task": "instances", "seed": 1}
    alone = sums(list(ShardLoader(ShardDataset(str(dataset), **options), batch_size=4)))
    assert len(alone) == 26
    ranks: dict[int, list[int]] = {}
    for rank in range(2):
        world = World(rank=rank, world_size=2, node=0, num_nodes=1, local_rank=rank)
        data = ShardDataset(str(dataset), **options, world=world)
        ranks |= sums(list(ShardLoader(data, batch_size=2)))
    assert ranks == alone

    loader = ShardLoader(ShardDataset(str(dataset), **options), batch_size=4)
    running = iter(loader)
    before = [next(running) for _ in range(3)]
    resumed = ShardLoader(ShardDataset(str(dataset), **options), batch_size=4)
    resumed.load_state_dict(loader.state_dict())
    assert sums(before) | sums(list(resumed)) == alone
