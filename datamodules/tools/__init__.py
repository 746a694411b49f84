"""The streaming verbs of `shard-tool`: `plan`, `bench` and `preview`."""
