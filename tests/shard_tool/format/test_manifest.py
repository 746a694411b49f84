"""A manifest comes back as it was, and one that contradicts itself is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.errors import ManifestError, ObjectMissing
from shard_tool.format.manifest import (
    Manifest,
    ShardEntry,
    Split,
    encode_manifest,
    parse_manifest,
    shard_arrays,
)
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.voc_tree import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Document = dict[str, Any]


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def entry(name: str, num_samples: int) -> ShardEntry:
    return ShardEntry(
        name=name,
        num_samples=num_samples,
        num_bytes=10_240 * num_samples,
        sha256=digest(name),
        index_sha256=digest(f"{name}.idx"),
    )


def split(*shards: ShardEntry) -> Split:
    return Split(
        shards=shards,
        num_samples=sum(shard.num_samples for shard in shards),
        num_bytes=sum(shard.num_bytes for shard in shards),
        objects={"cat": 7, "dog": 2},
        difficult={"cat": 1},
    )


MANIFEST = Manifest(
    name="V\u00d6C",
    task="detection",
    classes={"cat": 1, "dog": 2},
    sources=({"kind": "folder", "year": "2012", "num_files": 3, "sha256": digest("source")},),
    release="0.1.0",
    options={"shard_bytes": 4096, "seed": 0, "on_bad_record": "skip"},
    splits={
        "train": split(entry("train-000000.tar", 4), entry("train-000001.tar", 3)),
        "val": split(entry("val-000000.tar", 5)),
    },
    num_bad_records=2,
)


def changed(change: Callable[[Document], object]) -> bytes:
    """The manifest's bytes after a change to its JSON."""
    document: Document = json.loads(encode_manifest(MANIFEST))
    change(document)
    return json.dumps(document).encode()


def refusal(content: bytes) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(content, place="voc/manifest.json")
    return str(caught.value)


def test_manifest_comes_back_as_it_was() -> None:
    assert parse_manifest(encode_manifest(MANIFEST), place="manifest.json") == MANIFEST
    assert encode_manifest(parse_manifest(encode_manifest(MANIFEST), place="")) == encode_manifest(
        MANIFEST
    )


@given(st.data())
def test_no_flipped_bit_passes_for_another_manifest(data: st.DataObject) -> None:
    content = bytearray(encode_manifest(MANIFEST))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = parse_manifest(bytes(content), place="manifest.json")
    except ManifestError:
        return
    assert found == MANIFEST  # a blank became another blank


def test_manifest_names_format_labels_and_box_convention_for_other_tools() -> None:
    document = json.loads(encode_manifest(MANIFEST))
    assert document["format"] == "voc-shards"
    assert document["version"] == 1
    assert document["classes"] == [{"name": "cat", "label": 1}, {"name": "dog", "label": 2}]
    assert document["box_convention"] == "xyxy pixels, zero-based, half-open"
    assert document["tool"] == {"name": "voc-shards", "release": "0.1.0"}
    assert document["splits"]["val"]["shards"] == [
        {
            "name": "val-000000.tar",
            "num_samples": 5,
            "num_bytes": 51_200,
            "sha256": digest("val-000000.tar"),
            "index_sha256": digest("val-000000.tar.idx"),
        }
    ]


def test_fingerprint_is_a_digest_of_the_shards_digests_in_order() -> None:
    names = ("train-000000.tar", "train-000001.tar", "val-000000.tar")
    expected = sha256(b"".join(sha256(name.encode()).digest() for name in names)).hexdigest()
    assert MANIFEST.fingerprint == expected
    assert json.loads(encode_manifest(MANIFEST))["fingerprint"] == expected
    train = MANIFEST.splits["train"]
    turned = replace(train, shards=train.shards[::-1])
    assert replace(MANIFEST, splits=MANIFEST.splits | {"train": turned}).fingerprint != expected
    assert replace(MANIFEST, name="other").fingerprint == expected


def test_manifest_does_not_grow_with_samples() -> None:
    many = replace(MANIFEST, splits={"train": split(entry("train-000000.tar", 10**9))})
    few = replace(MANIFEST, splits={"train": split(entry("train-000000.tar", 1))})
    assert len(encode_manifest(many)) - len(encode_manifest(few)) < 100


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            b"{", "not JSON: Expecting property name enclosed in double quotes", id="cut short"
        ),
        pytest.param(b"\xff\xd8", "not JSON: 'utf-8' codec can't decode", id="no text"),
        pytest.param(b"", "not JSON: Expecting value", id="empty"),
        pytest.param(b"[1]", "not a voc-shards manifest", id="a list"),
        pytest.param(b'{"format": "mds"}', "not a voc-shards manifest", id="another format"),
    ],
)
def test_file_that_is_no_manifest_is_refused(content: bytes, message: str) -> None:
    assert refusal(content).startswith(f"voc/manifest.json: {message}")


