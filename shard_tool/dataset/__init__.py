"""Publishes, verifies and copies whole datasets, and makes datasets of tars where they lie."""
