"""Reads the manifest of a dataset from storage.

A remote manifest that is wrong is read again, since the network may be at fault.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from shard_tool.errors import ManifestError, ObjectMissing
from shard_tool.format.manifest import MANIFEST_NAME, Manifest, parse_manifest
from shard_tool.storage.uploads import PARTIAL
from shard_tool.storage.wrong_bytes import WrongBytes

if TYPE_CHECKING:
    from shard_tool.storage.location import Folder

JOURNAL_NAME = ".conversion"
"""Folder inside a dataset, present while the dataset is being made."""


def load_manifest(folder: Folder) -> Manifest:
    """Read the manifest of the dataset in `folder`.

    Raises:
        ObjectMissing: There is none; says whether a conversion began there.
        ManifestError: It is of an unknown version, damaged or contradicts itself.
        StoreError: Storage failed until the time was up, or the network corrupts the manifest.
    """
    try:
        return _load_manifest(folder)
    except ObjectMissing:
        names = folder.names()
        shards = [name for name in names if name.endswith(".tar")]
        if shards or any(name == JOURNAL_NAME or PARTIAL in name for name in names):
            problem = f"conversion not finished ({len(shards)} shards, no {MANIFEST_NAME})"
            raise ObjectMissing(str(folder), problem, "convert again") from None
        hint = "make a dataset with `shard-tool convert SOURCE DEST`"
        raise ObjectMissing(str(folder), f"no dataset here (no {MANIFEST_NAME})", hint) from None


def _load_manifest(folder: Folder) -> Manifest:
    """Read and check the manifest; a remote one again if it is wrong."""
    place, wrong = folder.place(MANIFEST_NAME), WrongBytes(folder.timeout_s)
    while True:
        content = folder.read(MANIFEST_NAME)
        try:
            return parse_manifest(content, place=place)
        except ManifestError as exc:
            if folder.local is not None:
                raise
            wrong.note(exc, content, is_proof=_is_like_a_manifest(content))
        wrong.wait()


def _is_like_a_manifest(content: bytes) -> bool:
    """Tell a manifest, right or wrong, from a gateway's page or half of a manifest."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "format" in document
