"""Capacity: the workers, threads, connections and memory of this instance, from one model.

`make_plan` is pure. `detect_cores` and `detect_memory` read the limits of this process; in a
container they are lower than `os.cpu_count()` and the memory of the machine.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
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
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
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


@dataclass(frozen=True)
class Plan:
    """The sizes of one instance, and the connections that all instances take together.

    `pool_size` and `cpu_processes` are of one worker. The job worker has `jobs` processes, each
    with `job_pool_size` connections, and a memory of its own. `arithmetic` and `memory` are the
    sums of connections and of memory, as text; `fits` is whether the memory suffices for both.
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
    fits: bool
    arithmetic: str
    memory: str

    def rows(self) -> dict[str, str]:
        """Return the plan for people, by name."""
        jobs = {"job worker": _count(self.jobs, "process", "es")} if self.jobs else {}
        return {
            "cores": f"{self.cores:g}",
            "workers": f"{self.workers}, with {THREADS} threads each",
            **jobs,
            "computing": f"{_count(self.cpu_processes, 'process', 'es')} for each worker, if used",
            "connections": f"{self.arithmetic}, of {self.max_connections}",
            "memory": self.memory,
        }

    def line(self) -> str:
        """Return the plan in one line, for the log."""
        return "; ".join(f"{name}: {value}" for name, value in self.rows().items())

    def __str__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in self.rows().items())


def make_plan(limits: Limits) -> Plan:
    """Size workers and pools so that all instances together fit into the database.

    Raises:
        CapacityError: when the plan needs more connections than the database allows.
    """
    limit = inf if limits.memory_bytes is None else limits.memory_bytes
    # Beside a master.
    free_bytes, each_bytes = limit - PROCESS_BYTES, PROCESS_BYTES + limits.cache_bytes
    wanted = limits.cores * limits.workers_per_core
    workers = limits.workers or _fitting(wanted, free_bytes, each_bytes)
    jobs = 0
    if limits.jobs is not None:
        jobs = limits.jobs or _fitting(limits.cores, free_bytes, each_bytes)

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

    memory_bytes, sums = _memory(workers, 1, limits)
    job_memory_bytes = 0
    if jobs:
        job_memory_bytes, job_sum = _memory(jobs, 0 if limits.jobs_at_once else 1, limits)
        sums += f", for jobs {job_sum}"
    fits = max(memory_bytes, job_memory_bytes) <= limit
    bound = "of" if fits else "MORE than the limit of"
    free_bytes = (limit - memory_bytes) / workers
    return Plan(
        cores=limits.cores,
        workers=workers,
        threads=workers * THREADS,
        jobs=jobs,
        pool_size=pool_size,
        cpu_processes=limits.cpu_processes
        or _fitting(limits.cores / workers, free_bytes, CPU_PROCESS_BYTES),
        job_pool_size=job_pool_size,
        connections=connections,
        max_connections=limits.max_connections,
        memory_bytes=memory_bytes,
        job_memory_bytes=job_memory_bytes,
        memory_limit_bytes=limits.memory_bytes,
        fits=fits,
        arithmetic=arithmetic,
        memory=f"{sums}, {'without a limit' if limit == inf else f'{bound} {_mib(limit)}'}",
    )


def _fitting(wanted: float, free_bytes: float, each_bytes: int) -> int:
    """Return how many of the wanted processes the memory allows, at least 1."""
    return max(1, int(min(wanted, free_bytes / each_bytes)))


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


def _mib(size: float) -> str:
    return f"{size / MIB:.0f} MiB"


def detect_cores(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """Return the cores of this process: the least of CPU affinity and cgroup quotas."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores: list[float] = [len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1]
    for group in _groups(root, membership):
        v1 = f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
        for text in (_text(group / "cpu.max"), v1):
            quota, _, period = text.partition(" ")
            # Without a limit, it is `max` or -1.
            if quota.isdigit():
                cores.append(int(quota) / int(period))
    return min(cores)


def detect_memory(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """Return the memory limit of the cgroup in bytes, or None without one."""
    limits = []
    for group in _groups(root, membership):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(group / name)
            # Without a limit, it is `max` or close to 2**63.
            if text.isdigit() and int(text) < 2**60:
                limits.append(int(text))
    return min(limits, default=None)


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Yield the cgroups that limit this process: its own and all above it."""
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        # cgroup v1 has a tree for each controller; v2 has one tree, and names none.
        for controller in controllers.split(","):
            tree = root / controller
            group = tree / path.lstrip("/")
            yield from (each for each in (group, *group.parents) if each.is_relative_to(tree))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
