"""One connection to the server for all commands of a worker, and for the server's messages.

All commands of one turn of the event loop are sent in one write. Replies come in the order of the
commands. This costs a fifth of the CPU time of a pooled connection per command. redis-py connects,
because it handles URLs, TLS and credentials.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

import hiredis
from redis.asyncio.connection import Connection as RedisConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    InvalidResponse,
    RedisError,
    ResponseError,
    TimeoutError,
)

Command = tuple[str | bytes | int, ...]

# Made once: otherwise each new connection reads redis-py's version from disk in the event loop.
DRIVER = DriverInfo()
# The type stub of hiredis only allows commands of one word.
_PACK: Callable[[Any], bytes] = hiredis.pack_command
_INCOMPLETE = object()
# The limit on connecting is at least this: on a busy machine, the limit on an operation (0.1 s) was
# never enough for TLS, which takes 26 ms of CPU time. Only the start of a process waits for it.
CONNECT_S = 1.0
# While the server has more unread bytes than this, commands without a waiting caller are not sent.
MAX_UNREAD_BYTES = 4 * 1024**2
# A refusal that begins like this concerns one command. Every other refusal (READONLY, MISCONF,
# LOADING, MOVED, CROSSSLOT, NOPERM and the rest) closes the connection, as if the server were
# unreachable. Otherwise the server could refuse invalidations, and other workers would go on
# showing old entries.
ONE_OPERATION = ("OOM ",)


class Refusal(ConnectionError):
    """The server answers, but refuses its work; the connection is closed."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Commands of one call, and the replies so far."""

    future: "asyncio.Future[list[Any]]"
    packed: bytes
    expected: int
    # The time by which the reply must arrive; set when the command is written.
    deadline: float = inf
    replies: list[Any] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """An open connection; after its first failure it is unusable, and `error` is the reason.

    Args:
        timeout_s: the longest wait for the reply to a command.
        on_message: called with each message, in the server's order of messages and replies.
        on_end: called when the connection ends; later messages are missed.
    """

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        *,
        timeout_s: float,
        on_message: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        # A garbage-collected writer would close the connection.
        self._writer = writer
        self._timeout_s = timeout_s
        self._on_message = on_message
        self._on_end = on_end
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=_refusal, notEnoughData=_INCOMPLETE
        )
        self._unsent: list[_Batch] = []
        self._waiting: deque[_Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.error: RedisError | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        writer.transport.set_protocol(self)
        if writer.transport.is_closing():
            self.connection_lost(None)

    def subscribe(self, channel: str) -> None:
        """Receive the messages of the channel; a push answers SUBSCRIBE, so no caller waits."""
        self._writer.transport.write(_PACK(("SUBSCRIBE", channel)))

    def execute(self, *commands: Command) -> "asyncio.Future[list[Any]]":
        """Return the replies; no other command of this worker comes between the commands.

        Raises:
            ResponseError: when the server refuses this command only, as in `ONE_OPERATION`.
            RedisError: when the connection ends before all replies have arrived.
        """
        if self.error is not None:
            raise _copy(self.error)
        packed = b"".join(map(_PACK, commands))
        batch = _Batch(self._loop.create_future(), packed, len(commands))
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(batch)
        self._waiting.append(batch)
        return batch.future

    @property
    def is_behind(self) -> bool:
        """Whether the server has not read `MAX_UNREAD_BYTES` of commands yet."""
        return self._writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES

    def end(self, error: RedisError) -> None:
        """Close the connection; all waiting commands fail with `error`."""
        if self.error is not None:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        self._writer.transport.abort()
        for batch in self._waiting:
            if not batch.future.done():
                batch.future.set_exception(_copy(error))
        self._waiting.clear()
        self._on_end()

    def data_received(self, data: bytes) -> None:
        """Pass messages on, and give each reply to its command."""
        try:
            self._reader.feed(data)
            while self.error is None and (reply := self._reader.gets()) is not _INCOMPLETE:
                if not isinstance(reply, hiredis.PushNotification):
                    self._replied(reply)
                elif reply[0] == b"message":
                    self._on_message(reply[2])
        except InvalidResponse as error:
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all waiting commands."""
        self.end(ConnectionError(f"connection lost: {exc or 'closed by the server'}"))
        if not self.ended.done():
            self.ended.set_result(None)

    def _flush(self) -> None:
        if self.error is not None:
            return
        unsent, self._unsent = self._unsent, []
        self._writer.transport.write(b"".join([batch.packed for batch in unsent]))
        deadline = self._loop.time() + self._timeout_s
        for batch in unsent:
            batch.deadline = deadline
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_deadline)

    def _replied(self, reply: Any) -> None:
        if isinstance(reply, Refusal):
            self.end(reply)
            return
        batch = self._waiting[0]
        batch.replies.append(reply)
        if len(batch.replies) < batch.expected:
            return
        self._waiting.popleft()
        # The caller may be cancelled.
        if not batch.future.done():
            refused = [reply for reply in batch.replies if isinstance(reply, ResponseError)]
            if refused:
                batch.future.set_exception(refused[0])
            else:
                batch.future.set_result(batch.replies)

    def _check_deadline(self) -> None:
        # The event loop handles arrived replies before its timers.
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0].deadline
        if deadline <= self._loop.time():
            self.end(TimeoutError(f"no reply within {self._timeout_s:g} s"))
        elif deadline < inf:
            self._timer = self._loop.call_at(deadline, self._check_deadline)


async def connect(url: str, *, timeout_s: float) -> asyncio.StreamWriter:
    """Connect to the server, for a `Connection`.

    Raises:
        Refusal: when the URL is wrong, or the server refuses the credentials or its work.
        RedisError, OSError: when the server is unavailable.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "driver_info": DRIVER,
        **parse_url(url),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": max(timeout_s, CONNECT_S),
        # RESP3: messages and replies share a connection.
        "protocol": 3,
    }
    kind = options.pop("connection_class", RedisConnection)
    try:
        made = kind(**options)
    except (TypeError, ValueError) as error:
        raise Refusal(f"redis-py refuses the URL: {error}") from error
    try:
        await made.connect()
    except BaseException as error:
        await made.disconnect(nowait=True)
        if isinstance(error, (AuthenticationError, BusyLoadingError, ResponseError)):
            raise Refusal(str(error)) from error
        raise
    # From here on only `Connection` reads and writes the stream.
    writer: asyncio.StreamWriter = made._writer
    made._writer = None
    return writer


def _refusal(text: str) -> RedisError:
    return ResponseError(text) if text.startswith(ONE_OPERATION) else Refusal(text)


def _copy(error: RedisError) -> RedisError:
    # An exception that is raised several times collects all tracebacks.
    return type(error)(*error.args)
