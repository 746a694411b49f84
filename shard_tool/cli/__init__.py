"""Holds the command line `shard-tool`: each verb parses options, calls the library and prints.

`app` is the entry point, `plugins` finds the verbs of other packages, `options` and `progress` are
shared, and every other module holds the verb of its name.

Imports `convert`, `export`, `dataset`, `sources`, `storage`, `tasks`, `format`, `units`, `errors`,
`release`, and nothing else of ours.
"""
