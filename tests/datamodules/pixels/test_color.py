"""Colour changes by one matrix, compared with the same steps one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from datamodules.pixels import color
from datamodules.pixels.color import LUMA, ColorChange, photometric_distortion, recolored
from datamodules.pixels.kernels import kernels
from tests.kit.datasets.pictures import scene

FACTORS = st.one_of(st.none(), st.floats(0.5, 1.5))


@st.composite
def changes(draw: Any, factors: Any = FACTORS, turns: float = 0.5) -> ColorChange:
    return ColorChange(
        brightness=draw(factors),
        contrast=draw(factors),
        saturation=draw(factors),
        hue=draw(st.one_of(st.none(), st.floats(-turns, turns))),
        channels=draw(st.one_of(st.none(), st.permutations([0, 1, 2]).map(tuple))),
        contrast_first=draw(st.booleans()),
    )


def picture(height: int = 61, width: int = 83) -> torch.Tensor:
    """uint8 [H, W, 3]; no multiple of any width of vectors."""
    return torch.from_numpy(scene(height, width))


def in_steps(pixels: torch.Tensor, change: ColorChange) -> np.ndarray:
    """Each step alone, in float, none clipped or rounded."""
    found = pixels.numpy().astype(np.float64)

    def contrast() -> np.ndarray:
        grey = (found @ LUMA).mean()
        return change.contrast * found + (1 - change.contrast) * grey

    if change.brightness is not None:
        found = found * change.brightness
    if change.contrast is not None and change.contrast_first:
        found = contrast()
    if change.saturation is not None:
        grey = (found @ LUMA)[..., None]
        found = change.saturation * found + (1 - change.saturation) * grey
    if change.hue is not None:
        axis = np.ones(3) / np.sqrt(3)
        angle = 2 * np.pi * change.hue
        along = (found @ axis)[..., None] * axis
        found = along + (found - along) * np.cos(angle) + np.cross(axis, found) * np.sin(angle)
    if change.contrast is not None and not change.contrast_first:
        found = contrast()
    if change.channels is not None:
        found = found[..., list(change.channels)]
    return found


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(changes())
def test_one_matrix_does_what_the_steps_do(change: ColorChange) -> None:
    pixels = picture()
    expected = np.clip(in_steps(pixels, change), 0, 255)
    found = recolored(pixels, change).numpy().astype(np.float64)
    # In these ranges factors are rounded to 1 / 4096 at least, and the sum to a whole level.
    bound = 0.5 + (3 * 255 + 1) * 0.5 / 4096
    assert bound < 0.6
    assert np.abs(found - expected).max() < bound + 1e-6


@pytest.mark.parametrize("factor", [8.0, 100.0, 5000.0, 1e6, 1e20])
def test_large_factors_put_each_level_on_the_right_side(factor: float) -> None:
    pixels = torch.arange(256, dtype=torch.uint8)[:, None, None].expand(256, 2, 3)
    change = ColorChange(contrast=factor)
    exact = in_steps(pixels, change)
    found = recolored(pixels, change).numpy()
    assert (found[exact > 400] == 255).all()
    assert (found[exact < -400] == 0).all()
    assert (found[:20] == 0).all()
    assert (found[-20:] == 255).all()


def test_an_offset_may_be_as_large_as_factors_allow() -> None:
    """So little of one channel's is left of saturation that greys need all of it."""
    change = ColorChange(contrast=19000.0, saturation=0.35)
    pixels = torch.full((9, 9, 3), 250, dtype=torch.uint8)
    pixels[0, 0] = 230
    assert recolored(pixels, change)[0, 0].tolist() == [0, 0, 0]


ANY_FACTOR = st.one_of(st.none(), st.floats(0, 4), st.floats(0, 1e30))


@pytest.mark.slow
@pytest.mark.skipif(kernels() is None, reason="kernels.c was not compiled, or there is no AVX2")
@settings(max_examples=400, deadline=None)
@given(
    changes(ANY_FACTOR, turns=2.0),  # as users may write them: black, white, and far beyond
    st.integers(1, 40),
    st.one_of(st.integers(1, 40), st.integers(60, 140)),
    st.integers(0, 2**32 - 1),
)
def test_promise_5_compiled_or_by_opencv_colours_are_the_same(
    change: ColorChange, height: int, width: int, seed: int
) -> None:
    """Nothing is read or written outside the picture, which may be part of a larger one."""
    values = np.random.Generator(np.random.Philox(seed)).integers(
        0, 256, (height + 2, width + 2, 3)
    )
    around = torch.from_numpy(values.astype(np.uint8))
    pixels, before = around[1:-1, 1:-1], around.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(color, "kernels", lambda: None)
        expected = recolored(pixels, change)
    assert torch.equal(recolored(pixels, change), expected)
    assert torch.equal(around, before)
    found = recolored(pixels, change, out=pixels)
    assert found is pixels
    assert torch.equal(pixels, expected)
    around[1:-1, 1:-1] = before[1:-1, 1:-1]
    assert torch.equal(around, before)


@pytest.mark.parametrize("height", [1, 3, 120])
def test_contrast_keeps_the_mean_of_the_whole_picture(height: int) -> None:
    """Sums are of more pixels than 16 bits of a lane hold."""
    pixels = torch.full((height, 1700, 3), 255, dtype=torch.uint8)
    pixels[..., 2] = 1
    assert [*color._sums(pixels, kernels())] == [255.0 * 1700 * height] * 2 + [1700.0 * height]
    assert [*color._sums(pixels, None)] == [*color._sums(pixels, kernels())]


