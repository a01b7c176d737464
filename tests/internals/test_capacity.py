"""The capacity model, by tables; and what a container's limits do to it."""

from pathlib import Path

import pytest

from app.core.operations.capacity import (
    MIB,
    WORKER_MEMORY_BYTES,
    CapacityError,
    Limits,
    Plan,
    detect_cores,
    detect_memory,
    make_plan,
)
from app.settings import get_settings
from tests.internals.commands import run

CACHE = WORKER_MEMORY_BYTES


@pytest.mark.parametrize(
    ("limits", "workers", "pool_size", "connections"),
    [
        pytest.param(Limits(1, None), 1, 10, 15, id="one core"),
        pytest.param(Limits(4, None), 4, 10, 45, id="workers follow cores"),
        pytest.param(Limits(16, None), 16, 5, 85, id="pools share the server's connections"),
        pytest.param(Limits(4, None, instances=3), 4, 7, 89, id="instances share them too"),
        pytest.param(Limits(4, None, workers_per_core=0.1), 1, 10, 15, id="at least one worker"),
        pytest.param(Limits(4, None, workers_per_core=1.5), 6, 10, 65, id="more than one a core"),
        pytest.param(Limits(8, 2 * WORKER_MEMORY_BYTES), 2, 10, 25, id="memory caps workers"),
        pytest.param(Limits(8, 1), 1, 10, 15, id="however little memory, one worker"),
        pytest.param(
            Limits(8, 4 * WORKER_MEMORY_BYTES, cache_bytes=CACHE),
            2,
            10,
            25,
            id="what they keep too",
        ),
        pytest.param(
            Limits(8, 4 * WORKER_MEMORY_BYTES - 1, cache_bytes=CACHE), 1, 10, 15, id="all of it"
        ),
        pytest.param(Limits(2, None, cache_bytes=CACHE), 2, 10, 25, id="without a limit, no cap"),
        pytest.param(Limits(8, 1, workers=2), 2, 10, 25, id="memory caps not what is told"),
        pytest.param(Limits(4, None, workers=2), 2, 10, 25, id="workers as told"),
        pytest.param(Limits(4, None, pool_size=20), 4, 20, 85, id="pool as told"),
        pytest.param(Limits(8, None, job_connections=39), 8, 7, 100, id="jobs take theirs"),
    ],
)
def test_plan(limits: Limits, workers: int, pool_size: int, connections: int) -> None:
    plan = make_plan(limits)

    assert (plan.workers, plan.pool_size, plan.connections) == (workers, pool_size, connections)
    assert plan.connections <= limits.max_connections


@pytest.mark.parametrize(
    ("limits", "arithmetic"),
    [
        (
            Limits(4, None, instances=30),
            "30 instances x 4 workers x 1 connections + 5 for administration = 125",
        ),
        (
            Limits(4, None, pool_size=30),
            "1 instances x 4 workers x 30 connections + 5 for administration = 125",
        ),
        (
            Limits(1, None, instances=20, job_connections=80),
            "20 instances x 1 workers x 1 connections + 5 for administration + 80 for jobs = 105",
        ),
    ],
)
def test_what_does_not_fit_says_why(limits: Limits, arithmetic: str) -> None:
    with pytest.raises(CapacityError) as caught:
        make_plan(limits)

    assert arithmetic in str(caught.value)


def test_a_plan_shows_its_arithmetic() -> None:
    assert make_plan(Limits(2, None)) == Plan(
        workers=2,
        pool_size=10,
        connections=25,
        arithmetic="1 instances x 2 workers x 10 connections + 5 for administration = 25",
        memory="2 workers x 128 MiB = 256 MiB, without a limit",
    )


@pytest.mark.parametrize(
    ("limits", "memory"),
    [
        (Limits(4, 512 * MIB), "4 workers x 128 MiB = 512 MiB, of 512 MiB"),
        (
            Limits(4, 512 * MIB, cache_bytes=32 * MIB),
            "3 workers x (128 MiB + 32 MiB for its cache) = 480 MiB, of 512 MiB",
        ),
        (
            Limits(4, 100 * MIB, workers=2),
            "2 workers x 128 MiB = 256 MiB, more than the limit of 100 MiB",
        ),
    ],
)
def test_the_sum_of_the_memory_is_shown(limits: Limits, memory: str) -> None:
    assert make_plan(limits).memory == memory


def test_the_command_prints_both_sums() -> None:
    plan = get_settings().plan()

    process = run("capacity")

    assert process.stdout.splitlines() == [
        f"{plan.workers} workers, {plan.pool_size} database connections each",
        f"database connections: {plan.arithmetic}",
        f"memory: {plan.memory}",
    ]


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    (tmp_path / "sys" / "pod" / "container").mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/pod/container\n")
    return tmp_path


def detect(root: Path) -> tuple[int, int | None]:
    locations = root / "sys", root / "membership"
    return detect_cores(*locations), detect_memory(*locations)


def test_cgroup_v2_limits_of_every_level_count(cgroup: Path) -> None:
    (cgroup / "sys" / "pod" / "container" / "cpu.max").write_text("max 100000\n")
    (cgroup / "sys" / "pod" / "cpu.max").write_text("150000 100000\n")
    (cgroup / "sys" / "pod" / "container" / "memory.max").write_text("536870912\n")
    (cgroup / "sys" / "memory.max").write_text("max\n")

    assert detect(cgroup) == (1, 536870912)


def test_a_container_sees_its_own_cgroup_as_the_root(cgroup: Path) -> None:
    (cgroup / "membership").write_text("0::/\n")
    (cgroup / "sys" / "cpu.max").write_text("50000 100000\n")
    (cgroup / "sys" / "memory.max").write_text("268435456\n")

    assert detect(cgroup) == (1, 268435456)


def test_cgroup_v1(cgroup: Path) -> None:
    (cgroup / "membership").write_text("4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n")
    for directory in ("memory/box", "cpu/box", "cpu,cpuacct/box"):
        (cgroup / "sys" / directory).mkdir(parents=True)
    for directory in ("cpu", "cpu,cpuacct"):
        (cgroup / "sys" / directory / "box" / "cpu.cfs_quota_us").write_text("100000")
        (cgroup / "sys" / directory / "box" / "cpu.cfs_period_us").write_text("100000")
    (cgroup / "sys" / "memory" / "box" / "memory.limit_in_bytes").write_text("1073741824")
    (cgroup / "sys" / "memory" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))

    assert detect(cgroup) == (1, 1073741824)


def test_without_cgroups_affinity_decides(tmp_path: Path) -> None:
    cores, memory = detect(tmp_path)

    assert cores >= 1
    assert memory is None
