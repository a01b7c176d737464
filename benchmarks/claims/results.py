"""What a run found (pure): figures and the page's data, docs/claims.json."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.claims.verdicts import interval

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs/claims.json"
# Of a machine; with more of it in other hands, a round is disturbed.
FOREIGN_CORES = 0.1


@dataclass(frozen=True)
class Found:
    """One figure: a value for each pair of rounds, or for each process; `before` and `after` are medians in `unit`."""

    values: list[float]
    unit: str
    before: float | None = None
    after: float | None = None
    # Of both sides, in all rounds.
    errors: int = 0
    # Whether the faster side was faster than the client.
    client_limited: bool = False
    # That other programs used, at the median of the rounds.
    foreign_cores: float = 0.0

    @property
    def disturbed(self) -> bool:
        return self.foreign_cores > FOREIGN_CORES

    @property
    def is_ratio(self) -> bool:
        return self.before is not None

    def text(self) -> str:
        """Return the median, its interval and both sides: "1.05x (1.02 to 1.08), 3,210 to 3,370 requests/s"."""
        seen, mark = interval(self.values), "x" if self.is_ratio else f" {self.unit}"
        shown = f"{short(seen.median)}{mark} ({short(seen.low)} to {short(seen.high)})"
        if self.before is not None and self.after is not None:
            shown += f", {short(self.before)} to {short(self.after)} {self.unit}"
        shown += f", {self.errors:,} errors" if self.errors else ""
        shown += ", limited by the client" if self.client_limited else ""
        return shown + (f", disturbed: other programs used {self.foreign_cores:.1f} cores" if self.disturbed else "")


@dataclass(frozen=True)
class Row:
    """The figures of one claim, with the day, the machine and the versions of their run."""

    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    figures: dict[str, Found] = field(default_factory=dict)


def short(value: float) -> str:
    """Return three significant digits, and whole numbers from 100."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def load(path: Path = DATA) -> dict[str, Row]:
    """Return the rows by the names of their claims; none without a file."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Row(
            row["date"],
            row["machine"],
            row["versions"],
            {key: Found(**each) for key, each in row["figures"].items()},
        )
        for name, row in document.items()
    }


def save(rows: dict[str, Row], path: Path = DATA) -> None:
    """Write all rows; a value is on the line of its figure."""
    document = {name: asdict(row) for name, row in rows.items()}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8", newline="\n")
