"""What the requests for a dataset were for: whole shards and spans of them, or single samples."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tests.kit.datasets.converted import manifest_of
from tests.kit.datasets.stored import shard_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.kit.faults.kinds import Request

Part = tuple[str, int, int]
"""(shard, start, stop): bytes that were asked for."""


class Traffic:
    """The shards of a dataset, as their indexes describe them.

    Args:
        folder: The dataset on this machine.
        split: One of its splits.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        self.num_bytes: dict[str, int] = {}
        """Of each shard, by name, in manifest order."""
        self._starts: dict[str, list[int]] = {}
        for shard in manifest_of(folder)["splits"][split]["shards"]:
            name, num_samples = shard["name"], shard["num_samples"]
            index = (folder / f"{name}.idx").read_bytes()
            self.num_bytes[name] = shard["num_bytes"]
            self._starts[name] = np.frombuffer(index, "<u8", num_samples + 1).tolist()

    @property
    def sample_bytes(self) -> list[int]:
        """Bytes of each sample, by id; what a tar ends with goes with its last sample."""
        sizes = []
        for name, starts in self._starts.items():
            sizes += [
                stop - start for start, stop in pairwise([*starts[:-1], self.num_bytes[name]])
            ]
        return sizes

    def downloads(self, requests: Iterable[Request]) -> Counter[Part]:
        """How often each shard, or span of several samples, was asked for."""
        return Counter(part for part in self._parts(requests) if not self._is_sample(part))

    def read_through(self, requests: Iterable[Request]) -> Counter[Part]:
        """How often each single sample was asked for."""
        return Counter(part for part in self._parts(requests) if self._is_sample(part))

    def _parts(self, requests: Iterable[Request]) -> Iterable[Part]:
        for name, at in shard_ranges(requests):
            if name in self.num_bytes:
                assert at is not None
                assert at[1] is not None
                yield name, at[0], at[1]

    def _is_sample(self, part: Part) -> bool:
        name, start, stop = part
        starts = self._starts[name]
        if (start, stop) == (0, self.num_bytes[name]):
            return False
        return starts.index(stop) - starts.index(start) == 1


def bytes_of(parts: Counter[Part]) -> int:
    """Bytes of all parts, repetitions included."""
    return sum((stop - start) * times for (_, start, stop), times in parts.items())
