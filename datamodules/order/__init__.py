"""Computes the order of samples, which rank reads which, and where a run resumes.

Pure arithmetic. `canonical` fixes the order, `partition` cuts it into batches and ranks, `cursor`
is the place to resume from, `node_shards` tells which shards a node needs.

Imports `shard_tool.keyed_random`, `shard_tool.errors`, and nothing else of ours.
"""
