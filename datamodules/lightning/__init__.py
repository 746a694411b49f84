"""Connects the loaders to Lightning: `VOCDataModule`, and `Monitor`, a callback.

No other package imports Lightning.

Imports `preview`, `loading`, `presets`, `transforms`, `profiling`, `order`, `shard_tool.convert`,
`shard_tool.storage`, `shard_tool.errors`, and nothing else of ours.
"""
