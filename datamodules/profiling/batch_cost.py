"""Measures what a batch cost: seconds by kind of work, bytes by where they were read."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Cost:
    """The cost of one batch, or the sum of several.

    Bytes are those of whole samples, tar headers included.
    """

    num_samples: int = 0
    """Samples in the batch."""
    wait_s: float = 0.0
    """Seconds the training process waited for the batch; almost 0 if it was ready."""
    start_s: float = 0.0
    """Of `wait_s`: the wait for a pass's first batch, start of workers included."""
    hand_over_s: float = 0.0
    """Of `wait_s`: from when a worker had made the batch until it arrived; 0 for a pass's first."""
    fetch_s: float = 0.0
    """Seconds the worker waited for bytes: of shards that the cache fetches, or by range."""
    decode_s: float = 0.0
    """Seconds in decoders."""
    transform_s: float = 0.0
    """Seconds in the transform."""
    collate_s: float = 0.0
    """Seconds packing samples into the batch."""
    disk_bytes: int = 0
    """Read from local shards."""
    cache_bytes: int = 0
    """Read from the cache."""
    read_through_bytes: int = 0
    """Read by range from a remote shard that was not in the cache."""
    network_bytes: int = 0
    """Fetched into the cache by this worker since its last batch, for any batch."""
    queue_depth: int = 0
    """Batches that were ready behind this one when it was taken."""
    made_at: float = 0.0
    """When the batch was ready, by `time.perf_counter`: all processes of a machine share it."""

    @property
    def sample_bytes(self) -> int:
        """Bytes of the batch's samples, from all sources."""
        return self.disk_bytes + self.cache_bytes + self.read_through_bytes

    @property
    def worker_s(self) -> float:
        """Seconds spent making the batch: by a worker, or by this process without workers."""
        return self.fetch_s + self.decode_s + self.transform_s + self.collate_s

    def received(self, *, asked: float, now: float, is_first: bool) -> None:
        """Note that the batch arrived.

        The hand-over counts only as far as this process waited for it.

        Args:
            asked: When the batch was asked for, by `time.perf_counter`.
            now: When it arrived.
            is_first: Whether it is a pass's first batch.
        """
        self.wait_s = now - asked
        if is_first:
            self.start_s = self.wait_s
        else:
            self.hand_over_s = max(0.0, min(now - self.made_at, self.wait_s))

    def __add__(self, other: Cost) -> Cost:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _NAMES}
        return Cost(**sums | {"made_at": max(self.made_at, other.made_at)})


_NAMES = [field.name for field in fields(Cost)]
