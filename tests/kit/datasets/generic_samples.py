"""Opens datasets of indexed tars and compares the samples that they yield."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datamodules import ShardDataset

if TYPE_CHECKING:
    from collections.abc import Iterable


LENGTHS = [7, 1, 9, 4]
"""Samples in each tar of webdataset's writer."""
TOTAL = sum(LENGTHS) + 2
"""All samples: the tar of GNU tar has two."""
Plain = list[tuple[str, dict[str, bytes]]]
"""(key, members) of each sample."""


def data(root: object, **options: Any) -> ShardDataset:
    return ShardDataset(str(root), **{"seed": 5, "window": 2, **options})


def plain(samples: Iterable[dict[str, Any]]) -> Plain:
    """(key, members) of samples in webdataset's form."""
    return [
        (sample["__key__"], {n: content for n, content in sample.items() if n[:2] != "__"})
        for sample in samples
    ]


def keys(batches: Iterable[Any]) -> list[str]:
    return [sample["__key__"] for batch in batches for sample in batch]
