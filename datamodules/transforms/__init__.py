"""Transforms: recipes fused with decoding, and users' own, seeded by sample."""
