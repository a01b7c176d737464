"""Clients and workers: one mix of requests under more and more load, and the demands of the queueing model."""

import asyncio
from collections.abc import Iterable
from typing import TypedDict

from benchmarks.growth import seeding
from benchmarks.growth.asking import CrowdPoint, Point, ask, ask_as_crowd
from benchmarks.growth.model import Demands
from benchmarks.growth.servers import NO_LIMITER, Site
from benchmarks.harness.scenarios import Data, Request, Scenario, aggregate, posts, stream, user, write
from benchmarks.harness.services import Running

TITLE = "60 % one user, 20 % a page of posts, 10 % an aggregate, 10 % writes"
PARTS = {user: 60, posts: 20, aggregate: 10, write: 10}
# The production setting of the limiter.
LIMITER = {"MAX_QUEUE_MS": "50"}
# With so many clients the demands are measured: a worker is busy, and its queue is short.
CALIBRATION_CLIENTS = 8
WORKERS_CLIENTS = 40
WARM_UP_S = 1.0


class WorkersPoint(TypedDict):
    workers: int
    points: list[Point]


def mix(site: Site) -> list[Request]:
    """Return the requests of the mix, for any user."""
    users = asyncio.run(seeding.user_ids(site.url))
    return stream(Scenario(TITLE, PARTS), Data(users, deep_page=""))


def clients(
    site: Site, requests: list[Request], numbers: Iterable[int], workers: int, seconds: float
) -> list[CrowdPoint]:
    """Measure the service with its limiter under each number of clients."""
    found = []
    with site.service(workers=workers, **LIMITER) as service:
        ask(service, site.servers, requests, clients=CALIBRATION_CLIENTS, seconds=min(seconds, WARM_UP_S))
        for number in numbers:
            point = ask_as_crowd(service, site.servers, requests, clients=number, seconds=seconds)
            site.say(
                f"{number:,} clients: {point['requests_per_s']:,.0f} answers/s, p99 {point['p99_ms']:,.1f} ms, "
                f"{point['refused_per_s']:,.0f} refused/s"
            )
            found.append(point)
    return found


def workers(
    site: Site, requests: list[Request], counts: Iterable[int], numbers: Iterable[int], seconds: float
) -> list[WorkersPoint]:
    """Measure the service without its limiter with each number of workers under each number of clients."""
    found: list[WorkersPoint] = []
    for count in counts:
        with site.service(workers=count, **NO_LIMITER) as service:
            site.say(f"workers: {count}")
            found.append({"workers": count, "points": _points(site, service, requests, numbers, seconds)})
    return found


def demands(points: Iterable[Point]) -> Demands:
    """Return the demands of a request, from the points of one worker with 1 and CALIBRATION_CLIENTS clients.

    The delay is the time of a request that meets no other one, beyond its CPU time.
    """
    by_clients = {each["clients"]: each for each in points}
    alone, busy = by_clients[1], by_clients[CALIBRATION_CLIENTS]
    of_alone = alone["service_us"] + alone["database_us"] + alone["client_us"]
    return Demands(
        service_s=busy["service_us"] / 1e6,
        database_s=busy["database_us"] / 1e6,
        client_s=busy["client_us"] / 1e6,
        delay_s=max(0.0, 1 / alone["requests_per_s"] - of_alone / 1e6),
    )


def _points(
    site: Site, service: Running, requests: list[Request], numbers: Iterable[int], seconds: float
) -> list[Point]:
    ask(service, site.servers, requests, clients=CALIBRATION_CLIENTS, seconds=min(seconds, WARM_UP_S))
    found = []
    for number in numbers:
        point = ask(service, site.servers, requests, clients=number, seconds=seconds)
        site.say(f"{number:,} clients: {point['requests_per_s']:,.0f} requests/s, p99 {point['p99_ms']:,.1f} ms")
        found.append(point)
    return found
