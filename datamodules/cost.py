"""What the making of a batch cost: seconds by what they were spent on, bytes by where they lay."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Cost:
    """Of one batch; measured where it is spent, added up in the worker that makes the batch.

    Bytes are those of whole samples, tar headers included.
    """

    wait_s: float = 0.0
    """Seconds the training process waited for the batch; 0 where it lay ready."""
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

    @property
    def sample_bytes(self) -> int:
        """Bytes of the batch's samples, wherever they were read from."""
        return self.disk_bytes + self.cache_bytes + self.read_through_bytes

    def __add__(self, other: Cost) -> Cost:
        names = [field.name for field in fields(self)]
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in names})
