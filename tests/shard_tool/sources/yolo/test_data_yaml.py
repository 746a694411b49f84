"""data.yaml as tools and people write it, and YAML of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import FileSpan
from shard_tool.sources.yolo.data_yaml import parse_data_yaml

if TYPE_CHECKING:
    from shard_tool.sources.yolo.data_file import DataFile

CATS = {0: "cat", 1: "dog"}


def parsed(text: str | bytes) -> DataFile | None:
    content = text.encode() if isinstance(text, str) else text
    return parse_data_yaml(content, FileSpan("x/data.yaml", 0, len(content)), "in/x/data.yaml")


def names_of(text: str) -> dict[int, str]:
    found = parsed(f"train: a\n{text}\n")
    assert found is not None
    return dict(found.names)


def splits_of(text: str) -> dict[str, tuple[str, ...]]:
    found = parsed(f"{text}\nnames: [cat]\n")
    assert found is not None
    return dict(found.splits)


def refusal(text: str | bytes) -> str:
    with pytest.raises(SourceError) as caught:
        parsed(text)
    assert str(caught.value).startswith("in/x/data.yaml")
    assert len(str(caught.value)) < 300
    return str(caught.value).removeprefix("in/x/data.yaml: ")


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "names: [cat, dog]",
        "names: ['cat', \"dog\"]",
        "names:\n- cat\n- dog",
        "names:\n  - cat  \n  - dog # woof",
        "names:\n  0: cat\n  1: dog",
        "names:\n  1: dog\n  0: cat",
        "names: {0: cat, '1': dog}",
        "nc: 2\nnames: [cat, ' dog ']",
        "nc: '2'\nnames: [cat, dog]",
        "nc:\nnames: [cat, dog]",
        "'names': [cat, dog]",
    ],
)
def test_names_in_every_spelling(text: str) -> None:
    assert list(names_of(text).items()) == list(CATS.items())


def test_names_are_text_whatever_yaml_makes_of_it() -> None:
    words = ["no", "on", "null", "1.0", "007", "2020-01-01", "0x10", "1:30", "true", "Fuß", "猫"]
    assert list(names_of(f"names: [{', '.join(words)}]").values()) == words


def test_numbers_may_have_gaps() -> None:
    assert names_of("names: {1: cat, 5: dog}") == {1: "cat", 5: "dog"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("names: []", "names no class"),
        ("names: {}", "names no class"),
        ("names: [cat, '']", "class 1 has no name"),
        ("names: [cat, dog, cat]", "classes 0 and 2 are both called 'cat'"),
        ("names: [cat, 'cat ']", "classes 0 and 1 are both called 'cat'"),
        ("names: {0: cat, 00: dog}", "class 0 has two names, 'cat' and 'dog'"),
        ("names: {cat: 0}", "line 2: 'cat' is no number of a class"),
        ("names: {-1: cat}", "line 2: '-1' is no number of a class"),
        ("names: {1.0: cat}", "line 2: '1.0' is no number of a class"),
        ("names: [[cat, dog]]", "line 2: a name is a list (expected text)"),
        ("names: {0: {a: b}}", "line 2: a name is a mapping (expected text)"),
        ("names: {[0]: cat}", "line 2: the number of a name is a list"),
        ('names: ["\\ud800"]', "the name of class 0, '\\ud800', is no text"),
        ("nc: 3\nnames: [cat, dog]", "nc is '3', and there are 2 names; correct nc or the names"),
        ("nc: two\nnames: [cat, dog]", "nc is 'two', and there are 2 names"),
        ("names: [cat]\nnames: [dog]", "line 3: 'names' is there twice; keep one"),
        ("names: [cat]\ntrain: b", "line 3: 'train' is there twice"),
    ],
)
def test_names_that_cannot_be(text: str, told: str) -> None:
    assert refusal(f"train: a\n{text}\n").startswith(told)


# Splits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("train: a", {"train": ("a",)}),
        ("train: a\nval: b\ntest: c", {"train": ("a",), "val": ("b",), "test": ("c",)}),
        ("train: a\nvalid: b", {"train": ("a",), "val": ("b",)}),
        ("val: b\nvalid: b", {"val": ("b",)}),
        ("train: [a, b]\nval:\n- c\n- d.txt", {"train": ("a", "b"), "val": ("c", "d.txt")}),
        ("train: a\ntest:", {"train": ("a",)}),
        ("train: a\ntest: ~\nval: null", {"train": ("a",)}),
        ("train: a\nval: []", {"train": ("a",)}),
        ("train: C:\\x\\a # of mine", {"train": ("C:\\x\\a",)}),
        ("train: &a [x, y]\nval: *a", {"train": ("x", "y"), "val": ("x", "y")}),
    ],
)
def test_splits_in_every_spelling(text: str, splits: dict[str, tuple[str, ...]]) -> None:
    assert splits_of(text) == splits


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: a\nval: b\nvalid: c", "has val and valid, with other paths; keep one"),
        ("train: a\nval: {path: b}", "line 2: val is a mapping (expected text)"),
        ("train: [a, [b]]", "line 1: train is a list (expected text)"),
        ("train: a\npath: [b]", "line 2: path is a list (expected text)"),
        ("train: a\nkpt_shape: 17", "line 2: kpt_shape is not [number of keypoints, 2 or 3]"),
        ("train: a\nkpt_shape: [17, 4]", "line 2: kpt_shape is not"),
    ],
)
def test_splits_that_cannot_be(text: str, told: str) -> None:
    assert refusal(f"{text}\nnames: [cat]\n").startswith(told)


def test_path_and_keypoints() -> None:
    found = parsed("path: ../ds\ntrain: a\nkpt_shape: [17, 3]\nflip_idx: [0]\nnames: [person]\n")
    assert found is not None
    assert (found.path, found.num_keypoints, found.name, found.folder) == (
        *("../ds", 51, "x/data.yaml", "x"),
    )
    bare = parsed("path: null\ntrain: a\nkpt_shape:\nnames: [person]\n")
    assert bare is not None
    assert (bare.path, bare.num_keypoints) == ("", 0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str) -> None:
    found = parsed("train: a\r\nnames: [Fuß, 猫]\r\n".encode(encoding))
    assert found is not None
    assert list(found.names.values()) == ["Fuß", "猫"]


# Others, and broken ones --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "names",
        "- names\n- train",
        "lr0: 0.01\nnames: [a]\n",
        "data: data.yaml\nval: true\nsplit: val\n",
        "names: coco.names\ntrain: a\n",
        "services:\n  train:\n    image: x\n  names: [a]\n",
        "names: [a]\ntest:\n  commands: [x]\n",
        "  names: [a]\ntrain: {{ cookiecutter.train }\n  - x: [",
    ],
)
def test_yaml_of_other_programs(text: str) -> None:
    assert parsed(text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: a\nnames: [cat, dog\nnc: 2\n", "line 3: is not YAML: expected ',' or ']'"),
        ("train: a\n\tval: b\nnames: [cat]\n", "line 2: is not YAML: found character '\\t'"),
        ("train: a\nnames:\n- cat\n  dog: 1\n", "line 4: is not YAML: mapping values are not"),
        ("train: a\nnames: *cats\n", "line 2: is not YAML: found undefined alias 'cats'"),
        ("train: a\nnames: [a\0]\n", "is not YAML: special characters are not allowed"),
        ("train: a\nnames: [a]\n---\ntrain: b\n", "line 3: is not YAML: but found another"),
        (b"train: a\nnames: [caf\xe9]\n", "is not text in UTF-8"),
        ("train: a\nnames: " + "[" * 600, "is not YAML: nested too deeply"),
    ],
)
def test_broken_yaml(text: str | bytes, told: str) -> None:
    assert refusal(text).startswith(told)


def test_hostile_yaml_is_refused_at_once() -> None:
    """Nine levels of ten: a billion names, if aliases were multiplied."""
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    bomb = "l0: &l0 [lol]\n" + "\n".join(levels)
    assert "a name is a list" in refusal(f"{bomb}\ntrain: a\nnames: *l9\n")
    merges = [f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 10)}]" for n in range(1, 10)]
    text = "m0: &m0 {0: cat}\n" + "\n".join(merges) + "\ntrain: a\nnames: *m9\n"
    assert "'<<' is no number" in refusal(text)
    assert "found undefined alias 'a'" in refusal("train: a\nnames: [*a, &a b]\n")
    python = "train: a\nnames: [!!python/object/apply:os.system ['exit 1']]\n"
    assert "a name is a list" in refusal(python)
