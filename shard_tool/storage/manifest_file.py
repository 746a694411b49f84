"""Reads the manifest of a dataset from where it is stored.

From another machine it is read again where it is wrong, since the network may have been at fault.
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
"""Folder of a dataset, there while it is being made."""


def load_manifest(folder: Folder) -> Manifest:
    """The manifest of the dataset in `folder`.

    Raises:
        ObjectMissing: There is none; says whether a conversion was begun there.
        ManifestError: It is of an unknown version, damaged or contradicts itself.
        StoreError: The storage failed until the time was up, or the network corrupts what it sends.
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
    """Read and check it; from elsewhere again, where the network may have been at fault."""
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
    """Whether it is one, if a wrong one; a gateway's page, or half of a manifest, is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "format" in document
