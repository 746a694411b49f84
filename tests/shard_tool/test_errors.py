"""Errors keep class, message and hint when pickled and when raised in a worker process."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import errors
from shard_tool.errors import BoxError, ShardToolError

if TYPE_CHECKING:
    from collections.abc import Iterator

ARGUMENTS: dict[type[ShardToolError], list[tuple[Any, ...]]] = {
    BoxError: [("VOC/a.xml", 1, "cat", (0.0, 1.0, 9.5, 9.0), (500, 375))],
}
USUAL: list[tuple[Any, ...]] = [
    ("train.txt", "there is no such list"),
    ("train.txt", "is empty", "fill it"),
]


def classes(root: type[ShardToolError] = ShardToolError) -> Iterator[type[ShardToolError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


EVERY = [
    pytest.param(cls(*arguments), id=f"{cls.__name__}-{len(arguments)}")
    for cls in dict.fromkeys(classes())
    if cls.__module__ == errors.__name__
    for arguments in ARGUMENTS.get(cls, USUAL)
]


def raise_it(error: ShardToolError) -> None:
    raise error


@pytest.mark.parametrize("error", EVERY)
@pytest.mark.parametrize("way", ["pickle", "copy"])
def test_error_survives_pickling_with_its_class_message_and_hint(
    error: ShardToolError, way: str
) -> None:
    back = pickle.loads(pickle.dumps(error)) if way == "pickle" else copy.copy(error)
    assert type(back) is type(error)
    assert (str(back), back.args) == (str(error), error.args)
    assert (back.place, back.problem, back.hint) == (error.place, error.problem, error.hint)


@pytest.mark.slow
def test_error_of_a_worker_process_keeps_its_fields() -> None:
    error = BoxError("VOC/a.xml", 1, "cat", (0, 1, 9, 9), (500, 375))
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(BoxError) as caught,
    ):
        pool.submit(raise_it, error).result()
    assert str(caught.value) == str(error)
    assert caught.value.corners == (0, 1, 9, 9)


def test_message_is_place_problem_and_hint() -> None:
    assert str(ShardToolError("a.tar", "is empty")) == "a.tar: is empty"
    assert str(ShardToolError("a.tar", "is empty", "fill it")) == "a.tar: is empty; fill it"


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("OptionError", ValueError),
        ("ObjectMissing", FileNotFoundError),
        ("ObjectExists", FileExistsError),
    ],
)
def test_error_is_also_the_builtin_that_people_catch(name: str, builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise getattr(errors, name)("place", "problem")
