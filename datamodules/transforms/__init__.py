"""Transforms pictures and targets: recipes fused with decoding, and users' own transforms."""
