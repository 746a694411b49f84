"""What became of each fault, as tests find it, and the table of docs/reliability.md.

Tests `note` outcomes. A test then compares them with the page; with RELIABILITY=write in the
environment it writes the page's table instead (``python -m tests.write_reliability``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[3] / "docs/reliability.md"
BEGIN, END = "<!-- table: written by tests.write_reliability -->", "<!-- end of table -->"

FAULTS = {
    "cut-fin": "connection closed in mid-body (FIN)",
    "cut-rst": "connection reset in mid-body (RST)",
    "stall": "nothing more comes",
    "slow-down": "503 SlowDown, six in a row",
    "internal-error": "500 InternalError",
    "reset-before-headers": "connection reset before the headers",
    "short-body": "a well-formed answer that is too short",
    "html-200": "an HTML page with status 200",
    "flip": "a flipped bit",
    "wrong-range": "another range, which says so",
    "wrong-bytes": "another range that claims to be the right one",
    "expired-token": "expired credentials",
    "replaced": "the object replaced in mid-run",
    "missing": "a missing shard",
}
"""Kind to what the page calls it, in its order."""
SAME = "same samples"


class Row(NamedTuple):
    """What became of one kind of fault."""

    once: str = ""
    once_s: float = 0.0
    lasting: str = ""
    lasting_s: float = 0.0


class FaultTable:
    """Outcomes by kind; where several are noted for one, all of them and the longest time."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, bool], set[str]] = defaultdict(set)
        self._seconds: dict[tuple[str, bool], float] = defaultdict(float)

    def note(self, kind: str, outcome: str, seconds: float, *, lasts: bool) -> None:
        """Note an outcome: `SAME` or the name of an error, and the seconds it took more."""
        assert kind in FAULTS, kind
        self._outcomes[kind, lasts].add(outcome)
        self._seconds[kind, lasts] = max(self._seconds[kind, lasts], seconds)

    def outcome(self, kind: str, *, lasts: bool) -> str:
        """Empty where nothing was noted."""
        return " or ".join(
            sorted(self._outcomes[kind, lasts], key=lambda name: (name != SAME, name))
        )

    def rows(self) -> dict[str, Row]:
        """By kind, those noted."""
        return {
            kind: Row(
                self.outcome(kind, lasts=False),
                self._seconds[kind, False],
                self.outcome(kind, lasts=True),
                self._seconds[kind, True],
            )
            for kind in FAULTS
            if self.outcome(kind, lasts=False) or self.outcome(kind, lasts=True)
        }


def rows_of(page: str) -> dict[str, Row]:
    """The rows of a page, by kind."""
    kinds = {text: kind for kind, text in FAULTS.items()}
    rows = {}
    for line in _table_of(page).splitlines()[2:]:
        text, once, once_s, lasting, lasting_s = (cell.strip() for cell in line[1:-1].split("|"))
        seconds = float(once_s), float(lasting_s)
        rows[kinds[text]] = Row(_plain(once), seconds[0], _plain(lasting), seconds[1])
    return rows


def with_rows(page: str, rows: dict[str, Row]) -> str:
    """The page with another table."""
    lines = ["| fault | once | s more | lasting | after s |", "|---|---|--:|---|--:|"]
    for kind, text in FAULTS.items():
        row = rows[kind]
        once, lasting = (_marked(outcome) for outcome in (row.once, row.lasting))
        lines.append(
            f"| {text} | {once} | {max(row.once_s, 0):.1f} | {lasting} | {row.lasting_s:.1f} |"
        )
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    return "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"])


def _table_of(page: str) -> str:
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def _marked(outcome: str) -> str:
    return re.sub(r"\b[A-Z]\w+", r"`\g<0>`", outcome)


def _plain(cell: str) -> str:
    return cell.replace("`", "")
