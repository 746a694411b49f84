"""Keeps rows about samples on each rank, and computes one result from the rows of all ranks."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch.distributed as dist

from shard_tool.errors import EvaluationError, ShardToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Tables = dict[str, NDArray[Any]]

Scores = TypeVar("Scores")

_SAMPLE = np.dtype([("sample_id", np.int64)])


class Records:
    """Tables of this rank; every row carries a `sample_id`.

    Args:
        dtypes: Name of a table to the type of its rows. One more table, `samples`, lists every
            sample, also those without rows in the others.
    """

    def __init__(self, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self._dtypes = {"samples": _SAMPLE, **dtypes}
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self.clear()

    def add(self, sample_ids: NDArray[np.int64], **rows: NDArray[Any]) -> None:
        """Add samples, and their rows to each table."""
        self._parts["samples"].append(sample_ids.view(_SAMPLE))
        for name, part in rows.items():
            self._parts[name].append(part)

    def clear(self) -> None:
        """Remove all rows."""
        self._parts = {name: [] for name in self._dtypes}

    def tables(self) -> Tables:
        """All rows of this rank, in the order they were added."""
        return {
            name: np.concatenate([np.empty(0, dtype), *self._parts[name]])
            for name, dtype in self._dtypes.items()
        }

    def over_ranks(self, score: Callable[[Tables], Scores], num_samples: int | None) -> Scores:
        """Compute `score` on rank 0 from the rows of all ranks, and return it on every rank.

        Every rank must call this.

        Args:
            score: Gets the merged tables.
            num_samples: Samples there must be over all ranks; None: any number.

        Raises:
            EvaluationError: `merge` or `score` failed. Raised on every rank, so that none waits
                for ever.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return score(merge([self.tables()], num_samples))
        is_first = dist.get_rank() == 0
        ranks: list[Any] | None = [None] * dist.get_world_size() if is_first else None
        outcome: list[Any] = [None]
        with _cpu_group() as group:
            dist.gather_object(self.tables(), ranks, group=group)
            if ranks is not None:
                outcome = [_outcome(lambda: score(merge(ranks, num_samples)))]
            dist.broadcast_object_list(outcome, group=group)
        if isinstance(outcome[0], ShardToolError):
            raise outcome[0]
        scores: Scores = outcome[0]
        return scores


def merge(ranks: Sequence[Tables], num_samples: int | None = None) -> Tables:
    """Merge the tables of all ranks, sorted by sample id; rows of one sample keep their order.

    Raises:
        EvaluationError: A sample was counted twice, or there are not `num_samples`.
    """
    merged = {}
    for name in ranks[0]:
        rows = np.concatenate([tables[name] for tables in ranks])
        merged[name] = rows[np.argsort(rows["sample_id"], kind="stable")]
    ids = merged["samples"]["sample_id"]
    twice = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if len(twice):
        problem = f"{len(twice)} samples were counted more than once, the first is {twice[0]}"
        hint = "call reset() before each pass, and let each rank evaluate its own samples alone"
        raise EvaluationError("evaluation", problem, hint)
    if num_samples is not None and len(ids) != num_samples:
        problem = f"{len(ids)} samples were counted, expected {num_samples}"
        hint = "give every batch of the pass to update(), or num_samples=None where it is cut short"
        raise EvaluationError("evaluation", problem, hint)
    return merged


@contextmanager
def _cpu_group() -> Iterator[Any]:
    """Open a process group that carries CPU tensors: NCCL's carries GPU tensors only.

    All ranks open one for each use: a kept group would still be there after the default group is
    destroyed.
    """
    if "cpu:" in dist.get_backend_config():
        yield None
        return
    group = dist.new_group(backend="gloo")
    try:
        yield group
    finally:
        dist.destroy_process_group(group)


def _outcome(compute: Callable[[], Any]) -> Any:
    """Return what `compute` returns, or the error it raised, as one that can be pickled."""
    try:
        return compute()
    except ShardToolError as error:
        return error
    except Exception as error:  # noqa: BLE001  (other ranks wait for an answer)
        failure = EvaluationError("evaluation", f"failed on rank 0: {error!r}")
        failure.__cause__ = error  # stays on rank 0
        return failure
