"""The other service that the services call: one JSON answer after a fixed delay, on asyncio and nothing else.

    python -m benchmarks.harness.upstream PORT

Port 0 takes a free one and prints it; SIGTERM ends it.
"""

import asyncio
import signal
import sys
from typing import cast

try:
    from uvloop import new_event_loop  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    from asyncio import new_event_loop

DELAY_S = 0.005
BODY = b'{"announcement":"Maintenance on Sunday from 02:00 to 03:00 UTC"}'
FOUND = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Announcements(asyncio.Protocol):
    """Answers requests without bodies, each DELAY_S after it came; equal delays keep pipelined answers in order."""

    def __init__(self) -> None:
        self.buffered = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *heads, self.buffered = (self.buffered + data).split(b"\r\n\r\n")
        for head in heads:
            answer = FOUND if head.startswith(b"GET /announcement ") else NOT_FOUND
            asyncio.get_running_loop().call_later(DELAY_S, self.answer, answer)

    def answer(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(Announcements, "127.0.0.1", port)
    if port == 0:
        print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()


def main() -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
