"""Capacity: the workers, threads, connections and memory of this instance, from one model.

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
# A job has one connection, and a second one for a read beside its transaction; of a process that
# runs several jobs at once, one connection is for the queue.
JOB_POOL_SIZE = 2
# The size of anyio's limiter: `def` endpoints and blocking calls of one worker that run at once.
THREADS = 40
MIB = 1024**2
# Of one process without its cache: 57 to 86 MiB (PSS) were measured under load.
PROCESS_BYTES = 96 * MIB
# Of one that decodes a picture of 24 megapixels, at its peak; an idle one has 6 to 34 MiB.
CPU_PROCESS_BYTES = 160 * MIB


class CapacityError(ValueError):
    """The limits contradict each other; the message shows the sum."""


@dataclass(frozen=True)
class Limits:
    """The limits of the plan; a `workers`, `pool_size`, `jobs` or `cpu_processes` of 0 is derived.

    `jobs` are the processes of the job worker of each instance, in a container of its own; None
    without one. With `jobs_at_once`, the job worker is one process that runs so many at once.
    Each process takes `cache_bytes`, and each group of processes has a master.
    """

    cores: float
    memory_bytes: int | None
    workers_per_core: float = 1.0
    workers: int = 0
    instances: int = 1
    max_connections: int = 100
    pool_size: int = 0
    jobs: int | None = None
    jobs_at_once: int = 0
    cache_bytes: int = 0
    cpu_processes: int = 0

    def processes(self, per_core: float) -> int:
        """Return the number of processes that cores and memory allow, at least 1."""
        derived = int(self.cores * per_core)
        if self.memory_bytes is not None:
            free = self.memory_bytes - PROCESS_BYTES
            derived = min(derived, free // (PROCESS_BYTES + self.cache_bytes))
        return max(1, derived)


@dataclass(frozen=True)
class Plan:
    """The sizes of one instance, and the connections that all instances take together.

    `pool_size` and `cpu_processes` are of one worker. The job worker has `jobs` processes, each
    with `job_pool_size` connections, and a memory of its own.
    `arithmetic` and `memory` are the sums of connections and of memory, as text.
    """

    cores: float
    workers: int
    threads: int
    jobs: int
    pool_size: int
    cpu_processes: int
    job_pool_size: int
    connections: int
    max_connections: int
    memory_bytes: int
    job_memory_bytes: int
    memory_limit_bytes: int | None
    arithmetic: str
    memory: str

    @property
    def fits(self) -> bool:
        """Whether the memory limit suffices for the web workers, and for the job worker."""
        needed = max(self.memory_bytes, self.job_memory_bytes)
        return self.memory_limit_bytes is None or needed <= self.memory_limit_bytes

    def line(self) -> str:
        """Return the plan in one line, for the log."""
        return "; ".join(f"{name}: {value}" for name, value in self._rows().items())

    def __str__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in self._rows().items())

    def _rows(self) -> dict[str, str]:
        jobs = {"job worker": _count(self.jobs, "process", "es")} if self.jobs else {}
        return {
            "cores": f"{self.cores:g}",
            "workers": f"{self.workers}, with {THREADS} threads each",
            **jobs,
            "computing": f"{_count(self.cpu_processes, 'process', 'es')} for each worker, if used",
            "connections": f"{self.arithmetic}, of {self.max_connections}",
            "memory": self.memory,
        }


def make_plan(limits: Limits) -> Plan:
    """Size workers and pools so that all instances together fit into the database.

    Raises:
        CapacityError: when the plan needs more connections than the database allows.
    """
    workers = limits.workers or limits.processes(limits.workers_per_core)
    jobs = 0 if limits.jobs is None else limits.jobs or limits.processes(1)
    job_pool_size = JOB_POOL_SIZE
    if limits.jobs_at_once:
        share = (limits.max_connections - ADMINISTRATION) // (limits.instances * (workers + jobs))
        job_pool_size = min(limits.jobs_at_once + 1, max(JOB_POOL_SIZE, share))
    job_connections = limits.instances * jobs * job_pool_size
    others = ADMINISTRATION + job_connections
    free = limits.max_connections - others
    pool_size = limits.pool_size or max(1, min(MAX_POOL_SIZE, free // (limits.instances * workers)))
    connections = limits.instances * workers * pool_size + others
    arithmetic = (
        f"{_count(limits.instances, 'instance')} x {_count(workers, 'worker')}"
        f" x {_count(pool_size, 'connection')}"
        f" + {ADMINISTRATION} for administration"
        + (f" + {job_connections} for jobs" if jobs else "")
        + f" = {connections}"
    )
    if connections > limits.max_connections:
        raise CapacityError(
            f"DATABASE_MAX_CONNECTIONS is {limits.max_connections}, but {arithmetic}. "
            "Raise it if the server allows more, or lower INSTANCES, WEB_CONCURRENCY or "
            "DATABASE_POOL_SIZE."
        )
    memory_bytes, memory = _memory(workers, 1, limits)
    job_memory_bytes, job_memory = 0, ""
    if jobs:
        job_memory_bytes, job_memory = _memory(jobs, 0 if limits.jobs_at_once else 1, limits)
        job_memory = f", for jobs {job_memory}"
    limit = limits.memory_bytes
    if limit is None:
        bound = "without a limit"
    elif max(memory_bytes, job_memory_bytes) > limit:
        bound = f"MORE than the limit of {_mib(limit)}"
    else:
        bound = f"of {_mib(limit)}"
    return Plan(
        cores=limits.cores,
        workers=workers,
        threads=workers * THREADS,
        jobs=jobs,
        pool_size=pool_size,
        cpu_processes=limits.cpu_processes or _cpu_processes(limits, workers, memory_bytes),
        job_pool_size=job_pool_size,
        connections=connections,
        max_connections=limits.max_connections,
        memory_bytes=memory_bytes,
        job_memory_bytes=job_memory_bytes,
        memory_limit_bytes=limit,
        arithmetic=arithmetic,
        memory=f"{memory}{job_memory}, {bound}",
    )


def _cpu_processes(limits: Limits, workers: int, memory_bytes: int) -> int:
    """Return how many each worker has cores and memory for, at least 1."""
    derived = int(limits.cores / workers)
    if limits.memory_bytes is not None:
        free = limits.memory_bytes - memory_bytes
        derived = min(derived, free // (workers * CPU_PROCESS_BYTES))
    return max(1, derived)


def _memory(workers: int, masters: int, limits: Limits) -> tuple[int, str]:
    """Return the memory of masters and workers, in bytes and as a sum."""
    processes = workers + masters
    total = processes * PROCESS_BYTES + workers * limits.cache_bytes
    cache_sum = f" + {_count(workers, 'cache')} x {_mib(limits.cache_bytes)}"
    caches = cache_sum if limits.cache_bytes else ""
    each = _mib(PROCESS_BYTES)
    return total, f"{_count(processes, 'process', 'es')} x {each}{caches} = {_mib(total)}"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def detect_cores(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float:
    """Return the cores of this process: the least of CPU affinity and cgroup quotas."""
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [quota for group in _groups(root, membership, "cpu") if (quota := _quota(group))]
    return min([affinity, *quotas])


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
