"""The device finishes batches as workers would; here the CPU is the device."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint
from torchvision.transforms import v2

from datamodules import ShardDataset, ShardLoader, VOCDataModule, presets
from datamodules.loading.on_device import finish
from datamodules.pixels.color import ColorChange
from datamodules.pixels.decode import decode_image, is_for_device
from datamodules.pixels.geometry import Plan, View, stretch
from datamodules.pixels.render import render
from datamodules.presets import IMAGENET_MEAN, IMAGENET_STD
from datamodules.transforms.fused import Drawn, FusedTransform
from shard_tool.errors import OptionError
from tests.datamodules.pixels.test_color import changes
from tests.datamodules.pixels.test_geometry import cases
from tests.kit.datasets.pictures import PHOTOGRAPH, encoded, odd_files, scene
from tests.kit.datasets.samples import ROUNDED, batch_of
from tests.kit.models.recorder import Recorder, trainer

if TYPE_CHECKING:
    from pathlib import Path

    from datamodules import Batch


FILL = (123, 117, 104)
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # 2 cores
    pytest.mark.filterwarnings("ignore:decode='cuda' on cpu"),  # on purpose
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # other callbacks
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: nothing to run on")


def recipe_of(drawn: Drawn, **options: Any) -> FusedTransform:
    def draw(*_: object) -> Drawn:
        return drawn

    return FusedTransform(draw, FILL, **options)


def levels(batch: Batch) -> list[np.ndarray]:
    """Each picture's pixels in 0 … 255."""
    scale = 1 if batch.pixels.dtype == torch.uint8 else 255
    return [scale * image.double().numpy() for image in batch.images]


Case = tuple[tuple[int, int], Any, Plan]


@st.composite
def batches(draw: Any, *, greys: bool = False) -> list[tuple[bytes, Plan, ColorChange]]:
    """One to three pictures, perhaps grey; half the time their outputs are of one size."""
    found, size = [], draw(st.none() | st.tuples(*[st.integers(1, 60)] * 2))
    for _ in range(draw(st.integers(1, 3))):
        (height, width), _, plan = draw(cases())
        if size is not None:
            plan = Plan(plan.view, size, is_flipped=plan.is_flipped)
        noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        if greys and draw(st.booleans()):
            noise = noise[..., 0]
        found.append((encoded(noise, quality=95), plan, draw(changes())))
    return found


BESIDE = [(encoded(scene(20, 30)), stretch(View(-99, 0, 50, 20), (9, 9)), ColorChange())]
"""A view that misses its picture."""
ONE_PIXEL = [
    (encoded(scene(20, 30)), stretch(View(29, 0, 400, 1), (9, 9)), ColorChange(contrast=2))
]
"""A view that shows one pixel of its picture."""
_DARK = encoded(np.zeros((60, 60), np.uint8))
NEAR_THE_EDGES = [(_DARK, stretch(View(1, 1, 58, 58), (9, 9)), ColorChange())]
"""A black picture, decoded at a quarter: the part that is scaled reaches beyond its edges."""


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(batches())
@example(BESIDE)
@example(ONE_PIXEL)
def test_colours_of_the_device_are_within_a_level_of_a_workers(
    drawn: list[tuple[bytes, Plan, ColorChange]],
) -> None:
    jpegs = [jpeg for jpeg, _, _ in drawn]
    here = [recipe_of(Drawn(plan, change)) for _, plan, change in drawn]
    there = [replace(recipe, recolor_on="device") for recipe in here]
    expected, found = batch_of(here, jpegs), finish(batch_of(there, jpegs))
    assert torch.equal(found.boxes, expected.boxes)
    for theirs, ours in zip(levels(found), levels(expected), strict=True):
        assert np.abs(theirs - ours).max() < 1


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(batches(greys=True))
@example(BESIDE)
@example(ONE_PIXEL)
@example(NEAR_THE_EDGES)
def test_geometry_of_the_device_differs_from_a_workers_by_rounding_only(
    drawn: list[tuple[bytes, Plan, ColorChange]],
) -> None:
    """The device decodes pictures whole; workers decode grey ones, perhaps smaller."""
    jpegs = [jpeg for jpeg, _, _ in drawn]
    here = [recipe_of(Drawn(plan)) for _, plan, _ in drawn]
    there = [replace(recipe, decode="cuda") for recipe in here]
    found, expected = finish(batch_of(there, jpegs)), batch_of(here, jpegs)
    assert torch.equal(found.boxes, expected.boxes)
    pairs = zip(levels(found), levels(expected), strict=True)
    for (theirs, ours), (jpeg, plan, _) in zip(pairs, drawn, strict=True):
        if is_for_device(jpeg):
            whole = decode_image(jpeg, place="").permute(1, 2, 0)
            ours = render(whole, plan, tuple(whole.shape[:2]), fill=FILL).double().numpy()
        assert np.abs(theirs - ours).max() < ROUNDED


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(batches())
def test_colours_amplify_the_rounding_of_geometry(
    drawn: list[tuple[bytes, Plan, ColorChange]],
) -> None:
    jpegs = [jpeg for jpeg, _, _ in drawn]
    there = [recipe_of(Drawn(plan, change), decode="cuda") for _, plan, change in drawn]
    found = levels(finish(batch_of(there, jpegs)))
    for theirs, (jpeg, plan, change) in zip(found, drawn, strict=True):
        whole = decode_image(jpeg, place="").permute(1, 2, 0)
        size_hw = (whole.shape[0], whole.shape[1])
        ours = render(whole, plan, size_hw, change=change, fill=FILL).double().numpy()
        gain = np.abs(change.of_any_mean()).sum(1).max()
        assert np.abs(theirs - ours).max() <= max(1, gain) * ROUNDED + 1


