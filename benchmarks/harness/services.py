"""The six services: how each is started, as its own kind is run in production, and how it is stopped."""

import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlencode

import psutil
from dev.guardian import stop
from dev.postgres import postgres
from dev.processes import StartFailed, free_port, start, workspace
from dev.valkey import valkey

from benchmarks.harness.seeding import Rows
from tests.quick_copier import quicken
from tests.rendering import ROOT, render, snapshot
from tests.variants import DEFAULTS

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
READY_POLL_S = 0.3
OVERLAY = ROOT / "benchmarks" / "rendered"
# The domains in it, whose routes come last: no other request is matched against them.
OVERLAY_DOMAINS = ("reports", "lanes", "items", "arena")
# The example's domain whose router is replaced by one in the prepared lane.
REPLACED_DOMAIN = "users"
# The one that needs Valkey.
CACHED_DOMAIN = "caches"
# The file of HttpArena's `json`.
DATASET = ROOT / "benchmarks" / "dataset.json"
# Signs the cursors of the rendered service, here and there.
CURSOR_SECRET = "benchmark" * 4

quicken()


class ServiceDied(RuntimeError):
    """A service ended, or lost a worker, while it was measured; the message ends with the end of its log."""


@dataclass(frozen=True)
class Service:
    """`command` takes the number of workers and the port; `workers`, how many its kind runs on so many cores."""

    name: str
    title: str
    command: Callable[[int, int], list[str]]
    workers: Callable[[int], int]
    # The path of the page behind the rows' prefix, given the directory in which the service runs.
    deep_page: Callable[[Rows, Path], str]
    # Whether it can answer from a cache, and whether all its workers then see each other's writes.
    caches: bool = False
    coherent: bool = True
    # Below which path it is asked.
    root: str = ""
    one_worker_only: bool = False
    # The answer with which it is rendered; None where the kind of measurement decides.
    cache_backend: str | None = None

    @property
    def is_rendered(self) -> bool:
        return self.command is rendered


