"""A web process and a worker of the service, and the effects of their jobs."""

import asyncio
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil
from sqlalchemy import make_url

from dev.processes import free_port, log_of, start
from tests.core.serving import ROOT

# A loaded machine starts a program in 20 s.
TIMEOUT_S = 40.0
LEASE_S = 1
DRAIN_TIMEOUT_S = 1
EFFECT = (
    "CREATE TABLE effect "
    "(number serial PRIMARY KEY, label text, step text, pid int, request_id text)"
)


class Program:
    """A program of the service, in a process of its own."""

    def __init__(self, home: Path, *arguments: str, variables: dict[str, str]) -> None:
        self._home = home
        command = [sys.executable, "-m", *arguments]
        self.process: psutil.Popen = start(command, home, cwd=ROOT, variables=variables)

    @property
    def log(self) -> str:
        return log_of(self._home).read_text(errors="replace")

    def stopped(self) -> int:
        """Wait for the end after a signal; return the exit code."""
        code: int = self.process.wait(TIMEOUT_S)
        return code

    def kill(self) -> None:
        """Kill the process with all its children, as the kernel does with a container."""
        with suppress(psutil.NoSuchProcess):
            for each in [self.process, *self.process.children(recursive=True)]:
                each.kill()
        self.process.wait(TIMEOUT_S)


class Service:
    """The service on a database of its own; `variables` are more of its settings."""

    def __init__(self, home: Path, database_url: str, **variables: str) -> None:
        self._variables = variables
        self._home = home
        self._database_url = make_url(database_url).render_as_string(hide_password=False)
        self._port = free_port()
        self._admin_port = free_port()
        self.running = ExitStack()
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=10)
        self.web: Program
        self.worker: Program
        self.rows(EFFECT)

    def start(self, *arguments: str, **variables: str) -> Program:
        own = {
            "DATABASE_URL": self._database_url,
            "JOB_LEASE_S": str(LEASE_S),
            "JOB_DRAIN_TIMEOUT_S": str(DRAIN_TIMEOUT_S),
            "JOB_PROCESSES": "2",
            "WEB_CONCURRENCY": "1",
            "PORT": str(self._port),
            "ADMIN_PORT": str(self._admin_port),
            **self._variables,
        }
        home = self._home / secrets.token_hex(4)
        program = Program(home, *arguments, variables=own | variables)
        self.running.callback(self._stop, program)
        return program

    def start_web(self, application: str = "broker.web", **variables: str) -> None:
        """Start the web process, and wait until it answers."""
        config = ("--config", "deploy/gunicorn.conf.py")
        application = f"tests.internals.{application}:app"
        self.web = self.start("gunicorn", *config, application, **variables)
        eventually(self.is_served, self.logs)

    def start_worker(self, **variables: str) -> None:
        """Start a worker, which is `worker` from now on; it needs no other to end."""
        self.worker = self.start("tests.internals.broker.worker", **variables)

    def begun(self, label: str) -> int:
        """Wait until the job begins; return the id of its process."""
        sql = "SELECT pid FROM effect WHERE label = $1 AND step = 'begun'"
        eventually(lambda: bool(self.rows(sql, label)), self.logs)
        pid: int = self.rows(sql, label)[0]
        return pid

    def is_served(self) -> bool:
        try:
            return self.client.get("/livez").is_success
        except httpx2.TransportError:
            return False

    def enqueue(self, job: str, label: str, **query: Any) -> int:
        """Return the status of the request that enqueues the job; 0 if the process died."""
        try:
            return self.client.post(f"/{job}/{label}", params=query).status_code
        except httpx2.TransportError:
            return 0

    def ready(self) -> dict[str, str]:
        checks: dict[str, str] = self.client.get(self.admin("/readyz")).json()["checks"]
        return checks

    def admin(self, path: str) -> str:
        """Return an address on the admin port."""
        return f"http://127.0.0.1:{self._admin_port}{path}"

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """Return the rows of a statement; those of one column as plain values."""

        async def fetch() -> list[Any]:
            connection = await asyncpg.connect(self._database_url)
            try:
                return [*await connection.fetch(sql, *values)]
            finally:
                await connection.close()

        rows = asyncio.run(fetch())
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]

    def steps(self, label: str) -> list[str]:
        """Return the effects of jobs and requests with this label, in order."""
        return self.rows("SELECT step FROM effect WHERE label = $1 ORDER BY number", label)

    def reaches(self, label: str, *steps: str) -> None:
        """Wait for exactly these steps, and for the end of all jobs with the label."""
        waiting = "SELECT count(*) FROM background_job WHERE arguments->>'label' = $1"
        waiting += " AND state = 'waiting'"
        eventually(lambda: len(self.steps(label)) >= len(steps), self.logs)
        eventually(lambda: self.rows(waiting, label) == [0], self.logs)
        found = self.steps(label)
        assert found == [*steps], f"{found}\n{self.logs()}"

    def logs(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in self._home.glob("*.log"))

    def _stop(self, program: Program) -> None:
        program.kill()
        print(program.log)


def eventually(is_true: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_true():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
