"""The results as SVG files that can be read on light and on dark pages.

Matplotlib draws: it does log axes, error bars and layout, and writes text as text. It knows one colour scheme only, so
everything is drawn in the colours of the light one, which are replaced by classes of a style sheet with both.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.harness.goals import SUBJECT
from benchmarks.harness.report import plain, times
from benchmarks.harness.results import QUANTILES, Measurement, Results, Section
from benchmarks.harness.summary import Spread, counterpart, latency, ratio, services, spread, summary

WIDTH_INCH = 8.0
DPI = 100
# Figures that differ by more than this are shown on a log axis.
LINEAR_SPAN = 20
SHOWN = [quantile for quantile in QUANTILES if quantile <= 0.999]

# Name -> colour on light and on dark pages. The light ones must differ from each other: they are what is replaced.
INK = ("#1f2328", "#e6edf3")
FAINT = ("#59636e", "#9198a1")
GRID = ("#d8dee4", "#30363d")


@dataclass(frozen=True)
class Look:
    """How a service is drawn. Marker and dashes tell it from the others without colours."""

    colour: tuple[str, str]
    marker: str
    dashes: tuple[float, tuple[float, ...]] = (0, ())
    strong: bool = False


LOOKS = {
    "naive": Look(("#b87c8b", "#c28f9c"), "v", (0, (1, 1.2))),
    "usual": Look(("#a58a55", "#b39b6b"), "s", (0, (4, 1.5))),
    "plain": Look(("#6f9a8c", "#84ab9e"), "D", (0, (6, 1.5, 1, 1.5))),
    SUBJECT: Look(("#0a5fd6", "#4aa3ff"), "o", strong=True),
    "raw": Look(("#8d869f", "#9c95ad"), "^", (0, (2.5, 1))),
}
OTHER = Look(("#6e7680", "#8b949e"), "P", (0, (3, 1, 1, 1, 1, 1)))

SCHEMES = {"ink": INK, "faint": FAINT, "grid": GRID, "other": OTHER.colour}
SCHEMES |= {name: look.colour for name, look in LOOKS.items()}

# Any: Matplotlib's type for this lists every setting that there is.
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "slipstream",
    "font.family": "sans-serif",
    # DejaVu Sans is what Matplotlib brings along and measures; the others are no wider.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 9.5,
    "text.color": INK[0],
    "axes.labelcolor": INK[0],
    "axes.edgecolor": FAINT[0],
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID[0],
    "grid.linewidth": 0.8,
    "xtick.color": FAINT[0],
    "ytick.color": FAINT[0],
    "xtick.labelcolor": INK[0],
    "ytick.labelcolor": INK[0],
    "legend.frameon": False,
}


def write(results: Results, directory: Path) -> list[Path]:
    """Write the plots for which there is data; returns their paths."""
    written = []
    for name, draw in PLOTS.items():
        with matplotlib.rc_context(SETTINGS):
            figure = draw(results)
            if figure is None:
                continue
            written.append(save(figure, directory / f"{name}.svg"))
    return written


def save(figure: Figure, path: Path) -> Path:
    """Write a figure that was drawn with SETTINGS."""
    drawn = io.StringIO()
    # Without a date, so that equal results are equal files.
    metadata = {"Date": None, "Creator": None, "Title": figure.get_suptitle()}
    figure.savefig(drawn, format="svg", transparent=True, metadata=metadata)
    path.write_text(in_both_schemes(drawn.getvalue()), encoding="utf-8")
    return path


def in_both_schemes(svg: str) -> str:
    """The drawing with classes of a style sheet in place of the light scheme's colours."""
    names = {light: name for name, (light, _) in SCHEMES.items()}

    def replaced(match: re.Match[str]) -> str:
        classes, kept = [], []
        for declaration in match[1].split(";"):
            what, _, value = declaration.strip().partition(": ")
            if what in ("fill", "stroke") and value in names:
                classes.append(f"{what}-{names[value]}")
            elif what:
                kept.append(declaration.strip())
        style = f'style="{"; ".join(kept)}"' if kept else ""
        return " ".join(filter(None, (f'class="{" ".join(classes)}"' if classes else "", style)))

    rules = [
        "".join(
            f".fill-{name} {{ fill: {pair[scheme]} }} .stroke-{name} {{ stroke: {pair[scheme]} }}\n"
            for name, pair in SCHEMES.items()
        )
        for scheme in (0, 1)
    ]
    sheet = f"<style>\n{rules[0]}@media (prefers-color-scheme: dark) {{\n{rules[1]}}}\n</style>"
    svg = re.sub(r'style="([^"]*)"', replaced, svg)
    return svg.replace("<defs>", f"{sheet}\n <defs>", 1)


