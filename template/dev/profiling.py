"""Profile one worker under load: `nox -s profile -- [cpu | gil | native | memory] [--seconds N]`.

`cpu` samples the threads that run, `gil` those that hold the interpreter's lock, and `native` shows
C functions as well: py-spy draws a flame graph. `memory` draws the largest use of memory, by
memray. `benchmarks/load.toml` describes the load.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
import tomllib
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2

from dev.processes import ServerUnavailable, serve, workspace

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
        service = ("-m", "gunicorn", "--config=deploy/gunicorn.conf.py", f"--pid={home / 'pid'}")

        def command(port: int) -> list[str]:
            return ["env", f"PORT={port}", "WEB_CONCURRENCY=1", *python, *service, "app.main:app"]

        with serve(command, _is_ready, home / "service", cwd=ROOT) as port:
            if spy := KINDS[kind]:
                pid = (home / "pid").read_text().strip()
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
    scenario = tomllib.loads((ROOT / "benchmarks" / "load.toml").read_text())
    requests = cycle([each for each in scenario["request"] for _ in range(each.get("weight", 1))])
    names: dict[str, str] = {}
    statuses: Counter[int] = Counter()
    until = time.monotonic() + seconds

    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        async def send(request: dict[str, Any]) -> httpx2.Response:
            text = json.dumps([request["method"], request["path"], request.get("json")])
            for name, value in (names | {"random": uuid4().hex}).items():
                text = text.replace("{" + name + "}", value)
            method, path, body = json.loads(text)
            return await client.request(method, path, json=body)

        async def repeat() -> None:
            while time.monotonic() < until:
                statuses[(await send(next(requests))).status_code] += 1

        for request in scenario.get("prepare", []):
            response = await send(request)
            names[request["name"]] = str(response.raise_for_status().json()["id"])
        await asyncio.gather(*(repeat() for _ in range(CLIENTS)))
    print(f"responses by status: {dict(statuses)}")


def _is_ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/livez").is_success
    except httpx2.TransportError:
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="nox -s profile --", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=KINDS, default="cpu")
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    try:
        print(asyncio.run(profile(arguments.kind, arguments.seconds)))
    except (ServerUnavailable, httpx2.HTTPStatusError) as error:
        sys.exit(str(error))
