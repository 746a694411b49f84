"""A few integers to resume from; whatever does not fit is refused, and both sides are named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.order.cursor import VERSION, Cursor, cursor_from_state
from shard_tool.errors import ResumeError

ANEW = "to begin anew with a checkpoint's weights alone, Model.load_from_checkpoint reads them"
OTHER_RELEASE = f"resume with the release that saved it; {ANEW}"
CURSOR = Cursor(fingerprint="3f9c", seed=7, epoch=2, samples=48, lanes=4, window=8)
RUN: dict[str, Any] = {
    "fingerprint": "3f9c",
    "seed": 7,
    "num_samples": 100,
    "lanes": None,
    "window": None,
}


def state(**changes: Any) -> dict[str, Any]:
    return CURSOR.to_state() | changes


def refusal(saved: dict[str, Any], **run: Any) -> str:
    with pytest.raises(ResumeError) as caught:
        cursor_from_state(saved, **(RUN | run))
    return str(caught.value)


def test_state_is_pinned() -> None:
    """Saved in checkpoints everywhere: another shape needs another version, and a way over."""
    assert VERSION == 1
    assert CURSOR.to_state() == {
        "version": 1,
        "fingerprint": "3f9c",
        "seed": 7,
        "epoch": 2,
        "samples": 48,
        "lanes": 4,
        "window": 8,
    }


@given(
    st.text(), st.integers(), st.integers(0), st.integers(0, 100), st.integers(1), st.integers(1)
)
def test_cursor_survives_its_state_as_json(
    fingerprint: str, seed: int, epoch: int, samples: int, lanes: int, window: int
) -> None:
    cursor = Cursor(
        fingerprint=fingerprint,
        seed=seed,
        epoch=epoch,
        samples=samples,
        lanes=lanes,
        window=window,
    )
    saved = cursor.to_state()
    assert all(type(value) in (int, str) for value in saved.values())
    loaded = json.loads(json.dumps(saved))
    assert loaded == saved
    here = RUN | {"fingerprint": fingerprint, "seed": seed}
    assert cursor_from_state(loaded, **here) == cursor


@pytest.mark.parametrize("samples", [0, 1, 99, 100])
def test_cursor_may_be_anywhere_from_the_first_sample_to_behind_the_last(samples: int) -> None:
    assert cursor_from_state(state(samples=samples), **RUN).samples == samples


def test_lanes_and_window_of_the_state_win_where_none_are_given() -> None:
    found = cursor_from_state(state(lanes=6, window=3), **RUN)
    assert (found.lanes, found.window) == (6, 3)


def test_lanes_and_window_given_and_equal_are_accepted() -> None:
    assert cursor_from_state(state(), **(RUN | {"lanes": 4, "window": 8})) == CURSOR


def test_state_with_keys_of_others_is_accepted() -> None:
    assert cursor_from_state(state(global_batch_size=64, note="mine"), **RUN) == CURSOR


def test_empty_state_is_refused() -> None:
    expected = "cursor: the saved state is empty; load a state that `state_dict()` returned"
    assert refusal({}) == expected


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_state_of_another_version_is_refused(version: object) -> None:
    expected = f"cursor: version {version!r} is unknown (this release reads 1); {OTHER_RELEASE}"
    assert refusal(state(version=version)) == expected


def test_state_without_a_version_is_refused() -> None:
    expected = f"cursor: version None is unknown (this release reads 1); {OTHER_RELEASE}"
    assert refusal({"epoch": 3}) == expected


@pytest.mark.parametrize("name", ["fingerprint", "seed", "epoch", "samples", "lanes", "window"])
def test_state_without_a_field_is_refused(name: str) -> None:
    saved = state()
    del saved[name]
    assert refusal(saved) == f"cursor: the saved state has no {name}"


def test_all_missing_fields_are_named() -> None:
    expected = "cursor: the saved state has no epoch, samples, lanes, window, seed, fingerprint"
    assert refusal({"version": 1}) == expected


@pytest.mark.parametrize("name", ["seed", "epoch", "samples", "lanes", "window"])
@pytest.mark.parametrize("value", [1.0, "1", None, True, [1]])
def test_field_that_is_not_an_integer_is_refused(name: str, value: object) -> None:
    shown = {"epoch": 2, "samples": 48, "lanes": 4, "window": 8, "seed": 7} | {name: value}
    assert refusal(state(**{name: value})) == f"cursor: a field is not an integer: {shown}"


def test_state_of_other_data_is_refused() -> None:
    expected = (
        "cursor: saved with fingerprint '3f9c', this run has '81aa'; "
        f"the data, splits or shuffle differ: give those it was saved with; {ANEW}"
    )
    assert refusal(state(), fingerprint="81aa") == expected


def test_state_of_another_seed_is_refused() -> None:
    problem = "cursor: saved with seed 7, this run has 0; the order would be another: give seed=7"
    expected = f"{problem}; {ANEW}"
    assert refusal(state(), seed=0) == expected


def test_state_of_other_lanes_than_given_is_refused() -> None:
    expected = (
        "cursor: saved with lanes 4, this run has 2; leave lanes=None to take the saved number"
    )
    assert refusal(state(), lanes=2) == expected


def test_state_of_another_window_than_given_is_refused() -> None:
    expected = (
        "cursor: saved with window 8, this run has 16; leave window=None to take the saved number"
    )
    assert refusal(state(), window=16) == expected


@pytest.mark.parametrize(("epoch", "samples"), [(-1, 0), (0, -1), (0, 101), (3, 10**12)])
def test_place_outside_of_the_data_is_refused(epoch: int, samples: int) -> None:
    expected = f"cursor: epoch {epoch}, sample {samples} of 100 is not a place in the data"
    assert refusal(state(epoch=epoch, samples=samples)) == expected


@pytest.mark.parametrize("name", ["lanes", "window"])
@pytest.mark.parametrize("value", [0, -4])
def test_lanes_or_window_below_one_are_refused(name: str, value: int) -> None:
    shown = {"epoch": 2, "samples": 48, "lanes": 4, "window": 8, "seed": 7} | {name: value}
    expected = f"cursor: lanes and window must be at least 1: {shown}"
    assert refusal(state(**{name: value})) == expected