def throughput(results: Results) -> Figure | None:
    """Bars of requests/s as multiples of those of one service, which is the line at 1x."""
    measured = [*_of(results, "mixes"), *_of(results, "endpoints")]
    names = services(results, measured)
    base = "naive" if "naive" in names else next(iter(names), "")
    groups = []
    for title, group in _by_load(measured).items():
        baselines = [found for each in group if (found := counterpart(results, each, base))]
        unit = summary(baselines[0]).requests_per_s if baselines else None

        def against(each: Measurement) -> Spread | None:
            baseline = counterpart(results, each, base)
            return ratio(each, baseline) if baseline else None

        rows = _labelled([each for each in group if each.service != base], against)
        if rows and unit:
            groups.append(Group(title, f"{base}: {plain(unit.median)}/s", rows))
    if not groups:
        return None
    values = [row.value.median for group in groups for row in group.rows]
    log = max(*values, 1.0) / min(*values, 1.0) > LINEAR_SPAN
    title = f"Requests/s as a multiple of those of {base} (longer is better)"
    figure = _rows(title, groups, times, "x", log=log, bars=True)
    figure.axes[0].axvline(1.0, color=FAINT[0], linewidth=1.2)
    return figure


def cpu(results: Results) -> Figure | None:
    """Bars, or dots on a log axis: it has no natural beginning, so the length of a bar would mean nothing."""
    groups = []
    for title, group in _by_load(_of(results, "endpoints")).items():
        rows = _labelled(group, lambda each: summary(each).cpu_us)
        if rows:
            groups.append(Group(title, "", rows))
    if not groups:
        return None
    values = [row.value.median for group in groups for row in group.rows]
    log = max(values) / min(values) > LINEAR_SPAN
    title = "CPU time of the service for each request (less is better)"
    return _rows(title, groups, lambda value: f"{plain(value)} µs", " µs", log=log, bars=not log)


def latencies(results: Results) -> Figure | None:
    """Distributions, a panel for each load; the axis of shares is stretched towards the slowest requests."""
    measured = [each for each in (*_of(results, "mixes"), *_of(results, "open_loop")) if _distribution(each)]
    panels = _by_load(measured, clients=True)
    if not panels:
        return None
    columns = min(2, len(panels))
    title = "Latency by percentile of the requests (lower is better)"
    figure, axes = _panels(title, len(panels), columns, results, measured)
    shares = (0.5, 0.9, 0.99, 0.999)
    for axis, (load, group) in zip(axes, panels.items(), strict=True):
        axis.set_title(load)
        for each in group:
            values = _distribution(each)
            axis.plot(
                [_stretched(quantile) for quantile, _ in values],
                [value for _, value in values],
                markevery=[index for index, (quantile, _) in enumerate(values) if quantile in shares],
                **_line(each.service),
            )
        log_axis(axis, "y")
        axis.set_xlim(0, _stretched(shares[-1]) * 1.02)
        axis.set_xticks([_stretched(each) for each in shares], [f"{100 * each:g} %" for each in shares])
        late = [each.service for each in group if each.rate_per_s and not summary(each).keeps_up]
        if late:
            axis.set_xlabel(f"cannot keep up: {', '.join(late)}", color=FAINT[0])
    for axis in axes[::columns]:
        axis.set_ylabel("latency, ms")
    return figure


