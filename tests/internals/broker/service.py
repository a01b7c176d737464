"""The service on a broker of its own."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.core.plugin import migrated_database
from tests.internals import running
from tests.internals.broker.engine import ENGINE
from tests.internals.broker_server import BrokerServer, broker_server
from tests.internals.running import eventually

__all__ = ["Service", "eventually", "service"]

QUEUE = import_module(f"app.core.jobs.{ENGINE}").QUEUE


class Service(running.Service):
    def __init__(self, home: Path, database_url: str, broker: BrokerServer) -> None:
        name = f"test_{secrets.token_hex(4)}"
        super().__init__(home, database_url, BROKER_URL=broker.url, JOB_QUEUE=name)
        self.broker = broker
        # The key of the list in the broker.
        self.queue = str(QUEUE.format(name))


@contextmanager
def service() -> Iterator[Service]:
    """Run the service with one worker of two processes."""
    with (
        TemporaryDirectory() as directory,
        broker_server() as broker,
        migrated_database() as database_url,
    ):
        running = Service(Path(directory), database_url, broker)
        with running.client, running.running:
            running.start_worker()
            running.start_web()
            yield running
