"""Converts annotated pictures from one or more sources into the shards of one dataset.

`plan` decides which record goes into which shard, `write_shard` writes one, `run` does all of it,
and `make` makes a dataset only where there is none.

Imports `dataset`, `sources`, `pictures`, `storage`, `tasks`, `format`, `keyed_random`, `errors`,
`release`, and nothing else of ours.
"""
