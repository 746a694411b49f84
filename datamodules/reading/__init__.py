"""Verified bytes of samples, from local shards, the cache, or object storage."""
