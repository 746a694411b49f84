"""Writes datasets as annotations of COCO, YOLO or VOC, with their pictures if wanted.

`run` reads the samples in their order, `coco`, `yolo` and `voc` write them, and `destination` lets
the result appear whole or not at all.

Imports `sources`, `dataset`, `pictures`, `storage`, `format`, `errors`, and nothing else of ours.
"""
