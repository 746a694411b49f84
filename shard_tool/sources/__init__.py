"""Reads other tools' annotated pictures: one subpackage a format, such as `voc`.

`archive` reads members of tars and folders for every format; `http_range`, `partial_file` and
`forward_reader` fetch and read the bytes behind it.

Imports `pictures`, `storage`, `format`, `errors`, `release`, and nothing else of ours.
"""
