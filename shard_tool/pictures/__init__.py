"""Reads the size of pictures, and encodes smaller ones, without torch.

Imports `format`, `errors`, and nothing else of ours.
"""
