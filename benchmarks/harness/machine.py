"""The machine: which cores there are, who used them, and what it is called."""

import os
import platform
import resource
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

QUIET_CORES = 0.05
QUIET_POLL_S = 0.03
QUIET_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Cores:
    """Where the measured service runs and where everything else does; None leaves it to the system."""

    service: frozenset[int] | None = None
    others: frozenset[int] | None = None


def separate() -> Cores:
    """One core for a service of one worker, the rest for whatever serves and drives it."""
    cores = usable_cores()
    if len(cores) < 2 or not hasattr(os, "sched_setaffinity"):
        return Cores()
    return Cores(frozenset(cores[:1]), frozenset(cores[1:]))


def usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(roots: Iterable[psutil.Process], cores: frozenset[int] | None) -> None:
    """Let processes and their children run on these cores only; on all when None."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for process in tree(roots):
        with suppress(psutil.NoSuchProcess):
            for thread in process.threads():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, cores or usable_cores())


def tree(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes and all their living children."""
    children: defaultdict[int, list[psutil.Process]] = defaultdict(list)
    # One look at all processes: psutil's own `children` takes one for each root.
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            children[process.ppid()].append(process)
    found = list(roots)
    for process in found:
        found += children[process.pid]
    return found


def cpu_s(roots: Iterable[psutil.Process]) -> float:
    """CPU time of the processes, their children, and the children that they have already buried, in seconds."""
    total = 0.0
    for process in tree(roots):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def own_cpu_s() -> float:
    """CPU time of this process and of the children that have ended, such as the client."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def busy_s() -> float:
    """CPU time of the whole machine, with what the hypervisor took, in seconds; interrupts belong to nobody."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0))


def memory_bytes(root: psutil.Process) -> int:
    """Proportional set size where the system knows it (shared pages are divided), else what is private."""
    total = 0
    for process in tree([root]):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.uss)
    return total


def wait_until_quiet(roots: Sequence[psutil.Process]) -> None:
    """Until the processes have worked off what the client left behind, for some seconds at most."""
    deadline = time.monotonic() + QUIET_TIMEOUT_S
    before = cpu_s(roots)
    while time.monotonic() < deadline:
        time.sleep(QUIET_POLL_S)
        after = cpu_s(roots)
        if after - before <= QUIET_CORES * QUIET_POLL_S:
            return
        before = after


def describe() -> dict[str, str | int | float | bool]:
    return {
        "cpu": _cpu_name(),
        "cores": len(usable_cores()),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_name() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
