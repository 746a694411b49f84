"""The table of official archives names each once, with its URL and digests."""

from __future__ import annotations

import pytest

from shard_tool.errors import OptionError
from shard_tool.sources.voc.official import ARCHIVES, OFFICIAL_HOSTS, archives_of


def test_the_table_names_every_archive_once() -> None:
    assert [(archive.year, archive.set_) for archive in ARCHIVES] == [
        ("2007", "trainval"),
        ("2007", "test"),
        *((str(year), "trainval") for year in range(2008, 2013)),
    ]
    assert len({archive.file for archive in ARCHIVES}) == len(ARCHIVES)
    digests = [a.md5 for a in ARCHIVES] + [bad.md5 for a in ARCHIVES for bad in a.known_bad]
    assert len(set(digests)) == len(digests)
    assert all(len(md5) == 32 and set(md5) <= set("0123456789abcdef") for md5 in digests)
    assert all(a.num_bytes is None or a.num_bytes % 512 == 0 for a in ARCHIVES), "tars are"


def test_the_official_url_of_an_archive() -> None:
    (archive,) = archives_of("2012", "trainval")
    assert [host + archive.url_path for host in OFFICIAL_HOSTS] == [
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ]


def test_the_tar_of_august_2020_is_explained() -> None:
    (archive,) = archives_of("2012")
    assert archive.explanation_of("af08689459fe018b209e8d8fb5d4eb2e") == (
        "the tar the official host served for a while in August 2020, in which one picture, "
        "2008_005714.jpg, differs"
    )
    assert archive.explanation_of(archive.md5) is None


@pytest.mark.parametrize(
    ("year", "set_", "message"),
    [
        (
            "2006",
            None,
            "year '2006': VOC has no such archive; known years: 2007, 2008, 2009, 2010, 2011, 2012",
        ),
        ("2012", "test", "set 'test': VOC2012 has no such archive; known sets of 2012: trainval"),
        (
            "2007",
            "val",
            "set 'val': VOC2007 has no such archive; known sets of 2007: trainval, test",
        ),
    ],
)
def test_error_for_an_unknown_archive_lists_the_known_ones(
    year: str, set_: str | None, message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        archives_of(year, set_)
    assert str(caught.value) == message
