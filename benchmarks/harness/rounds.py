"""One round: a load, and who paid for it."""

import time
from collections.abc import Callable

from benchmarks.harness import machine
from benchmarks.harness.drivers import Driver, Load
from benchmarks.harness.environment import Environment
from benchmarks.harness.results import Round, Sample
from benchmarks.harness.services import Running

# More than this of one core in other hands, and a round says nothing.
FOREIGN_CORES = 0.1
ATTEMPTS = 3


def measure(running: Running, load: Load, driver: Driver, environment: Environment) -> Round:
    """Drive a service once.

    Raises:
        ServiceDied: when one of its processes ended; there is no number then.
    """
    service, servers, upstream = [running.process], list(environment.servers), [environment.upstream]
    started, busy, own = time.monotonic(), machine.busy_s(), machine.own_cpu_s()
    before = [machine.cpu_s(roots) for roots in (service, servers, upstream)]
    sample = _drive(running, load, driver)
    memory_bytes = machine.memory_bytes(running.process)
    # What was in flight when the client left is worked off, and must not burden the next service.
    machine.wait_until_quiet([*service, *servers])
    after = [machine.cpu_s(roots) for roots in (service, servers, upstream)]
    used = [late - early for late, early in zip(after, before, strict=True)]
    elapsed = time.monotonic() - started
    foreign = machine.busy_s() - busy - (machine.own_cpu_s() - own) - sum(used)
    share = answered_share(sample, load)
    return Round(
        sample=sample,
        service_cores=used[0] * share / sample.seconds,
        database_cores=used[1] * share / sample.seconds,
        foreign_cores=max(0.0, foreign / elapsed),
        memory_bytes=memory_bytes,
        disturbed=environment.accountable and foreign / elapsed > FOREIGN_CORES,
    )


def warm_up(running: Running, load: Load, driver: Driver, environment: Environment) -> Sample:
    """Drive a service without measuring it: caches, connections and compiled statements come to be."""
    sample = _drive(running, load, driver)
    machine.wait_until_quiet([running.process, *environment.servers])
    return sample


def _drive(running: Running, load: Load, driver: Driver) -> Sample:
    try:
        return driver(load)
    finally:
        # Before the client's complaint: why nobody answered is in the service's log.
        running.check()


def answered_share(sample: Sample, load: Load) -> float:
    """The share of the work that went into answers which were counted.

    In a closed loop every client leaves a request behind that the service works off after the round; without this
    a service that answers few requests would look dearer than it is.
    """
    left_behind = load.clients if load.rate is None else 0
    begun = sample.answered + sum(sample.errors.values()) + sample.unanswered + left_behind
    return sample.answered / begun if sample.answered else 1.0


def undisturbed(measure_once: Callable[[], Round], may_repeat: Callable[[], bool]) -> tuple[Round, int]:
    """A round that other processes left alone, or else the least disturbed; and how many were thrown away."""
    rounds = [measure_once()]
    while rounds[-1].disturbed and len(rounds) < ATTEMPTS and may_repeat():
        rounds.append(measure_once())
    return min(rounds, key=lambda one: one.foreign_cores), len(rounds) - 1
