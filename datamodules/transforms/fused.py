"""Transforms a picture by a recipe that is drawn before the picture is decoded.

Drawing needs only a picture's size and boxes. So the picture is decoded once, as small as possible,
and scaled and placed once. A chain of transforms would make a new picture at each step.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import convert_bounding_box_format

from datamodules.pixels.color import ColorChange
from datamodules.pixels.decode import decode_scaled, is_for_device
from datamodules.pixels.geometry import Plan, decode_factor, kept_boxes
from datamodules.pixels.render import nearest, render, render_mask
from datamodules.pixels.upright import turned_size
from datamodules.transforms.device_work import DeviceWork, work_for_device
from datamodules.transforms.linked_labels import LinkedLabels, linked_flags, linked_masks
from datamodules.transforms.seeding import seed_generators
from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECODE = ("exact", "fast", "cuda")
RECOLOR_ON = ("worker", "device")

_NOTHING = ColorChange()
_NO_BYTES = torch.empty(0, dtype=torch.uint8)
_NO_BOXES = np.zeros((0, 4), np.float32)
_PER_BOX = ("labels", "difficult", "area", "iscrowd")
"""Fields of a target that have one value for each box."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for one sample."""

    plan: Plan
    change: ColorChange = _NOTHING
    is_kept: NDArray[np.bool_] | None = None
    """bool [N]: boxes that a crop keeps, of those that are large enough; None: all of those."""


class Planned(NamedTuple):
    """What a recipe will do to one stored sample."""

    drawn: Drawn
    boxes: NDArray[np.float32]
    """float32 [K, 4]: the kept boxes, in the output."""
    is_kept: NDArray[np.bool_]
    """bool [N]: which boxes are kept."""


class Rendered(NamedTuple):
    """The pictures of a stored sample after a recipe."""

    image: torch.Tensor
    """uint8 [3, H, W], or what is sent to the device instead: see `DeviceWork.sent`."""
    mask: torch.Tensor | None
    """uint8 [H, W]; None but for segmentation."""
    device_work: DeviceWork | None
    """What is left to the device; None: nothing."""


Draw: TypeAlias = Callable[[tuple[int, int], "NDArray[np.float32]", np.random.Generator], Drawn]
"""(height, width) of the upright picture, its boxes float32 [N, 4], and a generator -> `Drawn`.

Draw from this generator alone, or results depend on what a worker did before. Do not keep it: after
the call it draws for another sample."""


