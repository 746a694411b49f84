"""Says what a format's reader found in a source, before the source is opened by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shard_tool.sources.source import Source


class Found(NamedTuple):
    """Data of one format in a source."""

    format: str
    """Name of the format, such as 'coco'."""
    evidence: str
    """What tells it, for the user."""
    open: Callable[[], Sequence[Source]]
    """Opens it: one source, or one for each dataset in it."""
