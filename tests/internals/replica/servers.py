"""A primary and its replica, by streaming replication, each of which can be stopped and started."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from dev.postgres import create_cluster
from dev.processes import workspace
from tests.internals.postgres_server import PASSWORD, Server


@contextmanager
def primary_and_replica(**settings: str) -> Iterator[tuple[Server, Server]]:
    """Both run when the block starts, and neither when it has ended; `settings` of the primary."""
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
        primary = Server(initdb, account, homes[0], settings)
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
