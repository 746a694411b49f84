"""Holds what a sample's annotation says, as COCO's metric needs it, whatever a transform does."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Truth(NamedTuple):
    """All objects of a sample that have a box, in pixels of the upright picture as it is stored.

    Targets of evaluation loaders (`shuffle=False`) hold it under `truth`.
    """

    key: str
    """The sample's."""
    image_id: int | str | None
    """The source's id of the picture, such as COCO's; None: it has none."""
    category_ids: tuple[int | str, ...]
    """COCO's id of each class, in the order of labels: the source's, else the labels."""
    size_wh: tuple[int, int]
    """Width and height of the picture."""
    boxes: NDArray[np.float64]
    """float64 [N, 4]: x, y, width, height, as COCO's file writes them."""
    labels: NDArray[np.int64]
    """int64 [N], 1 … K."""
    areas: NDArray[np.float64]
    """float64 [N]: the annotation's own area, else that of the box."""
    are_ignored: NDArray[np.bool_]
    """bool [N]: crowds, and objects marked difficult: they need not be found."""
    have_id_0: NDArray[np.bool_]
    """bool [N]: whether 0 is COCO's id of the annotation; pycocotools never counts it as found."""
    to_original: tuple[float, float, float, float] | None
    """(x scale, x offset, y scale, y offset) from pixels of the picture that a transform made to
    those of the stored one; a negative scale mirrors. None: unknown."""
