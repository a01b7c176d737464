"""A run: starts the services in groups, checks their answers, and measures them in turns."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import floor, log10
from pathlib import Path
from statistics import median
from typing import Protocol

from benchmarks import operations
from benchmarks.harness import answers, machine, probes, rounds, services
from benchmarks.harness.drivers import Driver, Load
from benchmarks.harness.environment import Environment
from benchmarks.harness.results import Measurement, Probe, Round, Section
from benchmarks.harness.scenarios import (
    EDGES,
    ENDPOINTS,
    MIXES,
    SCENARIOS,
    WRITES,
    Choose,
    Data,
    Make,
    Request,
    asked,
    create_item,
    stream,
)
from benchmarks.harness.seeding import Size
from benchmarks.harness.services import SERVICES, Running, Service
from benchmarks.harness.summary import schedule
from benchmarks.harness.ways import COMPARISONS, SUBJECT, WAYS
from tests.rendering import ROOT

# The open loop runs at half of what the bar manages in a closed one, or else the first service of the run.
BAR = "plain"
RATE_SHARE = 0.5
WARM_UP_SHARE = 0.3
# Where caches are compared, nearly everything that is asked for is in them before it counts.
CACHES_WARM_UP_SHARE = 1.5
# Rounds of a service that cannot answer every client once while it warms up last at least so long.
SLOW_SECONDS = 2.5
# Of all rounds, how many may be repeated because of other processes.
REPEATED_SHARE = 0.25
# The connections of one worker of the rendered service, by its own capacity model.
POOL_SIZE = 10
# How many requests of each kind must be answered alike.
COMPARED = 3


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    services: tuple[str, ...] = tuple(SERVICES)
    endpoints: tuple[str, ...] = tuple(ENDPOINTS)
    mixes: tuple[str, ...] = tuple(MIXES)
    # Of ways of the rendered service, by section.
    comparisons: tuple[Section, ...] = tuple(COMPARISONS)
    # The edge, starts, memory and restarts of the rendered service.
    operations: bool = True
    # What is measured with several numbers of clients as well, and at a fixed rate.
    sweep_of: tuple[str, ...] = ("user",)
    open_loop_of: tuple[str, ...] = ("read-mostly", "read-mostly-cached")
    sweep: tuple[int, ...] = (1, 4, 16, 4 * POOL_SIZE, 16 * POOL_SIZE)
    clients: int = 4 * POOL_SIZE
    # None: one for endpoints and comparisons, and for mixes as many as each kind of service runs in production.
    workers: int | None = None
    rounds: int = 4
    seconds: float = 2.0
    rate_per_s: float | None = None
    size: Size = field(default_factory=Size)

    @property
    def depth(self) -> int:
        """How many posts come before the deep page."""
        return min(100_000, self.size.posts // 2)

    @property
    def titles(self) -> dict[str, str]:
        """Of the services and their ways that are measured, on what they are."""
        measured: set[str] = set()
        for group in groups(self):
            measured.update(group.services)
            if comparison := COMPARISONS.get(group.section):
                measured.update(comparison.ways)
        return {name: each.title for name, each in (SERVICES | WAYS).items() if name in measured}

    @property
    def scenarios(self) -> dict[str, str]:
        """Of what is asked, on what it is."""
        asked = [*self.endpoints, *self.mixes, *(name for each in self.comparisons for name in COMPARISONS[each].of)]
        return {name: SCENARIOS[name].title for name in asked}

    def settings(self) -> dict[str, str | int | float | None]:
        """What the results say about how they were measured."""
        return {
            "users": self.size.users,
            "posts": self.size.posts,
            "clients": self.clients,
            "pool_clients": 4 * POOL_SIZE,
            "workers": self.workers or "one for endpoints, lanes and caches, as in production for mixes",
            "rounds": self.rounds,
            "seconds": self.seconds,
        }

    @property
    def fewer_rounds(self) -> int:
        """For what is measured many times over."""
        return (self.rounds + 1) // 2


@dataclass(frozen=True)
class Group:
    """What is measured on the same started services; `alone`: one worker on a core of its own."""

    section: Section
    scenarios: tuple[str, ...]
    services: tuple[str, ...]
    cached: bool
    alone: bool

    def line_ups(self, started: Sequence[Running]) -> list[tuple[tuple[str, ...], Sequence[Running]]]:
        """Who is compared in which scenarios: all services in all of them, or in each the ways that differ in it."""
        comparison = COMPARISONS.get(self.section)
        if comparison is None:
            return [(self.scenarios, started)]
        return [((name,), comparison.line_up(name, started)) for name in self.scenarios]


class Watcher(Protocol):
    """Is told how the run goes."""

    def expect(self, rounds: int) -> None: ...
    def say(self, what: str) -> None: ...
    def count(self, measured: Round) -> None: ...


def groups(plan: Plan) -> list[Group]:
    """Endpoints and comparisons on one worker; mixes as in production, those with caches apart."""
    alone = plan.workers in (None, 1)
    found = [Group("endpoints", plan.endpoints, plan.services, cached=False, alone=alone)]
    for comparison in map(COMPARISONS.__getitem__, plan.comparisons):
        taking_part = comparison.needed(plan.services)
        found.append(
            Group(comparison.section, tuple(comparison.of), taking_part, cached=comparison.cached, alone=alone)
        )
    for cached in (False, True):
        names = tuple(name for name in plan.mixes if MIXES[name].cached == cached)
        found.append(Group("mixes", names, plan.services, cached=cached, alone=plan.workers == 1))
    return [group for group in found if group.scenarios and group.services]


def expected_rounds(plan: Plan) -> int:
    """How many rounds the plan takes when none is repeated."""
    scenarios = {*plan.endpoints, *plan.mixes}
    more = len(scenarios & set(plan.sweep_of)) * len(plan.sweep) + len(scenarios & set(plan.open_loop_of))
    of_services = len(plan.services) * (plan.rounds * len(scenarios) + plan.fewer_rounds * more)
    of_ways = 0
    for comparison in map(COMPARISONS.__getitem__, plan.comparisons):
        if taking_part := comparison.needed(plan.services):
            of_ways += sum(len(comparison.contestants(name, taking_part)) for name in comparison.of)
    return of_services + plan.rounds * of_ways


Sizes = dict[tuple[str, str], int]


def check(scenarios: Sequence[str], running: Sequence[Running], data: Mapping[str, Data]) -> Sizes:
    """All of them answer every kind of request of these scenarios alike; returns the sizes, by kind and name.

    Raises:
        AnswersDiffer: when they do not, or one does not keep what it was told to write.
    """
    kinds = {make: SCENARIOS[scenario].choose for scenario in scenarios for make in SCENARIOS[scenario].parts}
    ports = {one.service.name: one.port for one in running}
    sizes: Sizes = {}
    for make in [*(make for make in kinds if make not in WRITES), *(make for make in WRITES if make in kinds)]:
        sizes |= _check_alike(make, kinds[make], ports, data)
    for make in WRITES:
        if make in kinds and make is not create_item:
            _check_kept(make, kinds[make], running, data)
    for path in (f"/users/{answers.NOBODY}", *(path for make in kinds for path in EDGES.get(make, ()))):
        answers.check_equal({name: Request("GET", data[name].root + path) for name in ports}, ports)
    return sizes


def _check_alike(make: Make, choose: Choose, ports: Mapping[str, int], data: Mapping[str, Data]) -> Sizes:
    sizes: Sizes = {}
    for seed in range(COMPARED):
        requests = {
            name: asked(make, random.Random(seed), data[name], choose)  # noqa: S311 - not for secrets
            for name in ports
        }
        for name, answer in answers.check_equal(requests, ports).items():
            if answer.status >= 400:
                raise answers.AnswersDiffer(f"{name} answers {requests[name].path} with {answer}")
            sizes[make.__name__, name] = answer.size
    return sizes


def _check_kept(make: Make, choose: Choose, running: Sequence[Running], data: Mapping[str, Data]) -> None:
    for one in running:
        if one.service.coherent or one.workers == 1:
            name = one.service.name
            # By chance: a name that another service or an earlier run has written already proves nothing.
            written = asked(make, random.Random(), data[name], choose)  # noqa: S311 - not for secrets
            answers.check_written(name, one.port, written)


class Runner:
    """Measures a plan; `measurements` and `probes` hold what there is, however the run ends."""

    def __init__(self, plan: Plan, environment: Environment, driver: Driver, watcher: Watcher) -> None:
        self.measurements: list[Measurement] = []
        self.probes: list[Probe] = []
        self._plan = plan
        self._environment = environment
        self._driver = driver
        self._watcher = watcher
        self._cores = machine.Cores()
        self._repeats_left = round(REPEATED_SHARE * expected_rounds(plan))
        self._data: dict[str, Data] = {}
        self._sizes: Sizes = {}

    def run(self) -> None:
        """Measure everything.

        Raises:
            AnswersDiffer: before anything is measured on services that do not agree.
            ServiceDied: when one does not survive.
        """
        self._watcher.expect(expected_rounds(self._plan))
        for group in groups(self._plan):
            with self._started(group) as started:
                line_ups = group.line_ups(started)
                compared = {one.service.name: one.service for _, running in line_ups for one in running}
                self._data = {name: self._data_of(service, group) for name, service in compared.items()}
                self._watcher.say("checking that all answers are equal")
                for names, running in line_ups:
                    self._sizes |= check(names, running, self._data)
                for names, running in line_ups:
                    for name in names:
                        self._measure(group.section, name, group, running)
                        if group.section not in COMPARISONS:
                            self._measure_further(name, group, running)
            if group.section == "caches":
                self.probes += probes.all_of(self._environment, self._plan.rounds, self._watcher.say)
        if self._plan.operations and SUBJECT in self._plan.services:
            self._environment.pin(None)
            self.probes += operations.all_of(self._bench(), self._watcher.say)

    def _bench(self) -> operations.Bench:
        environment = self._environment
        directory = environment.renderings.directory("valkey")
        rounds = min(self._plan.rounds, operations.ROUNDS)
        return operations.Bench(environment.workspace, directory, environment.variables, rounds)

    def _measure_further(self, name: str, group: Group, running: Sequence[Running]) -> None:
        if name in self._plan.sweep_of:
            for clients in self._plan.sweep:
                self._measure("clients", name, group, running, clients=clients)
        if name in self._plan.open_loop_of:
            self._measure("open_loop", name, group, running, rate=self._rate(group.section, name))

    @contextmanager
    def _started(self, group: Group) -> Iterator[list[Running]]:
        self._cores = machine.separate() if group.alone else machine.Cores()
        self._environment.pin(self._cores.others)
        with ExitStack() as stack:
            running = []
            self._watcher.say(f"starting {', '.join(group.services)}")
            for name in group.services:
                service = (SERVICES | WAYS)[name]
                started = services.running(
                    service,
                    workers=self._workers(service, group),
                    cached=group.cached,
                    directory=self._directory(service, group),
                    variables=self._environment.variables,
                    workspace=self._environment.workspace,
                )
                running.append(stack.enter_context(started))
            for one in running:
                one.wait_until_ready()
                machine.pin([one.process], self._cores.service)
            yield running

    def _workers(self, service: Service, group: Group) -> int:
        if service.one_worker_only:
            return 1
        if self._plan.workers is not None:
            return self._plan.workers
        return 1 if group.alone else service.workers(len(machine.usable_cores()))

    def _directory(self, service: Service, group: Group) -> Path:
        if not service.is_rendered:
            return ROOT
        return self._environment.renderings.directory(service.cache_backend or ("valkey" if group.cached else "none"))

    def _data_of(self, service: Service, group: Group) -> Data:
        rows = self._environment.rows
        return Data(rows.users, service.deep_page(rows, self._directory(service, group)), service.root)

    def _measure(
        self,
        section: Section,
        name: str,
        group: Group,
        running: Sequence[Running],
        *,
        clients: int | None = None,
        rate: float | None = None,
    ) -> None:
        scenario, parts = SCENARIOS[name], list(SCENARIOS[name].parts)
        further = section in ("clients", "open_loop")
        number_of_rounds = self._plan.fewer_rounds if further else self._plan.rounds
        # A distribution's tail needs more answers than a mean.
        seconds = self._plan.seconds * (2 if rate else 1)
        loads = {
            one.service.name: Load(
                port=one.port,
                requests=[request.encoded() for request in stream(scenario, self._data[one.service.name])],
                clients=clients or self._plan.clients,
                seconds=seconds,
                rate=rate,
                cores=self._cores.others,
            )
            for one in running
        }
        by_name = {one.service.name: one for one in running}
        measured: dict[str, list[Round]] = {service: [] for service in by_name}
        discarded = dict.fromkeys(by_name, 0)
        what = f"{section}: {name}" + (f", {clients} clients" if clients else "")
        try:
            if not further:
                for service, load in list(loads.items()):
                    self._watcher.say(f"{what}: warming {service}")
                    share = CACHES_WARM_UP_SHARE if section == "caches" else WARM_UP_SHARE
                    shorter = replace(load, seconds=max(0.2, seconds * share))
                    sample = rounds.warm_up(by_name[service], shorter, self._driver, self._environment)
                    if sample.answered < load.clients:
                        loads[service] = replace(load, seconds=max(seconds, SLOW_SECONDS))
            for _, service in schedule(list(by_name), number_of_rounds):
                self._watcher.say(f"{what}: {service}")
                one, repeated = rounds.undisturbed(
                    partial(rounds.measure, by_name[service], loads[service], self._driver, self._environment),
                    self._may_repeat,
                )
                measured[service].append(one)
                discarded[service] += repeated
                self._watcher.count(one)
        finally:
            self.measurements += [
                Measurement(
                    section=section,
                    scenario=name,
                    service=service,
                    workers=by_name[service].workers,
                    clients=clients or self._plan.clients,
                    cached=group.cached,
                    rounds=tuple(done),
                    rate_per_s=rate,
                    response_bytes=self._sizes[parts[0].__name__, service] if len(parts) == 1 else None,
                    discarded=discarded[service],
                )
                for service, done in measured.items()
                if done
            ]

    def _may_repeat(self) -> bool:
        self._repeats_left -= 1
        return self._repeats_left >= 0

    def _rate(self, section: Section, scenario: str) -> float:
        """The fixed rate: as given, or a share of what was just measured, to two digits."""
        if self._plan.rate_per_s:
            return self._plan.rate_per_s
        measured = {one.service: one for one in self.measurements if (one.section, one.scenario) == (section, scenario)}
        bar = measured.get(BAR) or next(iter(measured.values()))
        return two_digits(RATE_SHARE * median(one.requests_per_s for one in bar.rounds))


def two_digits(number: float) -> float:
    """Rounded to two significant digits, and at least 1."""
    if number < 1:
        return 1.0
    return float(round(number, 1 - floor(log10(number))))
