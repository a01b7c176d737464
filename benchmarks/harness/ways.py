"""Ways in which one running service does the same, measured like services of their own.

The rendered service is asked below a path for each way: `rendered/app/lanes`, `rendered/app/caches`. So nothing differs
but the way, and rounds follow each other without a restart. In `crud`, ways are answers of the template, and each is a
service of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.harness.results import Section
from benchmarks.harness.scenarios import ARENA as PROFILES
from benchmarks.harness.services import SERVICES, Running, Service, by_offset

SUBJECT = "rendered"
LIMIT = "raw"


@dataclass(frozen=True)
class Comparison:
    """`of` has who is compared in a scenario: ways of the subject, and other services beside them.

    `apart`: each way is started as a service of its own, in place of the subject.
    """

    section: Section
    cached: bool
    ways: Mapping[str, Service]
    of: Mapping[str, Sequence[str]]
    apart: bool = False

    def needed(self, services: Iterable[str]) -> tuple[str, ...]:
        """What is started when `services` are measured; nothing without the one that has the ways."""
        taking_part = {SUBJECT}.union(*self.of.values())
        present = tuple(name for name in services if name in taking_part)
        if SUBJECT not in present:
            return ()
        return (*(name for name in present if name != SUBJECT), *self.ways) if self.apart else present

    def contestants(self, scenario: str, services: Iterable[str]) -> list[str]:
        """Who is compared in a scenario, when these services take part."""
        present = {*self.ways, *services}
        return [name for name in self.of[scenario] if name in present]

    def line_up(self, scenario: str, started: Sequence[Running]) -> list[Running]:
        """The same for services that run."""
        by_name = {one.service.name: one for one in started}
        return [
            by_name[name] if name in by_name else replace(by_name[SUBJECT], service=self.ways[name])
            for name in self.contestants(scenario, by_name)
        ]


def _ways(root: str, titles: Mapping[str, str]) -> dict[str, Service]:
    return {
        # None has a page far down the list, so nobody has to make its cursor.
        name: replace(SERVICES[SUBJECT], name=name, title=title, root=f"{root}/{name}", deep_page=by_offset)
        for name, title in titles.items()
    }


LANES = Comparison(
    section="lanes",
    cached=False,
    ways=_ways(
        "/lanes",
        {
            "orm": "a lane of rendered: entities, and models made of them; authors by `joinedload`; a write is a read, "
            "then an UPDATE with the commit",
            "orm-selectinload": "like orm, with authors by `selectinload`",
            "core": "a lane of rendered: rows of columns, and models made of them; a write is one UPDATE in a "
            "transaction",
            "prepared": "a lane of rendered: prepared statements, and JSON without models; a write is one in a "
            "transaction",
            "prepared-autocommit": "like prepared, with a write that is a transaction of its own",
        },
    ),
    # The lanes that differ.
    of={
        "user": ("orm", "core", "prepared", LIMIT),
        "posts": ("orm", "orm-selectinload", "core", "prepared", LIMIT),
        "users": ("orm", "core", "prepared", LIMIT),
        "write": ("orm", "core", "prepared", "prepared-autocommit", LIMIT),
    },
)

CACHES = Comparison(
    section="caches",
    cached=True,
    ways=_ways(
        "/caches",
        {
            "uncached": "a way of rendered: a prepared statement for each request, declared `no_store`",
            "local": "the same route in the response cache: hits in the worker's own memory",
            "shared": "like local, with hits that come from Valkey: the worker itself keeps nothing",
            "miss": "like local, with responses that live for no time: each request looks in Valkey, takes a lease, "
            "reads the database and stores",
            "function": "`@cached` inside of the route: hits in the worker's own memory",
            "cashews": "the decorator of cashews inside of the route, on Redis, as its README recommends",
            "redis-in-route": "GET and SET of redis-py inside of the route, as articles recommend",
        },
    ),
    # Of a key that is asked for by many at once only the first misses, so misses are of any user. There is no limit
    # beside them: a dict would not miss.
    of={
        "user-popular": ("uncached", "local", "shared", "function", "cashews", "redis-in-route", LIMIT),
        "user": ("uncached", "miss"),
    },
)

CRUD = Comparison(
    section="crud",
    cached=True,
    ways={
        name: replace(SERVICES[SUBJECT], name=name, title=title, deep_page=by_offset, cache_backend=answer)
        for name, answer, title in (
            ("valkey", "valkey", "rendered with its cache in Valkey, and the responses in use in the worker"),
            ("memory", "memory", "rendered with its cache in the worker's memory"),
            ("no-cache", "none", "rendered without a store for responses"),
        )
    },
    of={"crud": ("plain", "plain-gc", "valkey", "memory", "no-cache", LIMIT)},
    apart=True,
)

# Whole services, each with one worker: no answer of these may come from a cache.
ARENA = Comparison(
    section="arena",
    cached=False,
    ways={},
    of=dict.fromkeys(PROFILES, tuple(SERVICES)),
)

COMPARISONS = {each.section: each for each in (LANES, CACHES, CRUD, ARENA)}
WAYS = {name: way for each in COMPARISONS.values() for name, way in each.ways.items()}
