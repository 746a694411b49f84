"""Reads COCO JSON: pictures, boxes, polygons and run lengths, from files of any size."""
