"""The page docs/claims.md, made from the table and the data (pure)."""

from collections import Counter
from collections.abc import Mapping

from benchmarks.claims.results import DATA, Row, load
from benchmarks.claims.table import CLAIMS, Claim
from benchmarks.claims.verdicts import Verdict, interval, together

PAGE = DATA.with_suffix(".md")
HEAD = """\
# Claims of common advice, measured

Articles on fast FastAPI services repeat these claims. Each row is one claim, measured with the versions of today: both
sides in one run and in turns (A B B A), behind the same client in a process of its own. The services are files of a few
lines in [benchmarks/claims/services](../benchmarks/claims/services). `nox -s claims` measures all rows, and writes this
page and its data, [claims.json](claims.json); the command of a row measures this row alone.

A figure is the median of the ratios of adjacent rounds. The order statistics that contain the true median in 95 % of
all runs (the lowest and the highest of fewer than 9 values) follow in parentheses, and then the medians of both sides.
The verdict comes from the whole interval:

- A figure **holds** if its interval is above the limit of the claim. It is **no longer** true if its interval is below
  half of the promised gain, which is 1 + (limit - 1) / 2. A claim of no loss has one limit for both.
- A range holds if it contains the interval, and is no longer true if the two have nothing in common.
- Everything else is **in part**. If a limit is inside the interval, as many rounds are measured again first. A claim
  with several figures is in part unless all of them agree.
- **Disturbed** marks a figure and its verdict if other programs used more than a tenth of a core meanwhile: measure it
  again on a quiet machine.
- **Close** marks a figure whose interval ends within a tenth of a limit: another machine may give another verdict.

"""
COLUMNS = ("claim", "verdict", "measured", "why", "in a rendered service", "command")


def verdict(claim: Claim, row: Row) -> Verdict:
    """Return the verdict of a claim, from the intervals of its figures."""
    return together([figure.rule.verdict(interval(row.figures[figure.key].values)) for figure in claim.figures])


def page(rows: Mapping[str, Row]) -> str:
    """Return the text of the page; a claim without data is listed as not measured."""
    counts = Counter(verdict(claim, rows[claim.name]) for claim in CLAIMS if claim.name in rows)
    summary = ", ".join(f"{counts[each]} {each}" for each in Verdict if counts[each])
    header = f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|\n"
    table = header + "".join(_row(claim, rows.get(claim.name)) for claim in CLAIMS)
    return f"{HEAD}Of {len(CLAIMS)} claims: {summary or 'none is measured'}.\n\n{table}\n{_runs(rows)}"


def _row(claim: Claim, row: Row | None) -> str:
    command = f"`{claim.command}`"
    if row is None:
        return f"| {claim.text} | not measured | | {claim.why} | {claim.rendered} | {command} |\n"
    figures = []
    for figure in claim.figures:
        found = row.figures[figure.key]
        seen = interval(found.values)
        # Both sides of a limit that is near to a side of the interval.
        close = any(
            0.9 * limit <= side <= 1.1 * limit for limit in figure.rule.limits for side in (seen.low, seen.high)
        )
        judged = f"{figure.rule}: {figure.rule.verdict(seen)}{', close' if close else ''}"
        figures.append(f"{figure.title}: **{found.text()}**; {judged}")
    disturbed = ", disturbed" if any(found.disturbed for found in row.figures.values()) else ""
    cells = [
        claim.text,
        f"**{verdict(claim, row)}**{disturbed}",
        "<br>".join(figures),
        claim.why,
        claim.rendered,
        command,
    ]
    return f"| {' | '.join(cells)} |\n"


def _runs(rows: Mapping[str, Row]) -> str:
    """Return the days, machines and versions of the rows; rows of one run share a line."""
    runs: dict[str, list[str]] = {}
    versions: dict[str, set[str]] = {}
    for name, row in rows.items():
        described = f"{row.date}, {row.machine['cpu']}, {row.machine['cores']} cores, {row.machine['system']}"
        runs.setdefault(described, []).append(name)
        versions.setdefault(described, set()).update(f"{package} {number}" for package, number in row.versions.items())
    lines = [
        f"- {described} ({', '.join(sorted(versions[described]))}): {', '.join(names)}\n"
        for described, names in runs.items()
    ]
    return "## Machines and versions\n\n" + "".join(lines)


def main() -> None:
    """Write the page anew from the data."""
    PAGE.write_text(page(load()), encoding="utf-8", newline="\n")
