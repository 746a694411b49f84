"""Reads, lists and writes files and objects through fsspec, and retries what fails.

All access to storage goes through here. `location` has the folders and objects that callers use;
`ranges`, `objects` and `uploads` send the requests; `failures` tells which errors can pass; `retry`
sends failed requests again, and `backoff` decides after which pause and until when.

Imports `format`, `errors`, and nothing else of ours.
"""
