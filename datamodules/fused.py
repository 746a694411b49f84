"""A transform that is drawn before its picture is decoded.

What there is to draw needs a picture's size and its boxes only. So the picture is decoded once, as
small as will do, scaled once and put in place once, where a chain of transforms makes a new picture
at each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors

from datamodules.color import ColorChange
from datamodules.decode import decode_mask
from datamodules.geometry import Plan, kept_boxes
from datamodules.randomness import seed_generators
from datamodules.render import render, render_jpeg, render_mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_NOTHING = ColorChange()


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for one sample."""

    plan: Plan
    change: ColorChange = _NOTHING
    is_kept: NDArray[np.bool_] | None = None
    """bool [N]: boxes that a crop keeps; None: those that are large enough."""


Draw: TypeAlias = Callable[[tuple[int, int], "NDArray[np.float32]", np.random.Generator], Drawn]
"""(height, width) of the stored picture, its boxes float32 [N, 4], what draws."""


@dataclass(frozen=True)
class FusedTransform:
    """Geometry and colours drawn first, and done in one go.

    Given to a dataset, it decodes the pictures itself. Called as `(image, target)`, as where it
    follows other transforms in a `v2.Compose`, it does the same to a decoded picture.

    Args:
        draw: Draws what is to be done; a function at the top of a module, or a `partial` of one,
            where it is to reach spawned workers.
        fill: RGB of what lies beyond the picture.
        min_size: Pixels of the output that both sides of a box must have.
        min_visible: Least share of a box's area that must be seen.
        after: Transforms `(image, target) -> (image, target)` of what comes out, each in turn.
    """

    draw: Draw
    fill: tuple[int, int, int] = (0, 0, 0)
    min_size: float = 1.0
    min_visible: float = 0.0
    after: tuple[Callable[[Any, Any], Any], ...] = ()

    def then(self, *transforms: Callable[[Any, Any], Any]) -> FusedTransform:
        """The same, followed by others."""
        return replace(self, after=(*self.after, *transforms))

    def __call__(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Transform a decoded picture: uint8 [3, H, W], and its target or mask.

        Raises:
            TypeError: The picture is no such tensor.
        """
        if not (isinstance(image, torch.Tensor) and image.dtype == torch.uint8 and image.ndim == 3):
            found = f"{image.dtype}" if isinstance(image, torch.Tensor) else type(image).__name__
            message = f"a recipe takes uint8 [3, H, W], not {found}: convert to float after it"
            raise TypeError(message)
        pixels = image.as_subclass(torch.Tensor)
        size_hw = (int(pixels.shape[1]), int(pixels.shape[2]))
        seeds = torch.randint(2**63 - 1, (2,)).tolist()
        drawn = self._drawn(size_hw, target, np.random.Philox(key=seeds))
        output = render(
            pixels.permute(1, 2, 0), drawn.plan, size_hw, change=drawn.change, fill=self.fill
        )
        if not isinstance(target, dict):
            mask = render_mask(torch.as_tensor(target).as_subclass(torch.Tensor), drawn.plan)
            return self._finished(output, tv_tensors.Mask(mask))
        return self._finished(output, self._moved(target, drawn))

    def load(
        self,
        jpeg: bytes | memoryview,
        target: dict[str, Any] | None,
        mask: bytes | memoryview | None,
        *,
        size_hw: tuple[int, int],
        random_key: bytes,
        place: str,
    ) -> tuple[Any, Any]:
        """Transform a stored sample.

        Args:
            jpeg: The picture's bytes.
            target: `targets.detection_target`; None where there is a mask.
            mask: The mask's bytes.
            size_hw: (height, width) of the stored picture.
            random_key: What is drawn by; 32 bytes.
            place: What errors call the sample.

        Raises:
            SampleError: The bytes do not decode.
        """
        key = np.frombuffer(random_key[:16], "<u8")
        drawn = self._drawn(size_hw, target, np.random.Philox(key=key))
        output = render_jpeg(
            jpeg, drawn.plan, size_hw, place=place, change=drawn.change, fill=self.fill
        )
        if self.after:
            seed_generators(random_key)
        if target is None:
            assert mask is not None
            return self._finished(
                output, tv_tensors.Mask(render_mask(decode_mask(mask, place=place), drawn.plan))
            )
        return self._finished(output, self._moved(target, drawn))

    def _drawn(self, size_hw: tuple[int, int], target: Any, bits: np.random.Philox) -> Drawn:
        boxes = np.zeros((0, 4), np.float32)
        if isinstance(target, dict):
            boxes = target["boxes"].as_subclass(torch.Tensor).numpy()
        return self.draw(size_hw, boxes, np.random.Generator(bits))

    def _moved(self, target: Mapping[str, Any], drawn: Drawn) -> dict[str, Any]:
        boxes = target["boxes"].as_subclass(torch.Tensor).numpy()
        moved, is_kept = kept_boxes(
            drawn.plan, boxes, min_size=self.min_size, min_visible=self.min_visible
        )
        if drawn.is_kept is not None:
            is_kept &= drawn.is_kept
        rows = torch.from_numpy(np.flatnonzero(is_kept))
        found = dict(target)
        found["boxes"] = tv_tensors.BoundingBoxes(
            torch.from_numpy(moved[is_kept]), format="XYXY", canvas_size=drawn.plan.size_hw
        )
        for name in ("labels", "difficult"):
            if name in target:  # `PerBox` labels know which flags are theirs
                found[name] = target[name][rows]
        return found

    def _finished(self, output: torch.Tensor, target: Any) -> tuple[Any, Any]:
        image: Any = output
        if self.after:
            image = tv_tensors.Image(output)
        for transform in self.after:
            image, target = transform(image, target)
        return image, target
