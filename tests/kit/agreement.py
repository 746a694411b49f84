"""Compares what we read with what other people's libraries read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.format.sample import parse_sample
from tests.kit.datasets.converted import manifest_of, samples_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.kit.other_readers import Objects

NO_SIZE = (math.inf, math.inf)


def objects_of(dataset: Path, split: str = "") -> dict[str, Objects]:
    """Stem of a picture's file to its objects, of a split or of all."""
    found: dict[str, Objects] = {}
    for one in [split] if split else manifest_of(dataset)["splits"]:
        for key, members in samples_of(dataset, one).items():
            sample = parse_sample(members["json"], place=key)
            stem = Path(sample.file).stem if sample.file else key
            assert stem not in found
            found[stem] = [[item.name, *(item.bbox or ())] for item in sample.objects]
    return found


def assert_agrees(
    found: Mapping[str, Objects],
    others: Mapping[str, Objects | str] | str,
    size: tuple[float, float] = NO_SIZE,
    atol: float | None = None,
) -> None:
    """Names and order are equal, and boxes.

    Args:
        found: Ours.
        others: Those of a witness.
        size: Width and height to which boxes of others are clipped.
        atol: Within how many pixels boxes are equal; None: to a float32.
    """
    assert found
    assert not isinstance(others, str), others
    assert found.keys() <= others.keys()
    for key, objects in found.items():
        its = others[key]
        assert not isinstance(its, str), f"{key}: {its}"
        assert [item[0] for item in objects] == [item[0] for item in its], key
        boxes, expected = (np.array([item[1:] for item in some]) for some in (objects, its))
        if len(expected):
            expected = np.clip(expected, 0, [*size, *size])
        if atol is None:
            np.testing.assert_array_equal(
                boxes.astype(np.float32), expected.astype(np.float32), key
            )
        else:
            np.testing.assert_allclose(boxes, expected, rtol=0, atol=atol, err_msg=key)
