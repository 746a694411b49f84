"""Adds the verbs `plan`, `bench` and `preview` to `shard-tool`."""
