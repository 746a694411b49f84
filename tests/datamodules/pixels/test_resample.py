"""Compiled scaling equals torch's to the last bit, and writes nothing outside its output."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tvf

from datamodules.pixels import resample as module
from datamodules.pixels.geometry import Plan, View
from datamodules.pixels.kernels import kernels
from datamodules.pixels.render import render
from datamodules.pixels.resample import Span, resample

FILL = (1, 254, 77)
SENTINEL = 93

if kernels() is None:
    pytest.skip("kernels.c was not compiled, or there is no AVX2", allow_module_level=True)


def noise(height: int, width: int) -> torch.Tensor:
    values = np.random.Generator(np.random.Philox(height * 1000 + width))
    return torch.from_numpy(values.integers(0, 256, (height, width, 3), np.uint8))


def both_ways(
    pixels: torch.Tensor, rows: Span, columns: Span, *, is_flipped: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """By the kernel, into a part of something larger, and by torch."""
    size = (rows.seen.stop - rows.seen.start, columns.seen.stop - columns.seen.start)
    around = torch.full((size[0] + 2, size[1] + 2, 3), SENTINEL, dtype=torch.uint8)
    out = around[1:-1, 1:-1]
    resample(pixels, rows, columns, fill=FILL, is_flipped=is_flipped, out=out)
    found = out.clone()
    out[:] = SENTINEL
    assert (around == SENTINEL).all(), "written beside what is seen"
    expected = torch.empty(*size, 3, dtype=torch.uint8)
    fill = torch.tensor(FILL, dtype=torch.uint8)
    module.resample_by_torch(pixels, rows, columns, fill=fill, is_flipped=is_flipped, out=expected)
    return found, expected


side = st.integers(1, 90)


@pytest.mark.slow
@given(
    st.tuples(side, side),
    st.tuples(st.integers(-120, 89), st.integers(1, 200)),
    st.tuples(st.integers(-120, 89), st.integers(1, 200)),
    st.tuples(st.integers(1, 130), st.integers(1, 130)),
    st.booleans(),
)
@example((375, 500), (0, 375), (0, 500), (300, 300), False)
@example((375, 500), (0, 375), (0, 500), (375, 500), True)
@example((37, 64), (-3, 900), (0, 9000), (2, 3), False)  # 3,000 pixels to one: tiny weights
@example((64, 64), (63, 1), (63, 1), (128, 128), True)
@settings(max_examples=400, deadline=None)
def test_promise_5_compiled_or_by_torch_pixels_are_the_same(
    size_hw: tuple[int, int],
    down: tuple[int, int],
    across: tuple[int, int],
    scaled: tuple[int, int],
    is_flipped: bool,
) -> None:
    """A node without a compiler, or with another processor, must not see other pixels."""
    for first, stored in ((down, size_hw[0]), (across, size_hw[1])):
        if first[0] >= stored or first[0] + first[1] <= 0:
            return  # nothing of the picture is seen
    rows = Span.of(*down, size_hw[0], 1, scaled[0])
    columns = Span.of(*across, size_hw[1], 1, scaled[1])
    found, expected = both_ways(noise(*size_hw), rows, columns, is_flipped=is_flipped)
    assert torch.equal(found, expected)


def test_whole_pictures_are_torchvisions_resize_to_the_last_bit() -> None:
    pixels = noise(333, 500)
    plan = Plan(View(0, 0, 500, 333), (300, 280))
    found = render(pixels, plan, (333, 500))
    assert torch.equal(found, tvf.resize(pixels.permute(2, 0, 1), [300, 280], antialias=True))


def test_a_part_of_a_larger_array_is_read_where_it_lies() -> None:
    """Lines may be further apart than they are long."""
    pixels = noise(80, 100)[5:65, 7:91]
    assert not pixels.is_contiguous()
    rows, columns = Span.of(3, 50, 60, 1, 40), Span.of(-9, 90, 84, 1, 33)
    found, expected = both_ways(pixels, rows, columns, is_flipped=True)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("fills", [(False, False), (True, False), (False, True)])
def test_beyond_the_picture_is_fill_or_the_outermost_pixel(fills: tuple[bool, bool]) -> None:
    """Where an edge lies between two output pixels, a few pixels beyond the picture are taken."""

    def span(decoded: int) -> Span:
        return Span(decoded, -4, decoded + 5, -2, 31, slice(0, 29), *fills)

    found, expected = both_ways(noise(40, 50), span(40), span(50), is_flipped=False)
    assert torch.equal(found, expected)


LEFT_BY_OTHERS = {
    "planes": lambda pixels: pixels.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "every other pixel": lambda pixels: pixels.repeat_interleave(2, 1)[:, ::2],
    "grey, its channels one memory": lambda pixels: pixels[..., :1].contiguous().expand(-1, -1, 3),
    "mirrored in memory": lambda pixels: pixels.flip(1),
}


@pytest.mark.parametrize("left", LEFT_BY_OTHERS.values(), ids=LEFT_BY_OTHERS)
def test_pictures_may_have_any_strides(left: Any) -> None:
    """torchvision's blur, grayscale, equalize, rotation and others give planes, or views."""
    pixels = left(noise(60, 80))
    plan = Plan(View(0, 0, 80, 60), (40, 30))
    expected = tvf.resize(pixels.permute(2, 0, 1).contiguous(), [40, 30], antialias=True)
    assert torch.equal(render(pixels, plan, (60, 80)), expected)