def test_the_matrix_for_any_mean_agrees_with_the_matrix_for_one_mean() -> None:
    change = ColorChange(brightness=1.1, contrast=0.6, saturation=1.4, hue=0.1, channels=(2, 0, 1))
    mean = np.array([90.0, 120.0, 40.0])
    for first in (False, True):
        found, expected = replace(change, contrast_first=first), np.zeros((3, 4))
        general = found.of_any_mean()
        expected[:, :3] = general[:, :3]
        expected[:, 3] = general[:, 3:] @ mean
        assert np.allclose(found.matrix(mean), expected, atol=1e-3)


def test_an_unfinished_batch_says_what_is_missing_and_keeps_files_on_the_cpu() -> None:
    plan = stretch(View(0, 0, 120, 90), (40, 40))
    recipe = recipe_of(Drawn(plan, ColorChange(brightness=1.1)))
    for there, word in (
        (replace(recipe, decode="cuda"), "decoded"),
        (replace(recipe, recolor_on="device"), "recoloured"),
    ):
        batch = batch_of([there], [PHOTOGRAPH])
        with pytest.raises(OptionError) as caught:
            _images, _targets = batch
        hint = "call datamodules.finish(batch) first, as VOCDataModule does"
        assert str(caught.value) == f"batch: its pictures are not {word} yet; {hint}"
        moved = batch.to("meta")
        assert moved.device.type == "meta"
        assert moved.pixels.device.type == ("cpu" if word == "decoded" else "meta")
        again = finish(pickle.loads(pickle.dumps(batch)))
        assert torch.equal(again.pixels, finish(batch).pixels)
        assert again.pixels.dtype == torch.float32
        assert len(batch.device_work) == 1, "finish leaves what it is given as it is"


def test_finish_keeps_everything_but_the_pixels() -> None:
    batch = batch_of([presets.ssd(32)] * 2, [PHOTOGRAPH] * 2)
    batch.cost.wait_s = 3
    done = finish(batch)
    assert done.cost is batch.cost
    for name in ("boxes", "labels", "difficult", "sample_ids", "orig_sizes", "keys", "sizes"):
        assert getattr(done, name) is getattr(batch, name)


