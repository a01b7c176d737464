"""One plot for each axis, in the colours and on the axes of the other plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.growth import instances, predictions
from benchmarks.growth.document import Document
from benchmarks.harness.plots import FAINT, LOOKS, OTHER, SETTINGS, log_axis, new_figure, save

# Other lines than those of services, in the same order of strength.
STYLES = [LOOKS[name] for name in ("rendered", "usual", "naive", "plain", "raw")] + [OTHER]


@dataclass(frozen=True)
class Panel:
    """`lines` by their label; the axis of values begins at 0 unless it is `log`."""

    title: str
    along: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log: bool = False
    log_along: bool = True
    # Without a line: measured points beside a model.
    dots: frozenset[str] = frozenset()


def write(document: Document, directory: Path) -> list[Path]:
    written = []
    for name, (title, panels) in plots(document).items():
        with matplotlib.rc_context(SETTINGS):
            written.append(save(draw(title, panels), directory / f"growth-{name}.svg"))
    return written


def draw(title: str, panels: Sequence[Panel]) -> Figure:
    figure = new_figure(title, 3.6)
    for number, panel in enumerate(panels, 1):
        _panel(figure.add_subplot(1, len(panels), number), panel)
    return figure


def _panel(axis: Axes, panel: Panel) -> None:
    axis.set_title(panel.title)
    axis.set_xlabel(panel.along, color=FAINT[0])
    for (label, points), look in zip(panel.lines.items(), STYLES, strict=False):
        style: dict[str, Any] = {"color": look.colour[0], "marker": look.marker, "markersize": 5}
        style |= {"linestyle": "none" if label in panel.dots else look.dashes if look.dashes[1] else "-"}
        axis.plot([x for x, _ in points], [y for _, y in points], label=label, linewidth=1.8, **style)
    if panel.log_along:
        log_axis(axis, "x")
    if panel.log:
        log_axis(axis, "y")
    else:
        axis.set_ylim(bottom=0)
    if len(panel.lines) > 1:
        axis.legend(fontsize=8.5, handlelength=2.6)


def plots(document: Document) -> dict[str, tuple[str, list[Panel]]]:
    """Return the title and the panels of each plot, by its name."""
    return {
        "rows": ("A page of 20 posts, by number of rows (lower is better)", _rows(document)),
        "cache": ("The response cache, by tags and by entries (lower is better)", _cache(document)),
        "clients": ("Requests/s and latency, by number of clients", _clients(document)),
        "workers": ("Requests/s, by number of workers (higher is better)", _workers(document)),
        "instances": ("Instances: connections, and requests/s on paper", _instances(document)),
    }


def _rows(document: Document) -> list[Panel]:
    points = document["rows"]
    kinds = {"front": "front", "cursor": "at 90 %, cursor", "offset": "at 90 %, OFFSET"}
    times = {
        title: [(each["rows"], each["statements"][kind]["ms"]) for each in points] for kind, title in kinds.items()
    }
    buffers = {
        title: [(each["rows"], each["statements"][kind]["buffers"]) for each in points] for kind, title in kinds.items()
    }
    return [
        Panel("time of the statement, ms", "rows", times, log=True),
        Panel("buffers read by the statement", "rows", buffers, log=True),
    ]


def _cache(document: Document) -> list[Panel]:
    kinds = ("hit", "miss", "invalidation")
    by_tags = {kind: [(each["tags"], each["service_us"][kind]) for each in document["tags"]] for kind in kinds}
    entries = document["entries"]
    by_entries = {
        "hit, us of CPU": [(each["entries"], each["hit_us"]) for each in entries],
        "memory, MiB": [(each["entries"], each["bytes"] / 2**20) for each in entries],
        "invalidation, us of CPU": [(each["entries"], each["invalidation_us"]) for each in entries],
    }
    return [
        Panel("CPU of a request, us", "tags of the response", by_tags, log=True),
        Panel("in one process", "entries", by_entries, log=True),
    ]


def _clients(document: Document) -> list[Panel]:
    points = document["clients"]
    rates = {
        "answers/s": [(each["clients"], each["requests_per_s"]) for each in points],
        "refused/s": [(each["clients"], each["refused_per_s"]) for each in points if each["refused_per_s"]],
    }
    latencies = {
        "p50": [(each["clients"], each["p50_ms"]) for each in points],
        "p99": [(each["clients"], each["p99_ms"]) for each in points],
    }
    return [
        Panel("requests/s", "clients", {name: line for name, line in rates.items() if line}),
        Panel("latency of answers, ms", "clients", latencies, log=True),
    ]


def _workers(document: Document) -> list[Panel]:
    found = predictions.checks(document)
    most = max(each.clients for each in found)
    at_most = [each for each in found if each.clients == most]
    measured = {
        "measured": [(each.workers, each.measured) for each in at_most],
        "model": [(each.workers, each.predicted) for each in at_most],
    }
    paper = {
        f"database: {cores} cores": predictions.on_own_cores(document, cores) for cores in predictions.DATABASE_CORES
    }
    cores = document["machine"]["cores"]
    return [
        Panel(f"{cores} cores for all, {most} clients", "workers", measured, dots=frozenset(("measured",))),
        Panel("on paper: a core each", "workers", paper),
    ]


def _instances(document: Document) -> list[Panel]:
    connections = {
        f"of {limit}": [
            (each["instances"], each["connections"])
            for each in document["instances"]
            if each["max_connections"] == limit and each["connections"] is not None
        ]
        for limit in instances.MAX_CONNECTIONS
    }
    most = max(instances.MAX_CONNECTIONS)
    rates = {
        f"database: {cores} cores": predictions.of_instances(document, most, cores)
        for cores in predictions.DATABASE_CORES
    }
    return [
        Panel("connections of the plan", "instances", connections),
        Panel("requests/s on paper", "instances", rates),
    ]
