"""Starts the program that sends the requests of one round, our own client or wrk, and says what it saw.

oha is not supported: it sends one method and picks URLs at random, so neither a mix nor an order can be had from it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from benchmarks.harness.results import QUANTILES, Sample

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
# For starting, connecting and working the figures out, beside the round itself.
GRACE_S = 30.0
SHOWN_LINES = 20
RESULT_MARK = "slipstream-result "
WRK_SCRIPT = Path(__file__).with_name("wrk.lua")


class DriverError(Exception):
    """A load generator is missing or failed; the text ends with its last lines."""


@dataclass(frozen=True)
class Load:
    """One round of requests: `requests` are sent in order, over and over, by all clients together.

    With a `rate` (requests per second) it is an open loop over at most `clients` connections.
    """

    port: int
    requests: Sequence[bytes]
    clients: int
    seconds: float
    rate: float | None = None
    timeout_s: float = 10.0
    cores: frozenset[int] | None = None  # the load generator's own, where the system can pin processes

    def __post_init__(self) -> None:
        if not self.requests or self.clients < 1 or self.seconds <= 0 or (self.rate is not None and self.rate <= 0):
            raise ValueError("a load needs requests, clients, seconds and, for an open loop, a positive rate")


@dataclass(frozen=True)
class Driver:
    """The chosen load generator; called with a load, it returns what was seen."""

    name: str
    version: str
    closed_loop: Callable[[Load], Sample]

    def __call__(self, load: Load) -> Sample:
        """Only our own client has an open loop. DriverError when the load could not be driven."""
        return self.closed_loop(load) if load.rate is None else own(load)


def choose(name: str, seconds: float) -> Driver:
    """The driver of that name for rounds of so many seconds: "own", "wrk" or "auto".

    "auto" is wrk, as the program that readers know, where it is installed and rounds last whole seconds, the only ones
    that it knows.
    """
    if name not in ("auto", "own", "wrk"):
        raise DriverError(f"{name!r} is not one of auto, own, wrk")
    whole = seconds == int(seconds)
    if name == "own" or (name == "auto" and not (whole and shutil.which("wrk"))):
        return Driver("own", own_version(), own)
    if not whole:
        raise DriverError(f"wrk measures for whole seconds, not {seconds:g}")
    return Driver("wrk", wrk_version(), wrk)


def own_version() -> str:
    try:
        loop = f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        loop = "asyncio"
    return f"own client, {loop}, Python {python_version()}"


def own(load: Load) -> Sample:
    """Drive the load with our own client."""
    job = {
        "host": HOST,
        "port": load.port,
        "requests": [request.decode("latin-1") for request in load.requests],
        "clients": load.clients,
        "seconds": load.seconds,
        "rate": load.rate,
        "timeout_s": load.timeout_s,
    }
    command = [sys.executable, "-m", "benchmarks.harness.client"]
    output = run(command, time_limit_s=load.seconds + GRACE_S, cores=load.cores, stdin=json.dumps(job))
    result: dict[str, Any] = json.loads(output)
    return Sample(**result | {"latencies_ms": tuple(result["latencies_ms"])})


def wrk_version() -> str:
    if shutil.which("wrk") is None:
        raise DriverError("wrk is not installed; the client of this project needs nothing: choose own")
    # It ends with status 1 after its version.
    shown = subprocess.run(["wrk", "--version"], capture_output=True, text=True, timeout=10, check=False)
    return re.sub(r" \[.*", "", (shown.stdout or shown.stderr).partition("\n")[0])


def wrk(load: Load, *, threads: int = 1) -> Sample:
    """Drive the load with wrk, in a closed loop, for whole seconds.

    Other than our own client, wrk knows status codes from 400 only in total ("status") and has their latencies among
    the others, takes 3xx for an answer, and says nothing of a request that is never answered or whose connection the
    server closes.
    """
    if load.rate is not None:
        raise DriverError("wrk has no open loop")
    wrk_version()
    with tempfile.TemporaryDirectory(prefix="wrk-") as directory:
        script = Path(directory, "load.lua")
        script.write_bytes(wrk_script(load.requests, connections=load.clients, threads=threads))
        seconds = max(1, round(load.seconds))
        command = ["wrk", f"--threads={threads}", f"--connections={load.clients}", f"--duration={seconds}s"]
        command += [f"--timeout={max(1, round(load.timeout_s))}s", f"--script={script}", f"http://{HOST}:{load.port}/"]
        output = run(command, time_limit_s=seconds + GRACE_S, cores=load.cores)
    _, found, result = output.rpartition(RESULT_MARK)
    if not found:
        raise DriverError(f"wrk gave no result:\n{last_lines(output)}")
    return wrk_sample(json.loads(result))


def wrk_script(requests: Sequence[bytes], *, connections: int, threads: int) -> bytes:
    """The Lua script that makes wrk send these in order, each thread from its own place, and print a result."""
    lines = [
        b"CONNECTIONS = %d" % connections,
        b"THREADS = %d" % threads,
        b'RESULT_MARK = "%s"' % RESULT_MARK.encode(),
        b"QUANTILES = {%s}" % ",".join(map(str, QUANTILES)).encode(),
        b"requests = {",
        *(b"%s," % lua_string(request) for request in requests),
        b"}",
    ]
    return b"\n".join(lines) + b"\n" + WRK_SCRIPT.read_bytes()


def lua_string(data: bytes) -> bytes:
    r"""A Lua literal: what is not plain ASCII, and quotes and backslashes, as \ddd."""
    return b'"%s"' % re.sub(rb'[^ -~]|["\\]', lambda found: b"\\%03d" % found[0][0], data)


def wrk_sample(result: dict[str, Any]) -> Sample:
    """What the script's `done` has printed, as a `Sample`."""
    errors: dict[str, int] = result["errors"]
    # Responses all the same, and therefore among its requests.
    not_answered = errors["status"] + errors["timeout"]
    answered = max(result["requests"] - not_answered, 0)
    seconds = result["duration_us"] / 1e6
    kinds = {
        # A response that it cannot parse is a read error to wrk.
        "connection": errors["connect"] + errors["read"] + errors["write"],
        "status": errors["status"],
        "timeout": errors["timeout"],
    }
    return Sample(
        seconds=seconds,
        answered=answered,
        errors={kind: count for kind, count in kinds.items() if count},
        latencies_ms=tuple(value / 1e3 for value in result["latencies_us"]) if answered else (),
        client_cores=result["cpu_s"] / seconds,
    )


def run(command: list[str], *, time_limit_s: float, cores: frozenset[int] | None = None, stdin: str = "") -> str:
    """What the program prints; a DriverError with its last lines when it fails or takes too long.

    It runs in a session of its own, so that Ctrl-C is for this process to handle, and never outlives this call.
    """
    with on_cores(cores):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    try:
        output, errors = process.communicate(stdin, timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise DriverError(
            f"{command[0]} did not end within {time_limit_s:g} s:\n{last_lines(output + errors)}"
        ) from None
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise DriverError(f"{command[0]} failed ({process.returncode}):\n{last_lines(output + errors)}")
    return output


def last_lines(output: str) -> str:
    return "\n".join(output.splitlines()[-SHOWN_LINES:])


@contextmanager
def on_cores(cores: frozenset[int] | None) -> Iterator[None]:
    """Processes started meanwhile by this thread stay on these cores.

    They inherit them: preexec_fn is not safe with threads, and wrk's own would not follow a later change.
    """
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
