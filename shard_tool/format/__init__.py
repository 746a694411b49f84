"""Encodes and parses the files of a dataset: tars, their indexes, sample JSON, the manifest.

Pure functions: no file is opened here. Formats of other tools are read in `sources`.

Imports `errors`, and nothing else of ours.
"""
