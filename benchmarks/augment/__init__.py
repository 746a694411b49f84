"""SSD's recipe, and segmentation's, as people write them with each library: one module each.

* `ssd(jpeg, text)` makes a sample of a JPEG and its JSON: see `benchmarks.work.Prepared`.
* `ssd_batch(samples)`, where a library works on batches, makes one of what its `ssd` made.
* `segmentation(jpeg, mask)` makes (picture, mask), uint8 [3, 256, 256] and [256, 256].

No library has all that SSD's recipe does but torchvision; what another does instead is said in its
module, and is what comes nearest.
"""

from __future__ import annotations

import importlib.util
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

NAMES = ("torchvision", "albumentations", "kornia")
FILL = (123, 117, 104)
"""RGB of what zooming out puts around a picture."""
SSD_PX = 300
SEGMENTATION_PX = 256


def is_installed(name: str) -> bool:
    """Whether a module is here; it is not imported, but what it lies in is."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even that
        return False


def load(name: str) -> ModuleType:
    """The module of a library."""
    return import_module(f"benchmarks.augment.{name}")
