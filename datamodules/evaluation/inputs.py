"""Turns what evaluators are given into NumPy arrays, and refuses what cannot be judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shard_tool.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    SampleIds = torch.Tensor | Sequence[int]


def sample_id_array(sample_ids: SampleIds, **given: Any) -> NDArray[np.int64]:
    """Copy sample ids into an int64 array [B].

    Raises:
        EvaluationError: One of `given` has another length.
    """
    if isinstance(sample_ids, torch.Tensor):
        sample_ids = sample_ids.tolist()
    ids = np.array(sample_ids, np.int64).reshape(-1)
    for place, things in given.items():
        if len(things) != len(ids):
            raise EvaluationError(place, f"{len(things)} for {len(ids)} samples")
    return ids


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Copy a tensor to NumPy; short floats become float32, for NumPy has no bfloat16."""
    tensor = tensor.detach()
    is_short = tensor.is_floating_point() and tensor.dtype != torch.float64
    return (tensor.float() if is_short else tensor).cpu().numpy()


def check_rows(
    place: str, rows: NDArray[Any], column: str, is_good: NDArray[np.bool_], expected: str
) -> None:
    """Refuse rows whose column is not good.

    Raises:
        EvaluationError: Names the first such sample, its value, and what was expected.
    """
    bad = np.flatnonzero(~is_good)
    if len(bad):
        row = rows[bad[0]]
        problem = f"{column} {row[column].tolist()}, expected {expected}"
        raise EvaluationError(f"{place} of sample {row['sample_id']}", problem)
