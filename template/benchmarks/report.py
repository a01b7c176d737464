"""The results as a table, as JSON and as a drawing."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.measuring import Costs, Endpoint

KINDS = ("service", "servers")
_ROW, _LEFT, _WIDTH = 28, 330, 420


def alone(endpoints: Sequence[Endpoint]) -> list[list[str]]:
    """Return the table of one version."""
    rows = [["endpoint", "requests/s", "p50 ms", "p99 ms", "CPU us", "servers' CPU us"]]
    for each in endpoints:
        costs = each.costs[0]
        speed = median(costs.per_second)
        low, high = latencies_ms(costs)
        cpu = (f"{median(costs.service_us):.0f}", f"{median(costs.servers_us):.0f}")
        rows.append([each.name, f"{speed:.0f}", f"{low:.2f}", f"{high:.2f}", *cpu])
    return rows


def compared(endpoints: Sequence[Endpoint], threshold: float) -> list[list[str]]:
    """Return the table of two versions."""
    rows = [["endpoint", "of", "CPU us", "ratio", "interval", "rounds", "p50 ms", "verdict"]]
    for each in endpoints:
        p50 = " > ".join(f"{latencies_ms(costs)[0]:.2f}" for costs in each.costs)
        for kind in KINDS:
            found = each.compared(kind)
            if found is None:
                continue
            costs_us = [median(getattr(costs, f"{kind}_us")) for costs in each.costs]
            bounds = f"{found.low:.3f} to {found.high:.3f}"
            numbers = " > ".join(f"{cost:.0f}" for cost in costs_us)
            rounds = str(len(each.costs[0].service_us))
            shown = [each.name, kind, numbers, f"{found.middle:.3f}", bounds, rounds, p50]
            rows.append([*shown, found.verdict(threshold)])
    return rows


def latencies_ms(costs: Costs) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    cuts = quantiles(costs.latencies_ms, n=100)
    return cuts[49], cuts[98]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def as_json(endpoints: Sequence[Endpoint], facts: dict[str, Any]) -> str:
    """Return everything that was measured, without the single latencies."""
    found = {}
    for each in endpoints:
        found[each.name] = [
            asdict(costs) | {"latencies_ms": latencies_ms(costs)} for costs in each.costs
        ]
    return json.dumps(facts | {"endpoints": found}, indent=2)


def drawing(title: str, bars: Sequence[tuple[str, float, float, float]], mark: float) -> str:
    """Return an SVG: for each name a line from low to high with a point, and one at `mark`."""
    least = min([mark, *(low for _, low, _, _ in bars)])
    most = max([mark, *(high for _, _, _, high in bars)]) or 1.0
    span = (most - least) or 1.0
    height = _ROW * (len(bars) + 3)

    def x(value: float) -> float:
        return _LEFT + _WIDTH * (value - least) / span

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 80}" height="{height}"'
        ' font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{x(mark):.1f} 30V{height - 30}" stroke="#c33" stroke-dasharray="4"/>',
    ]
    for number, (name, low, middle, high) in enumerate(bars, 2):
        y = _ROW * number
        parts += [
            f'<text x="10" y="{y + 4}">{escape(name)}</text>',
            f'<path d="M{x(low):.1f} {y}H{x(high):.1f}" stroke="#27a" stroke-width="5"/>',
            f'<circle cx="{x(middle):.1f}" cy="{y}" r="5" fill="#124"/>',
            f'<text x="{x(high) + 10:.1f}" y="{y + 4}">{middle:.3g}</text>',
        ]
    for value in (least, most):
        parts.append(f'<text x="{x(value):.1f}" y="{height - 10}">{value:.3g}</text>')
    return "\n".join([*parts, "</svg>"])


def write(directory: Path, name: str, contents: dict[str, str]) -> list[Path]:
    """Write a file for each ending; return the paths."""
    directory.mkdir(exist_ok=True)
    paths = []
    for ending, text in contents.items():
        paths.append(directory / f"{name}.{ending}")
        paths[-1].write_text(text)
    return paths
