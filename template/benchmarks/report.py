"""The results as a table, as JSON and as a drawing."""

import json
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median, quantiles

from benchmarks.measuring import KINDS, Endpoint

Row = dict[str, str | float]
_RESULTS = Path(__file__).parent / "results"


def rows(endpoints: Sequence[Endpoint], threshold: float) -> list[Row]:
    """Return the rows of the table of one version, or of two."""
    found: list[Row] = []
    for each in endpoints:
        costs = each.costs[-1]
        cuts = quantiles(costs.latencies_ms, n=100)
        cpu_us = {kind: [median(of.cpu_us[kind]) for of in each.costs] for kind in KINDS}
        row: Row = {"endpoint": each.name, "p50 ms": cuts[49], "p99 ms": cuts[98]}
        if len(each.costs) == 1:
            row["requests/s"] = median(costs.per_second)
            row |= {f"CPU us of the {kind}": cpu_us[kind][0] for kind in KINDS}
            found.append(row)
            continue
        for kind in KINDS:
            if ratio := each.compared(kind):
                old, new = cpu_us[kind]
                shown: Row = {"of the": kind, "CPU us": new, "before": old, "ratio": ratio.middle}
                shown |= {"from": ratio.low, "to": ratio.high, "verdict": ratio.verdict(threshold)}
                found.append(row | shown)
    return found


def table(found: Sequence[Row]) -> str:
    """Return the rows as text, in columns."""
    cells = [[*found[0]]]
    for row in found:
        cells.append([v if isinstance(v, str) else format(v, ".4g") for v in row.values()])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def drawing(found: Sequence[Row], low: str, high: str) -> str:
    """Return an SVG: a line for each row, from the column `low` to `high`."""
    bounds = [(float(row[low]), float(row[high])) for row in found]
    least, most = min(map(min, bounds)), max(map(max, bounds))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="{30 * len(found) + 30}"'
        ' font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20">{escape(low)} to {escape(high)}</text>',
    ]
    for y, (row, ends) in enumerate(zip(found, bounds, strict=True), 1):
        start, end = (350 + 400 * (value - least) / ((most - least) or 1) for value in ends)
        name = escape(f"{row['endpoint']} {row.get('of the', '')}")
        parts += [
            f'<g transform="translate(0 {30 * y + 20})"><text x="10">{name}</text>',
            f'<path d="M{start:.0f} -4H{end + 1:.0f}" stroke="#27a" stroke-width="6"/>',
            f'<text x="{end + 9:.0f}">{ends[0]:.3g} to {ends[1]:.3g}</text></g>',
        ]
    return "\n".join([*parts, "</svg>"])


def write(found: Sequence[Row], versions: Sequence[str]) -> list[Path]:
    """Write the rows as JSON and as a drawing; return the paths."""
    bounds = ("p50 ms", "p99 ms") if len(versions) == 1 else ("from", "to")
    path = _RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"versions": versions, "rows": found}, indent=2))
    path.with_suffix(".svg").write_text(drawing(found, *bounds))
    return [path, path.with_suffix(".svg")]
