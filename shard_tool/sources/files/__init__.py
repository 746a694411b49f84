"""Lists and reads the files of a source where they lie: a folder, a tar or a zip, local or remote.

`listing` finds all files, `file_table` keeps their places, `archive` reads any of them in any
process. Nothing here knows what the files mean.

Imports `storage`, `format`, `errors`, `release`, and `report` of `sources`.
"""
