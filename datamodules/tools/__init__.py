"""Adds the verbs `plan`, `bench` and `preview` to `shard-tool`.

`commands` declares them; `forecast` computes what `plan` prints, `bench` measures.

Imports `preview`, `loading`, `presets`, `reading`, `profiling`, `order`, `shard_tool.cli`,
`shard_tool.storage`, `shard_tool.keyed_random`, `shard_tool.units`, `shard_tool.errors`, and
nothing else of ours.
"""
