"""Checks which package may import which: `PICTURE` lists it, `docs/architecture.md` explains it."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A room is a folder, or a file at the top of a package. Behind its colon stand the rooms it imports
# from; "·" is shard_tool, and an indented line goes on. Imports go down this list, so no two rooms
# need each other.
PICTURE = """
cli: convert export dataset sources storage tasks format units release errors
export: sources dataset pictures storage format errors
convert: dataset sources pictures storage tasks format keyed_random release errors
dataset: pictures storage tasks format release errors
sources: pictures storage format release errors
pictures: format errors
storage: format errors
tasks: release errors
format: errors
keyed_random:
units: errors
errors:
release:

tools: preview loading presets reading profiling order ·cli ·storage ·keyed_random ·units ·errors
lightning: preview loading presets transforms profiling order
    ·convert ·storage ·errors
preview: loading
loading: presets transforms reading pixels profiling order evaluation
    ·storage ·format ·keyed_random ·units ·errors
presets: transforms pixels ·errors
transforms: pixels ·keyed_random ·errors
reading: profiling order ·dataset ·storage ·format ·errors
pixels: ·errors
profiling:
order: ·keyed_random ·errors
evaluation: ·format ·errors
"""
SHARD_TOOL, DATAMODULES = (
    {
        line.partition(":")[0]: line.partition(":")[2].split()
        for line in part.replace("\n    ", " ").strip().splitlines()
    }
    for part in PICTURE.split("\n\n")
)
ROOMS = {
    **{f"shard_tool.{name}": {f"shard_tool.{i}" for i in to} for name, to in SHARD_TOOL.items()},
    **{
        f"datamodules.{name}": {
            f"shard_tool.{i[1:]}" if i.startswith("·") else f"datamodules.{i}" for i in to
        }
        for name, to in DATAMODULES.items()
    },
}
LIGHTNING = "datamodules.lightning"
TORCHLESS = {
    "datamodules.order",
    "datamodules.reading",
    "datamodules.evaluation.voc_metrics",
    "datamodules.tools.commands",
    "datamodules.tools.forecast",
}
"""Rooms and modules of datamodules that import no torch at the top of a module."""


def modules() -> dict[str, ast.Module]:
    found = {}
    for package in ("shard_tool", "datamodules"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports(tree: ast.AST) -> set[str]:
    """What a module imports: at its top, inside functions, and for the type checker alone."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module}
    return found


def at_top(tree: ast.Module) -> ast.Module:
    """The module without what runs only inside functions or for the type checker."""
    body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.Module(body, [])


def room(module: str) -> str:
    """Of one of our modules: `shard_tool.dataset` for `shard_tool.dataset.copy`."""
    return ".".join(module.split(".")[:2])


def test_each_room_stands_in_the_picture() -> None:
    tops = {"shard_tool", "datamodules"}  # their __init__ files: public names, from any room
    assert {room(name) for name in MODULES} - tops == ROOMS.keys()


def test_each_module_has_a_docstring() -> None:
    for name, tree in MODULES.items():
        assert ast.get_docstring(tree), f"{name} has no docstring"


def test_the_docstring_of_each_folder_lists_what_it_imports() -> None:
    for name, drawn in ROOMS.items():
        if not (ROOT / name.replace(".", "/")).is_dir():
            continue
        last = (ast.get_docstring(MODULES[name]) or "").rpartition("\n\n")[2]
        assert last.startswith("Imports "), f"{name} does not end with what it imports"
        own = name.partition(".")[0]
        listed = re.findall(r"`([\w.]+)`", last)
        assert {i if "." in i else f"{own}.{i}" for i in listed} == drawn, name


def test_arrows_of_the_picture_run_down() -> None:
    packages = ([*SHARD_TOOL], [*DATAMODULES])
    for rooms, picture in zip(packages, (SHARD_TOOL, DATAMODULES), strict=True):
        for name in rooms:
            above = {*takewhile(lambda other, name=name: other != name, rooms), name}
            assert not above & {*picture[name]}, name


def test_rooms_import_from_what_the_picture_says_and_from_nothing_else() -> None:
    arrows: dict[str, dict[str, str]] = {name: {} for name in ROOMS}
    for name, tree in MODULES.items():
        for imported in imports(tree) if room(name) in ROOMS else ():
            if room(imported) in ROOMS and room(imported) != room(name):
                arrows[room(name)][room(imported)] = f"{name} imports {imported}"
    for name, drawn in ROOMS.items():
        assert [arrow for to, arrow in arrows[name].items() if to not in drawn] == []
        assert drawn <= arrows[name].keys(), f"{name} no longer imports from all it is drawn with"


def test_no_modules_import_each_other() -> None:
    graph = {name: (imports(tree) & MODULES.keys()) - {name} for name, tree in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_shard_tool_and_the_arithmetic_of_order_need_no_torch() -> None:
    heavy = {"torch", "torchvision", "webdataset", "pytorch_lightning"}
    for name, tree in MODULES.items():
        if name.startswith("shard_tool"):
            assert not heavy & {i.split(".")[0] for i in imports(tree)}, name
        if {name, room(name)} & TORCHLESS:
            assert not heavy & {i.split(".")[0] for i in imports(at_top(tree))}, name


def test_lightning_is_known_in_its_room_alone() -> None:
    for name, tree in MODULES.items():
        if room(name) != LIGHTNING:
            assert "pytorch_lightning" not in {i.split(".")[0] for i in imports(tree)}, name
