"""Instances: the connections of the capacity plan, from `python -m app capacity`."""

import json
import subprocess
from collections.abc import Iterable
from typing import TypedDict

from benchmarks.growth.servers import Site

# Of each instance.
WORKERS = 2
# PostgreSQL's default, and what larger servers are set to.
MAX_CONNECTIONS = (100, 500)


class InstancesPoint(TypedDict):
    """`pool_size` and `connections` are None where the plan does not fit into `max_connections`."""

    instances: int
    max_connections: int
    pool_size: int | None
    connections: int | None


def measure(site: Site, numbers: Iterable[int]) -> list[InstancesPoint]:
    """Ask the capacity plan for each number of instances of WORKERS workers, for each size of the database."""
    numbers = list(numbers)
    return [_point(site, number, limit) for limit in MAX_CONNECTIONS for number in numbers]


def _point(site: Site, number: int, limit: int) -> InstancesPoint:
    variables = {
        "INSTANCES": str(number),
        "WEB_CONCURRENCY": str(WORKERS),
        "DATABASE_MAX_CONNECTIONS": str(limit),
    }
    point: InstancesPoint = {
        "instances": number,
        "max_connections": limit,
        "pool_size": None,
        "connections": None,
    }
    try:
        plan = json.loads(site.python("none", "app", "capacity", "--json", **variables))
    except subprocess.CalledProcessError:
        return point
    return {**point, "pool_size": plan["pool_size"], "connections": plan["connections"]}
