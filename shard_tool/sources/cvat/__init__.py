"""Reads what CVAT exports as 'CVAT for images 1.1': one XML file for many pictures."""
