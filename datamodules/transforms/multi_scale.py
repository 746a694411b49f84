"""Draws one of several transforms for each global batch: one recipe at several sizes.

The draw depends only on (seed, epoch, first position of the global batch). So all ranks and workers
draw the same transform without communication, also after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.errors import OptionError
from shard_tool.keyed_random import seed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class MultiScale:
    """Several transforms; each global batch gets one of them, all equally likely.

    Give it to the dataset itself: in a `v2.Compose` it cannot know the batch.

    Raises:
        OptionError: There are no transforms, or one is a `MultiScale` itself.
    """

    transforms: tuple[Callable[..., Any], ...]

    def __post_init__(self) -> None:
        if not self.transforms:
            raise OptionError("multi_scale", "there is no size to draw from")
        if any(isinstance(transform, MultiScale) for transform in self.transforms):
            raise OptionError("multi_scale", "one is inside another", "give all sizes to one")

    @property
    def __name__(self) -> str:
        """The name of its first transform, for messages."""
        first = self.transforms[0]
        return str(getattr(first, "__name__", type(first).__name__))

    def drawn(self, *key: int | str) -> Callable[..., Any]:
        """The transform drawn by this key."""
        return self.transforms[seed_of(("size", *key)) % len(self.transforms)]

    def __call__(self, *_: Any) -> Any:
        """Refuse: one sample alone has no batch.

        Raises:
            TypeError: Always.
        """
        message = "a size is drawn for a whole batch: give multi_scale itself to the dataset"
        raise TypeError(f"{message}, with what comes before or after it inside")


def drawn_transforms(
    transform: Callable[..., Any] | None,
    seed: int,
    epoch: int,
    sample_ids: Sequence[int],
    *,
    batch_start: int | None = None,
) -> list[Callable[..., Any] | None]:
    """The transform of each sample.

    Args:
        transform: The dataset's transform; only a `MultiScale` is drawn from.
        seed: The dataset's seed.
        epoch: The epoch.
        sample_ids: The samples.
        batch_start: First position of their global batch, which gets one transform; None: each
            sample gets its own.
    """
    if not isinstance(transform, MultiScale):
        return [transform] * len(sample_ids)
    if batch_start is not None:
        return [transform.drawn("batch", seed, epoch, batch_start)] * len(sample_ids)
    return [transform.drawn("sample", seed, epoch, sample_id) for sample_id in sample_ids]
