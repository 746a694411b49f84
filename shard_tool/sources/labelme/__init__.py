"""Reads labelme's annotations: one JSON file for each picture."""
