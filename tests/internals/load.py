"""Clients that send requests without a pause, and count those that get no answer."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from threading import Event, Thread

TIMEOUT_S = 20


@dataclass
class Load:
    """`ports` are the instances; a client that is refused goes to the next one."""

    ports: Sequence[int]
    answered: int = 0
    slowest_s: float = 0
    lost: list[str] = field(default_factory=list)
    stopped: Event = field(default_factory=Event)

    def client(self, number: int, method: str, *, keeps: bool) -> None:
        """Send requests over one connection, as long as the server keeps it open."""
        headers = {} if keeps else {"Connection": "close"}
        refused = 0
        connection = HTTPConnection("127.0.0.1", self.ports[0], timeout=TIMEOUT_S)
        while not self.stopped.is_set():
            connection.port = self.ports[(number + refused) % len(self.ports)]
            with suppress(ConnectionRefusedError):
                began = time.monotonic()
                try:
                    if connection.sock is None:
                        connection.connect()
                        assert connection.sock is not None
                        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    began = time.monotonic()
                    # Answered without a dependency; a route for GET alone refuses a POST.
                    body = b"{}" if method == "POST" else None
                    connection.request(method, "/livez", body, headers)
                    response = connection.getresponse()
                    response.read()
                    if response.status not in (200, 405):
                        self.lost.append(f"{method}: {response.status}")
                except ConnectionRefusedError:
                    raise
                except (HTTPException, OSError) as error:
                    self.lost.append(f"{method}: {error!r}")
                    connection.close()
                self.answered += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                continue
            refused += 1
            if refused > 100 * len(self.ports):
                return
            self.stopped.wait(0.01)
        connection.close()


@contextmanager
def load(*ports: int, clients: int = 8) -> Iterator[Load]:
    """Send GET and POST over kept and fresh connections until the block ends."""
    state = Load(ports)
    threads = [
        Thread(
            target=state.client,
            args=(number, ("GET", "POST")[number % 2]),
            kwargs={"keeps": number % 4 < 2},
        )
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield state
    finally:
        state.stopped.set()
        for thread in threads:
            thread.join()
