"""Capacity: the numbers of workers and connections of this instance, from one model.

`make_plan` is pure. `detect_cores` and `detect_memory` read the limits of this process; in a
container they are lower than `os.cpu_count()` and the memory of the machine.
"""

import os
from dataclasses import dataclass
from pathlib import Path

# PostgreSQL keeps 3 connections for superusers; a migration takes two.
ADMINISTRATION = 5
# A worker runs Python on one core: more connections only move the queue into the database.
MAX_POOL_SIZE = 10
MIB = 1024**2
# Of one worker, without its cache.
WORKER_MEMORY_BYTES = 128 * MIB


class CapacityError(ValueError):
    """The limits contradict each other; the message shows the sum."""


@dataclass(frozen=True)
class Limits:
    """The limits of the plan; a `workers` or `pool_size` of 0 is derived.

    The jobs of all instances together take `job_connections`; each worker takes `cache_bytes`.
    """

    cores: int
    memory_bytes: int | None
    workers_per_core: float = 1.0
    workers: int = 0
    instances: int = 1
    max_connections: int = 100
    pool_size: int = 0
    job_connections: int = 0
    cache_bytes: int = 0

    @property
    def worker_bytes(self) -> int:
        """Return the memory of one worker."""
        return WORKER_MEMORY_BYTES + self.cache_bytes


@dataclass(frozen=True)
class Plan:
    """The sizes of one instance, and the connections that all instances take together."""

    workers: int
    pool_size: int
    connections: int
    arithmetic: str
    memory: str

    def __str__(self) -> str:
        return (
            f"{self.workers} workers, {self.pool_size} database connections each\n"
            f"database connections: {self.arithmetic}\n"
            f"memory: {self.memory}"
        )


def make_plan(limits: Limits) -> Plan:
    """Size workers and pools so that all instances together fit into the database.

    Raises:
        CapacityError: when the plan needs more connections than the database allows.
    """
    derived = max(1, int(limits.cores * limits.workers_per_core))
    if limits.memory_bytes is not None:
        derived = min(derived, max(1, limits.memory_bytes // limits.worker_bytes))
    workers = limits.workers or derived
    others = ADMINISTRATION + limits.job_connections
    free = limits.max_connections - others
    pool_size = limits.pool_size or max(1, min(MAX_POOL_SIZE, free // (limits.instances * workers)))
    connections = limits.instances * workers * pool_size + others
    web = f"{limits.instances} instances x {workers} workers x {pool_size} connections"
    jobs = f" + {limits.job_connections} for jobs" if limits.job_connections else ""
    arithmetic = f"{web} + {ADMINISTRATION} for administration{jobs} = {connections}"
    if connections > limits.max_connections:
        raise CapacityError(
            f"DATABASE_MAX_CONNECTIONS is {limits.max_connections}, but {arithmetic}. "
            "Raise it if the server allows more, or lower INSTANCES, WEB_CONCURRENCY or "
            "DATABASE_POOL_SIZE."
        )
    return Plan(workers, pool_size, connections, arithmetic, _memory(limits, workers))


def _memory(limits: Limits, workers: int) -> str:
    """Return the memory of one instance as a sum, with its limit."""
    worker = _mib(WORKER_MEMORY_BYTES)
    if limits.cache_bytes:
        worker = f"({worker} + {_mib(limits.cache_bytes)} for its cache)"
    total = workers * limits.worker_bytes
    arithmetic = f"{workers} workers x {worker} = {_mib(total)}"
    if limits.memory_bytes is None:
        return f"{arithmetic}, without a limit"
    if total > limits.memory_bytes:
        return f"{arithmetic}, more than the limit of {_mib(limits.memory_bytes)}"
    return f"{arithmetic}, of {_mib(limits.memory_bytes)}"


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def detect_cores(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """Return the whole cores of this process: the least of CPU affinity and cgroup quotas."""
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [quota for group in _groups(root, membership, "cpu") if (quota := _quota(group))]
    return max(1, int(min([affinity, *quotas])))


def detect_memory(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the memory limit of the cgroup in bytes, or None without one."""
    limits = [
        limit
        for group in _groups(root, membership, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        # cgroup v1 writes "no limit" as a number close to 2**63.
        if (limit := _number(group / name)) is not None and limit < 2**60
    ]
    return min(limits, default=None)


def _groups(root: Path, membership: Path, controller: str) -> list[Path]:
    """Return the cgroups (v2 and v1) that limit this process: its own and all above it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        own = base / path.lstrip("/")
        groups += [own, *(parent for parent in own.parents if parent.is_relative_to(base))]
    return groups


def _quota(group: Path) -> float | None:
    """Return the CPU quota of one cgroup in cores."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        us, period_us = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        return us / period_us if us and us > 0 and period_us else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
