"""A PostgreSQL that tests stop, suspend, and start again on the same port."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from dev.postgres import create_cluster, serve_cluster
from dev.processes import Account, free_port, workspace

PASSWORD = "secret"  # noqa: S105 - of servers that only this machine reaches, for some seconds


@dataclass
class Server:
    """A cluster in `home / "data"`. Its methods block: call them in a thread."""

    initdb: Path
    account: Account
    home: Path
    settings: Mapping[str, str]
    port: int = field(default_factory=free_port)
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        # Always on the same port: the later of two equal options counts.
        settings = {**self.settings, "port": str(self.port)}
        served = serve_cluster(self.initdb, self.account, self.home, self.home / "data", **settings)
        self._running.enter_context(served)

    def stop(self) -> None:
        self._running.close()

    def kill(self) -> None:
        """Stop it at once: it commits and says nothing more, and recovers at its next start."""
        self._postmaster().send_signal(signal.SIGQUIT)
        self.stop()

    def suspend(self) -> None:
        """Let it hang: connections stay, and nothing answers."""
        self._each("suspend")

    def resume(self) -> None:
        self._each("resume")

    def _each(self, action: Literal["suspend", "resume"]) -> None:
        postmaster = self._postmaster()
        for process in [postmaster, *postmaster.children(recursive=True)]:
            # A process may end by itself between the listing and the signal.
            with suppress(psutil.NoSuchProcess):
                getattr(process, action)()

    def _postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.home / "data" / "postmaster.pid").read_text().split()[0]))


@contextmanager
def postgres_server() -> Iterator[Server]:
    """Run an empty server, which keeps all that it has committed when it is killed."""
    with workspace() as directory:
        home = directory / "postgres"
        home.mkdir()
        initdb, account = create_cluster(home, PASSWORD)
        server = Server(initdb, account, home, {"synchronous_commit": "on"})
        server.start()
        try:
            yield server
        finally:
            server.stop()


@asynccontextmanager
async def between(begin: Callable[[], None], end: Callable[[], None]) -> AsyncIterator[None]:
    """Call two methods of a server, such as `kill` and `start`, before and after the block."""
    await asyncio.to_thread(begin)
    try:
        yield
    finally:
        await asyncio.to_thread(end)
