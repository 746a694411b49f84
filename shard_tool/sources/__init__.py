"""Readers of annotated pictures, one folder a format."""
