"""What the verbs of ``shard-tool`` share: options, sizes, and how results are printed."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from shard_tool.errors import OptionError


class Format(StrEnum):
    """How a result is printed."""

    text = "text"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How the result is printed.")]
StorageOption = Annotated[
    list[str],
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="Option for the storage behind a URL; repeatable.",
    ),
]
Dest = Annotated[str, typer.Argument(metavar="DEST", help="Folder of the dataset.")]


def storage_options(pairs: list[str]) -> dict[str, Any]:
    """Options for fsspec from ``KEY=VALUE`` pairs.

    Raises:
        OptionError: A pair has no equals sign.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            problem = f"{key!r} is not KEY=VALUE"
            raise OptionError("--storage-option", problem)
        options[key] = value
    return options


def say(text: str) -> None:
    """Print to stderr."""
    typer.echo(text, err=True)


def print_json(document: dict[str, Any]) -> None:
    """Print a result as one line of JSON."""
    typer.echo(json.dumps(document, ensure_ascii=False))
