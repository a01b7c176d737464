"""An HTTP server in a thread that answers as a test says, well or badly, and keeps what it got."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast


@dataclass(frozen=True)
class Answer:
    """What is sent back: parts 5 ms apart; nothing at all without parts; `close` closes the connection then."""

    parts: tuple[bytes, ...] = ()
    delay_s: float = 0.0
    close: bool = False


def response(status: int = 200, body: bytes = b"ok", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d Some Reason" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


OK = Answer((response(),))
HANG = Answer()


@dataclass
class Server:
    answer: Callable[[int], Answer]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    open: set["Connection"] = field(default_factory=set)


class Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffered = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections += 1
        self.server.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffered += data
        head, found, body = self.buffered.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if not found or len(body) < (int(length[1]) if length else 0):
            return
        self.server.requests.append(self.buffered)
        self.buffered = b""
        answer = self.server.answer(len(self.server.requests) - 1)
        loop = asyncio.get_running_loop()
        if answer.delay_s or len(answer.parts) > 1:
            for i, part in enumerate(answer.parts):
                loop.call_later(answer.delay_s + i * 0.005, self.transport.write, part)
        elif answer.parts:
            self.transport.write(answer.parts[0])
        if answer.close:
            loop.call_later(answer.delay_s + len(answer.parts) * 0.005, self.transport.close)


@contextmanager
def serving(answer: Callable[[int], Answer]) -> Iterator[Server]:
    """A server that asks `answer` what to do with the request of that number; a slow `answer` stalls it as a whole."""
    server = Server(answer)
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=1024))
    server.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        listening.close()
        for connection in server.open:
            connection.transport.abort()
        # The sockets are closed in the next turn.
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
