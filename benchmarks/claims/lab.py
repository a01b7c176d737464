"""Servers of a run: PostgreSQL with rows, Valkey, and the small services, each on the cores that it is to have."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp

import psutil
from dev.postgres import create_cluster, serve_cluster
from dev.valkey import valkey

from benchmarks.harness import machine, seeding
from benchmarks.harness.environment import upstream
from benchmarks.harness.services import SERVICES, Renderings, Running, Service, by_keyset, migrate, one, running
from tests.rendering import ROOT

Command = Callable[[int, int], list[str]]
SIZE = seeding.Size(users=10_000, posts=200_000)
FEW = seeding.Size(users=500, posts=2_000)


@dataclass(frozen=True)
class Server:
    """A running service, and the cores of its clients; None for all."""

    running: Running
    clients_cores: frozenset[int] | None

    @property
    def port(self) -> int:
        return self.running.port

    def memory_mb(self) -> list[float]:
        """Return the proportional set size of each worker, or of the only process."""
        children = [child for child in self.running.process.children() if child.pid in self.running.children]
        return [machine.memory_bytes(process) / 1e6 for process in _workers(children) or [self.running.process]]


class Lab:
    """Starts what a claim asks for, and keeps the servers until the end of the run."""

    def __init__(self, stack: ExitStack, home: Path, size: seeding.Size, say: Callable[[str], None]) -> None:
        self._stack, self.home, self.size, self._say = stack, home, size, say
        self.renderings = Renderings(home)
        # PostgreSQL, Valkey and the service that all services call.
        self.processes: list[psutil.Process] = []
        self._cores = machine.separate()

    @cached_property
    def variables(self) -> dict[str, str]:
        """The addresses of the servers, which are started at the first use."""
        self._say("starting PostgreSQL and Valkey, and making the rows")
        variables = {
            "DATABASE_URL": self._stack.enter_context(database(self.home)),
            "CACHE_URL": self._stack.enter_context(
                valkey(self.home, variable="CACHE_URL", maxmemory_policy="allkeys-lfu")
            ),
        }
        port, _ = upstream(self._stack, self.home)
        variables["UPSTREAM_URL"] = f"http://127.0.0.1:{port}"
        self.processes = psutil.Process().children()
        migrate(self.renderings.directory("valkey"), variables)
        asyncio.run(seeding.seed(variables["DATABASE_URL"], self.size))
        return variables

    @cached_property
    def rows(self) -> seeding.Rows:
        return asyncio.run(seeding.look(self.variables["DATABASE_URL"], depth=self.depth))

    @property
    def depth(self) -> int:
        """The number of posts before the deep page."""
        return self.size.posts - 100

    @contextmanager
    def serve(
        self,
        application: str,
        *options: str,
        workers: int = 1,
        command: Command | None = None,
        database: bool = False,
        alone: bool | None = None,
        cores: int | None = None,
    ) -> Iterator[Server]:
        """Run a service of this package.

        One worker has a core of its own unless `alone` is False; several share all, or the first `cores` of them.
        """
        run = command or uvicorn(application, *options)
        service = Service(application, application, run, one, by_keyset)
        with self._running(service, workers, ROOT, database=database, alone=alone) as server:
            if cores:
                machine.pin([server.running.process], frozenset(machine.usable_cores()[:cores]))
            yield server

    @contextmanager
    def serve_known(self, name: str, *, workers: int, cached: bool) -> Iterator[Server]:
        """Run one of the services of the benchmark as in production, on all cores."""
        service = SERVICES[name]
        directory = self.renderings.directory("valkey") if service.is_rendered else ROOT
        with self._running(service, workers, directory, database=True, cached=cached, alone=False) as server:
            yield server

    @contextmanager
    def _running(
        self,
        service: Service,
        workers: int,
        directory: Path,
        *,
        database: bool,
        cached: bool = False,
        alone: bool | None = None,
    ) -> Iterator[Server]:
        variables = self.variables if database else {}
        alone = workers == 1 if alone is None else alone
        with running(
            service, workers=workers, cached=cached, directory=directory, variables=variables, workspace=self.home
        ) as started:
            started.wait_until_ready()
            machine.pin([started.process], self._cores.service if alone else None)
            if database:
                # Backends take the cores of the server.
                machine.pin(self.processes, self._cores.others if alone else None)
            yield Server(started, self._cores.others if alone else None)


@contextmanager
def database(workspace: Path) -> Iterator[str]:
    """Run PostgreSQL with connections for 2n + 1 workers and buffers for all rows; yields its URL."""
    home, password = Path(mkdtemp(prefix="postgres-", dir=workspace)), token_hex(16)
    initdb, account = create_cluster(home, password)
    settings = {"max_connections": "300", "shared_buffers": "128MB"}
    with serve_cluster(initdb, account, home, home / "data", **settings) as port:
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


def uvicorn(application: str, *options: str) -> Command:
    def command(workers: int, port: int) -> list[str]:
        path = f"benchmarks.claims.services.{application}:app"
        number = ["--workers", str(workers)] if workers > 1 else []
        return [sys.executable, "-m", "uvicorn", path, "--port", str(port), "--no-access-log", *number, *options]

    return command


def gunicorn(application: str, *options: str) -> Command:
    def command(workers: int, port: int) -> list[str]:
        path = f"benchmarks.claims.services.{application}:app"
        kind = ["--worker-class", "uvicorn_worker.UvicornWorker", "--workers", str(workers), "--no-control-socket"]
        return [sys.executable, "-m", "gunicorn", *kind, "--bind", f"127.0.0.1:{port}", *options, path]

    return command


def program(module: str, *arguments: str) -> Command:
    def command(_workers: int, port: int) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.claims.services.{module}", *arguments, str(port)]

    return command


@contextmanager
def lab(home: Path, size: seeding.Size, say: Callable[[str], None]) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack, home, size, say)


def _workers(children: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Leave out the helpers of multiprocessing, which hold no application."""
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
