"""The one seam to fsspec: objects listed, read by range, written whole, and retried."""
