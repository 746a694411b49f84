"""The command line `shard-tool`: one module a verb, each a thin skin over a library call."""
