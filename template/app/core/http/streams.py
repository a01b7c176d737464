"""Streams that end with their worker: server-sent events, and WebSockets that push."""

import asyncio
import signal
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.websockets import WebSocket

T = TypeVar("T")

# Much less than the time that a stopping worker gives its streams.
POLL_S = 0.2


def is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the headers of a response are those of server-sent events."""
    for name, value in headers:
        if name == b"content-type":
            return value.startswith(b"text/event-stream")
    return False


class Stream:
    """A stream whose wait for the next item can be ended from outside."""

    is_ended = False
    wait: asyncio.Timeout | None = None

    def end(self, _: object = None) -> None:
        if self.wait is not None and not self.is_ended:
            self.wait.reschedule(0)
        self.is_ended = True


streams: set[Stream] = set()


async def until_stop(items: AsyncIterable[T], socket: WebSocket | None = None) -> AsyncIterator[T]:
    """Yield the items until the worker stops, so that a stream ends between two of them.

    The source is then cancelled and closed. Without `socket`, the items belong to a response, which
    the server cancels when its client leaves. With `socket`, they also end when the client leaves
    or the server closes the socket (1012 at a stop), and messages of the client are dropped:

        await socket.accept()
        async for order in until_stop(new_orders(), socket):
            await socket.send_json(order)
    """
    stream, source = Stream(), aiter(items)
    reader = asyncio.create_task(_until_left(socket)) if socket else None
    if reader is None:
        streams.add(stream)
    else:
        reader.add_done_callback(stream.end)
    try:
        while not stream.is_ended:
            async with asyncio.timeout(None) as stream.wait:
                item = await anext(source)
            stream.wait = None
            yield item
    except StopAsyncIteration:
        pass
    except TimeoutError:
        if not stream.is_ended:
            raise
    finally:
        stream.wait = None
        streams.discard(stream)
        if reader is not None:
            reader.cancel()
        if close := getattr(source, "aclose", None):
            await close()


async def _until_left(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


@asynccontextmanager
async def watching() -> AsyncIterator[None]:
    """End the streams of this process when its server, uvicorn under gunicorn or alone, stops."""
    # uvicorn does not tell the application that it stops.
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)

    async def watch() -> None:
        while True:
            await asyncio.sleep(POLL_S)
            # At each poll, because streams may begin later.
            if getattr(server, "should_exit", False):
                for stream in streams:
                    stream.end()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