@pytest.mark.parametrize("version", [2, 0, "1", None, 1.5])
def test_unknown_version_is_refused_before_anything_else(version: object) -> None:
    newer = json.dumps({"format": "voc-shards", "version": version}).encode()
    assert refusal(newer) == (
        f"voc/manifest.json: version {version!r} is unknown (this release reads version 1); "
        "install a release of voc-shards that knows it"
    )


PATHS = [
    *((key,) for key in json.loads(encode_manifest(MANIFEST))),
    ("tool", "release"),
    *(("splits", "train", key) for key in json.loads(encode_manifest(MANIFEST))["splits"]["train"]),
    *(("splits", "val", "shards", 0, key) for key in ("name", "num_samples", "num_bytes")),
    *(("splits", "val", "shards", 0, key) for key in ("sha256", "index_sha256")),
    ("classes", 0, "label"),
]
WITH_OWN_MESSAGE = {("format",), ("version",), ("box_convention",)}


@pytest.mark.parametrize("path", [path for path in PATHS if path not in WITH_OWN_MESSAGE])
def test_missing_field_is_named(path: tuple[Any, ...]) -> None:
    def remove(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    assert refusal(changed(remove)) == (
        f"voc/manifest.json: field {path[-1]!r} is missing; "
        "it is damaged or of another release: delete the folder and convert again"
    )


def set_at(*path: Any, value: object) -> Callable[[Document], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


SHARD = ("splits", "train", "shards", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            set_at("splits", "train", "num_samples", value=8),
            "split 'train': num_samples is 8, its shards' is 7",
            id="samples do not add up",
        ),
        pytest.param(
            set_at("splits", "val", "num_bytes", value=1),
            "split 'val': num_bytes is 1, its shards' is 51200",
            id="bytes do not add up",
        ),
        *(
            pytest.param(
                set_at(*SHARD, "name", value=name),
                f"shard name {name!r} is not a plain file name ending in .tar",
                id=f"shard name {name}",
            )
            for name in (
                *("../train.tar", "/etc/train.tar", "a/b.tar", "a\\b.tar", "..", ".tar", ""),
                *(".hidden.tar", "train.tgz", "-rf.tar", "a\n.tar", "s3://b/a.tar", "a.tar\n"),
            )
        ),
        pytest.param(
            set_at(*SHARD, "sha256", value="ab"),
            "shard 'train-000000.tar': a digest is not 64 hex digits",
            id="short digest",
        ),
        pytest.param(
            set_at(*SHARD, "index_sha256", value="Z" * 64),
            "shard 'train-000000.tar': a digest is not 64 hex digits",
            id="digest of other letters",
        ),
        pytest.param(
            set_at(*SHARD, "num_samples", value=0),
            "shard 'train-000000.tar' claims 0 samples",
            id="empty shard",
        ),
        pytest.param(
            set_at(*SHARD, "num_bytes", value=0),
            "shard 'train-000000.tar' claims 0 bytes",
            id="shard without bytes",
        ),
    ],
)
def test_manifest_that_contradicts_itself_is_refused(
    change: Callable[[Document], None], message: str
) -> None:
    assert refusal(changed(change)) == f"voc/manifest.json: a field holds what it cannot: {message}"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(set_at("splits", value=[]), id="splits is a list"),
        pytest.param(set_at("splits", "train", value=None), id="split is null"),
        pytest.param(set_at("splits", "train", "shards", value={"a": 1}), id="shards is an object"),
        pytest.param(set_at(*SHARD, "name", value=7), id="name is a number"),
        pytest.param(set_at(*SHARD, "sha256", value=None), id="digest is null"),
        pytest.param(set_at(*SHARD, "num_samples", value="4"), id="count is text"),
        pytest.param(set_at(*SHARD, "num_samples", value=4.5), id="count is a fraction"),
        pytest.param(set_at(*SHARD, "num_samples", value=float("inf")), id="count is infinite"),
        pytest.param(set_at("classes", value={"cat": 1}), id="classes is an object"),
        pytest.param(set_at("classes", 0, "label", value="1"), id="label is text"),
        pytest.param(set_at("tool", value="voc-shards"), id="tool is text"),
        pytest.param(set_at("sources", value=3), id="sources is a number"),
        pytest.param(set_at("name", value=None), id="name is null"),
    ],
)
def test_field_of_another_type_is_refused(change: Callable[[Document], None]) -> None:
    assert refusal(changed(change)).startswith("voc/manifest.json: a field holds what it cannot: ")


def test_fingerprint_that_is_not_its_shards_is_refused() -> None:
    assert refusal(changed(set_at("fingerprint", value="ab"))) == (
        f"voc/manifest.json: fingerprint 'ab' is not its shards' ({MANIFEST.fingerprint})"
    )
    swapped = changed(lambda document: document["splits"]["train"]["shards"].reverse())
    assert "is not its shards'" in refusal(swapped)


def test_shard_named_twice_is_refused() -> None:
    twice = split(entry("train-000000.tar", 4), entry("train-000000.tar", 4))
    content = encode_manifest(replace(MANIFEST, splits={"train": twice}))
    assert "'train-000000.tar'" in refusal(content)


