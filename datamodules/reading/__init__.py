"""Reads verified bytes of samples: from local shards, from the cache, or from storage by range.

`samples` is what loading calls, `prefetch` fetches ahead, `cache` keeps fetched shards and evicts
them, `shard_table` lists the shards of a dataset.

Imports `profiling`, `order`, `shard_tool.dataset`, `shard_tool.storage`, `shard_tool.format`,
`shard_tool.errors`, and nothing else of ours.
"""