@dataclass
class Running:
    """A started service and, once it is ready, the processes that it consists of besides the first."""

    service: Service
    workers: int
    port: int
    process: psutil.Popen
    home: Path
    children: frozenset[int] = frozenset()

    def wait_until_ready(self) -> None:
        """Wait until it answers with all its workers.

        Raises:
            StartFailed: with the end of its log.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        enough = self.workers if self.workers > 1 else 0
        while True:
            if self.process.poll() is not None:
                raise StartFailed(self.service.name, f"ended with exit code {self.process.returncode}", self.home)
            if time.monotonic() > deadline:
                raise StartFailed(self.service.name, f"was not ready in {START_TIMEOUT_S:.0f} s", self.home)
            before, self.children = self.children, _children(self.process)
            # Twice the same ones: a worker that was just born may still have children of its own to come.
            if answers(self.port) == 200 and len(self.children) >= enough and self.children == before:
                return
            time.sleep(READY_POLL_S)

    def check(self) -> None:
        """Raise ServiceDied unless every process that was there at the start still runs."""
        if not _lives(self.process) or not all(map(_pid_lives, self.children)):
            log = self.home.with_name(f"{self.home.name}.log")
            raise ServiceDied(f"{self.service.name}: a process ended; its log ends:\n{_tail(log)}")


def uvicorn(name: str, *options: str) -> Callable[[int, int], list[str]]:
    def command(workers: int, port: int) -> list[str]:
        application = f"benchmarks.{name}.main:app"
        number = ["--workers", str(workers)] if workers > 1 else []
        return [sys.executable, "-m", "uvicorn", application, "--port", str(port), *number, *options]

    return command


def gunicorn(workers: int, port: int) -> list[str]:
    options = ["--worker-class", "uvicorn_worker.UvicornWorker", "--workers", str(workers), "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", *options, "--bind", f"127.0.0.1:{port}", "benchmarks.usual.main:app"]


def rendered(_workers: int, _port: int) -> list[str]:
    return [sys.executable, "-m", "app", "serve"]


def by_offset(rows: Rows, _directory: Path) -> str:
    return f"/posts?limit=20&offset={rows.depth}"


def by_keyset(rows: Rows, _directory: Path) -> str:
    return "/posts?" + urlencode({"limit": 20, "before": f"{rows.last_created_at.isoformat()}_{rows.last_id}"})


def by_cursor(rows: Rows, directory: Path) -> str:
    """The rendered service's own cursor, made by its own code."""
    script = (
        "import sys; from datetime import datetime; from uuid import UUID\n"
        "from app.core.pagination.cursor import Cursor, Keyset, encode, signer; from app.posts.models import Post\n"
        "from app.settings import get_settings; signer.open(get_settings())\n"
        "values = [datetime.fromisoformat(sys.argv[2]), UUID(sys.argv[1])]\n"
        "print(encode(Cursor(False, values), Keyset.of((Post.created_at.desc(), Post.id.desc()))))"
    )
    # Only the secret counts; nothing connects.
    environment = os.environ | {
        "CURSOR_SECRET": CURSOR_SECRET,
        "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
        "CACHE_URL": "redis://127.0.0.1",
    }
    process = subprocess.run(
        [sys.executable, "-c", script, str(rows.last_id), rows.last_created_at.isoformat()],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return "/posts?" + urlencode({"limit": 20, "cursor": process.stdout.strip()})


def one(_cores: int) -> int:
    return 1


def each_core(cores: int) -> int:
    return cores


SERVICES = {
    service.name: service
    for service in (
        Service(
            "naive",
            "what slow services do: N+1, OFFSET, synchronous sessions, BaseHTTPMiddleware, a blocking call; no cache",
            uvicorn("naive", "--loop", "asyncio", "--http", "h11"),
            one,
            by_offset,
            one_worker_only=True,
        ),
        Service(
            "usual",
            "what good articles recommend: ORJSONResponse, pool 20 + 10, selectinload, Redis in routes, 2n + 1 workers",
            gunicorn,
            lambda cores: 2 * cores + 1,
            by_keyset,
            caches=True,
        ),
        Service(
            "plain",
            "FastAPI, asyncpg and orjson by hand, without any guard and without a cache: the bar",
            uvicorn("plain", "--no-access-log"),
            each_core,
            by_keyset,
        ),
        Service(
            "plain-gc",
            "`plain` with the garbage collection of the rendered service",
            uvicorn("plain_gc", "--no-access-log"),
            each_core,
            by_keyset,
        ),
        Service(
            "rendered",
            "the service that the template renders, with its production settings and all its guards",
            rendered,
            each_core,
            by_cursor,
            caches=True,
        ),
        Service(
            "raw",
            "ASGI, asyncpg and a dict, nothing else: the limit (no validation, no framework, no shared cache)",
            uvicorn("raw", "--no-access-log"),
            each_core,
            by_keyset,
            caches=True,
            coherent=False,
        ),
    )
}


def render_service(template: Path, destination: Path, cache_backend: str) -> Path:
    """Render the service with its example, and lay over it what the benchmark needs beside that."""
    render(template, destination, DEFAULTS | {"cache_backend": cache_backend})
    lay_over(destination, (*OVERLAY_DOMAINS, CACHED_DOMAIN) if cache_backend == "valkey" else OVERLAY_DOMAINS)
    shutil.copytree(OVERLAY / "app" / REPLACED_DOMAIN, destination / "app" / REPLACED_DOMAIN, dirs_exist_ok=True)
    return destination


def lay_over(service: Path, domains: Sequence[str]) -> None:
    """Add domains of the benchmark to a rendered service, and include their routers."""
    for domain in domains:
        shutil.copytree(OVERLAY / "app" / domain, service / "app" / domain)
    routers = service / "app" / "api.py"
    lines = routers.read_text().splitlines()
    first_import = next(number for number, line in enumerate(lines) if line.startswith(("from app.", "from fastapi")))
    lines[first_import:first_import] = [f"from app.{name}.router import router as {name}" for name in domains]
    lines += [f"router.include_router({name})" for name in domains]
    routers.write_text("\n".join([*lines, ""]))


class Renderings:
    """The rendered service with each of its caches, from the working tree; each is rendered when it is needed."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace

    def directory(self, cache_backend: str) -> Path:
        template, directory = self._workspace / "template", self._workspace / f"rendered-{cache_backend}"
        if not template.exists():
            snapshot(template)
        if not directory.exists():
            render_service(template, directory, cache_backend)
        return directory


@contextmanager
def running(
    service: Service,
    *,
    workers: int,
    cached: bool,
    directory: Path,
    variables: Mapping[str, str],
    workspace: Path,
    port: int | None = None,
) -> Iterator[Running]:
    """Start a service in `directory`, on a free port unless one is named; stop it at the end."""
    home = Path(mkdtemp(prefix=f"{service.name}-", dir=workspace))
    port = port or free_port()
    environment = {
        # Several run at once, and no load balancer has to notice a stop.
        "ADMIN_PORT": "0",
        "DRAIN_DELAY_S": "0",
        # Forty clients of one worker are an overload, which the other services accept: no refusals of a part of them.
        "MAX_QUEUE_MS": "0",
        **variables,
        "CACHED": "1" if cached else "0",
        "DATASET_PATH": str(DATASET),
        "PORT": str(port),
        "WEB_CONCURRENCY": str(workers),
        "CURSOR_SECRET": CURSOR_SECRET,
    }
    process = start(service.command(workers, port), home, cwd=directory, variables=environment)
    try:
        yield Running(service, workers, port, process, home)
    finally:
        _stop(process)


def _stop(process: psutil.Popen) -> None:
    """Stop a service and all its workers: as in production, and by force if that takes too long."""
    processes = [process]
    with suppress(psutil.NoSuchProcess):
        processes += process.children(recursive=True)
        # Not SIGINT: sent to gunicorn alone it lets workers wait for their whole grace period.
        process.terminate()
    psutil.wait_procs([process], timeout=STOP_TIMEOUT_S)
    for each in processes:
        stop(each)


def migrate(directory: Path, variables: Mapping[str, str]) -> None:
    """Bring the database to the rendered service's schema."""
    subprocess.run(
        [sys.executable, "-m", "app", "migrate"],
        cwd=directory,
        env={**os.environ, **variables, "CURSOR_SECRET": CURSOR_SECRET},
        check=True,
    )


@contextmanager
def cached_service(**more: str) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """Run PostgreSQL and Valkey for the rendered service with a cache, which is migrated.

    Yields the workspace, the directory of the service and its variables.
    """
    with (
        workspace() as home,
        postgres(home) as database,
        valkey(home, variable="CACHE_URL", maxmemory_policy="allkeys-lfu") as cache,
    ):
        directory = Renderings(home).directory("valkey")
        variables = {"DATABASE_URL": database, "CACHE_URL": cache, "UPSTREAM_URL": "http://127.0.0.1:9"} | more
        migrate(directory, variables)
        yield home, directory, variables


def answers(port: int) -> int | None:
    """The status with which this port answers /livez; None while nobody does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def _pid_lives(pid: int) -> bool:
    # By its number: psutil finds children by their start time, which shifts when the clock is set.
    try:
        return _lives(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _children(process: psutil.Process) -> frozenset[int]:
    try:
        return frozenset(child.pid for child in process.children(recursive=True) if _lives(child))
    except psutil.NoSuchProcess:
        return frozenset()


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; a process that ended and was not yet waited for does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
