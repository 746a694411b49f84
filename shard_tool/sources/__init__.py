"""Reads annotated pictures from archives and folders; each format has a folder."""
