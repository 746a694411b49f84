"""Seeds the global generators for a user's transform, and restores them afterwards.

The seed is a digest of (seed, epoch, sample id), so a transform draws the same in any process.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.random.mtrand as mtrand
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCRATCH = np.random.MT19937(0)
"""Replaces NumPy's global generator meanwhile: that is faster than restoring a state."""


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore torch's, NumPy's and Python's global generators at the end of the block.

    Of torch's only the CPU generator (`torch.manual_seed` would initialise CUDA in a worker). Takes
    about 0.05 ms, so put it around many samples.
    """
    torch_state, python_state = torch.default_generator.get_state(), random.getstate()
    numpy_generator, numpy_state = mtrand.get_bit_generator(), mtrand.get_state(legacy=False)
    try:
        mtrand.set_bit_generator(_SCRATCH)
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        random.setstate(python_state)
        mtrand.set_bit_generator(numpy_generator)  # drops a normal number drawn ahead
        if numpy_state["has_gauss"] or numpy_generator is _SCRATCH:
            np.random.set_state(numpy_state)  # noqa: NPY002


def seed_generators(digest: bytes) -> None:
    """Seed the global generators by a key's `digest_of`, 32 bytes.

    Call it inside `preserved_generators`. torch gets 63 bits, Python 64, and NumPy 32: more would
    take four times as long, and this runs for every sample.
    """
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    random.seed(int.from_bytes(digest[8:16], "little"))
    seed = int.from_bytes(digest[16:20], "little")
    np.random.seed(seed)  # noqa: NPY002, TID251  (the scratch one)
