"""A transform that is drawn for each batch: one recipe at several sizes.

Which of them a global batch gets follows from (seed, epoch, first position of the batch), so that
all ranks and all workers draw the same one, also after a resume: nobody has to tell anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.errors import OptionError
from shard_tool.keyed_random import seed_of

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class MultiScale:
    """Several transforms, one of which is drawn for each global batch, each as likely.

    Only where a dataset itself is given it: in a `v2.Compose` it knows of no batch.

    Raises:
        OptionError: There are none.
    """

    transforms: tuple[Callable[..., Any], ...]

    def __post_init__(self) -> None:
        if not self.transforms:
            raise OptionError("multi_scale", "there is no size to draw from")
        if any(isinstance(transform, MultiScale) for transform in self.transforms):
            raise OptionError("multi_scale", "one is inside another", "give all sizes to one")

    @property
    def __name__(self) -> str:
        """What people call it: the name of its first transform."""
        first = self.transforms[0]
        return str(getattr(first, "__name__", type(first).__name__))

    def drawn(self, *key: int | str) -> Callable[..., Any]:
        """The transform that this key draws."""
        return self.transforms[seed_of(("size", *key)) % len(self.transforms)]

    def __call__(self, *_: Any) -> Any:
        """Refuse: one sample alone belongs to no batch.

        Raises:
            TypeError: Always.
        """
        message = "a size is drawn for a whole batch: give multi_scale itself to the dataset"
        raise TypeError(f"{message}, with what comes before or after it inside")