def clients(results: Results) -> Figure | None:
    """Requests/s and p99 against the number of clients, two panels for each scenario."""
    measured = [each for each in _of(results, "clients") if summary(each).answered]
    by_scenario: dict[str, list[Measurement]] = {}
    for each in measured:
        by_scenario.setdefault(each.scenario, []).append(each)
    if not measured:
        return None
    title = "Requests/s (higher is better) and p99 (lower is better) by number of clients"
    figure, axes = _panels(title, 2 * len(by_scenario), 2, results, measured)
    pairs = zip(axes[::2], axes[1::2], by_scenario.items(), strict=True)
    for rates, tails, (scenario, group) in pairs:
        rates.set_title(f"{scenario}: requests/s")
        tails.set_title(f"{scenario}: p99, ms")
        for name in services(results, group):
            mine = sorted((each for each in group if each.service == name), key=lambda each: each.clients)
            for axis, figures in ((rates, _rates(mine)), (tails, _tails(mine))):
                axis.plot([number for number, _ in figures], [value for _, value in figures], **_line(name))
        numbers = sorted({each.clients for each in group})
        for axis in (rates, tails):
            log_axis(axis, "y")
            axis.set_xscale("log", base=2)
            axis.set_xticks(numbers, [str(number) for number in numbers])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlabel("clients")
    return figure


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "throughput": throughput,
    "cpu": cpu,
    "latency": latencies,
    "clients": clients,
}


@dataclass(frozen=True)
class Row:
    service: str
    label: str
    value: Spread


@dataclass(frozen=True)
class Group:
    title: str
    subtitle: str
    rows: Sequence[Row]


def new_figure(title: str, inches: float, under_title_inch: float = 0.0) -> Figure:
    """Of the full width and so many inches high, with room for a legend where it is asked for.

    Matplotlib's layout would put a title and a legend above the panels into the same place.
    """
    top = 1 - (0.32 + under_title_inch) / inches
    layout = ConstrainedLayoutEngine(wspace=0.05, hspace=0.06, rect=(0, 0, 1, top))
    figure = Figure(figsize=(WIDTH_INCH, inches), dpi=DPI, layout=layout)
    figure.suptitle(
        title,
        **{"x": 0.008, "y": 1 - 0.08 / inches, "horizontalalignment": "left", "verticalalignment": "top"},
        **{"fontsize": 11.5, "fontweight": "bold"},
    )
    return figure


def _rows(
    title: str, groups: Sequence[Group], form: Callable[[float], str], unit: str, *, log: bool, bars: bool
) -> Figure:
    """A labelled line for each row, in groups; bars begin at 1 on a log axis and at 0 on another."""
    row_inch, gap_inch, frame_inch = 0.15, 0.14, 1.0
    lines = sum(len(group.rows) for group in groups)
    figure = new_figure(title, lines * row_inch + len(groups) * gap_inch + frame_inch)
    axis = figure.add_subplot()
    spreads = [row.value for group in groups for row in group.rows]
    low, high = min(each.low or each.median for each in spreads), max(each.high for each in spreads)
    origin = 1.0 if log else 0.0
    if bars:
        low, high = min(low, origin), max(high, 1.0)
    # A fifth of the width is for the label of the longest bar.
    if log:
        margin = (high / low) ** 0.03
        axis.set_xlim(low / margin, high * (high / low) ** 0.25)
    else:
        axis.set_xlim(0, high * 1.25)
    y = 0.0
    for group in groups:
        middle = y + (len(group.rows) - 1) * row_inch / 2
        edge = axis.get_yaxis_transform()
        shift = 0.06 if group.subtitle else 0.0
        beside: dict[str, Any] = {"transform": edge, "horizontalalignment": "right", "verticalalignment": "center"}
        axis.text(-0.015, middle - shift, group.title, fontweight="bold", **beside)
        axis.text(-0.015, middle + 0.08, group.subtitle, color=FAINT[0], fontsize=8.5, **beside)
        for row in group.rows:
            _row(axis, y, row, form, origin if bars else None, row_inch)
            y += row_inch
        y += gap_inch
    axis.set_ylim(y - gap_inch, -gap_inch)
    axis.yaxis.set_visible(False)
    axis.spines["left"].set_visible(False)
    if log:
        log_axis(axis, "x")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}{unit}"))
    axis.set_xlabel("medians; thin lines are the range of the rounds", color=FAINT[0])
    return figure


