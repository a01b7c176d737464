"""Calls to other services over HTTP: pooled, and bounded in time, bytes and number."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar, cast

import aiohttp
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from yarl import URL

from app.core.http.problems import Problem, Unavailable, Unprocessable
from app.core.http_client.addresses import AddressRefused, sockets_to_public
from app.core.http_client.hosts import Host, parse_retry_after, wait_before
from app.core.settings.http_client import HttpClientSettings
from app.core.telemetry import request_id

T = TypeVar("T")

# Longest wait for one of the calls in flight to the same host to end.
QUEUE_TIMEOUT_S = 0.25
# Hosts that are remembered; a client may name any number.
MAX_HOSTS = 1000
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
# Statuses of a service that is unavailable, and of one that asks for patience.
FAILED = frozenset({502, 503, 504})
RETRIED = FAILED | {429}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# For clients of this service, which do not know the other ones.
UNAVAILABLE = "Another service is unavailable."


@dataclass
class Call:
    """A call to another service; `status` is 0 until there is a response."""

    method: str
    url: URL
    # Sent to addresses that clients name.
    is_public: bool
    headers: dict[str, str]
    status: int = 0

    def __str__(self) -> str:
        # Without path and query, which may have secrets.
        return f"{self.method} {self.url.host}"


@dataclass(frozen=True)
class Answer:
    """A response; `into=Answer` returns it as it is."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class CallFailed(Exception):
    """Says in the log which call failed, and why."""


class BadAnswer(Problem):
    """The answer of another service is an error, too large or not valid: 502 for the client.

    Attributes:
        answer: the answer, if it was read; a caller may make `NotFound` of its status 404.
    """

    status = HTTPStatus.BAD_GATEWAY

    def __init__(self, answer: Answer | None = None) -> None:
        super().__init__("Another service gave no valid answer.")
        self.answer = answer


# Gets each attempt, to which it may add headers, and returns a function for its end.
Observer = Callable[[Call], Callable[[], None]]


