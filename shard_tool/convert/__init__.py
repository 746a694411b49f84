"""Converts annotated pictures from one or more sources into the shards of one dataset."""
