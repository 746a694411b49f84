"""Tells whether an annotation is about a picture as it is stored, or as EXIF turns it upright."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shard_tool.pictures.header import Header
    from shard_tool.sources.annotation import Annotation

_VOC_DATABASE = re.compile(r"The (PASCAL )?VOC ?20\d\d Database", re.IGNORECASE)

Size = tuple[int, int]


def tells_turned(
    header: Header, annotation: Annotation | None, mask_wh: Size | None, *, is_voc: bool
) -> bool | None:
    """Whether an annotation is about the upright picture, by the size that it declares.

    Args:
        header: The picture's header, with an orientation other than 1.
        annotation: What its annotation says; None: it has none.
        mask_wh: Width and height of its mask; None: it has none.
        is_voc: Whether its source's classes are VOC's; other people copy VOC's database tag.

    Returns:
        None where nothing tells: a square or half-turned picture, or no declared size. A size that
        is neither tells by its longer side.
    """
    source = annotation.source if annotation else None
    if is_voc and source and source.database and _VOC_DATABASE.fullmatch(source.database):
        return False  # the devkit reads pictures by MATLAB's imread, which did not turn them
    if mask_wh is None and (annotation is None or not annotation.objects):
        return True  # there is nothing that could belong to the stored pixels
    declared = declared_size(annotation) or mask_wh
    if declared is None or not header.is_transposed or header.size_wh[0] == header.size_wh[1]:
        return None
    if declared in (header.size_wh, header.upright_wh):
        return declared == header.upright_wh
    if declared[0] == declared[1]:
        return None
    is_wide = declared[0] > declared[1]
    return is_wide == (header.upright_wh[0] > header.upright_wh[1])


def declared_size(annotation: Annotation | None) -> Size | None:
    """Width and height of the picture as its annotation says it; None if it says none, or 0."""
    if annotation is None or annotation.size_whd is None:
        return None
    width, height = annotation.size_whd[:2]
    return (width, height) if width > 0 and height > 0 else None
