"""Writes class names as the option ``--classes`` takes them, for the hints of messages."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def classes_option(names: Sequence[str]) -> str:
    """The option with these names, as a shell takes it.

    A name with a comma can be given by a file alone.

    >>> classes_option(["cat", "polar bear"])
    "--classes 'cat,polar bear'"
    >>> classes_option(["cat, small", "dog"])
    "--classes FILE.txt (a file with these names, one a line: 'cat, small', 'dog')"
    """
    if any("," in name for name in names):
        listed = ", ".join(map(repr, names))
        return f"--classes FILE.txt (a file with these names, one a line: {listed})"
    return f"--classes {shlex.quote(','.join(names))}"
