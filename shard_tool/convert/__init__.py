"""Conversion: annotated pictures from one or more sources become the shards of one dataset."""
