"""Finds the verbs of ``shard-tool`` that installed packages declare.

A package declares a verb as an entry point of the group ``voc_shards.commands``::

    [project.entry-points."voc_shards.commands"]
    count = "my_package.commands:count"

The name is the verb. The object is a function: typer reads its parameters, and its docstring is
the help. `shard-tool` imports it when the verb is called and for ``shard-tool --help``, so heavy
imports belong inside the function.

A verb may use `shard_tool.cli.options` (`Dest`, `FormatOption`, `StorageOption`,
`storage_options`, `print_json`, `say`) and `shard_tool.cli.progress` (`progress`, `human_bytes`).
It prints its result to stdout. `shard-tool` prints an error of `shard_tool.errors` with its hint,
and exits with 2 for an `OptionError` and 1 for all others.

No other package can replace a verb of voc-shards, nor one of `datamodules` (`plan`, `bench`,
`preview`). A verb that two other packages declare does not run.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from shard_tool.cli.options import say
from shard_tool.errors import ShardToolError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "voc_shards.commands"
OURS = ("plan", "bench", "preview")
"""Verbs that voc-shards itself declares, in the order of ``--help``: metadata keeps no order."""
_PACKAGE = "voc-shards"


class Verbs(TyperGroup):
    """The verbs of a typer app, and those that installed packages declare."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._builtin = tuple(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load one verb; None where nobody declares it.

        Raises:
            ShardToolError: It is declared, but cannot run.
        """
        if command := super().get_command(ctx, cmd_name):
            return command
        points = _declared()
        if cmd_name in points:
            return _load(cmd_name, points[cmd_name])
        self.list_commands(ctx)  # typer suggests similar verbs from `self.commands`
        return None

    def list_commands(self, ctx: Any) -> list[str]:
        """Load every verb and list those that can run; warns on stderr of those that cannot."""
        for name, points in _declared().items():
            if name in self._builtin:
                _say_ignored(name, points)
                continue
            try:
                self.commands[name] = _load(name, points)
            except ShardToolError as exc:
                say(f"warning: {exc}")
        return super().list_commands(ctx)


def _declared() -> dict[str, list[EntryPoint]]:
    """Verb to its entry points: those of voc-shards first, then by name."""
    found: dict[str, list[EntryPoint]] = {name: [] for name in OURS}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        found.setdefault(point.name, []).append(point)
    return found


def _load(name: str, points: list[EntryPoint]) -> Any:
    """Make the command of a verb.

    Raises:
        ShardToolError: No package declares it, several do, or it cannot be loaded.
    """
    point = _ours(name, points) if name in OURS else _only(name, points)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    try:
        single.command(name)(point.load())
        return typer.main.get_command(single)
    except (Exception, SystemExit) as exc:  # code of others: whatever it does, other verbs run
        package = _package_of(point)
        problem = f"cannot be loaded from package {package} ({type(exc).__name__}: {exc})"
        raise ShardToolError(name, problem, f"repair {package} or uninstall it") from exc


def _ours(name: str, points: list[EntryPoint]) -> EntryPoint:
    """The entry point of voc-shards itself, whoever else declares the verb."""
    ours = [point for point in points if _package_of(point) == _PACKAGE]
    if not ours:
        problem = f"the installation of {_PACKAGE} is older than its code and does not declare it"
        raise ShardToolError(name, problem, "install it again: in a checkout, `pip install -e .`")
    if others := [point for point in points if point not in ours]:
        _say_ignored(name, others)
    return ours[0]


def _only(name: str, points: list[EntryPoint]) -> EntryPoint:
    if len(points) > 1:
        problem = f"packages {_packages_of(points)} declare this verb"
        raise ShardToolError(name, problem, "uninstall all of them but one")
    return points[0]


def _say_ignored(name: str, points: list[EntryPoint]) -> None:
    packages = _packages_of(points)
    say(f"warning: {name}: is a verb of {_PACKAGE}; the one of package {packages} is ignored")


def _packages_of(points: list[EntryPoint]) -> str:
    return " and ".join(sorted(map(_package_of, points)))


def _package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module
