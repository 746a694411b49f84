"""What a batch cost: seconds by what they were spent on, bytes by where they lay."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Cost:
    """Of one batch, or of several added up; measured where it is spent.

    Bytes are those of whole samples, tar headers included.
    """

    num_samples: int = 0
    """Samples in the batch."""
    wait_s: float = 0.0
    """Seconds the training process waited for the batch; next to 0 where it lay ready."""
    start_s: float = 0.0
    """Of `wait_s`: what a pass's first batch was waited for, start of workers included."""
    hand_over_s: float = 0.0
    """Of `wait_s`: from when the batch was made until it was here; 0 for a pass's first batch."""
    fetch_s: float = 0.0
    """Seconds the worker waited for bytes: for shards to be in the cache, and for read-through."""
    decode_s: float = 0.0
    """Seconds in decoders."""
    transform_s: float = 0.0
    """Seconds in the transform."""
    collate_s: float = 0.0
    """Seconds packing."""
    disk_bytes: int = 0
    """Read from local shards."""
    cache_bytes: int = 0
    """Read from the cache."""
    read_through_bytes: int = 0
    """Read by range from a remote shard that was not in the cache."""
    network_bytes: int = 0
    """Fetched into the cache by this worker since its last batch, whichever batch needs them."""
    queue_depth: int = 0
    """Batches that lay ready behind this one when it was taken."""
    made_at: float = 0.0
    """When the batch was made, by `time.perf_counter`, which all processes of a machine share."""

    @property
    def sample_bytes(self) -> int:
        """Bytes of the batch's samples, wherever they were read from."""
        return self.disk_bytes + self.cache_bytes + self.read_through_bytes

    @property
    def worker_s(self) -> float:
        """Seconds somebody spent making the batch: a worker, or without one this process."""
        return self.fetch_s + self.decode_s + self.transform_s + self.collate_s

    def received(self, *, asked: float, now: float, is_first: bool) -> None:
        """Note that the batch is here.

        What lay ready was handed over while nobody waited: only the end of its way, if any, counts.

        Args:
            asked: When it was asked for, by `time.perf_counter`.
            now: When it came.
            is_first: Whether a pass begins with it.
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