def _row(axis: Axes, y: float, row: Row, form: Callable[[float], str], origin: float | None, row_inch: float) -> None:
    look = LOOKS.get(row.service, OTHER)
    value = row.value
    if origin is None:
        axis.plot([value.low, value.high], [y, y], color=look.colour[0], linewidth=1.5)
        axis.plot(value.median, y, look.marker, color=look.colour[0], markersize=7.5 if look.strong else 5.5)
    else:
        axis.barh(y, value.median - origin, left=origin, height=0.85 * row_inch, color=look.colour[0])
        axis.plot([value.low, value.high], [y, y], color=INK[0], linewidth=0.8)
    axis.annotate(
        f"{form(value.median)}  {row.label}",
        (max(value.high, origin or 0.0), y),
        xytext=(6, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontsize=8.5,
        fontweight="bold" if look.strong else "normal",
    )


def _panels(
    title: str, number: int, columns: int, results: Results, measured: Iterable[Measurement]
) -> tuple[Figure, list[Axes]]:
    """A figure of panels, under a legend of the services."""
    rows = -(-number // columns)
    inches = 0.8 + 2.6 * rows
    figure = new_figure(title, inches, under_title_inch=0.3)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(number)]
    names = services(results, measured)
    handles = [Line2D([], [], label=name, **_line(name)) for name in names]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 1 - 0.3 / inches), "borderaxespad": 0.2}
    legend = figure.legend(handles=handles, ncols=max(1, len(names)), handlelength=3.2, **place)
    legend.set_in_layout(False)
    for text in legend.get_texts():
        text.set_fontweight("bold" if LOOKS.get(text.get_text(), OTHER).strong else "normal")
    return figure, axes


def _line(service: str) -> dict[str, Any]:
    look = LOOKS.get(service, OTHER)
    return {
        "color": look.colour[0],
        "marker": look.marker,
        "markersize": 6 if look.strong else 4.5,
        "linestyle": look.dashes if look.dashes[1] else "-",
        "linewidth": 2.6 if look.strong else 1.5,
        # The widest is the lowest, so that what runs along with it is seen.
        "zorder": 2 if look.strong else 3,
    }


def log_axis(axis: Axes, which: Literal["x", "y"]) -> None:
    """A log axis with plain numbers."""
    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    side = axis.xaxis if which == "x" else axis.yaxis
    low, high = side.get_view_interval()
    side.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,), numticks=20))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    side.set_minor_formatter(NullFormatter())
    side.set_minor_locator(NullLocator())


def _stretched(quantile: float) -> float:
    """Each further nine of a share takes the same room."""
    return -log10(1 - quantile)


def _distribution(measurement: Measurement) -> list[tuple[float, float]]:
    """The median over the rounds at each quantile that is shown; a log axis has no place for 0."""
    values = [(quantile, spread([latency(quantile)(each) for each in measurement.rounds])) for quantile in SHOWN]
    return [(quantile, value.median) for quantile, value in values if value and value.median > 0]


def _rates(measurements: Iterable[Measurement]) -> list[tuple[int, float]]:
    values = [(each.clients, summary(each).requests_per_s) for each in measurements]
    return [(number, value.median) for number, value in values if value and value.median > 0]


def _tails(measurements: Iterable[Measurement]) -> list[tuple[int, float]]:
    values = [(each.clients, summary(each).p99_ms) for each in measurements]
    return [(number, value.median) for number, value in values if value and value.median > 0]


def _of(results: Results, section: Section) -> list[Measurement]:
    """The measurements of a section, by service in the order of the results."""
    found = [each for each in results.measurements if each.section == section]
    order = services(results, found)
    return sorted(found, key=lambda each: order.index(each.service))


def _by_load(measurements: Sequence[Measurement], *, clients: bool = False) -> dict[str, list[Measurement]]:
    """By the name of the load, which has the number of clients in it where that is asked for or varies."""
    varying = len({each.clients for each in measurements}) > 1
    groups: dict[str, list[Measurement]] = {}
    for each in measurements:
        load = each.scenario
        if each.rate_per_s is not None:
            load += f" at {each.rate_per_s:,g}/s"
        elif clients or varying:
            load += f", {each.clients} clients"
        groups.setdefault(load, []).append(each)
    return groups


def _labelled(group: Iterable[Measurement], figure: Callable[[Measurement], Spread | None]) -> list[Row]:
    """A row for each measurement with a figure; a service is told from itself by its number of workers."""
    group = list(group)
    counts = Counter(each.service for each in group)
    rows = []
    for each in group:
        value = figure(each)
        if value and value.median > 0:
            workers = f", {each.workers} workers" if counts[each.service] > 1 else ""
            rows.append(Row(each.service, each.service + workers, value))
    return rows