def test_pixels_may_have_any_strides() -> None:
    change, pixels = ColorChange(brightness=1.2, contrast=0.7, hue=0.2), picture()
    expected = recolored(pixels, change)
    planes = pixels.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(recolored(planes, change), expected)
    assert recolored(planes, change, out=planes) is planes
    assert torch.equal(planes, expected)
    thirds = torch.zeros(61, 83 * 3, 3, dtype=torch.uint8)[:, ::3]
    assert torch.equal(recolored(pixels, change, out=thirds), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(4, 5, 4, dtype=torch.uint8),
        torch.zeros(4, 5, 3),
        torch.zeros(4, 5, dtype=torch.uint8),
        torch.zeros(5, 4, 3, dtype=torch.uint8),
        torch.zeros(4, 5, 3, dtype=torch.uint8, device="meta"),
    ],
    ids=["four channels", "float", "grey", "another size", "elsewhere"],
)
def test_another_kind_of_picture_is_refused_before_memory_is_written(wrong: torch.Tensor) -> None:
    pixels = torch.zeros(4, 5, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^expected uint8 \[H, W, 3\] of .*, found torch"):
        recolored(pixels, ColorChange(hue=0.1), out=wrong)
    if wrong.shape != (5, 4, 3):  # which is right by itself
        with pytest.raises(ValueError, match=r"^expected uint8 \[H, W, 3\]"):
            recolored(wrong, ColorChange(hue=0.1))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(changes())
def test_greys_stay_greys(change: ColorChange) -> None:
    matrix = change.matrix(np.array([90.0, 120.0, 70.0]))
    assert matrix.shape == (3, 4)
    assert matrix[:, 3] == pytest.approx(matrix[0, 3], abs=1e-4)
    sums = matrix[:, :3].sum(1)
    assert sums == pytest.approx(sums[0], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "theirs"),
    [
        (ColorChange(brightness=1.3), lambda x: tvf.adjust_brightness(x, 1.3)),
        (ColorChange(saturation=0.4), lambda x: tvf.adjust_saturation(x, 0.4)),
        (ColorChange(contrast=0.6), lambda x: tvf.adjust_contrast(x, 0.6)),
        (ColorChange(channels=(2, 0, 1)), lambda x: tvf.permute_channels(x, [2, 0, 1])),
    ],
    ids=["brightness", "saturation", "contrast", "channels"],
)
def test_single_changes_are_torchvisions(change: ColorChange, theirs: Any) -> None:
    pixels = picture(120, 160)
    expected = theirs(pixels.permute(2, 0, 1)).permute(1, 2, 0)
    error = (recolored(pixels, change).float() - expected.float()).abs()
    assert error.max() <= 2
    assert error.mean() < 1, "torchvision cuts off where we round: half a level on average"


def test_hue_is_near_torchvisions_in_its_range_and_a_third_of_a_turn_moves_channels() -> None:
    pixels = picture(120, 160) // 4 + 96  # colours of photographs; saturated ones differ more
    theirs = tvf.adjust_hue(pixels.permute(2, 0, 1), 0.05).permute(1, 2, 0)
    ours = recolored(pixels, ColorChange(hue=0.05))
    assert (ours.float() - theirs.float()).abs().mean() < 4
    turned = recolored(pixels, ColorChange(hue=1 / 3))
    assert (turned.float() - pixels[..., [2, 0, 1]].float()).abs().max() <= 1


def test_nothing_to_change_changes_nothing() -> None:
    pixels = picture()
    assert recolored(pixels, ColorChange()) is pixels
    assert ColorChange().is_nothing
    assert not ColorChange(channels=(0, 1, 2)).is_nothing


def test_pictures_of_any_size_are_changed_and_the_original_is_left_alone() -> None:
    change = ColorChange(brightness=2.0)
    for height, width in [(1, 1), (3, 5), (200, 3), (7, 90), (1, 1)]:
        pixels = torch.full((height, width, 3), 100, dtype=torch.uint8)
        found = recolored(pixels, change)
        assert found.shape == pixels.shape
        assert (found == 200).all()
        assert (pixels == 100).all()


@pytest.mark.slow
def test_distortion_is_drawn_as_torchvision_draws_it() -> None:
    draws = 4000
    ours = [
        photometric_distortion(np.random.Generator(np.random.Philox(key=[9, i])))
        for i in range(draws)
    ]
    torch.manual_seed(9)
    transform = v2.RandomPhotometricDistort()
    image = torch.zeros(3, 4, 4)
    theirs = [transform.make_params([image]) for _ in range(draws)]
    for name in ("brightness", "contrast", "saturation", "hue"):
        mine = [value for change in ours if (value := getattr(change, name)) is not None]
        other = [value for p in theirs if (value := p[f"{name}_factor"]) is not None]
        assert len(mine) / draws == pytest.approx(0.5, abs=0.04)
        assert len(other) / draws == pytest.approx(0.5, abs=0.04)
        width = max(other) - min(other)
        quantiles = [np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]) for values in (mine, other)]
        assert np.abs(quantiles[0] - quantiles[1]).max() < 0.06 * width
    assert np.mean([c.contrast_first for c in ours]) == pytest.approx(0.5, abs=0.04)
    orders = [c.channels for c in ours if c.channels is not None]
    assert len(orders) / draws == pytest.approx(0.5, abs=0.04)
    assert len(set(orders)) == 6
