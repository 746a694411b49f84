"""Runs a function over many tasks: in this process, in local processes, or on a Dask cluster.

Imports `errors`, `release`, and nothing else of ours.
"""
