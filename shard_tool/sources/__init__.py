"""Reads other tools' annotated pictures: one subpackage a format, such as `coco`.

`open` lists the files of a source (`files`), and asks each format whether they are its own. A
format finds annotations and pictures, and gives `source.Record`s; `source` says what else it has to
give. `plain_source` and `indexed_source` are what most formats have in common. `classes` and
`boxes` decide what names and numbers mean, `notes` and `report` name what is counted.

Imports `pictures`, `storage`, `format`, `errors`, `release`, and nothing else of ours.
"""
