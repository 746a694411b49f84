"""A dataset as a whole: published by one writer, verified, copied, or indexed where it lies."""
