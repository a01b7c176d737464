"""Profile one worker under load: `nox -s profile -- [cpu | gil | native | memory] [--seconds N]`.

`cpu` samples the threads that run, `gil` those that hold the interpreter's lock, and `native` shows
C functions as well: py-spy draws a flame graph. `memory` draws the largest use of memory, by
memray. `benchmarks/load.toml` describes the load.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from uuid import uuid4

import httpx2

from benchmarks.requests import Load
from benchmarks.service import serving
from dev.processes import ServerUnavailable, workspace

ROOT = Path(__file__).parents[1]
CLIENTS = 16
SPY = ("py-spy", "record", "--subprocesses")
KINDS = {"cpu": SPY, "gil": (*SPY, "--gil"), "native": (*SPY, "--native"), "memory": ()}
MEMRAY = (sys.executable, "-m", "memray")
NOT_ALLOWED = """\
The system does not allow py-spy to read the memory of the service. Linux: `sysctl
kernel.yama.ptrace_scope=0`, or run this as root; in a container, add the capability SYS_PTRACE.
macOS: run this with sudo."""


async def profile(kind: str, seconds: int) -> Path:
    """Profile a worker for this time, under the load; return the drawing."""
    drawing = ROOT / "profiles" / f"{time.strftime('%Y%m%d-%H%M%S')}-{kind}.svg"
    drawing.parent.mkdir(exist_ok=True)
    with workspace() as home:
        recorder = (*MEMRAY, "run", "--follow-fork", f"--output={home / 'memory'}")
        python = recorder if kind == "memory" else (sys.executable,)
        with serving(home / "service", python, ROOT, {"WEB_CONCURRENCY": "1"}) as (port, pid):
            if spy := KINDS[kind]:
                options = (f"--pid={pid}", f"--duration={seconds}", f"--output={drawing}")
                await asyncio.gather(load(port, seconds), asyncio.to_thread(run, *spy, *options))
            else:
                await load(port, seconds)
        if kind == "memory":
            # The worker has a file of its own, with its process id.
            (recording,) = home.glob("memory.*")
            drawing = drawing.with_suffix(".html")
            run(*MEMRAY, "flamegraph", f"--output={drawing}", str(recording))
    return drawing


def run(*command: str) -> None:
    """Run a profiler; raise ServerUnavailable with its output, or with a remedy."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        output = process.stdout + process.stderr
        is_refused = "ermission" in output or "not permitted" in output
        raise ServerUnavailable(NOT_ALLOWED if is_refused else output)


async def load(port: int, seconds: int) -> None:
    """Send the requests of `benchmarks/load.toml`; print the numbers of responses by status."""
    statuses: Counter[int] = Counter()
    url = f"http://127.0.0.1:{port}"
    with httpx2.Client(base_url=url, timeout=30) as preparing:
        prepared = Load(preparing)
    described = prepared.described["request"]
    tables = cycle([each for each in described for _ in range(each.get("weight", 1))])
    until = time.monotonic() + seconds

    async with httpx2.AsyncClient(timeout=30) as client:

        async def repeat() -> None:
            while time.monotonic() < until:
                request = prepared.request(next(tables), uuid4().hex)
                statuses[(await client.send(request)).status_code] += 1

        await asyncio.gather(*(repeat() for _ in range(CLIENTS)))
    print(f"responses by status: {dict(statuses)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="nox -s profile --", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=KINDS, default="cpu")
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    try:
        print(asyncio.run(profile(arguments.kind, arguments.seconds)))
    except (ServerUnavailable, httpx2.HTTPStatusError) as error:
        sys.exit(str(error))
