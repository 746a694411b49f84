"""Verification finds every kind of damage, wherever it is, and names the place."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.verify import VerifyReport, verify
from shard_tool.errors import ManifestError, ObjectMissing
from shard_tool.format.tar import padded
from shard_tool.storage.location import Folder
from tests.kit.clock import only_pauses_count
from tests.kit.datasets.converted import converted, files_of, manifest_of, resealed, reworded
from tests.kit.datasets.tars import members_of
from tests.kit.datasets.voc_tree import Picture, jpeg, mask, voc_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Samples = dict[str, dict[str, bytes]]
FIRST = "train-000000.tar"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of three pictures with masks each, one shard of two. Read only."""
    folder = tmp_path_factory.mktemp("verify")
    records = [Picture(key=f"00000{i}", has_mask=True) for i in range(6)]
    records += [Picture(key=f"00001{i}", has_mask=True, split="val") for i in range(2)]
    tree = voc_tree(folder / "in", records)
    size = sum(512 + padded(path.stat().st_size) for path in tree.rglob("00*")) // len(records)
    converted(tree, folder / "voc", task="segmentation", shard_bytes=size * 7 // 2)
    document = manifest_of(folder / "voc")
    assert [shard["num_samples"] for shard in document["splits"]["train"]["shards"]] == [3, 3]
    return folder / "voc"


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A dataset to damage."""
    shutil.copytree(template, tmp_path / "voc")
    return tmp_path / "voc"


def check(folder: Path, *, decode: bool = False, workers: int = 1) -> VerifyReport:
    return verify(Folder(str(folder)), decode=decode, workers=workers)


def problems(folder: Path, *, decode: bool = False) -> list[str]:
    """What is wrong, without the folder's own path."""
    return [text.replace(f"{folder}/", "") for text in check(folder, decode=decode).problems]


@pytest.mark.parametrize("name", [FIRST, f"{FIRST}.idx"])
def test_bytes_that_are_wrong_in_transit_are_no_problem_of_the_dataset(
    template: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    clock = only_pauses_count(monkeypatch)
    folder, read, fetched = Folder("memory://in-transit"), Folder.read, list[int]()

    def spoiled(_: Folder, asked: str) -> bytes:
        content = read(Folder(str(template)), asked)
        if asked != name or len(fetched) == 6:
            return content
        fetched.append(len(fetched))
        return content[: -fetched[-1] - 1] + b"?" * (fetched[-1] + 1)

    monkeypatch.setattr(Folder, "read", spoiled)
    assert verify(folder, workers=1).problems == ()
    assert len(clock.pauses) == 6


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def first_key(folder: Path) -> str:
    return members_of((folder / FIRST).read_bytes())[0].name.partition(".")[0]


# A good dataset -------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [False, True])
def test_good_dataset_has_no_problem(mini_dataset: Path, mini_masks: Path, decode: bool) -> None:
    for folder in (mini_dataset, mini_masks):
        report = check(folder, decode=decode)
        assert report.problems == ()
        assert report.num_samples == report.manifest.num_samples > 0
        assert report.num_bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_any_number_of_workers_finds_the_same(folder: Path) -> None:
    flip(folder / FIRST, 600)
    (folder / "val-000000.tar.idx").unlink()
    assert check(folder, workers=2).problems == check(folder).problems != ()


def test_verifying_changes_nothing(folder: Path, template: Path) -> None:
    check(folder, decode=True)
    assert files_of(folder) == files_of(template)


def test_progress_is_told_of_each_shard(template: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(Folder(str(template)), workers=1, on_progress=lambda done, num: seen.append((done, num)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


# A flipped byte -------------------------------------------------------------------------------


def test_flipped_byte_of_a_header_is_found(folder: Path) -> None:
    flip(folder / FIRST, 1)
    digest, header, count = problems(folder)
    assert re.fullmatch(rf"{FIRST}: sha256 \w{{64}}, the manifest says \w{{64}}", digest)
    assert re.fullmatch(
        rf"{FIRST}: the header at byte 0 has checksum \d+, its bytes give \d+", header
    )
    assert count == f"{FIRST}: 0 samples, the manifest says 3"


@pytest.mark.parametrize("extension", ["jpg", "json", "class.png"])
@pytest.mark.parametrize("place", ["content", "padding"])
def test_flipped_byte_of_a_sample_is_found_and_the_sample_named(
    folder: Path, extension: str, place: str
) -> None:
    key = first_key(folder)
    name = f"{key}.{extension}"
    (member,) = [m for m in members_of((folder / FIRST).read_bytes()) if m.name == name]
    flip(folder / FIRST, member.offset + (member.size // 2 if place == "content" else member.size))
    found = problems(folder)
    assert found[0].startswith(f"{FIRST}: sha256 ")
    crc = r"has CRC-32 [0-9a-f]{8}, the index says [0-9a-f]{8}"
    assert re.fullmatch(rf"{FIRST}: sample '{key}' {crc}", found[1])


def test_flipped_byte_after_the_last_sample_is_found(folder: Path) -> None:
    flip(folder / FIRST, (folder / FIRST).stat().st_size - 1)
    (problem,) = problems(folder)
    assert problem.startswith(f"{FIRST}: sha256 ")


@pytest.mark.parametrize(
    ("at", "problem"),
    [
        pytest.param(0, r"its offsets do not fit a shard of \d+ bytes", id="a start"),
        pytest.param(9, "its offsets are not where the samples are", id="a start, by 4096"),
        pytest.param(-1, r"sample '\d+' has CRC-32 \w+, the index says \w+", id="a CRC"),
    ],
)
def test_flipped_byte_of_an_index_is_found(folder: Path, at: int, problem: str) -> None:
    path = folder / f"{FIRST}.idx"
    flip(path, at % path.stat().st_size)
    digest, what, *_ = problems(folder)
    assert digest.startswith(f"{FIRST}: index sha256 ")
    assert re.fullmatch(rf"{FIRST}(\.idx)?: {problem}", what)


# What is short, missing or somebody else's ----------------------------------------------------


def test_short_shard_is_found_wherever_it_ends(folder: Path) -> None:
    content = (folder / FIRST).read_bytes()
    last = members_of(content)[-1]
    for cut in (0, 100, 512, last.offset + 1, last.offset + 512, len(content) - 1):
        (folder / FIRST).write_bytes(content[:cut])
        found = problems(folder)
        assert found[0] == f"{FIRST}: bytes {cut}, the manifest says {len(content)}"
        assert found[1].startswith(f"{FIRST}: sha256 ")
        if cut < len(content) - 1:  # else only the zeros at the end are short
            assert found[2].startswith(f"{FIRST}: cut short")
            assert found[3] == f"{FIRST}: 0 samples, the manifest says 3"


def test_missing_shard_is_found(folder: Path) -> None:
    (folder / FIRST).unlink()
    assert problems(folder) == [f"{FIRST}: there is no such object"]


def test_missing_index_is_found_and_hides_no_damage_of_its_shard(folder: Path) -> None:
    (folder / f"{FIRST}.idx").unlink()
    assert problems(folder) == [f"{FIRST}.idx: there is no such object"]
    flip(folder / FIRST, (folder / FIRST).stat().st_size - 1)
    missing, digest = sorted(problems(folder), key=len)
    assert missing == f"{FIRST}.idx: there is no such object"
    assert digest.startswith(f"{FIRST}: sha256 ")


def test_swapped_indexes_are_found(folder: Path) -> None:
    other = "val-000000.tar"
    mine, theirs = ((folder / f"{name}.idx").read_bytes() for name in (FIRST, other))
    (folder / f"{FIRST}.idx").write_bytes(theirs)
    (folder / f"{other}.idx").write_bytes(mine)
    found = problems(folder)
    for name in (FIRST, other):
        assert any(text.startswith(f"{name}: index sha256 ") for text in found)
        assert any(text.startswith(f"{name}.idx: its offsets ") for text in found)


def test_swapped_shards_are_found(folder: Path) -> None:
    (folder / FIRST).rename(folder / "x")
    (folder / "train-000001.tar").rename(folder / FIRST)
    (folder / "x").rename(folder / "train-000001.tar")
    found = problems(folder)
    for name in (FIRST, "train-000001.tar"):
        assert any(text.startswith(f"{name}: sha256 ") for text in found)


def test_every_damaged_shard_is_reported(folder: Path) -> None:
    flip(folder / FIRST, 600)
    flip(folder / "val-000000.tar", 600)
    (folder / "train-000001.tar").unlink()
    names = {text.partition(":")[0] for text in problems(folder)}
    assert names >= {FIRST, "train-000001.tar", "val-000000.tar"}


# Content that every digest agrees with --------------------------------------------------------


def test_picture_that_does_not_decode_is_found_only_by_decoding(folder: Path) -> None:
    key = first_key(folder)

    def cut(samples: Samples) -> None:
        if key in samples:
            samples[key]["jpg"] = samples[key]["jpg"][:-12]

    resealed(folder, "train", cut)
    assert problems(folder) == []
    (problem,) = problems(folder, decode=True)
    assert problem.startswith(f"{FIRST}: {key}.jpg: does not decode: ")


def replaced(**parts: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda members: members.update(
        {name.replace("_", "."): content for name, content in parts.items()}
    )


def rewritten(**fields: Any) -> Callable[[dict[str, bytes]], object]:
    return lambda members: members.update(
        json=json.dumps(json.loads(members["json"]) | fields).encode()
    )


def with_first_object(**fields: Any) -> Callable[[dict[str, bytes]], object]:
    def change(members: dict[str, bytes]) -> None:
        document = json.loads(members["json"])
        document["objects"][0] |= fields
        members["json"] = json.dumps(document).encode()

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            replaced(json=b"{"), r"\.json: not the JSON of a sample: .*", id="JSON cut short"
        ),
        pytest.param(
            rewritten(key="other"), r"\.json: its key is 'other'", id="JSON of another sample"
        ),
        pytest.param(
            rewritten(width=21),
            r"\.jpg: is 20 x 10 px, the JSON says 21 x 10",
            id="JSON of another size",
        ),
        pytest.param(
            replaced(jpg=jpeg((10, 20))),
            r"\.jpg: is 10 x 20 px, the JSON says 20 x 10",
            id="picture of another size",
        ),
        pytest.param(
            replaced(jpg=b"GIF"),
            r"\.jpg: not a picture of a known format \(3 bytes\); known: .*",
            id="no JPEG",
        ),
        pytest.param(
            replaced(class_png=mask((10, 20))),
            r"\.class\.png: is 10 x 20 px, its picture 20 x 10",
            id="mask of another size",
        ),
        pytest.param(
            replaced(object_png=jpeg((20, 10))),
            r"\.object\.png: not a PNG picture \(\d+ bytes\)",
            id="mask is a JPEG",
        ),
        pytest.param(
            with_first_object(bbox=[0, 0, 21, 10]),
            r"\.json: object 1: its box \(0, 0, 21, 10\) leaves 20 x 10 px; boxes are x0, y0, x1, "
            "y1 in pixels from zero; convert the data, or mend the tars",
            id="box outside",
        ),
        pytest.param(
            with_first_object(label=9),
            r"\.json: object 1: 'cat' has label 9, its class has 8",
            id="label of another class",
        ),
        pytest.param(
            with_first_object(name="lion"),
            r"\.json: object 1: 'lion' is not one of the dataset's classes; give the classes by "
            "--classes, or convert the data again",
            id="no class of the dataset",
        ),
        pytest.param(lambda parts: parts.pop("json"), " has no json member", id="no JSON"),
        pytest.param(
            lambda parts: parts.pop("jpg"),
            " has no picture; it needs one member of jpg, png, webp",
            id="no picture",
        ),
    ],
)
def test_sample_that_contradicts_itself_is_named(
    folder: Path, change: Callable[[dict[str, bytes]], object], problem: str
) -> None:
    key = first_key(folder)
    resealed(folder, "train", lambda samples: change(samples[key]) if key in samples else None)
    (found,) = problems(folder)
    spaced = f": {problem.strip()}" if problem.startswith(" ") else problem
    assert re.fullmatch(rf"{FIRST}: {key}{spaced}", found)


def test_members_that_are_no_pictures_of_ours_are_left_alone(folder: Path) -> None:
    more = replaced(txt=b"a cat", thumb_png=b"no PNG", cls=b"7")
    resealed(folder, "train", lambda samples: [more(members) for members in samples.values()])
    for decode in (False, True):
        assert problems(folder, decode=decode) == []


def test_names_of_members_are_shown_without_what_a_terminal_obeys(folder: Path) -> None:
    key, hostile = first_key(folder), "k\x1b[31m\n"

    def change(samples: Samples) -> None:
        if key in samples:
            samples[hostile] = {"json": samples.pop(key)["json"]}

    resealed(folder, "train", change)
    (problem,) = problems(folder)
    assert (
        problem == FIRST + r": k\x1b[31m\n: has no picture; it needs one member of jpg, png, webp"
    )


def test_key_in_two_shards_is_found(folder: Path) -> None:
    key = first_key(folder)
    moved: Samples = {}

    def copy(samples: Samples) -> None:
        moved.update({key: samples[key]} if key in samples else {})
        samples |= moved

    resealed(folder, "train", copy)
    assert f"{folder}: split 'train': key '{key}' occurs in more than one place" in (
        check(folder).problems
    )


@pytest.mark.parametrize("what", ["objects", "difficult"])
def test_wrong_count_of_a_class_is_found(folder: Path, what: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["splits"]["train"][what] = {"cat": 7, "dog": 6}

    reworded(folder, change)
    counted = {"objects": 6, "difficult": 0}[what]
    assert check(folder).problems == (
        f"{folder}: split 'train': {what} of 'cat' is 7, counted {counted}",
    )


def test_wrong_count_of_samples_is_found(folder: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["splits"]["train"]["shards"][0]["num_samples"] = 4

    reworded(folder, change)
    assert problems(folder) == [f"{FIRST}: 3 samples, the manifest says 4"]


def test_many_problems_of_a_shard_are_summed_up(tmp_path: Path) -> None:
    records = [Picture(key=f"{number}") for number in range(30)]
    converted(voc_tree(tmp_path / "in", records), tmp_path / "voc")
    resealed(
        tmp_path / "voc",
        "train",
        lambda samples: [members.pop("jpg") for members in samples.values()],
    )
    found = problems(tmp_path / "voc")
    assert len(found) == 21
    assert found[-1] == f"{FIRST}: and 10 more problems"


def test_no_dataset_and_a_damaged_manifest_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match="no dataset here"):
        check(tmp_path / "nothing")
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    with pytest.raises(ManifestError, match=rf"^{manifest}: not JSON: "):
        check(folder)
