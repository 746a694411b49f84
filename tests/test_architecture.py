"""The arrows of docs/architecture.md, drawn from the imports: a smoke alarm, not a law."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Imports go from a line to lines above it.
LAYERS = """
shard_tool.errors shard_tool.release
shard_tool.sizes
shard_tool.keyed shard_tool.tarshard shard_tool.sample shard_tool.manifest shard_tool.forward
shard_tool.attempts shard_tool.engines
shard_tool.ranges shard_tool.objects shard_tool.reencode shard_tool.tally shard_tool.pool
shard_tool.uploads
shard_tool.storage
shard_tool.claim shard_tool.links shard_tool.shardscan
shard_tool.publication
shard_tool.room
shard_tool.voc shard_tool.voc.annotation shard_tool.voc.imagesets shard_tool.voc.archives
shard_tool.voc.files
shard_tool.voc.devkit shard_tool.voc.download
shard_tool.voc.record shard_tool.voc.fetching shard_tool.dedupe
shard_tool.plan shard_tool.progress
shard_tool.sources
shard_tool.convert shard_tool.verify shard_tool.adopt shard_tool.copying
shard_tool
datamodules.world datamodules.order datamodules.partition datamodules.cursor datamodules.geometry
datamodules.table datamodules.pieces datamodules.cache datamodules.cost datamodules.moments
datamodules.stalls datamodules.voc_metrics datamodules.kernels
datamodules.fetch
datamodules.shards datamodules.png datamodules.randomness datamodules.color datamodules.per_box
datamodules.decode datamodules.resample
datamodules.render
datamodules.deferred
datamodules.fused datamodules.multi_scale
datamodules.targets
datamodules.collate datamodules.presets datamodules.evaluation
datamodules.slots datamodules.device
datamodules.dataset
datamodules.loader
datamodules.restart datamodules.forecast datamodules.bench datamodules.preview datamodules.remedies
datamodules.voc
datamodules.monitor
datamodules
shard_tool.cli_options
shard_tool.cli_streaming shard_tool.cli_convert shard_tool.cli_adopt shard_tool.cli_copy
shard_tool.cli
"""
HEIGHT = {name: i for i, line in enumerate(LAYERS.split("\n")) for name in line.split()}

FROM_SHARD_TOOL = {"errors", "keyed", "manifest", "ranges", "tarshard", "storage", "sample"}
FROM_SHARD_TOOL |= {"sizes", "links"}
"""What datamodules may use of shard_tool at the top of a module."""
PREPARING = {"claim", "convert", "voc.archives", "voc.download"}
"""What datamodules.voc uses of it inside the functions that make a dataset."""
TORCHLESS = {"world", "order", "partition", "cursor", "table", "pieces", "cache", "fetch"}
TORCHLESS |= {"shards", "forecast", "voc_metrics"}
"""Modules of datamodules that no torch is imported with."""


def modules() -> dict[str, ast.Module]:
    found = {}
    for package in ("shard_tool", "datamodules"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= HEIGHT.keys() else {node.module}
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


def test_every_module_has_its_place_and_imports_only_what_lies_below() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, tree in modules().items()
        for imported in imports(tree) & HEIGHT.keys()
        if HEIGHT[imported] >= HEIGHT[name] and imported != name
    ]
    assert wrong == []
    assert modules().keys() == HEIGHT.keys()


def test_datamodules_use_of_shard_tool_only_what_they_read_with() -> None:
    for name, tree in modules().items():
        if name.startswith("datamodules"):
            used = {i.removeprefix("shard_tool.") for i in imports(tree) & HEIGHT.keys()}
            used = {i for i in used if not i.startswith("datamodules") and i != "shard_tool"}
            allowed = FROM_SHARD_TOOL | (PREPARING if name == "datamodules.voc" else set())
            assert used - {"voc"} <= allowed, name
            assert not imports(at_top(tree)) & {f"shard_tool.{i}" for i in PREPARING}, name


def test_heavy_libraries_stay_where_they_belong() -> None:
    for name, tree in modules().items():
        roots = {imported.split(".")[0] for imported in imports(tree)}
        top = {imported.split(".")[0] for imported in imports(at_top(tree))}
        if name.startswith("shard_tool"):
            assert not roots & {"torch", "torchvision", "webdataset", "pytorch_lightning"}, name
        if name.rpartition(".")[2] in TORCHLESS:
            assert "torch" not in top, name
        if name not in ("datamodules.voc", "datamodules.monitor"):
            assert "pytorch_lightning" not in roots, name
