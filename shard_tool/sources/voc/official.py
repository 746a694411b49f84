"""Lists the official PASCAL VOC archives with their URLs, sizes and MD5s.

File names are the official ones with their dates, so archives of several years never collide in one
folder. The hosts publish neither digests nor sizes; these come from copies that people hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shard_tool.errors import OptionError

OFFICIAL_HOSTS = (
    "https://thor.robots.ox.ac.uk/pascal/VOC/",
    "http://host.robots.ox.ac.uk/pascal/VOC/",  # the older name, very often down
)
"""Base URLs of the official hosts, in the order to try them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBad:
    """The MD5 of a wrong file that people are known to have received."""

    md5: str
    explanation: str
    """Where the file comes from and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One official archive."""

    year: str
    """'2007' … '2012'."""
    set_: Literal["trainval", "test"]
    file: str
    """The official file name."""
    md5: str
    """MD5 of the whole file, 32 hex digits in lower case."""
    num_bytes: int | None = None
    """Length of the file; None if unknown."""
    known_bad: tuple[KnownBad, ...] = ()

    @property
    def url_path(self) -> str:
        """Path of the archive below the base URL of an official host or a full mirror."""
        return f"voc{self.year}/{self.file}"

    def explanation_of(self, md5: str) -> str | None:
        """Explanation of a known wrong file with this MD5; None for any other."""
        return next((bad.explanation for bad in self.known_bad if bad.md5 == md5), None)


_OF_AUGUST_2020 = KnownBad(
    md5="af08689459fe018b209e8d8fb5d4eb2e",
    explanation=(
        "the tar the official host served for a while in August 2020, in which one picture, "
        "2008_005714.jpg, differs"  # seen by the reviewers of pytorch/vision pull request 2589
    ),
)

ARCHIVES = (
    Archive(
        year="2007",
        set_="trainval",
        file="VOCtrainval_06-Nov-2007.tar",
        md5="c52e279531787c972589f7e41ab4ae64",
        num_bytes=460_032_000,
    ),
    Archive(
        year="2007",
        set_="test",
        file="VOCtest_06-Nov-2007.tar",
        md5="b6e924de25625d8de591ea690078ad9f",
        num_bytes=451_020_800,
    ),
    Archive(
        year="2008",
        set_="trainval",
        file="VOCtrainval_14-Jul-2008.tar",
        md5="2629fa636546599198acfcfbfcf1904a",
    ),
    Archive(
        year="2009",
        set_="trainval",
        file="VOCtrainval_11-May-2009.tar",
        md5="a3e00b113cfcfebf17e343f59da3caa1",  # torchvision had another one, of no known file
    ),
    Archive(
        year="2010",
        set_="trainval",
        file="VOCtrainval_03-May-2010.tar",
        md5="da459979d0c395079b5c75ee67908abb",
    ),
    Archive(
        year="2011",
        set_="trainval",
        file="VOCtrainval_25-May-2011.tar",
        md5="6c3384ef61512963050cb5d687e5bf1e",
    ),
    Archive(
        year="2012",
        set_="trainval",
        file="VOCtrainval_11-May-2012.tar",
        md5="6cd6e144f989b92b3379bac3b3de84fd",
        num_bytes=1_999_639_040,
        known_bad=(_OF_AUGUST_2020,),
    ),
)
"""All archives to download. Test sets after 2007 have no public annotations."""


def archives_of(year: str, set_: str | None = None) -> tuple[Archive, ...]:
    """Look up the archives of a year, or the one of its sets.

    Args:
        year: '2007' … '2012'.
        set_: 'trainval' or 'test'; None for all sets of the year.

    Returns:
        At least one archive; trainval first.

    Raises:
        OptionError: There is no such year or set; lists the known ones.

    >>> [archive.file for archive in archives_of("2007")]
    ['VOCtrainval_06-Nov-2007.tar', 'VOCtest_06-Nov-2007.tar']
    """
    of_year = tuple(archive for archive in ARCHIVES if archive.year == year)
    if not of_year:
        years = ", ".join(dict.fromkeys(archive.year for archive in ARCHIVES))
        raise OptionError(f"year {year!r}", "VOC has no such archive", f"known years: {years}")
    chosen = tuple(archive for archive in of_year if set_ in (None, archive.set_))
    if not chosen:
        sets = ", ".join(archive.set_ for archive in of_year)
        problem = f"VOC{year} has no such archive"
        raise OptionError(f"set {set_!r}", problem, f"known sets of {year}: {sets}")
    return chosen
