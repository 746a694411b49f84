"""Reads YOLO's text labels, with ultralytics' data.yaml, darknet's obj.data, or names alone."""
