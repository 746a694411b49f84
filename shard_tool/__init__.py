"""voc-shards, the converting half: PASCAL VOC to WebDataset shards with a manifest.

Never imports torch. The names below are the library; `shard-tool` is a thin skin over them.
"""

from shard_tool.convert.options import ConvertOptions
from shard_tool.convert.results import ConvertProgress, ConvertReport
from shard_tool.convert.run import convert
from shard_tool.errors import ShardToolError
from shard_tool.format.manifest import Manifest, parse_manifest
from shard_tool.release import RELEASE

__version__ = RELEASE

__all__ = [
    "ConvertOptions",
    "ConvertProgress",
    "ConvertReport",
    "Manifest",
    "ShardToolError",
    "__version__",
    "convert",
    "parse_manifest",
]
