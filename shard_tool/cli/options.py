"""Defines the options that verbs of ``shard-tool`` share, and the command that resumes a run."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shard_tool.errors import OptionError
from shard_tool.storage.location import public_url

if TYPE_CHECKING:
    from collections.abc import Sequence


class OnExisting(StrEnum):
    """What to do if DEST is not empty."""

    fail = "fail"
    resume = "resume"
    overwrite = "overwrite"


class Format(StrEnum):
    """Format of a printed result."""

    text = "text"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="Format of the printed result.")]
StorageOption = Annotated[
    list[str],
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="Option for the storage of a URL, such as profile=me; repeatable.",
    ),
]
SourceOption = Annotated[
    list[str],
    typer.Option(
        "--source-option",
        metavar="KEY=VALUE",
        help="Option for the storage of the source alone; repeatable. [default: the values of "
        "--storage-option, if source and DEST have the same protocol]",
    ),
]
Dest = Annotated[str, typer.Argument(metavar="DEST", help="Folder or URL of the dataset.")]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes on this machine. [default: one per core]")
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="local|tcp://HOST:PORT",
        help="Where the workers run: on this machine, or on a Dask cluster.",
    ),
]
OnExistingOption = Annotated[
    OnExisting,
    typer.Option(
        "--on-existing",
        help="What to do if DEST is not empty: fail, resume an unfinished run, or overwrite.",
    ),
]


ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="a,b,c|FILE",
        help="Classes in label order, or a file with one a line. [default: VOC's, or the names "
        "found]",
    ),
]


def class_names(given: str | None) -> tuple[str, ...]:
    """Names with commas between them, or the lines of a file.

    Raises:
        OptionError: The file is missing or no text, or holds no name.
    """
    if given is None:
        return ()
    path = Path(given)
    if path.is_file() or path.suffix == ".txt":
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            problem = f"cannot be read as text: {getattr(exc, 'strerror', None) or exc}"
            raise OptionError(f"--classes {given}", problem) from exc
        if found := tuple(line.strip() for line in lines if line.strip()):
            return found
        raise OptionError(f"--classes {given}", "holds no name")
    return tuple(name.strip() for name in given.split(","))


def storage_options(pairs: list[str], option: str = "--storage-option") -> dict[str, Any]:
    """Parse ``KEY=VALUE`` pairs into options for fsspec; typer and click have no such type.

    Args:
        pairs: As given on the command line.
        option: The option that messages name.

    Raises:
        OptionError: A pair has no equals sign.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            problem = f"{key!r} is not KEY=VALUE"
            raise OptionError(option, problem)
        options[key] = value
    return options


_SECRET_OPTIONS = ("--storage-option", "--source-option")
_HARMLESS_OPTIONS = {"anon", "endpoint_url", "profile"}


def resuming_command(argv: Sequence[str]) -> str:
    """The command line that continues an interrupted one; secrets are left out.

    >>> resuming_command(["shard-tool", "convert", "a b", "s3://b/voc", "--on-existing", "fail"])
    "shard-tool convert 'a b' s3://b/voc --on-existing resume"
    >>> resuming_command(["shard-tool", "copy", "a", "b", "--storage-option=secret=xyz"])
    'shard-tool copy a b --storage-option=secret=… --on-existing resume'
    """
    words, rest = list[str](), list(argv)
    while rest:
        word = rest.pop(0)
        option, equals, _ = word.partition("=")
        if option != "--on-existing":
            words.append(word)
        elif not equals:
            rest = rest[1:]
    return repeating_command([*words, "--on-existing", "resume"])


def repeating_command(argv: Sequence[str]) -> str:
    """The command line as it was given; secrets are left out."""
    words = ["shard-tool"]
    for before, word in pairwise(argv):
        option, equals, value = word.partition("=")
        if before in _SECRET_OPTIONS:
            words.append(_without_secret(word))
        elif option in _SECRET_OPTIONS and equals:
            words.append(f"{option}={_without_secret(value)}")
        else:
            public = public_url(word)
            words.append(public if public == word else f"{public}?…")
    return " ".join(word if word.endswith(("=…", "?…")) else shlex.quote(word) for word in words)


def _without_secret(pair: str) -> str:
    key, _, value = pair.partition("=")
    return pair if key in _HARMLESS_OPTIONS and public_url(value) == value else f"{key}=…"


def say(text: str) -> None:
    """Print to stderr."""
    typer.echo(text, err=True)


def print_json(document: dict[str, Any]) -> None:
    """Print a result as one line of JSON."""
    typer.echo(json.dumps(document, ensure_ascii=False))
