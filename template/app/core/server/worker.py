"""How gunicorn runs the application in each worker."""

import asyncio
import faulthandler
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any, ClassVar, TypeVar

from uvicorn.config import STARTUP_FAILURE, Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from app.core.server.drain import drop_handshakes, stopping
from app.core.server.httptools import HttpTools
from app.core.server.protocol import (
    CLOSE,
    MAX_HEAD_BYTES,
    PARSER,
    Protocol,
    WebSocketProtocol,
)
from app.core.settings.server import ServerSettings

T = TypeVar("T")

# Time in which another worker wakes up, also where it has to wait for a core.
PAUSE_S = 0.0002
# Time in which the handshakes of connections end that have begun when a worker closes its sockets.
HANDSHAKE_S = 0.1
# Longest time that a stopping worker keeps idle connections open for a last request each.
IDLE_DRAIN_S = 1
# Time from then until running requests are cut off.
REQUEST_DRAIN_S = 15
# Time from the SIGTERM of a worker until gunicorn kills it; jobs drain after the requests.
GRACEFUL_TIMEOUT_S = 30


class DrainingServer(Server):
    """uvicorn that loses no request when it stops, and closes connections of slow clients.

    A worker that stops answers with `Connection: close`, so that clients leave by themselves;
    uvicorn closes idle connections at once, and resets the requests that are on their way.
    """

    ends_at_once = False
    # Most connections that were open at once since the last tick.
    most_open = 0

    def __init__(
        self, config: Config, settings: ServerSettings, *, shares_sockets: bool = False
    ) -> None:
        super().__init__(config)
        self.settings = settings
        self.shares_sockets = shares_sockets

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.shares_sockets:
            accept = partial(self._accept, self.config.http_protocol_class)
            # Declared as a class, but only called.
            self.config.http_protocol_class = accept  # type: ignore[assignment]
        await super().startup(sockets)

    def _accept(self, protocol: Callable[..., asyncio.Protocol], **given: Any) -> asyncio.Protocol:
        """Make the protocol of a connection; let other workers take the next one of a burst.

        uvloop accepts one connection in each turn. Without the pause, one worker takes a whole
        burst on busy cores, and clients keep their connections. Connections that replace closed
        ones cause no pause.
        """
        now_open = len(self.server_state.connections) + 1
        if now_open > self.most_open:
            self.most_open = now_open
            time.sleep(PAUSE_S)
        return protocol(**given)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ends_at_once = sig != signal.SIGTERM
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Do the work of each tenth of a second; return whether the worker ends."""
        ends = await super().on_tick(counter)
        self.most_open = len(self.server_state.connections)
        # A resource failed, and closed the others: another worker takes the place of this one.
        ends = ends or self.lifespan.error_occurred
        if (ends or stopping()) and CLOSE not in self.server_state.default_headers:
            self.server_state.default_headers.append(CLOSE)
        if counter % 10 == 0:
            now_s = asyncio.get_running_loop().time()
            head_s, body_s = self.settings.header_timeout_s, self.settings.body_timeout_s
            for upgraded in self._connections(WebSocketProtocol):
                upgraded.abort_if_unread(now_s, body_s)
            for connection in self._connections(Protocol):
                connection.close_if_slow(now_s, head_s=head_s, body_s=body_s)
        return ends

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.should_exit:
            # After MAX_REQUESTS, too, the signal ends the process: the interpreter's own end takes
            # a second or more, during which nothing replaces this worker.
            self.handle_exit(signal.SIGTERM, None)
        if not self.ends_at_once:
            await self._tick_until(lambda: not self.server_state.connections)
        await self._stop_listening(sockets or [])
        # Requests of connections that were accepted last.
        await self._tick_until(
            lambda: all(each.cycle or each.has_answered_hit for each in self._connections(Protocol))
        )
        loop = asyncio.get_running_loop()
        loop.call_later(REQUEST_DRAIN_S - 1, self._refuse_waiting)
        await super().shutdown(sockets)

    async def _tick_until(self, is_done: Callable[[], bool]) -> None:
        for counter in range(IDLE_DRAIN_S * 10):
            if is_done():
                break
            await self.on_tick(counter)
            await asyncio.sleep(0.1)

    async def _stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        """Close the sockets, and take the connections that wait in them if no worker is left."""
        if stopping():
            for each in sockets:
                drop_handshakes(each)
            await asyncio.sleep(HANDSHAKE_S)
        queues = [each.dup() for each in sockets]
        for server in self.servers:
            server.close()
        accepted = []
        for queue in queues:
            with suppress(BlockingIOError):
                while stopping():
                    accepted.append(queue.accept()[0])
            queue.close()
        # uvicorn declares the class as a plain asyncio.Protocol, which takes no arguments.
        protocol: Callable[[], asyncio.Protocol] = partial(  # type: ignore[call-arg]
            self.config.http_protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        for connection in accepted:
            connection.setblocking(False)
            await loop.connect_accepted_socket(protocol, connection)

    def _refuse_waiting(self) -> None:
        """Answer in place of requests that are about to be cancelled."""
        for connection in self._connections(Protocol):
            if connection.is_waiting:
                connection.refuse(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "The request took longer than the service may take to stop.",
                    **{"Retry-After": "1"},
                )

    def _connections(self, kind: type[T]) -> list[T]:
        return [each for each in self.server_state.connections if isinstance(each, kind)]


class Worker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker has no types
    """uvicorn on uvloop and httptools, where they are installed: they answer more requests.

    It ends a hung request before gunicorn kills the worker at `graceful_timeout`; otherwise the
    shutdown of the lifespan would not run.
    """

    settings: ClassVar[ServerSettings]
    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - as the base class does
        "http": HttpTools if PARSER == "httptools" else Protocol,
        "ws": WebSocketProtocol,
        # gunicorn counts its `timeout` from the last notification; every half of it is the default.
        "timeout_notify": 1,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
        "timeout_graceful_shutdown": REQUEST_DRAIN_S,
        # `Forwarded` trusts TRUSTED_PROXIES alone.
        "proxy_headers": False,
        # The header helps attackers only, and costs a microsecond.
        "server_header": False,
    }

    def init_signals(self) -> None:
        super().init_signals()
        # gunicorn aborts a worker whose event loop is blocked: the stack shows the call.
        faulthandler.enable()

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        self.config.ws_max_size = self.settings.max_body_bytes
        several = self.cfg.workers > 1
        server = DrainingServer(self.config, self.settings, shares_sockets=several)
        # gunicorn sends it for Ctrl-C, and uvicorn does not handle it.
        quit_ = signal.SIGQUIT
        asyncio.get_running_loop().add_signal_handler(quit_, server.handle_exit, quit_, None)
        # gunicorn's wrappers log an error when their socket has been closed by its event loop.
        await server.serve(sockets=[each.sock for each in self.sockets])
        if not server.started:
            sys.exit(STARTUP_FAILURE)
