"""Turned pictures: right by every EXIF orientation, whole and rendered by any plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.pixels import resample as resampling
from datamodules.pixels.decode import decode_image, decode_scaled, picture_size
from datamodules.pixels.geometry import Plan, View, stretch
from datamodules.pixels.render import Rendering, render
from datamodules.pixels.upright import turned_size, upright
from tests.datamodules.pixels.test_geometry import cases
from tests.kit.datasets.pictures import scene, turned, upright_by_pillow

if TYPE_CHECKING:
    from pathlib import Path

FILL = (123, 117, 104)
ORIENTATIONS = range(1, 9)
LOSSLESS = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pixels_and_sizes_are_those_of_pillows_exif_transpose(kind: str, orientation: int) -> None:
    content = turned(scene(37, 53), orientation, kind, **LOSSLESS[kind])
    stored = decode_image(content, place="a").permute(1, 2, 0).numpy()
    found, expected = upright(stored, orientation), upright_by_pillow(content)
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous
    stored_hw = picture_size(content, place="a")
    assert stored_hw == (37, 53)
    assert turned_size(stored_hw, orientation) == expected.shape[:2]
    assert turned_size(turned_size(stored_hw, orientation), orientation) == stored_hw


def test_pixels_that_are_stored_upright_are_not_copied() -> None:
    pixels = scene(4, 5)
    assert upright(pixels, 1) is pixels


def both_ways(stored: np.ndarray, plan: Plan, orientation: int) -> tuple[Any, Any]:
    """Rendered as stored and then turned; and turned first. Each is float [3, H, W]."""
    size_hw = turned_size((stored.shape[0], stored.shape[1]), orientation)
    found = render(torch.from_numpy(stored), plan, size_hw, fill=FILL, orientation=orientation)
    turned_first = torch.from_numpy(upright(stored, orientation))
    return found.float(), render(turned_first, plan, size_hw, fill=FILL).float()


def inside(plan: Plan, height: int, width: int) -> Plan:
    """The plan with what its view shows of the picture, at least a pixel."""
    view = plan.view
    left, top = min(max(view.left, 0), width - 1), min(max(view.top, 0), height - 1)
    right = max(min(view.left + view.width, width), left + 1)
    bottom = max(min(view.top + view.height, height), top + 1)
    return replace(plan, view=View(left, top, right - left, bottom - top))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from(ORIENTATIONS))
@example(((1, 40), None, stretch(View(0, 0, 1, 40), (1, 9))), 6)
@example(((40, 1), None, stretch(View(0, 0, 1, 40), (40, 1))), 5)
@example(((20, 30), None, Plan(View(0, 3, 30, 20), (40, 50), (20, 30), is_flipped=True)), 8)
def test_a_rendered_picture_is_that_of_the_turned_one_but_for_rounding(
    case: tuple[tuple[int, int], Any, Plan], orientation: int
) -> None:
    """The order of the two scalings differs, and each rounds.

    Of views inside the picture: at its edges what is scaled meets the output's grid, perhaps on the
    other side of a tie.
    """
    (height, width), _, plan = case
    plan = inside(plan, height, width)
    noise = np.random.default_rng(height * 99 + width)
    stored = noise.integers(0, 256, (*turned_size((height, width), orientation), 3), np.uint8)
    found, expected = both_ways(stored, plan, orientation)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 2


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    "plan",
    [
        stretch(View(0, 0, 60, 44), (22, 30)),
        Plan(View(7, 2, 41, 30), (50, 50), (30, 41), is_flipped=True),
        stretch(View(-20, -10, 90, 99), (30, 40)),
    ],
    ids=["whole", "crop, letterbox, flip", "zoomed out"],
)
def test_compiled_or_by_torch_turned_pixels_are_the_same(
    plan: Plan, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = scene(*turned_size((44, 60), orientation))
    found, expected = both_ways(stored, plan, orientation)
    assert float((found - expected).abs().max()) <= 2
    monkeypatch.setattr(resampling, "kernels", lambda: None)
    again, _ = both_ways(stored, plan, orientation)
    assert torch.equal(found, again)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("orientation", ORIENTATIONS[1:])
def test_turned_photographs_decoded_smaller_lie_where_whole_ones_do(
    voc_sample: Path, orientation: int, factor: int
) -> None:
    """The last decoded pixel covers fewer stored ones; turned, it may be the first.

    Off by that, pixels would differ by several levels more.
    """
    errors = []
    for path in sorted(voc_sample.rglob("*.jpg"))[:8]:
        content = path.read_bytes()
        stored_hw = picture_size(content, place="")
        for turn in (1, orientation):
            height, width = size_hw = turned_size(stored_hw, turn)
            plan = Plan(View(3, 5, width - 9, height - 11), (90, 100), is_flipped=True)
            whole = torch.from_numpy(upright(decode_scaled(content, 1, place=""), turn))
            small = torch.from_numpy(decode_scaled(content, factor, place=""))
            found = render(small, plan, size_hw, orientation=turn).float()
            expected = render(whole, plan, size_hw).float()
            errors.append(float((found - expected).abs().mean()))
    assert len(errors) == 16
    stored_upright, stored_turned = np.mean(errors[::2]), np.mean(errors[1::2])
    assert stored_turned < stored_upright + 0.5


def test_pixels_of_another_size_are_refused() -> None:
    plan = stretch(View(0, 0, 60, 40), (10, 10))
    assert Rendering.of(plan, (40, 60), (60, 40), 6).swaps_axes
    with pytest.raises(ValueError, match=r"pixels \(40, 60\) are not those of a picture"):
        Rendering.of(plan, (40, 60), (40, 60), 6)