def test_json_nested_without_end_is_refused() -> None:
    assert refusal(b"[" * 100_000).startswith("voc/manifest.json: not JSON: ")


# What readers are told ------------------------------------------------------------------------


def test_folder_without_manifest_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing) as caught:
        load_manifest(Folder(str(tmp_path / "nowhere")))
    assert str(caught.value) == (
        f"{tmp_path}/nowhere: no dataset here (no manifest.json); "
        "make a dataset with `shard-tool convert SOURCE DEST`"
    )
    write(tmp_path / "voc/train-000000.tar", b"")
    with pytest.raises(ObjectMissing) as caught:
        load_manifest(Folder(str(tmp_path / "voc")))
    problem = "conversion not finished (1 shards, no manifest.json); convert again"
    assert str(caught.value) == f"{tmp_path}/voc: {problem}"


def test_folder_with_a_partial_shard_only_is_an_unfinished_conversion(tmp_path: Path) -> None:
    """A conversion of an earlier release leaves this if it is killed in its first shard."""
    write(tmp_path / ".train-000000.tar.partial-x1y2z3", b"")
    with pytest.raises(ObjectMissing, match="conversion not finished"):
        load_manifest(Folder(str(tmp_path)))


# Sample ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "names", "first_ids"),
    [
        (("train",), ["train-000000.tar", "train-000001.tar"], [0, 4]),
        (("val",), ["val-000000.tar"], [7]),
        (("val", "train"), ["train-000000.tar", "train-000001.tar", "val-000000.tar"], [0, 4, 7]),
        ((), [], []),
    ],
)
def test_sample_ids_do_not_depend_on_the_splits_selected(
    splits: tuple[str, ...], names: list[str], first_ids: list[int]
) -> None:
    arrays = shard_arrays(MANIFEST, splits)
    entries = [item for name in ("train", "val") for item in MANIFEST.splits[name].shards]
    chosen = [item for item in entries if item.name in names]
    assert arrays.names.tolist() == [name.encode() for name in names]
    np.testing.assert_array_equal(arrays.first_ids, np.array(first_ids, np.int64), strict=True)
    assert arrays.num_samples.tolist() == [item.num_samples for item in chosen]
    assert arrays.num_bytes.tolist() == [item.num_bytes for item in chosen]
    assert [row.tobytes().hex() for row in arrays.sha256] == [item.sha256 for item in chosen]
    digests = [item.index_sha256 for item in chosen]
    assert [row.tobytes().hex() for row in arrays.index_sha256] == digests
    assert arrays.sha256.dtype == np.uint8


# Shards with URLs -----------------------------------------------------------------------------


def with_urls(*urls: str | None) -> Manifest:
    shards = [replace(entry(f"train-{i:06d}.tar", i + 1), url=url) for i, url in enumerate(urls)]
    its_split = replace(split(*shards), objects={}, difficult={}, counts={"members": {"jpg": 5}})
    return replace(MANIFEST, task="generic", classes={}, splits={"train": its_split})


def test_urls_of_shards_are_read_back() -> None:
    manifest = with_urls("../shards/gr\u00fcn.tar", "s3://bucket/a.tar", "/data/b.tar", None)
    content = encode_manifest(manifest)
    assert parse_manifest(content, place="manifest.json") == manifest
    shards = json.loads(content)["splits"]["train"]["shards"]
    assert [shard.get("url", "none") for shard in shards] == [
        "../shards/gr\u00fcn.tar",
        "s3://bucket/a.tar",
        "/data/b.tar",
        "none",
    ]
    arrays = shard_arrays(manifest, ("train",))
    assert arrays.urls is not None
    assert [url.decode() for url in arrays.urls] == [shard.get("url", "") for shard in shards]
    assert arrays.names.tolist() == [f"train-{i:06d}.tar".encode() for i in range(4)]


def test_manifest_of_shards_without_urls_has_no_url() -> None:
    document = json.loads(encode_manifest(MANIFEST))
    for its_split in document["splits"].values():
        assert "members" not in its_split
        assert not any("url" in shard for shard in its_split["shards"])
    assert shard_arrays(MANIFEST, ("train", "val")).urls is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shards/",
        "a\0.tar",
        "https://me:secret@host/a.tar",
        "https://host/a.tar?token=secret",
        "https://host/a.tar#secret",
        "https://host/",
        "://host/a.tar",
        7,
        ["a.tar"],
    ],
)
def test_url_that_is_impossible_or_secret_is_refused_and_not_shown(url: Any) -> None:
    def change(document: Document) -> None:
        document["splits"]["train"]["shards"][0]["url"] = url

    message = refusal(changed(change))
    assert message.startswith("voc/manifest.json: a field holds what it cannot: ")
    assert "secret" not in message


def test_objects_beside_are_only_the_datasets_own() -> None:
    """Overwriting removes them; anything else may be somebody's only copy."""
    assert with_urls("train-000000.tar", None).objects_beside == {
        "train-000000.tar.idx",
        "train-000001.tar",
        "train-000001.tar.idx",
    }
