"""What became of each fault, as tests find it, and the table of docs/reliability.md.

Tests `note` outcomes. A test then compares them with the page; with RELIABILITY=write in the
environment it writes the page's table instead (``python -m tests.write_reliability``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Literal, NamedTuple, get_args

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
    "flip": "the same flipped bit",
    "flips": "a flipped bit, each time another",
    "wrong-range": "another range, which says so",
    "wrong-bytes": "another range labelled as the right one",
    "mixed-bytes": "another range, a new one each time, labelled as the right one",
    "expired-token": "expired credentials",
    "replaced": "the object replaced in mid-run",
    "missing": "a missing shard",
}
"""Kind to what the page calls it, in its order."""
SAME = "same samples"


When = Literal["once", "for 5 s", "lasting"]
"""One faulty answer; faulty answers for five seconds, then right ones; none but faulty ones."""


class Row(NamedTuple):
    """What became of one kind of fault; empty where it was not tried."""

    once: str = ""
    once_s: float = 0.0
    for_seconds: str = ""
    lasting: str = ""
    attempts: int = 0
    """Attempts that the error of a lasting fault tells of, at most."""


class FaultTable:
    """Outcomes by kind; where several are noted for one, all of them and the largest amount."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, When], set[str]] = defaultdict(set)
        self._amounts: dict[tuple[str, When], float] = defaultdict(float)

    def note(self, kind: str, when: When, outcome: str, amount: float = 0) -> None:
        """Note an outcome: `SAME` or the name of an error, and what it took.

        Args:
            kind: The fault's.
            when: How long there was a fault.
            outcome: `SAME` or the name of an error.
            amount: Of one that passes the seconds it took more, of a lasting one the attempts.
        """
        assert kind in FAULTS, kind
        self._outcomes[kind, when].add(outcome)
        self._amounts[kind, when] = max(self._amounts[kind, when], amount)

    def outcome(self, kind: str, when: When) -> str:
        """Empty where nothing was noted."""
        return " or ".join(
            sorted(self._outcomes[kind, when], key=lambda name: (name != SAME, name))
        )

    def rows(self) -> dict[str, Row]:
        """By kind, those noted."""
        return {
            kind: Row(
                self.outcome(kind, "once"),
                self._amounts[kind, "once"],
                self.outcome(kind, "for 5 s"),
                self.outcome(kind, "lasting"),
                int(self._amounts[kind, "lasting"]),
            )
            for kind in FAULTS
            if any(self.outcome(kind, when) for when in get_args(When))
        }


def rows_of(page: str) -> dict[str, Row]:
    """The rows of a page, by kind."""
    kinds = {text: kind for kind, text in FAULTS.items()}
    rows = {}
    for line in _table_of(page).splitlines()[2:]:
        text, once, once_s, briefly, lasting, attempts = (
            cell.strip() for cell in line[1:-1].split("|")
        )
        outcomes = _plain(once), float(once_s or 0), _plain(briefly), _plain(lasting)
        rows[kinds[text]] = Row(*outcomes, int(attempts or 0))
    return rows


def with_rows(page: str, rows: dict[str, Row]) -> str:
    """The page with another table."""
    lines = [
        "| fault | once | s more | for 5 s, then right | lasting | attempts |",
        "|---|---|--:|---|---|--:|",
    ]
    for kind, text in FAULTS.items():
        row = rows[kind]
        once, briefly, lasting = map(_marked, (row.once, row.for_seconds, row.lasting))
        seconds = f"{max(row.once_s, 0):.1f}" if row.once else ""
        lines.append(
            f"| {text} | {once} | {seconds} | {briefly} | {lasting} | {row.attempts or ''} |"
        )
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    return "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"])


def _table_of(page: str) -> str:
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def _marked(outcome: str) -> str:
    return re.sub(r"\b[A-Z]\w+", r"`\g<0>`", outcome)


def _plain(cell: str) -> str:
    return cell.replace("`", "")
