"""Loads the compiled functions of `kernels.c`, which scale, recolour and fill pixels.

They are compiled at installation. Where that was not possible, or the processor lacks AVX2, torch,
NumPy and OpenCV do the same more slowly, with the same pixels to the last bit: nodes may differ.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

log = logging.getLogger(__name__)

_VERSION = 3
"""Version of the functions' arguments; kernels.c must have the same number."""

Axis = ctypes.c_int64 * 8
"""The struct `Axis` of kernels.c."""
Frame, Seen = ctypes.c_double * 4, ctypes.c_int64 * 4
"""`view` and `seen` of its function `voc_fill`."""


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled functions; None: there are none that this processor can run."""
    # The file lies beside this one and is named like an extension module, for the installer only.
    stem = Path(__file__).with_name("_kernels")
    for suffix in EXTENSION_SUFFIXES:
        path = stem.with_name(stem.name + suffix)
        if path.exists():
            try:
                return _loaded(path)
            except (OSError, AttributeError) as exc:  # for another system, cut, or not ours
                log.warning("%s cannot be used, pixels take longer: %s", path.name, exc)
    return None


def _loaded(path: Path) -> ctypes.CDLL | None:
    found = ctypes.CDLL(str(path))
    if found.voc_version() != _VERSION:
        log.warning("%s is of another release, pixels take longer: install again", path.name)
        return None
    if not found.voc_can_run():
        return None
    pointer, number, count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    weights, offsets, sums = ctypes.c_int16 * 9, ctypes.c_int32 * 3, ctypes.c_int64 * 3
    picture, size = (pointer, number), (number, number)
    found.voc_resample.argtypes = [*picture, Axis, Axis, ctypes.c_char_p, count, *picture]
    found.voc_recolor.argtypes = [*picture, *size, weights, offsets, count, *picture]
    found.voc_sums.argtypes = [*picture, *size, sums]
    outlines = (pointer, pointer, pointer, number)
    found.voc_fill.argtypes = [*outlines, Frame, Seen, number, pointer, *size]
    found.voc_recolor.restype = found.voc_sums.restype = None
    return found