@pytest.mark.parametrize("left", [{}, {"recolor_on": "device"}, {"decode": "cuda"}])
def test_finish_normalizes_after_it_changes_colours(left: Any) -> None:
    """Also for pictures of several sizes, and under autocast, which would multiply in bfloat16."""
    change = ColorChange(contrast=1.5, hue=0.05)
    plans = [stretch(View(-20, -9, 150, 100), size) for size in ((40, 40), (30, 50))]
    batch = batch_of([recipe_of(Drawn(p, change), **left) for p in plans], [PHOTOGRAPH] * 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, normal = finish(batch), finish(batch, normalize=True)
    expected = (plain.pixels.view(-1, 3) - IMAGENET_MEAN) / IMAGENET_STD
    assert torch.allclose(normal.pixels.view(-1, 3), expected, atol=1e-5)
    assert float(plain.pixels.min()) >= 0
    assert float(plain.pixels.max()) <= 1
    corner = torch.tensor(FILL) / 255
    assert torch.allclose(plain.images[0][:, 0, 0], corner), "what lies beyond keeps its colour"


# Under VOCDataModule ----------------------------------------------------------------------------


def module(root: Path, **options: Any) -> VOCDataModule:
    defaults: dict[str, Any] = {"batch_size": 5, "image_size": 200, "seed": 2}
    return VOCDataModule(str(root), **{**defaults, **options})


def finished(data: VOCDataModule, count: int = 4) -> list[Batch]:
    return [data.on_after_batch_transfer(b, 0) for b in islice(data.train_dataloader(), count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "most", "mean"),
    [
        ({"transforms": "ssd", "recolor_on": "device"}, 1, 0.4),
        ({"transforms": "ssd", "decode": "fast", "recolor_on": "device"}, 1, 0.4),
        ({"transforms": "ssd", "decode": "cuda", "num_workers": 2}, 255, 1.5),
        ({"transforms": "retinanet", "decode": "cuda", "num_workers": 1}, ROUNDED, 0.4),
        ({"transforms": "random_resized_crop", "decode": "cuda", "normalize": True}, ROUNDED, 0.4),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_the_module_gives_the_boxes_and_pixels_of_a_worker(
    mini_dataset: Path, options: dict[str, Any], most: float, mean: float
) -> None:
    """SSD's zoom-out shrinks pictures so much that workers decode them smaller."""
    there = finished(module(mini_dataset, **options))
    plain = {**options, "num_workers": 0, "recolor_on": None}
    plain["decode"] = "fast" if options.get("decode") == "fast" else "exact"
    here = finished(module(mini_dataset, **plain))
    assert len(there) == 4
    scale = 255 * float(IMAGENET_STD.min()) if options.get("normalize") else 255
    for ours, theirs in zip(here, there, strict=True):
        for name in ("boxes", "labels", "difficult", "sizes", "sample_ids"):
            assert torch.equal(getattr(theirs, name), getattr(ours, name))
        assert theirs.keys == ours.keys
        difference = scale * (theirs.pixels - ours.pixels).abs()
        assert float(difference.max()) < most
        assert float(difference.mean()) < mean


def test_masks_come_from_workers(mini_masks: Path) -> None:
    here, there = (
        finished(module(mini_masks, decode=decode), 1)[0] for decode in ("exact", "cuda")
    )
    assert torch.equal(here.targets, there.targets)
    assert float((255 * (here.images - there.images)).abs().max()) < ROUNDED


def test_training_resumes_in_bf16_with_pictures_decoded_on_the_device(
    mini_dataset: Path, tmp_path: Path
) -> None:
    class PixelRecorder(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append((batch.pixels.dtype, batch.boxes.dtype, batch.pixels.double().sum().item()))
            return self.weight * batch.pixels.mean()

    options: dict[str, Any] = {"precision": "bf16-true", "limit_val_batches": 0, "max_epochs": 1}
    data = {"transforms": "ssd", "image_size": 32, "decode": "cuda", "batch_size": 9}
    saving = ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1
    )
    seen: list[Any] = []
    fit = trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, **options)
    fit.fit(PixelRecorder(), module(mini_dataset, **data))
    whole = seen.copy()
    assert len(whole) > 2
    assert {(found[0], found[1]) for found in whole} == {(torch.bfloat16, torch.float32)}
    seen.clear()
    again = trainer(tmp_path, **options)
    checkpoint = str(tmp_path / "step=2.ckpt")
    again.fit(PixelRecorder(), module(mini_dataset, **data), ckpt_path=checkpoint)
    assert seen == whole[2:]


def test_a_cpu_trainer_warns_and_suggests_exact_decoding(
    mini_dataset: Path, tmp_path: Path
) -> None:
    fit = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    data = module(mini_dataset, decode="cuda", image_size=32)
    text = "decode='cuda' on cpu: the training process decodes, one picture at a time; "
    with pytest.warns(UserWarning, match=text + "decode='exact' leaves it to the workers"):
        fit.fit(Recorder(), data)


# Refusals ---------------------------------------------------------------------------------------


def test_options_that_a_device_cannot_serve_are_refused_with_the_way_out(
    mini_dataset: Path,
) -> None:
    root = str(mini_dataset)
    cuda = replace(presets.ssd(32), decode="cuda")
    blur = v2.GaussianBlur(3)

    def loader(transform: Any) -> ShardLoader:
        return ShardLoader(ShardDataset(root, transform=transform, on_bad_sample="substitute"))

    several = presets.multi_scale(lambda size: replace(presets.ssd(size), decode="cuda"), (32, 64))
    no_substitute = (
        "on_bad_sample: 'substitute' cannot replace what does not decode on the device; "
        "take 'raise', or decode='exact'"
    )
    for make, text in {
        lambda: loader(cuda): no_substitute,
        lambda: loader(several): no_substitute,
        lambda: cuda.then(blur): "decode and recolor_on: transforms after a recipe need its pixels,"
        " which the device makes; take decode='exact' and recolor_on='worker', or do without them",
        lambda: replace(cuda, recolor_on="worker"): "recolor_on: a worker has no pixels where "
        "decode is 'cuda'; take 'device', or decode='exact'",
        lambda: replace(cuda, recolor_on="gpu"): "recolor_on: 'gpu' is not one of None, 'worker', "
        "'device'",
        lambda: VOCDataModule(root, decode="cuda", val_transforms=blur): "decode='cuda' and "
        "recolor_on='device': are for recipes by name, and transforms are given; give those as "
        "dataclasses.replace(recipe, decode=…, recolor_on=…)",
        lambda: ShardDataset(root, transform=cuda).read(0): "transform: leaves pixels to the "
        "device, which finishes whole batches; iterate a ShardLoader and call "
        "datamodules.finish(batch), or take a recipe that does not",
    }.items():
        with pytest.raises(OptionError) as caught:
            make()
        assert str(caught.value) == text


def test_evaluation_may_decode_on_the_device_where_training_substitutes(
    mini_dataset: Path,
) -> None:
    """In evaluation bad samples always raise."""
    cuda = replace(presets.resize(32), decode="cuda")
    data = ShardDataset(
        str(mini_dataset), "val", transform=cuda, shuffle=False, on_bad_sample="substitute"
    )
    assert len(next(iter(ShardLoader(data, batch_size=2)))) == 2


# On a GPU ---------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("left", [{"recolor_on": "device"}, {"decode": "cuda"}])
def test_a_gpu_gives_the_boxes_and_nearly_the_pixels_of_the_cpu(
    mini_dataset: Path, left: dict[str, Any]
) -> None:
    """nvJPEG's cosine transform and its way to scale colours up are not libjpeg-turbo's."""
    data = module(mini_dataset, transforms="ssd", **left)
    for batch in islice(data.train_dataloader(), 3):
        there, here = finish(batch.to("cuda", non_blocking=True)), finish(batch)
        assert there.pixels.device.type == "cuda"
        assert torch.equal(there.boxes.cpu(), here.boxes)
        difference = 255 * (there.pixels.cpu() - here.pixels).abs()
        if left == {"recolor_on": "device"}:
            assert float(difference.max()) < 0.5
        assert float(difference.mean()) < 3


@needs_cuda
def test_a_gpu_takes_pinned_batches(mini_dataset: Path) -> None:
    for left in ({"recolor_on": "device"}, {"decode": "cuda"}):
        batch = next(iter(module(mini_dataset, transforms="ssd", **left).train_dataloader()))
        pinned = finish(batch.pin_memory().to("cuda", non_blocking=True))
        assert torch.equal(pinned.pixels, finish(batch.to("cuda")).pixels)


@needs_cuda
def test_odd_files_reach_a_gpu() -> None:
    jpegs = [PHOTOGRAPH, encoded(scene(90, 120), progressive=True), *odd_files().values()]
    batch = batch_of([replace(presets.resize(50), decode="cuda")] * 6, jpegs)
    there, here = finish(batch.to("cuda")), finish(batch)
    assert float((255 * (there.pixels.cpu() - here.pixels)).abs().mean()) < 3
