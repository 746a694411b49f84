"""A user's transform sees generators keyed by (seed, epoch, sample id), and leaves no trace."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.random.mtrand as mtrand
import torch

from shard_tool.keyed import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCRATCH = np.random.MT19937(0)
"""Stands in for NumPy's global generator meanwhile: swapping is faster than restoring a state."""


@contextmanager
def seeded_generators(*key: int | str) -> Iterator[None]:
    """Seed torch's, NumPy's and Python's global generators by a key, and restore them afterwards.

    So a transform that draws from them, and keeps no state, gives the same result in whichever
    process it runs. Only torch's CPU generator is touched (`torch.manual_seed` would initialise
    CUDA in a worker). About 0.1 ms, most of it for NumPy's state.
    """
    digest = digest_of(key)
    torch_state, python_state = torch.default_generator.get_state(), random.getstate()
    numpy_generator, numpy_state = mtrand.get_bit_generator(), mtrand.get_state(legacy=False)
    try:
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        random.seed(digest[8:16])
        mtrand.set_bit_generator(_SCRATCH)
        np.random.seed(np.frombuffer(digest[16:], "<u4"))  # noqa: NPY002, TID251  (the scratch one)
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        random.setstate(python_state)
        mtrand.set_bit_generator(numpy_generator)  # forgets a normal number in hand
        if numpy_state["has_gauss"] or numpy_generator is _SCRATCH:
            np.random.set_state(numpy_state)  # noqa: NPY002
