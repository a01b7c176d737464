"""A primary and its replica, by streaming replication, each of which can be stopped and started."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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

    def suspend(self) -> None:
        """Let it hang: connections stay, and nothing answers."""
        self._each("suspend")

    def resume(self) -> None:
        self._each("resume")

    def _each(self, action: Literal["suspend", "resume"]) -> None:
        pid = int((self.home / "data" / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        for process in [postmaster, *postmaster.children(recursive=True)]:
            # A process may end by itself between the listing and the signal.
            with suppress(psutil.NoSuchProcess):
                getattr(process, action)()


@contextmanager
def primary_and_replica() -> Iterator[tuple[Server, Server]]:
    """Both run when the block starts, and neither when it has ended."""
    with workspace() as directory, ExitStack() as stack:
        homes = [directory / "primary", directory / "replica"]
        for home in homes:
            home.mkdir()
        initdb, account = create_cluster(homes[0], PASSWORD)
        # As a base backup of a server that does not run.
        shutil.copytree(homes[0] / "data", homes[1] / "data")
        (homes[1] / "data" / "standby.signal").touch()
        if account:
            for path in [homes[1], *homes[1].rglob("*")]:
                os.chown(path, account.pw_uid, account.pw_gid)
        primary = Server(initdb, account, homes[0], {})
        source = f"host=127.0.0.1 port={primary.port} user=postgres password={PASSWORD}"
        replica = Server(
            initdb,
            account,
            homes[1],
            {
                "primary_conninfo": source,
                # A statement in the way of what is replayed is cancelled at once.
                "max_standby_streaming_delay": "0",
                "wal_retrieve_retry_interval": "100ms",
            },
        )
        for server in (primary, replica):
            stack.callback(server.stop)
            server.start()
        yield primary, replica
