"""What is found out about a card, and how it is shown: checks and figures, as tables and plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

__all__ = ["Check", "Row", "as_markdown", "as_values", "lines_of", "tables"]

_HEADINGS = {
    "checks": ("check", "found", "verdict"),
    "figures": ("figure", "us", "GB/s", "wanted", "found", "verdict"),
}
_CAPTION = "medians; 0.92 x a peer: 0.92 times as fast as that"


@dataclass(frozen=True)
class Check:
    """One thing that must be right.

    Attributes
    ----------
    name, found : str
    passed : bool or None
        None: it could not be found out here, and `found` says why.
    """

    name: str
    found: str
    passed: bool | None

    @property
    def verdict(self) -> str:
        """One or two words for a table."""
        return {True: "passed", False: "FAILED", None: "not run"}[self.passed]

    @property
    def texts(self) -> tuple[str, ...]:
        """The cells of a table."""
        return self.name, self.found, self.verdict


@dataclass(frozen=True)
class Row:
    """One figure and what it is to be.

    Attributes
    ----------
    name : str
    seconds : float
        Of ours: the median.
    peers : dict of str to float
        Seconds of the others on the same data.
    wanted : dict of str to float
        For a peer, the least speed-up over it (``peer / ours``) that will do.
    nbytes : int
        Bytes that must move; 0 where bandwidth is not the matter.
    limit : float
        Seconds that must not be exceeded; 0 for none.
    left_out : dict of str to str
        Peers that could not be timed, and why.
    """

    name: str
    seconds: float
    peers: dict[str, float] = field(default_factory=dict)
    wanted: dict[str, float] = field(default_factory=dict)
    nbytes: int = 0
    limit: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def bandwidth(self) -> float:
        """Bytes a second; 0 where bandwidth is not the matter."""
        return self.nbytes / self.seconds

    @property
    def reached(self) -> bool | None:
        """Tell whether the figure is what it is to be; None: nothing is wanted, or a peer is missing."""
        least = {name: ratio for name, ratio in self.wanted.items() if name in self.peers}
        if any(self.peers[name] / self.seconds < ratio for name, ratio in least.items()):
            return False
        if self.limit and self.seconds > self.limit:
            return False
        return True if least.keys() == self.wanted.keys() and (least or self.limit) else None

    @property
    def verdict(self) -> str:
        """One or two words for a table; none where nothing is wanted."""
        if self.reached is None:
            return "not compared" if self.wanted else ""
        return "reached" if self.reached else "MISSED"

    @property
    def texts(self) -> tuple[str, ...]:
        """The cells of a table."""
        wanted = [f"{least:.2f} x {name}" for name, least in self.wanted.items()]
        found = [f"{seconds / self.seconds:.2f} x {name}" for name, seconds in self.peers.items()]
        return (
            self.name,
            f"{self.seconds * 1e6:.1f}",
            f"{self.bandwidth / 1e9:.0f}" if self.nbytes else "",
            ", ".join([*wanted, *([f"at most {self.limit * 1e6:.1f} us"] if self.limit else [])]),
            ", ".join([*found, *(f"without {name}: {why}" for name, why in self.left_out.items())]),
            self.verdict,
        )


def _parts(checks: Iterable[Check], rows: Iterable[Row]) -> dict[str, list[tuple[str, ...]]]:
    return {
        "checks": [check.texts for check in checks],
        "figures": [row.texts for row in rows],
    }


def tables(checks: Sequence[Check], rows: Sequence[Row]) -> list[Table]:
    """Return one table of checks and one of figures, for a terminal or a text file."""
    found = []
    for title, lines in _parts(checks, rows).items():
        table = Table(*_HEADINGS[title], title=f"numscope on a CUDA device: {title}")
        table.caption = _CAPTION if title == "figures" else None
        for texts in lines:
            table.add_row(*map(escape, texts))
        found.append(table)
    return found


def as_values(facts: Mapping[str, Any], checks: Sequence[Check], rows: Sequence[Row]) -> dict[str, Any]:
    """Return facts about the machine, checks and figures as plain values."""
    return {
        **facts,
        "checks": [asdict(check) for check in checks],
        "figures": [{**asdict(row), "bandwidth": row.bandwidth, "reached": row.reached} for row in rows],
    }


def lines_of(facts: Mapping[str, Any]) -> list[str]:
    """Return a line of text for each fact."""
    found = []
    for name, value in facts.items():
        text = value or "unknown"
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {inner or 'not found'}" for key, inner in value.items())
        found.append(f"{name}: {text}")
    return found


def as_markdown(facts: Mapping[str, Any], checks: Sequence[Check], rows: Sequence[Row]) -> str:
    """Return the same as a page in Markdown, to be kept beside the code."""
    lines = ["# Figures of a CUDA device", "", *(f"- {line}" for line in lines_of(facts))]
    for title, parts in _parts(checks, rows).items():
        lines += ["", f"## {title.capitalize()}", *(["", _CAPTION] if title == "figures" else []), ""]
        heading = _HEADINGS[title]
        lines += [_line(cells) for cells in (heading, ("---",) * len(heading), *parts)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    """Return a row of a table in Markdown."""
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
