"""Encodes and parses what lies on disk: tars, their indexes, sample JSON and the manifest."""
