"""The load generator: one process, one event loop, keep-alive HTTP/1.1 connections; a job in, a result out, as JSON.

    python -m benchmarks.harness.client < job.json

A closed loop sends the next request on a connection when the last one is answered, so a slow server is asked less
often and its slowest moments are hardly sampled: coordinated omission (Gil Tene, "How NOT to Measure Latency"). An open
loop (`rate`) sends at a constant rate, in ticks of 1 ms, whatever the server does, and its latencies count from when a
request was *due*, as in wrk2: what a request waits for a free connection is part of them, and so is what this client
itself is late.
Both pay for Python: see `client_cores` before a figure is believed, a client near one core measures itself.
"""

import asyncio
import gc
import json
import math
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter, process_time
from typing import Any, TypedDict, cast

from benchmarks.harness.http1 import ProtocolError, Response
from benchmarks.harness.results import QUANTILES

try:
    from uvloop import new_event_loop  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    from asyncio import new_event_loop

CONNECT_TIMEOUT_S = 10.0
# An open loop waits so long for what is still unanswered when its window is over.
DRAIN_S = 2.0
DRAIN_TICK_S = 0.01
# An open loop sends the requests of one tick together, because each tick is a wake-up (40-80 us of CPU).
TICKS_PER_S = 1000
# How often time-outs, and whether the parent still lives, are looked for.
SWEEP_S = 0.05
RECONNECT_PAUSE_S = 0.1


@dataclass(frozen=True)
class Job:
    """What to send for how long; requests are sent in this order, over and over, by all connections together."""

    host: str
    port: int
    requests: Sequence[str]  # in latin-1, as they go over the wire
    clients: int
    seconds: float
    rate: float | None = None  # per second; None for a closed loop
    timeout_s: float = 10.0


class Result(TypedDict):
    """The fields of a `Sample`, and the longest time that the client was late itself (open loop)."""

    seconds: float
    answered: int
    errors: dict[str, int]
    latencies_ms: list[float]
    client_cores: float
    unanswered: int
    max_lag_ms: float


def due_s(index: int, rate: float) -> float:
    """When the request of that index is due: constant spacing, rounded down to a tick."""
    return math.floor(index * TICKS_PER_S / rate) / TICKS_PER_S


