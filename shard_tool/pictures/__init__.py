"""Reads and re-encodes pictures without torch."""
