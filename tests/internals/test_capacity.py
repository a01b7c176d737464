"""The capacity model, by tables; and what a container's limits do to it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from anyio.to_thread import current_default_thread_limiter

from app.core.operations.capacity import (
    CPU_PROCESS_BYTES,
    MIB,
    PROCESS_BYTES,
    THREADS,
    CapacityError,
    Limits,
    detect_cores,
    detect_memory,
    make_plan,
)
from app.settings import get_settings
from tests.internals.commands import ROOT, run

EACH = PROCESS_BYTES
CACHE = PROCESS_BYTES


@pytest.mark.parametrize(
    ("limits", "workers", "pool_size", "connections"),
    [
        pytest.param(Limits(0.5, None), 1, 10, 15, id="half a core"),
        pytest.param(Limits(0.5, 256 * MIB, cache_bytes=32 * MIB), 1, 10, 15, id="and 256 MiB"),
        pytest.param(Limits(1, None), 1, 10, 15, id="one core"),
        pytest.param(Limits(1.9, None), 1, 10, 15, id="parts of a core make no worker"),
        pytest.param(Limits(1.5, None, workers_per_core=1.4), 2, 10, 25, id="parts add up"),
        pytest.param(Limits(4, None), 4, 10, 45, id="workers follow cores"),
        pytest.param(Limits(16, None), 16, 5, 85, id="pools share the server's connections"),
        pytest.param(Limits(4, None, instances=3), 4, 7, 89, id="instances share them too"),
        pytest.param(Limits(4, None, workers_per_core=0.1), 1, 10, 15, id="at least one worker"),
        pytest.param(Limits(4, None, workers_per_core=1.5), 6, 10, 65, id="more than one a core"),
        pytest.param(Limits(8, 3 * EACH), 2, 10, 25, id="memory caps workers, beside a master"),
        pytest.param(Limits(8, 1), 1, 10, 15, id="however little memory, one worker"),
        pytest.param(Limits(8, 5 * EACH, cache_bytes=CACHE), 2, 10, 25, id="caches count"),
        pytest.param(Limits(8, 5 * EACH - 1, cache_bytes=CACHE), 1, 10, 15, id="all of them"),
        pytest.param(Limits(2, None, cache_bytes=CACHE), 2, 10, 25, id="without a limit, no cap"),
        pytest.param(Limits(8, 1, workers=2), 2, 10, 25, id="memory caps not what is told"),
        pytest.param(Limits(4, None, workers=2), 2, 10, 25, id="workers as told"),
        pytest.param(Limits(4, None, pool_size=20), 4, 20, 85, id="pool as told"),
        pytest.param(Limits(8, None, jobs=19), 8, 7, 99, id="jobs take theirs"),
        pytest.param(Limits(8, None, jobs=0), 8, 9, 93, id="as many job processes as cores"),
        pytest.param(Limits(8, 3 * EACH, jobs=0), 2, 10, 29, id="or as the memory allows"),
        pytest.param(Limits(2, None, jobs=1, jobs_at_once=8), 2, 10, 34, id="jobs at once"),
        pytest.param(
            Limits(1, None, instances=30, jobs=1, jobs_at_once=8), 1, 1, 95, id="they share, too"
        ),
    ],
)
def test_plan(limits: Limits, workers: int, pool_size: int, connections: int) -> None:
    plan = make_plan(limits)

    assert (plan.workers, plan.pool_size, plan.connections) == (workers, pool_size, connections)
    assert plan.connections <= limits.max_connections


@pytest.mark.parametrize(
    ("limits", "processes"),
    [
        (Limits(4, None), 1),
        (Limits(4, None, workers=2), 2),
        (Limits(0.5, None), 1),
        (Limits(4, None, cpu_processes=3), 3),
        (Limits(4, 2 * EACH + 2 * CPU_PROCESS_BYTES, workers=1), 2),
        (Limits(4, 2 * EACH, workers=1), 1),
    ],
)
def test_computations_get_the_cores_and_the_memory_that_are_left(
    limits: Limits, processes: int
) -> None:
    assert make_plan(limits).cpu_processes == processes


@pytest.mark.parametrize(
    ("limits", "arithmetic"),
    [
        (
            Limits(4, None, instances=30),
            "30 instances x 4 workers x 1 connection + 5 for administration = 125",
        ),
        (
            Limits(4, None, pool_size=30),
            "1 instance x 4 workers x 30 connections + 5 for administration = 125",
        ),
        (
            Limits(1, None, instances=20, jobs=2),
            "20 instances x 1 worker x 1 connection + 5 for administration + 80 for jobs = 105",
        ),
    ],
)
def test_what_does_not_fit_says_why(limits: Limits, arithmetic: str) -> None:
    with pytest.raises(CapacityError) as caught:
        make_plan(limits)

    assert arithmetic in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "fits", "memory"),
    [
        (Limits(4, None), True, "5 processes x 96 MiB = 480 MiB, without a limit"),
        (Limits(4, 480 * MIB), True, "5 processes x 96 MiB = 480 MiB, of 480 MiB"),
        (
            Limits(0.5, 256 * MIB, cache_bytes=32 * MIB),
            True,
            "2 processes x 96 MiB + 1 cache x 32 MiB = 224 MiB, of 256 MiB",
        ),
        (
            Limits(1, 256 * MIB, jobs=1),
            True,
            "2 processes x 96 MiB = 192 MiB, for jobs 2 processes x 96 MiB = 192 MiB, of 256 MiB",
        ),
        (
            Limits(4, 100 * MIB, workers=2),
            False,
            "3 processes x 96 MiB = 288 MiB, MORE than the limit of 100 MiB",
        ),
        (
            Limits(1, 200 * MIB, jobs=2),
            False,
            "2 processes x 96 MiB = 192 MiB, for jobs 3 processes x 96 MiB = 288 MiB, "
            "MORE than the limit of 200 MiB",
        ),
    ],
)
def test_the_memory_is_a_sum_with_its_limit(limits: Limits, fits: bool, memory: str) -> None:
    plan = make_plan(limits)

    assert (plan.fits, plan.memory) == (fits, memory)


def test_a_plan_is_a_table_and_a_line() -> None:
    plan = make_plan(Limits(0.5, None, jobs=0))

    table = str(plan).splitlines()
    assert [row[:13].strip() for row in table] == [
        "cores",
        "workers",
        "job worker",
        "computing",
        "connections",
        "memory",
    ]
    assert table[0].endswith(" 0.5")
    assert plan.line() == "; ".join(f"{row[:13].strip()}: {row[13:]}" for row in table)


async def test_the_threads_are_those_of_anyio() -> None:
    assert current_default_thread_limiter().total_tokens == THREADS


def test_the_command_prints_the_plan() -> None:
    plan = get_settings().plan()

    assert run("capacity").stdout == f"{plan}\n"
    assert json.loads(run("capacity", "--json").stdout) == asdict(plan)


def test_a_number_of_cores_may_be_told() -> None:
    cores = {
        given: json.loads(run("capacity", "--json", CPU_CORES=given).stdout)["cores"]
        for given in ("0.5", "4")
    }
    assert cores == {"0.5": 0.5, "4": 4}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is of Linux")
def test_affinity_limits_the_cores() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}]);"
        "from app.core.operations.capacity import detect_cores; print(detect_cores())"
    )
    assert 0 < float(python(code)) <= 1


def test_a_real_quota_limits_the_cores() -> None:
    """Half a core, in a cgroup below that of this process, if the test may make one."""
    with limited_group() as directory:
        code = (
            f"open({str(directory / 'cgroup.procs')!r}, 'w').write('0');"
            "from app.core.operations.capacity import detect_cores; print(detect_cores())"
        )
        assert python(code) == "0.5"


@contextmanager
def limited_group() -> Iterator[Path]:
    """Make a cgroup with half a core; skip the test where this is not allowed."""
    own = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    root = Path("/sys/fs/cgroup")
    is_v1 = (root / "cpu").is_dir()
    parent = root / "cpu" / own.get("cpu", "").lstrip("/") if is_v1 else root / own[""].lstrip("/")
    directory = parent / f"test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        if is_v1:
            (directory / "cpu.cfs_period_us").write_text("100000")
            (directory / "cpu.cfs_quota_us").write_text("50000")
        else:
            (directory / "cpu.max").write_text("50000 100000")
        yield directory
    except OSError as error:
        pytest.skip(f"no quota can be set here: {error}")
    finally:
        directory.rmdir()


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    (tmp_path / "sys" / "pod" / "container").mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/pod/container\n")
    return tmp_path


def detect(root: Path) -> tuple[float, int | None]:
    locations = root / "sys", root / "membership"
    return detect_cores(*locations), detect_memory(*locations)


def test_cgroup_v2_limits_of_every_level_count(cgroup: Path) -> None:
    (cgroup / "sys" / "pod" / "container" / "cpu.max").write_text("max 100000\n")
    (cgroup / "sys" / "pod" / "cpu.max").write_text("150000 100000\n")
    (cgroup / "sys" / "pod" / "container" / "memory.max").write_text("536870912\n")
    (cgroup / "sys" / "memory.max").write_text("max\n")

    assert detect(cgroup) == (1.5, 536870912)


def test_a_container_sees_its_own_cgroup_as_the_root(cgroup: Path) -> None:
    (cgroup / "membership").write_text("0::/\n")
    (cgroup / "sys" / "cpu.max").write_text("50000 100000\n")
    (cgroup / "sys" / "memory.max").write_text("268435456\n")

    assert detect(cgroup) == (0.5, 268435456)


def test_cgroup_v1(cgroup: Path) -> None:
    (cgroup / "membership").write_text("4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n")
    for directory in ("memory/box", "cpu/box", "cpu,cpuacct/box"):
        (cgroup / "sys" / directory).mkdir(parents=True)
    for directory in ("cpu", "cpu,cpuacct"):
        (cgroup / "sys" / directory / "box" / "cpu.cfs_quota_us").write_text("50000")
        (cgroup / "sys" / directory / "box" / "cpu.cfs_period_us").write_text("100000")
    (cgroup / "sys" / "memory" / "box" / "memory.limit_in_bytes").write_text("1073741824")
    (cgroup / "sys" / "memory" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))

    assert detect(cgroup) == (0.5, 1073741824)


def test_without_cgroups_affinity_decides(tmp_path: Path) -> None:
    assert detect(tmp_path) == (len(os.sched_getaffinity(0)), None)