def quantiles_ms(latencies_s: Iterable[float]) -> list[float]:
    """The latencies at QUANTILES (nearest rank) in milliseconds; empty when there are none."""
    ordered = sorted(latencies_s)
    # 0.07 * 100 is a little more than 7.
    ranks = [math.ceil(quantile * len(ordered) - 1e-9) for quantile in QUANTILES]
    return [round(ordered[max(rank, 1) - 1] * 1e3, 4) for rank in ranks] if ordered else []


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("counts_from", "in_flight", "load", "lost", "response", "sent_at", "transport")

    transport: asyncio.Transport

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.response = Response()
        self.in_flight = False
        self.lost = False
        self.sent_at = self.counts_from = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, counts_from: float, now: float) -> None:
        self.counts_from = counts_from
        self.sent_at = now
        self.in_flight = True
        self.response.to_head = request.startswith(b"HEAD ")
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            if not self.in_flight:
                raise ProtocolError("a response to no request")
            if self.response.feed(data):
                self.load.on_response(self, self.response)
        except ProtocolError:
            self.load.on_failure(self, "protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost:
            self.load.on_failure(self, "connection" if self.in_flight else None)


class Load:
    """Keeps `clients` connections open and counts what comes back; when to send is for its subclasses."""

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        self.job = job
        self.loop = loop
        self.parent = os.getppid()
        self.next_request = cycle([request.encode("latin-1") for request in job.requests]).__next__
        self.connections: set[Connection] = set()
        self.reconnecting: set[asyncio.Task[None]] = set()
        self.finished: asyncio.Future[None] = loop.create_future()
        self.latencies_s: list[float] = []
        self.errors: Counter[str] = Counter()
        self.unanswered = 0
        self.max_lag_s = 0.0
        self.started_at = self.ends_at = math.inf
        self.answered_at = 0.0

    async def run(self) -> Result:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.gather(*(self.connect() for _ in range(self.job.clients)))
        # Nothing here makes cycles, and a collection would be a pause in the measurement.
        gc.freeze()
        gc.disable()
        cpu_s = process_time()
        self.started_at = perf_counter()
        self.ends_at = self.started_at + self.job.seconds
        self.loop.set_exception_handler(self.on_exception)
        self.sweep()
        try:
            self.start()
            await self.finished
        finally:
            self.stop()
        elapsed_s, cpu_s = perf_counter() - self.started_at, process_time() - cpu_s
        answered = len(self.latencies_s)
        return {
            # Answers after the window count (those of an open loop), and so does the time that they took.
            "seconds": max(self.job.seconds, self.answered_at - self.started_at),
            "answered": answered,
            "errors": dict(sorted(self.errors.items())),
            "latencies_ms": quantiles_ms(self.all_latencies_s()),
            "client_cores": cpu_s / elapsed_s,
            "unanswered": self.unanswered,
            "max_lag_ms": self.max_lag_s * 1e3,
        }

    def start(self) -> None:
        """The window begins; every connection is idle."""
        raise NotImplementedError

    def stop(self) -> None:
        """Nothing is sent any more."""

    def on_idle(self, connection: Connection, now: float) -> None:
        """A connection has nothing in flight."""
        raise NotImplementedError

    def on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A mistake in this program, which would only be logged otherwise, ends it."""
        error = context.get("exception") or RuntimeError(context["message"])
        # uvloop also tells here of sockets that broke; connection_lost() counts those.
        if not isinstance(error, OSError) and not self.finished.done():
            self.finished.set_exception(error)

    def all_latencies_s(self) -> Iterable[float]:
        return self.latencies_s

    def over(self, now: float) -> bool:
        """Whether nothing counts any more."""
        return now >= self.ends_at

    def on_response(self, connection: Connection, response: Response) -> None:
        now = perf_counter()
        if self.over(now):
            return
        connection.in_flight = False
        if 200 <= response.status < 300:
            self.latencies_s.append(now - connection.counts_from)
            self.answered_at = now
        else:
            self.errors[str(response.status)] += 1
        if response.keep_alive:
            self.on_idle(connection, now)
        else:
            self.replace(connection)

    def on_failure(self, connection: Connection, kind: str | None) -> None:
        """The connection cannot be used any longer; `kind` of error, if a request has failed by that."""
        if self.over(perf_counter()):
            return
        if kind:
            self.errors[kind] += 1
        connection.in_flight = False
        self.replace(connection)

    def replace(self, connection: Connection) -> None:
        connection.lost = True
        connection.transport.abort()
        self.connections.discard(connection)
        task = self.loop.create_task(self.reconnect())
        self.reconnecting.add(task)
        task.add_done_callback(self.reconnecting.discard)

    async def connect(self) -> None:
        _, connection = await self.loop.create_connection(lambda: Connection(self), self.job.host, self.job.port)
        if connection.lost:
            return
        self.connections.add(connection)
        if self.started_at < math.inf:
            self.on_idle(connection, perf_counter())

    async def reconnect(self) -> None:
        while not self.over(perf_counter()):
            try:
                async with asyncio.timeout(self.job.timeout_s):
                    await self.connect()
                    return
            except OSError:
                self.errors["connection"] += 1
                await asyncio.sleep(RECONNECT_PAUSE_S)

    def sweep(self) -> None:
        """Give up what is too old; end when the parent is gone."""
        if os.getppid() != self.parent:
            os._exit(1)
        too_old = perf_counter() - self.job.timeout_s
        for connection in list(self.connections):
            if connection.in_flight and connection.sent_at <= too_old:
                self.on_failure(connection, "timeout")
        self.loop.call_later(SWEEP_S, self.sweep)


class ClosedLoop(Load):
    """Sends a connection's next request when its last one is answered."""

    def start(self) -> None:
        self.finish()
        for connection in list(self.connections):
            self.on_idle(connection, perf_counter())

    def finish(self) -> None:
        """At the end of the window, and not before: a timer may fire 1 ms early."""
        left_s = self.ends_at - perf_counter()
        if left_s > 0:
            self.loop.call_later(left_s, self.finish)
        else:
            self.finished.set_result(None)

    def on_idle(self, connection: Connection, now: float) -> None:
        connection.send(self.next_request(), now, now)


class OpenLoop(Load):
    """Sends at a constant rate, on an idle connection or as soon as there is one; the longest waiting go first."""

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(job, loop)
        assert job.rate is not None
        self.rate = job.rate
        self.index = 0
        self.waiting: deque[float] = deque()  # when they were due
        self.waited_s: list[float] = []  # those that were never answered
        # The longest idle first: the last used one first would leave most of a server's workers without work.
        self.idle: deque[Connection] = deque()

    def start(self) -> None:
        self.idle.extend(self.connections)
        # Timers of event loops have steps of 1 ms and fire early or late; the kernel's is 0.1 ms late, never early.
        self.loop.add_signal_handler(signal.SIGALRM, self.tick)
        self.tick()

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.loop.remove_signal_handler(signal.SIGALRM)

    def tick(self) -> None:
        now = perf_counter()
        if (due := self.next_due()) <= now:
            self.max_lag_s = max(self.max_lag_s, now - due)
            while due <= now:
                self.waiting.append(due)
                self.index += 1
                due = self.next_due()
            self.dispatch(now)
        if due < math.inf:
            wait_s = due - perf_counter()
        else:
            in_flight = [connection.counts_from for connection in self.connections if connection.in_flight]
            unanswered = [*self.waiting, *in_flight]
            if now >= self.ends_at and (self.over(now) or not unanswered):
                self.waited_s = [now - due for due in unanswered]
                self.unanswered = len(unanswered)
                self.finished.set_result(None)
                return
            wait_s = DRAIN_TICK_S
        # Zero would stop the timer.
        signal.setitimer(signal.ITIMER_REAL, max(wait_s, 1e-5))

    def next_due(self) -> float:
        """When the next request is due, by the clock; infinite when that is after the window."""
        offset_s = due_s(self.index, self.rate)
        return self.started_at + offset_s if offset_s < self.job.seconds else math.inf

    def dispatch(self, now: float) -> None:
        while self.waiting and self.idle:
            connection = self.idle.popleft()
            if not connection.lost:
                connection.send(self.next_request(), self.waiting.popleft(), now)

    def on_idle(self, connection: Connection, now: float) -> None:
        self.idle.append(connection)
        self.dispatch(now)

    def over(self, now: float) -> bool:
        return now >= self.ends_at + DRAIN_S

    def all_latencies_s(self) -> Iterable[float]:
        return [*self.latencies_s, *self.waited_s]


async def measure(job: Job) -> Result:
    """Run the job; an OSError when not all connections can be established."""
    kind = ClosedLoop if job.rate is None else OpenLoop
    return await kind(job, asyncio.get_running_loop()).run()


def main() -> None:
    # Ctrl-C goes to the whole process group; whoever started this decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = Job(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            result = runner.run(measure(job))
        except OSError as error:
            sys.exit(f"cannot connect to {job.host}:{job.port}: {error or 'no answer in time'}")
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
