"""Turns the place of a shard into the URL that a manifest holds, and finds the shard by that URL.

A manifest that moves together with its shards must still find them. So the URL is relative to the
dataset's folder if both lie on the same disk or below the same folder. It never holds a secret. The
storage options of the dataset are used for a shard that lies elsewhere only if its protocol, and on
the web its host, is the same.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shard_tool.errors import OptionError, StoreError
from shard_tool.format.manifest import MANIFEST_NAME, is_shard_url
from shard_tool.storage.location import Folder, public_url
from shard_tool.storage.uploads import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_ALIASES = {"s3a": "s3", "gcs": "gs"}
"""Second names of protocols, and the usual ones."""


def url_in_manifest(shard: str, dest: Folder) -> str:
    """The URL or path by which the manifest of the dataset in `dest` names a shard.

    Args:
        shard: A path or URL of the shard.
        dest: The folder of the manifest.

    Returns:
        A path relative to `dest` where the shard lies below it, or where both lie on this machine
        below a common folder. Otherwise an absolute path or a URL.

    Raises:
        OptionError: The URL has a user, a password or a query, which everybody who reads the
            manifest would see; or the name is not UTF-8.
    """
    url = _relative_to(shard, dest)
    try:
        url.encode()
    except UnicodeEncodeError as exc:
        raise OptionError(f"shard {shard!r}", "its name is not UTF-8", "rename it") from exc
    if not is_shard_url(url):
        problem = "holds what a manifest may not show (user, password, query or fragment)"
        hint = "give a public URL; secrets go into --storage-option or the environment"
        raise OptionError(public_url(shard), problem, hint)
    return url


def locate_shard(url: str, dest: Folder) -> tuple[Folder, str]:
    """Find the shard that a manifest in `dest` names by this URL.

    Returns:
        (the folder the shard lies in, the shard's name there). A folder elsewhere gets the storage
        options of `dest` only where `storage_options_for` allows it.
    """
    head, slash, name = url.rpartition("/")
    if "://" in url:
        return Folder(head, storage_options_for(url, dest), dest.timeout_s), name
    if not slash:
        return dest, name
    root = dest.local
    if root is None and not url.startswith("/"):
        return dest.child(head), name
    # '/.' for the root of all, whose path would be empty without its slash
    path = os.path.realpath(Path(root or "", head)) if head else "/."
    return Folder(path, {}, dest.timeout_s), name


def _relative_to(shard: str, dest: Folder) -> str:
    path = local_path(shard)
    if path is None:
        shard = with_usual_protocol(shard)
        return shard.removeprefix(f"{with_usual_protocol(dest.url).rstrip('/')}/")
    # The shard itself may be a symbolic link (caches keep files so): its name stays.
    path = Path(os.path.realpath(path.parent), path.name)
    root = dest.local
    if root is None:
        return str(path)
    root = Path(os.path.realpath(root))
    if os.path.commonpath([path, root]) == os.sep:
        return str(path)
    return os.path.relpath(path, root)


def storage_options_for(url: str, dest: Folder) -> Mapping[str, Any]:
    """The storage options that a shard at `url` gets: those of `dest`, or none.

    It gets them where its protocol is that of `dest` and, on the web, its host as well. A manifest
    is data: it must not make us send one server's token to another. Options given for a local
    dataset can only be meant for its shards, so they always get them.
    """
    protocol, _, rest = with_usual_protocol(url).partition("://")
    its_protocol, separator, its_rest = with_usual_protocol(dest.url).partition("://")
    if not separator or its_protocol == "file":
        return dest.options
    is_same_host = rest.partition("/")[0] == its_rest.rpartition("@")[2].partition("/")[0]
    is_web = protocol in ("http", "https")
    return dest.options if protocol == its_protocol and (is_same_host or not is_web) else {}


def with_usual_protocol(url: str) -> str:
    """Replace a protocol's second name by the usual one.

    >>> with_usual_protocol("s3a://bucket/voc")
    's3://bucket/voc'
    """
    protocol, separator, rest = url.partition("://")
    return f"{_ALIASES.get(protocol, protocol)}://{rest}" if separator else url


def find_same_folder(dest: Folder, folders: Iterable[Folder]) -> Folder | None:
    """Find the first of some folders that is `dest` under whatever name.

    Names do not tell: a mount, a symbolic link, a proxy or a server's second name can make two
    places one. So this puts a small object into `dest`, looks for it in each folder, and removes
    it.

    Returns:
        The folder; None where none of them is `dest`.

    Raises:
        StoreError: `dest` cannot be written to.
    """
    probe, content = f".{MANIFEST_NAME}{PARTIAL}{secrets.token_hex(8)}", secrets.token_bytes(16)
    dest.put(probe, content)  # a run killed here leaves it to the next run to remove
    try:
        return next((folder for folder in folders if _has(folder, probe, content)), None)
    finally:
        dest.remove(probe)


def _has(folder: Folder, name: str, content: bytes) -> bool:
    try:
        return folder.read(name) == content
    except StoreError:  # missing, or refused: a server says that to who may not list
        return False


def local_path(place: str) -> Path | None:
    """The absolute local path that a path or ``file://`` URL means; None for any other URL."""
    if place.startswith("file://"):
        return Folder(place).local
    return None if "://" in place else Path(place).absolute()