class _ThreadGenerator(threading.local):
    """One generator for each thread, set to a new key for each sample.

    Setting a key takes a tenth of the time that a new generator takes.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state  # the state before the first draw

    def keyed(self, key: NDArray[np.uint64]) -> np.random.Generator:
        """A generator that draws like a new `Philox` with this key, uint64 [2].

        The next call changes it.
        """
        self._state["state"]["key"] = key
        self._bits.state = self._state
        return self._generator


_thread_generator = _ThreadGenerator()


@dataclass(frozen=True)
class FusedTransform:
    """A recipe: it draws geometry and colours first, and applies both in one step.

    Given to a dataset, it decodes the pictures itself. Called as `(image, target)`, for example
    after other transforms in a `v2.Compose`, it does the same to a decoded picture. There it draws
    other numbers: it knows torch's generator but not the sample's key.

    Args:
        draw: Draws what to do. To reach spawned workers it must be a function at the top of a
            module, or a `partial` of one.
        fill: RGB of what lies beyond the picture.
        min_size: Pixels of the output that both sides of a box must have.
        min_visible: Least share of a box's area that must be seen.
        after: Transforms `(image, target) -> (image, target)` to apply afterwards, in turn.
        decode: 'exact'. Or 'fast': libjpeg-turbo's quick methods, and decoding at a fraction of the
            size that leaves 0.8 decoded pixels to an output pixel. Or 'cuda': JPEG files are sent
            to the device, which decodes, scales and places them. docs/concepts/pixels.md compares
            them.
        recolor_on: 'worker' or 'device': where colours are changed; None: where pictures are
            decoded. `datamodules.finish` does what is left to the device, a whole batch at once.

    Raises:
        OptionError: `decode` or `recolor_on` is unknown, or they exclude each other.
    """

    draw: Draw
    fill: tuple[int, int, int] = (0, 0, 0)
    min_size: float = 1.0
    min_visible: float = 0.0
    after: tuple[Callable[[Any, Any], Any], ...] = ()
    decode: str = "exact"
    recolor_on: str | None = None

    def __post_init__(self) -> None:
        check_places(self.decode, self.recolor_on)
        fill: object = self.fill  # callers without types give anything
        if not (isinstance(fill, tuple) and len(fill) == 3 and all(map(_is_level, fill))):
            raise OptionError("fill", f"{fill!r} is not three whole numbers of 0 … 255")
        if self.after and self.is_for_device:
            problem = "transforms after a recipe need its pixels, which the device makes"
            hint = "take decode='exact' and recolor_on='worker', or do without them"
            raise OptionError("decode and recolor_on", problem, hint)

    @property
    def is_for_device(self) -> bool:
        """Whether anything is left to the device."""
        return self.decode == "cuda" or self.recolor_on == "device"

    @property
    def __name__(self) -> str:
        """The name of `draw`, for messages."""
        draw = self._drawing_function
        return getattr(draw, "__name__", type(draw).__name__).strip("_")

    @property
    def _drawing_function(self) -> object:
        return self.draw.func if isinstance(self.draw, partial) else self.draw

    @cached_property
    def _is_ours(self) -> bool:
        """Whether `draw` is one of `presets`, which draw only from the generator given to them."""
        draw = self._drawing_function
        recipes = sys.modules.get("datamodules.presets")  # which imports this module
        return getattr(recipes, getattr(draw, "__name__", ""), None) is draw

    def then(self, *transforms: Callable[[Any, Any], Any]) -> FusedTransform:
        """The same recipe, followed by these transforms."""
        return replace(self, after=(*self.after, *transforms))

    def __call__(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Transform a decoded picture: uint8 [3, H, W], and its target, mask or labels.

        Raises:
            OptionError: The recipe leaves work to the device, which needs stored pictures.
            TypeError: The recipe cannot transform a picture, boxes or a mask of this kind.
            ValueError: Picture, boxes and mask differ in size.
        """
        if self.is_for_device:
            problem = "what follows other transforms has pixels already, and no device to leave to"
            hint = "take decode='exact' and recolor_on='worker', or give the recipe alone"
            raise OptionError("decode and recolor_on", problem, hint)
        pixels = _checked_image(image)
        size_hw = (int(pixels.shape[1]), int(pixels.shape[2]))
        boxes, mask = _NO_BOXES, None
        if isinstance(target, dict):
            target = _checked_target(target, size_hw)
            boxes = target["boxes"].as_subclass(torch.Tensor).numpy()
        elif not _is_labels(target):
            mask = _checked_mask(target, size_hw)
        seeds = torch.randint(2**63 - 1, (2,)).tolist()
        planned = self._planned(size_hw, boxes, _thread_generator.keyed(np.array(seeds, np.uint64)))
        rendered = self.rendered(planned, pixels.permute(1, 2, 0), mask, size_hw=size_hw)
        if rendered.mask is not None:
            target = tv_tensors.Mask(rendered.mask)
        elif isinstance(target, dict):
            target = _moved(target, planned)
        return self.apply_after(tv_tensors.Image(rendered.image), target)

    def planned(
        self, boxes: NDArray[np.float32], *, size_hw: tuple[int, int], random_key: bytes
    ) -> Planned:
        """Draw what to do to a stored sample, and move its boxes.

        Args:
            boxes: float32 [N, 4]; N = 0 but for detection.
            size_hw: (height, width) of the upright picture.
            random_key: The key to draw by, 32 bytes.
        """
        if not self._is_ours:
            seed_generators(random_key)  # a user's `draw` may use the global generators
        key = np.frombuffer(random_key[:16], "<u8")
        return self._planned(size_hw, boxes, _thread_generator.keyed(key))

    def decoded(
        self,
        planned: Planned,
        jpeg: bytes | memoryview,
        *,
        size_hw: tuple[int, int],
        place: str,
        orientation: int = 1,
    ) -> torch.Tensor | None:
        """Decode as much of a picture as the plan needs.

        Args:
            planned: What `planned` returned.
            jpeg: The picture's bytes, of any format.
            size_hw: (height, width) of the upright picture, which its header agrees with.
            place: The picture's name in messages.
            orientation: EXIF orientation of the stored picture.

        Returns:
            uint8 [h, w, 3] as stored, perhaps decoded smaller; or [n], the JPEG file, if the device
            decodes it. None: nothing of the picture is seen.

        Raises:
            SampleError: The bytes do not decode.
        """
        plan, fast = planned.drawn.plan, self.decode == "fast"
        if not plan.view.meets(size_hw):
            return None
        if self.decode == "cuda" and is_for_device(jpeg):
            return torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        factor, stored_hw = decode_factor(plan, size_hw, fast=fast), size_hw
        if orientation != 1:
            stored_hw = turned_size(size_hw, orientation)
        values = decode_scaled(jpeg, factor, place=place, size_hw=stored_hw, fast=fast)
        return torch.from_numpy(values)

    def rendered(
        self,
        planned: Planned,
        pixels: torch.Tensor | None,
        mask: torch.Tensor | None,
        *,
        size_hw: tuple[int, int],
        orientation: int = 1,
    ) -> Rendered:
        """Apply a plan to decoded pictures, except for what is left to the device.

        Args:
            planned: What `planned` returned.
            pixels: What `decoded` returned.
            mask: uint8 [h, w] of the upright picture; None but for segmentation.
            size_hw: (height, width) of the upright picture.
            orientation: EXIF orientation of the stored picture.
        """
        plan, change, work = planned.drawn.plan, planned.drawn.change, None
        if mask is not None:
            mask = render_mask(mask, plan)
        if self.is_for_device:
            is_rendered = self.decode != "cuda"
            work = work_for_device(
                pixels,
                plan,
                size_hw,
                change=change,
                fill=self.fill,
                is_rendered=is_rendered,
                orientation=orientation,
            )
            if not is_rendered:
                return Rendered(_NO_BYTES if pixels is None else pixels, mask, work)
            change = _NOTHING
        image = render(
            pixels, plan, size_hw, change=change, fill=self.fill, orientation=orientation
        )
        return Rendered(image, mask, work)

    def apply_after(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Apply the transforms that follow the recipe to (image, target)."""
        for transform in self.after:
            image, target = transform(image, target)
        return image, target

    def _planned(
        self, size_hw: tuple[int, int], boxes: NDArray[np.float32], generator: np.random.Generator
    ) -> Planned:
        drawn: object = self.draw(size_hw, boxes, generator)
        if not isinstance(drawn, Drawn):
            raise TypeError(f"it drew {type(drawn).__name__}, expected Drawn")
        moved, is_kept = kept_boxes(
            drawn.plan, boxes, min_size=self.min_size, min_visible=self.min_visible
        )
        if drawn.is_kept is not None:
            is_kept &= drawn.is_kept
        return Planned(drawn, moved[is_kept], is_kept)


def _is_level(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= 255


def check_places(decode: str, recolor_on: str | None) -> None:
    """Refuse impossible places to decode and recolour pictures.

    Raises:
        OptionError: `decode` or `recolor_on` is unknown, or they exclude each other.
    """
    for name, value, known in (
        ("decode", decode, DECODE),
        ("recolor_on", recolor_on, (None, *RECOLOR_ON)),
    ):
        if value not in known:
            raise OptionError(name, f"{value!r} is not one of {', '.join(map(repr, known))}")
    if decode == "cuda" and recolor_on == "worker":
        problem = "a worker has no pixels where decode is 'cuda'"
        raise OptionError("recolor_on", problem, "take 'device', or decode='exact'")


def _moved(target: dict[str, Any], planned: Planned) -> dict[str, Any]:
    """The target of a decoded picture, with its boxes and masks moved."""
    found, is_kept = dict(target), planned.is_kept
    found["boxes"] = tv_tensors.BoundingBoxes(
        torch.from_numpy(planned.boxes),
        format="XYXY",
        canvas_size=planned.drawn.plan.size_hw,
    )
    rows = torch.from_numpy(np.flatnonzero(is_kept))
    labels = target.get("labels")
    if isinstance(labels, LinkedLabels):  # an earlier transform may have dropped boxes only
        found["difficult"] = linked_flags(target.get("difficult"), labels)
        if "iscrowd" in found:
            found["iscrowd"] = linked_flags(target["iscrowd"], labels, "iscrowd")
    for name in _PER_BOX:
        if name in found and len(found[name]) == len(is_kept):
            found[name] = found[name][rows]
    if "masks" in found:
        masks = linked_masks(found["masks"], labels)[rows]
        found["masks"] = tv_tensors.Mask(_moved_masks(masks, planned.drawn.plan))
    if isinstance(labels, LinkedLabels):
        plain = found["labels"].as_subclass(torch.Tensor)
        per_object = {name: found.get(name) for name in ("iscrowd", "masks")}
        found["labels"] = LinkedLabels.of(plain, found["difficult"], **per_object)
    return found


def _moved_masks(masks: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Masks uint8 [N, H, W] of the output, from those of the decoded picture; 0 beyond it."""
    found = torch.empty(len(masks), *plan.size_hw, dtype=torch.uint8)
    for moved, mask in zip(found, masks.as_subclass(torch.Tensor), strict=True):
        moved.copy_(torch.from_numpy(nearest(mask.numpy(), plan, beyond=0)))
    return found


def _checked_image(image: object) -> torch.Tensor:
    """A decoded picture, checked, as a plain tensor."""
    takes = "a recipe takes uint8 [3, H, W]"
    if not isinstance(image, torch.Tensor):
        message = f"{takes}, not {type(image).__name__}: v2.PILToTensor() before it makes it one"
        raise TypeError(message)
    if image.dtype != torch.uint8:
        raise TypeError(f"{takes}, not {image.dtype}: convert to float after it")
    if image.ndim != 3 or image.shape[0] != 3:
        message = f"{takes}, not {tuple(image.shape)}: v2.RGB() before it makes grey ones RGB"
        raise TypeError(message)
    return image.as_subclass(torch.Tensor)


def _checked_target(target: dict[str, Any], size_hw: tuple[int, int]) -> dict[str, Any]:
    """A detection target, checked, with boxes as xyxy in pixels of the picture."""
    boxes = target.get("boxes")
    if not isinstance(boxes, torch.Tensor):
        raise TypeError(f"the target's 'boxes' are {type(boxes).__name__}, expected a tensor")
    for name, value in target.items():
        if isinstance(value, tv_tensors.Mask | tv_tensors.KeyPoints) and name != "masks":
            raise TypeError(f"a recipe moves pictures, boxes and masks, not target[{name!r}]")
    if "masks" in target:
        _check_masks(target, size_hw)
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        if boxes.format.value not in {"XYXY", "XYWH", "CXCYWH"}:
            raise TypeError(f"a recipe takes upright boxes, not {boxes.format.value}")
        if boxes.canvas_size != size_hw:
            raise ValueError(f"boxes on {boxes.canvas_size}, the picture's (H, W) is {size_hw}")
        boxes = convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise TypeError(f"the target's 'boxes' are {tuple(boxes.shape)}, expected [N, 4]")
    return {**target, "boxes": boxes}


def _check_masks(target: dict[str, Any], size_hw: tuple[int, int]) -> None:
    """Check the masks of objects, uint8 [N, H, W], of which an earlier transform may drop some."""
    masks = target["masks"]
    if not isinstance(masks, torch.Tensor) or masks.ndim != 3 or masks.dtype != torch.uint8:
        found = tuple(masks.shape) if isinstance(masks, torch.Tensor) else type(masks).__name__
        kind = f", {masks.dtype}" if isinstance(masks, torch.Tensor) else ""
        raise TypeError(f"a recipe takes masks uint8 [N, H, W], not {found}{kind}")
    if tuple(masks.shape[1:]) != size_hw:
        message = f"masks {tuple(masks.shape)}, the picture's (H, W) is {size_hw}"
        raise ValueError(message)
    linked = linked_masks(masks, target.get("labels"))
    if len(linked) != len(target["boxes"]):
        message = f"{len(masks)} masks beside {len(target['boxes'])} boxes"
        raise ValueError(message)


def _is_labels(target: object) -> bool:
    """Whether a target has labels of the whole picture: one row of numbers."""
    return isinstance(target, torch.Tensor) and target.ndim == 1


def _checked_mask(mask: object, size_hw: tuple[int, int]) -> torch.Tensor:
    """A mask, uint8 [H, W], checked to have the picture's size."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"a recipe takes a dict, a mask [H, W] or labels [C], not {found}")
    if mask.dtype != torch.uint8:
        raise TypeError(f"a recipe takes a mask of uint8, not {mask.dtype}")
    if tuple(mask.shape) != size_hw:
        raise ValueError(f"a mask {tuple(mask.shape)}, the picture's (H, W) is {size_hw}")
    return mask.as_subclass(torch.Tensor)
