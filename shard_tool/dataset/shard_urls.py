"""Where adopted shards lie: how a manifest says it, and how a reader gets there.

A manifest that moves together with the shards it names must still find them, so it says where they
lie as seen from the dataset's folder wherever that means something. It never holds a secret, and
what is given to reach the dataset is not handed to strangers a manifest names.
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
"""Protocols that are another one under a second name."""


def link_to(shard: str, dest: Folder) -> str:
    """How the manifest of the dataset in `dest` names the shard at a path or URL.

    Relative where the shard lies below `dest`, or both lie on this machine below a common folder.

    Raises:
        OptionError: A URL with a user, a password or a query, which would be read by everybody who
            reads the manifest; or a name that is not UTF-8.
    """
    link = _link_to(shard, dest)
    try:
        link.encode()
    except UnicodeEncodeError as exc:
        raise OptionError(f"shard {shard!r}", "its name is not UTF-8", "rename it") from exc
    if not is_shard_url(link):
        problem = "holds what a manifest may not show (user, password, query or fragment)"
        hint = "give a public URL; secrets go into --storage-option or the environment"
        raise OptionError(public_url(shard), problem, hint)
    return link


def folder_of(link: str, dest: Folder) -> tuple[Folder, str]:
    """The folder in which the shard lies that a manifest in `dest` names so, and its name in it.

    The folder of a shard that lies elsewhere has the storage options of `dest` only where they can
    be meant for it: see `options_for`.
    """
    head, slash, name = link.rpartition("/")
    if "://" in link:
        return Folder(head, options_for(link, dest), dest.timeout_s), name
    if not slash:
        return dest, name
    root = dest.local
    if root is None and not link.startswith("/"):
        return dest.child(head), name
    # '/.' for the root of all, whose path would be empty without its slash
    path = os.path.realpath(Path(root or "", head)) if head else "/."
    return Folder(path, {}, dest.timeout_s), name


def _link_to(shard: str, dest: Folder) -> str:
    path = local_path(shard)
    if path is None:
        shard = spelled(shard)
        return shard.removeprefix(f"{spelled(dest.url).rstrip('/')}/")
    # The shard itself may be a link (caches keep files so): its name stays.
    path = Path(os.path.realpath(path.parent), path.name)
    root = dest.local
    if root is None:
        return str(path)
    root = Path(os.path.realpath(root))
    if os.path.commonpath([path, root]) == os.sep:
        return str(path)
    return os.path.relpath(path, root)


def options_for(link: str, dest: Folder) -> Mapping[str, Any]:
    """The options of `dest`, where the shard at `link` is of the same kind and, on the web, host.

    A manifest is data: it must not have a token for its own server sent to another one. Options for
    a local dataset can only be meant for its shards.
    """
    protocol, _, rest = spelled(link).partition("://")
    its_protocol, separator, its_rest = spelled(dest.url).partition("://")
    if not separator or its_protocol == "file":
        return dest.options
    is_same_host = rest.partition("/")[0] == its_rest.rpartition("@")[2].partition("/")[0]
    is_web = protocol in ("http", "https")
    return dest.options if protocol == its_protocol and (is_same_host or not is_web) else {}


def spelled(url: str) -> str:
    """A URL with its protocol's usual name, whichever of two it was given.

    >>> spelled("s3a://bucket/voc")
    's3://bucket/voc'
    """
    protocol, separator, rest = url.partition("://")
    return f"{_ALIASES.get(protocol, protocol)}://{rest}" if separator else url


def where_seen(dest: Folder, folders: Iterable[Folder]) -> Folder | None:
    """The first of some folders that is `dest`, whatever it is called; None: none of them is.

    A mount, a link, a proxy or another name of a server can make two places one. So something is
    put into `dest`, and looked for elsewhere.

    Raises:
        StoreError: Nothing can be put there.
    """
    probe, content = f".{MANIFEST_NAME}{PARTIAL}{secrets.token_hex(8)}", secrets.token_bytes(16)
    dest.put(probe, content)  # where this is killed, the next run removes it
    try:
        return next((folder for folder in folders if _is_seen(folder, probe, content)), None)
    finally:
        dest.remove(probe)


def _is_seen(folder: Folder, name: str, content: bytes) -> bool:
    try:
        return folder.read(name) == content
    except StoreError:  # missing; or refused, which is what missing looks like to who may not list
        return False


def local_path(place: str) -> Path | None:
    """The local path that a path or ``file://`` URL means; None for any other URL."""
    if place.startswith("file://"):
        return Folder(place).local
    return None if "://" in place else Path(place).absolute()
