"""Saves and reads the place to resume from: a few integers, independent of ranks and batches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ResumeError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
_ANEW = "to begin anew with a checkpoint's weights alone, Model.load_from_checkpoint reads them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How many samples of an epoch were trained, and of which data in which order."""

    fingerprint: str
    """Identifies the data and its chosen splits: `ShardDataset.fingerprint`."""
    seed: int
    epoch: int
    samples: int
    """Samples of the epoch trained by all ranks together: the position of the next one."""
    lanes: int
    window: int

    def to_state(self) -> dict[str, int | str]:
        """Return the cursor as plain types, equal on every rank."""
        return {"version": VERSION, **asdict(self)}


def cursor_from_state(
    state: Mapping[str, Any],
    *,
    fingerprint: str,
    seed: int,
    num_samples: int,
    lanes: int | None,
    window: int | None,
) -> Cursor:
    """Read a saved cursor, and refuse one that does not fit this run.

    Args:
        state: What `Cursor.to_state` returned; other keys are ignored.
        fingerprint: This run's data.
        seed: This run's seed.
        num_samples: Samples of an epoch of this run's data.
        lanes: The number given explicitly; None: take the saved one.
        window: Likewise.

    Raises:
        ResumeError: The state is empty, of another version, lacks a field, holds an impossible one,
            or belongs to other data, another seed, lanes or window. Names both values.
    """
    if not state:
        hint = "load a state that `state_dict()` returned"
        raise ResumeError("cursor", "the saved state is empty", hint)
    if state.get("version") != VERSION:
        found = state.get("version")
        problem = f"version {found!r} is unknown (this release reads {VERSION})"
        raise ResumeError("cursor", problem, f"resume with the release that saved it; {_ANEW}")
    fields = ("epoch", "samples", "lanes", "window", "seed")
    missing = [name for name in (*fields, "fingerprint") if name not in state]
    if missing:
        raise ResumeError("cursor", f"the saved state has no {', '.join(missing)}")
    values = {name: state[name] for name in fields}
    if any(type(value) is not int for value in values.values()):
        raise ResumeError("cursor", f"a field is not an integer: {values}")
    hint = f"the data, splits or shuffle differ: give those it was saved with; {_ANEW}"
    _same("fingerprint", state["fingerprint"], fingerprint, hint)
    hint = f"the order would be another: give seed={values['seed']}; {_ANEW}"
    _same("seed", values["seed"], seed, hint)
    _same("lanes", values["lanes"], lanes, "leave lanes=None to take the saved number")
    _same("window", values["window"], window, "leave window=None to take the saved number")
    if not (values["epoch"] >= 0 and 0 <= values["samples"] <= num_samples):
        problem = f"epoch {values['epoch']}, sample {values['samples']} of {num_samples}"
        raise ResumeError("cursor", f"{problem} is not a place in the data")
    if min(values["lanes"], values["window"]) < 1:
        raise ResumeError("cursor", f"lanes and window must be at least 1: {values}")
    return Cursor(fingerprint=fingerprint, **values)


def _same(what: str, saved: object, here: object, hint: str) -> None:
    if here is not None and saved != here:
        raise ResumeError("cursor", f"saved with {what} {saved!r}, this run has {here!r}", hint)