class HttpClient:
    """The client of a process, which `lifecycle.resources` opens.

        forecast = await http.get(f"{settings.weather_url}/today", into=Forecast)

    Args:
        only_public: whether all connections lead to public addresses.
    """

    def __init__(self, *, only_public: bool = False) -> None:
        self.observers: list[Observer] = []
        self._only_public = only_public
        self._session: aiohttp.ClientSession | None = None
        # Without the environment, until it is opened.
        self._settings = HttpClientSettings.model_construct()
        self._hosts: dict[str, Host] = {}

    @asynccontextmanager
    async def opened(self, settings: HttpClientSettings) -> AsyncIterator[None]:
        """Keep connections to other services for the block; each one is made at its first use."""
        make_socket = sockets_to_public(settings.http_private_networks)
        session = aiohttp.ClientSession(
            # Without a limit of its own: each host has one here.
            connector=aiohttp.TCPConnector(
                limit=0, socket_factory=make_socket if self._only_public else None
            ),
            # Cookies of one request must not reach another one.
            cookie_jar=aiohttp.DummyCookieJar(),
            # The call has a deadline instead of a total.
            timeout=aiohttp.ClientTimeout(
                connect=settings.http_connect_timeout_s, sock_read=settings.http_read_timeout_s
            ),
        )
        # Otherwise aiohttp sends a call twice if its connection breaks, outside of all limits here.
        session._retry_connection = False
        self._session, self._settings = session, settings
        self._hosts.clear()
        try:
            yield
        finally:
            self._session = None
            await session.close()

    async def get(
        self,
        url: str,
        *,
        into: type[T] | TypeAdapter[T],
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        redirects: int = 0,
    ) -> T:
        """Read a URL, as `request` does; follow `redirects` of them, without headers elsewhere."""
        return await self.request(
            "GET",
            url,
            into=into,
            params=params,
            headers=headers,
            timeout_s=timeout_s,
            redirects=redirects,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        into: type[T] | TypeAdapter[T],
        json: Any = None,
        content: bytes | None = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
        redirects: int = 0,
    ) -> T:
        """Call another service, and return its answer as a valid value.

        Args:
            into: a type that Pydantic reads from JSON; `bytes` for the body as it is, or `Answer`
                for status, headers and body.
            json: a value or model to send as JSON.
            content: bytes to send instead, with their `Content-Type` in `headers`.
            timeout_s: limit of the call, retries included; `HTTP_TOTAL_TIMEOUT_S` if absent.
            idempotent: whether the call may run twice; decided by the method if absent. A POST may
                if the other service knows it by a key.
            redirects: the most to follow, for a GET; `headers` are not sent to another origin.

        Raises:
            Unavailable: when the service does not answer in time, answers 429, 502, 503 or 504, has
                too many calls of this process, or failed so often that it is left alone.
            BadAnswer: when the answer has no status 2xx, is too large or not valid.
            Unprocessable: by `public_http`, when the URL or its address is not a public one.
        """
        if self._session is None:
            raise RuntimeError("No HTTP client: use `async with lifecycle.resources(...)`.")
        if self._settings.http_offline:
            raise Unavailable(UNAVAILABLE) from CallFailed("HTTP_OFFLINE is set")
        deadline_s = _now_s() + (timeout_s or self._settings.http_total_timeout_s)
        if json is not None:
            content = to_json(json)
            headers = {"Content-Type": "application/json", **(headers or {})}
        may_retry = method in IDEMPOTENT if idempotent is None else idempotent
        target = _parsed(url)
        if target is None:
            raise self._invalid()
        if params:
            target = target.update_query(params)
        while True:
            identifier = "" if self._only_public else request_id.current()
            identity = {"X-Request-ID": identifier} if identifier else {}
            call = Call(method, target, self._only_public, {**identity, **(headers or {})})
            answer = await self._answer(call, content, deadline_s, may_retry=may_retry)
            location = answer.headers.get("Location") if answer.status in REDIRECTS else None
            if method != "GET" or redirects < 1 or location is None:
                return _validated(call, answer, into)
            redirects -= 1
            following = _parsed(location, base=target)
            if following is None:
                raise BadAnswer(answer) from CallFailed(f"{call}: redirects to no URL of HTTP")
            if following.origin() != target.origin():
                headers = None
            target = following

    async def _answer(
        self, call: Call, content: bytes | None, deadline_s: float, *, may_retry: bool
    ) -> Answer:
        """Return the answer of the first attempt that has one, within the limits of the host."""
        host = self._host(call.url)
        reason = "it failed before, and is left alone"
        for attempt in range(1, self._settings.http_retries + 2):
            if not host.admits(_now_s()):
                break
            result = await self._attempt(call, content, host, deadline_s)
            wait_s = wait_before(attempt)
            if isinstance(result, str):
                reason = result
            elif result.status not in RETRIED:
                return result
            else:
                reason = f"status {result.status}"
                wait_s = max(wait_s, parse_retry_after(result.headers.get("Retry-After")))
            is_last = not may_retry or attempt > self._settings.http_retries
            if is_last or _now_s() + wait_s >= deadline_s or not host.may_retry():
                break
            await asyncio.sleep(wait_s)
        raise Unavailable(UNAVAILABLE) from CallFailed(f"{call}: {reason}")

    async def _attempt(
        self, call: Call, content: bytes | None, host: Host, deadline_s: float
    ) -> Answer | str:
        """Send the call once; return its answer, or the reason why there is none."""
        assert self._session is not None
        await self._take_slot(call, host)
        call.status, answer, reason = 0, None, ""
        ends = [observer(call) for observer in self.observers]
        try:
            async with (
                asyncio.timeout_at(deadline_s),
                self._session.request(
                    call.method, call.url, data=content, headers=call.headers, allow_redirects=False
                ) as response,
            ):
                call.status = response.status
                body = await self._body(call, response)
                answer = Answer(response.status, response.headers, body)
        except (aiohttp.InvalidURL, UnicodeError):
            raise self._invalid() from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            cause = getattr(error, "os_error", None)
            if isinstance(cause, AddressRefused):
                raise Unprocessable("The URL leads to an address that is not public.") from None
            # Not the text of the error, which may have the URL.
            reason = f"{type(error).__name__} {getattr(cause, 'strerror', None) or ''}".rstrip()
        finally:
            host.slots.release()
            for end in ends:
                end()
        # Not after a cancellation, which may come from the caller's own, shorter time limit.
        host.note(failed=answer is None or answer.status in FAILED, now_s=_now_s())
        return answer or reason

    async def _take_slot(self, call: Call, host: Host) -> None:
        with suppress(TimeoutError):
            # A timer costs, and is seldom needed.
            async with asyncio.timeout(QUEUE_TIMEOUT_S) if host.slots.locked() else nullcontext():
                await host.slots.acquire()
                return
        raise Unavailable(UNAVAILABLE) from CallFailed(f"{call}: HTTP_MAX_IN_FLIGHT are in flight")

    async def _body(self, call: Call, response: aiohttp.ClientResponse) -> bytes:
        parts, rest = [], self._settings.http_max_response_bytes
        async for part in response.content.iter_any():
            parts.append(part)
            rest -= len(part)
            if rest < 0:
                response.close()
                raise BadAnswer from CallFailed(f"{call}: more than HTTP_MAX_RESPONSE_BYTES")
        return b"".join(parts)

    def _host(self, url: URL) -> Host:
        name = f"{url.host}:{url.port}"
        if name not in self._hosts:
            if len(self._hosts) >= MAX_HOSTS:
                del self._hosts[next(iter(self._hosts))]
            self._hosts[name] = Host(self._settings.http_max_in_flight)
        return self._hosts[name]

    def _invalid(self) -> Exception:
        """Return an error without the URL, which may have a password."""
        message = "Expected a URL such as https://example.org/path."
        return Unprocessable(message) if self._only_public else ValueError(message)


def _parsed(url: str, base: URL | None = None) -> URL | None:
    """Return an absolute URL of HTTP, or None."""
    with suppress(ValueError):
        target = base.join(URL(url)) if base else URL(url)
        if target.scheme in ("http", "https") and target.host:
            return target
    return None


def _validated(call: Call, answer: Answer, into: type[T] | TypeAdapter[T]) -> T:
    if not 200 <= answer.status < 300:
        raise BadAnswer(answer) from CallFailed(f"{call}: status {answer.status}")
    if into is Answer:
        return cast(T, answer)
    if into is bytes:
        return cast(T, answer.body)
    adapter = into if isinstance(into, TypeAdapter) else _adapter(into)
    try:
        return adapter.validate_json(answer.body)
    except ValidationError as error:
        # Without values, which may be personal data.
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))[:100]
        reason = f"{error.error_count()} errors, the first: {where} {problem['msg']}"
    raise BadAnswer(answer) from CallFailed(f"{call}: {reason}")


# To make one takes far longer than to use it.
_adapter: Callable[[Any], TypeAdapter[Any]] = lru_cache(maxsize=256)(TypeAdapter)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
