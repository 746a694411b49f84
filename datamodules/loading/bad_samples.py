"""Chooses a substitute for each bad sample, and raises an error if there are too many.

A bad sample is one whose verified bytes fail to decode or to transform.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from datamodules.transforms.fused import FusedTransform
from datamodules.transforms.multi_scale import MultiScale
from shard_tool.errors import OptionError, SampleError
from shard_tool.keyed_random import seed_of

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

ON_BAD_SAMPLE = ("raise", "substitute")
_MAX_SUBSTITUTES = 16
"""Samples tried in place of a bad one before its error is raised."""


def check_on_bad_sample(on_bad_sample: str, max_bad_samples: int) -> None:
    """Refuse options that are impossible.

    Raises:
        OptionError: One of them is.
    """
    if on_bad_sample not in ON_BAD_SAMPLE:
        problem = f"{on_bad_sample!r} is not one of {', '.join(ON_BAD_SAMPLE)}"
        raise OptionError("on_bad_sample", problem)
    if max_bad_samples < 0:
        raise OptionError("max_bad_samples", f"{max_bad_samples} is below 0")


def check_can_substitute(transform: object, on_bad_sample: str) -> None:
    """Refuse substitutes where the device decodes: by then the batch is made.

    Raises:
        OptionError: The transform decodes on the device, and bad samples shall be substituted.
    """
    recipes = transform.transforms if isinstance(transform, MultiScale) else [transform]
    on_device = any(isinstance(r, FusedTransform) and r.decode == "cuda" for r in recipes)
    if on_device and on_bad_sample != "raise":
        problem = f"{on_bad_sample!r} cannot replace what does not decode on the device"
        raise OptionError("on_bad_sample", problem, "take 'raise', or decode='exact'")


def substitute_positions(
    position: int, window: range, *, seed: int, epoch: int, sample_id: int
) -> Iterator[int]:
    """Positions to try in place of a bad sample, the same on every topology.

    Args:
        position: Position of the bad sample.
        window: All positions of its window.
        seed: The dataset's seed.
        epoch: The epoch.
        sample_id: The bad sample.
    """
    for attempt in range(_MAX_SUBSTITUTES):
        key = ("substitute", seed, epoch, sample_id, attempt)
        other = window[seed_of(key) % len(window)]
        if other != position:
            yield other


def note_bad_samples(known: dict[int, str], found: dict[int, str], limit: int) -> dict[int, str]:
    """Add bad samples (sample id to reason) to those known, and warn of each new one.

    Raises:
        SampleError: There are more than `limit`.
    """
    for sample_id, reason in found.items():
        if sample_id not in known:
            log.warning("sample %d substituted: %s", sample_id, reason)
    bad = known | found
    if len(bad) > limit:
        problem = f"{len(bad)} exceed max_bad_samples {limit}"
        raise SampleError("bad samples", problem, f"the first: {'; '.join(list(bad.values())[:3])}")
    return bad
