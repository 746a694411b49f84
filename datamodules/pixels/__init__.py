"""Pixels: decoding, scaling, colours, and the arithmetic of boxes and views."""
