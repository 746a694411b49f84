"""Measures what batches cost and how long training waits for them.

Imports nothing else of ours.
"""
