"""Decodes, scales and recolours pictures and masks, and moves boxes along.

Imports `shard_tool.errors`, and nothing else of ours.
"""
