"""Measures what batches cost and how long training waits for them."""
