"""Publishes, verifies and copies whole datasets, and indexes existing tars as datasets.

`publication` and `journal` make a dataset visible at once and let a killed run resume;
`writer_lock` allows one writer; `copy`, `index` and `verify` do what the verbs of these names do.

Imports `pictures`, `storage`, `tasks`, `format`, `errors`, `release`, and nothing else of ours.
"""
