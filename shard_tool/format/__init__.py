"""What lies on disk, as pure functions: tars and their indexes, sample JSON, the manifest."""
