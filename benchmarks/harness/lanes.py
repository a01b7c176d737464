"""The lanes of the rendered service to its database, measured like services of their own.

All of them are one running service, asked below a path for each lane: `rendered/app/lanes`. So nothing differs but the
lane, and rounds follow each other without a restart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from benchmarks.harness.services import SERVICES, Running, by_offset

SUBJECT = "rendered"
LIMIT = "raw"

TITLES = {
    "orm": "a lane of rendered: entities, and models made of them; authors by `joinedload`; a write is a read, then an "
    "UPDATE with the commit",
    "orm-selectinload": "like orm, with authors by `selectinload`",
    "core": "a lane of rendered: rows of columns, and models made of them; a write is one UPDATE in a transaction",
    "prepared": "a lane of rendered: prepared statements, and JSON without models; a write is one in a transaction",
    "prepared-autocommit": "like prepared, with a write that is a transaction of its own",
}
# By scenario, the lanes in which it differs.
LANES_OF: Mapping[str, Sequence[str]] = {
    "user": ("orm", "core", "prepared"),
    "posts": ("orm", "orm-selectinload", "core", "prepared"),
    "users": ("orm", "core", "prepared"),
    "write": ("orm", "core", "prepared", "prepared-autocommit"),
}
LANES = {
    # None has a page far down the list, so nobody has to make its cursor.
    name: replace(SERVICES[SUBJECT], name=name, title=title, root=f"/lanes/{name}", deep_page=by_offset)
    for name, title in TITLES.items()
}


def needed(services: Iterable[str]) -> tuple[str, ...]:
    """Those of `services` that take part; none without the one that has the lanes."""
    present = tuple(name for name in services if name in (SUBJECT, LIMIT))
    return present if SUBJECT in present else ()


def contestants(scenario: str, services: Iterable[str]) -> list[str]:
    """Who is compared in a scenario, in the place of `services`: the lanes stand for the service that has them."""
    found: list[str] = []
    for name in services:
        found += LANES_OF[scenario] if name == SUBJECT else [name]
    return found


def in_lanes(scenario: str, started: Sequence[Running]) -> list[Running]:
    """The same for services that run."""
    by_name = {one.service.name: one for one in started}
    return [
        replace(by_name[SUBJECT], service=LANES[name]) if name in LANES else by_name[name]
        for name in contestants(scenario, by_name)
    ]
