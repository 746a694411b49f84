"""Transforms pictures and targets: recipes fused with decoding, and users' own transforms.

`checks` checks what a user's transform returned, `seeding` gives it its random numbers.

Imports `pixels`, `shard_tool.keyed_random`, `shard_tool.errors`, and nothing else of ours.
"""
