"""Turns samples into batches: dataset, workers, shared memory, and the DataLoader.

`items` makes one item of a sample, `batch` packs items, `batch_stream` runs in the workers, and
`loader` in the training process.

Imports `presets`, `transforms`, `reading`, `pixels`, `profiling`, `order`, `evaluation`,
`shard_tool.storage`, `shard_tool.format`, `shard_tool.keyed_random`, `shard_tool.units`,
`shard_tool.errors`, and nothing else of ours.
"""