def test_pixels_of_another_size_than_the_spans_are_refused_before_memory_is_written() -> None:
    rows, columns = Span.of(0, 20, 20, 1, 10), Span.of(0, 30, 30, 1, 15)
    options = {"fill": FILL, "is_flipped": False}
    for pixels, out in (
        (noise(20, 31), torch.empty(10, 15, 3, dtype=torch.uint8)),
        (noise(20, 30), torch.empty(10, 14, 3, dtype=torch.uint8)),
    ):
        with pytest.raises(
            ValueError, match=r"^pixels .* and out .* are not \(20, 30\), \(10, 15\)$"
        ):
            resample(pixels, rows, columns, out=out, **options)


def test_pixels_on_another_device_are_refused_before_memory_is_read() -> None:
    rows, columns = Span.of(0, 20, 20, 1, 10), Span.of(0, 30, 30, 1, 15)
    away = torch.zeros(20, 30, 3, dtype=torch.uint8, device="meta")
    out = torch.empty(10, 15, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="pixels on meta and out on cpu are not on the CPU"):
        resample(away, rows, columns, fill=FILL, is_flipped=False, out=out)


def test_spans_of_numpy_integers_are_the_same_and_do_not_stay_in_the_cache() -> None:
    """A drawing function of a user may have them from its generator."""
    pixels = noise(43, 51)
    theirs = Plan(View(*map(np.int64, (-4, 2, 50, 40))), (21, 22))
    ours = Plan(View(-4, 2, 50, 40), (21, 22))
    assert torch.equal(render(pixels, theirs, (43, 51)), render(pixels, ours, (43, 51)))


def test_threads_scale_at_the_same_time_without_mixing_pixels() -> None:
    pictures = [noise(200 + i, 300) for i in range(4)]
    plan = Plan(View(0, 0, 300, 200), (150, 150))
    expected = [render(pixels, plan, tuple(pixels.shape[:2])) for pixels in pictures]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            found = render(pictures[number], plan, tuple(pictures[number].shape[:2]))
            if not torch.equal(found, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_the_kernel_torch_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, plan = noise(120, 160), Plan(View(-20, 10, 200, 140), (64, 96), is_flipped=True)
    compiled = render(pixels, plan, (120, 160), fill=FILL)
    monkeypatch.setattr(module, "kernels", lambda: None)
    assert torch.equal(render(pixels, plan, (120, 160), fill=FILL), compiled)
