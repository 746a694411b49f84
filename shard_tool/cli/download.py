"""Defines the verb ``download``, and fetches VOC's own archives where a source names them."""

from __future__ import annotations

import re
import sys
from pathlib import Path  # noqa: TC003  (typer reads annotations at run time)
from typing import TYPE_CHECKING, Annotated

import typer

from shard_tool.cli.options import Format, FormatOption, print_json, repeating_command, say
from shard_tool.cli.progress import progress
from shard_tool.errors import OptionError
from shard_tool.sources.voc.named import download_archives, wanted_archives
from shard_tool.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.sources.voc.named import WantedArchive

_RELEASE = re.compile(r"voc(\d{4})")

Mirror = Annotated[
    list[str],
    typer.Option("--mirror", metavar="URL", help="Folder of archives to try first; repeatable."),
]


def download_command(
    dataset: Annotated[str, typer.Argument(metavar="voc2007|…|voc2012", help="Year to download.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder for the archives.")],
    set_: Annotated[
        str | None,
        typer.Option(
            "--set",
            help="Archive to download: trainval or test. [default: every one of the year]",
        ),
    ] = None,
    mirror: Mirror = [],  # noqa: B006
    format_: FormatOption = Format.text,
) -> None:
    """Download the official VOC archives of one year.

    Interrupted downloads are resumed, and every archive is verified by its MD5.
    """
    match = _RELEASE.fullmatch(dataset)
    if not match:
        raise OptionError(repr(dataset), "is not a VOC release", "choose one of voc2007 to voc2012")
    try:
        paths = _fetched_release(match[1], dest, mirror, set_=set_)
    except KeyboardInterrupt:
        say(f"interrupted: downloaded bytes are kept; continue with\n{repeating_command(sys.argv)}")
        raise
    if format_ is Format.json:
        print_json({"archives": paths})
    else:
        typer.echo("\n".join(paths))


def missing_archives(
    sources: Sequence[str], folder: Path, mirrors: Sequence[str]
) -> list[WantedArchive]:
    """Official archives that are not in the folder yet."""
    years = [match[1] for source in sources if (match := _RELEASE.fullmatch(source))]
    wanted = [item for year in years for item in wanted_archives(year, folder, mirrors=mirrors)]
    return [item for item in wanted if not item.is_there]


def fetched(sources: Sequence[str], folder: Path, mirrors: Sequence[str]) -> tuple[str, ...]:
    """Download what sources name, and replace names like voc2012 by paths of archives."""
    found: list[str] = []
    for source in sources:
        match = _RELEASE.fullmatch(source)
        if not match:
            found.append(source)
            continue
        found += _fetched_release(match[1], folder, mirrors)
    return tuple(found)


def _fetched_release(
    year: str, folder: Path, mirrors: Sequence[str], *, set_: str | None = None
) -> list[str]:
    """Download the archives of a year and return their paths."""
    with progress(f"voc{year}", unit="bytes") as advance:
        paths = download_archives(
            year,
            folder,
            set_=set_,
            mirrors=mirrors,
            on_progress=lambda what, done, total: advance(done, total, what=what),
        )
    return [str(path) for path in paths]


def print_downloads(missing: Sequence[WantedArchive], folder: Path, format_: Format) -> None:
    """Print which archives would be downloaded first."""
    if format_ is Format.json:
        documents = [
            {"file": item.archive.file, "url": item.url, "num_bytes": item.archive.num_bytes}
            for item in missing
        ]
        print_json({"dry_run": True, "archives_dir": str(folder), "downloads": documents})
        return
    for item in missing:
        size = item.archive.num_bytes
        told = "unknown size" if size is None else human_bytes(size)
        typer.echo(f"would download {item.url} ({told}) into {folder}")
    typer.echo("the plan depends on what these archives hold: download them and run this again")
