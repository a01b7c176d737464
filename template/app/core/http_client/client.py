"""Calls to other services over HTTP: pooled, and bounded in time, bytes and number."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address
from math import inf
from typing import Any, TypedDict, TypeVar, Unpack, cast

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from yarl import URL

from app.core.http.deadlines import exceeded, remaining_s
from app.core.http.problems import Problem, Unavailable, Unprocessable
from app.core.http_client.addresses import AddressRefused, Resolver, sockets_to_public
from app.core.http_client.hosts import Host, wait_before
from app.core.settings.http_client import HttpClientSettings
from app.core.telemetry import request_id

T = TypeVar("T")

# Longest wait for a slot when HTTP_MAX_IN_FLIGHT calls to the host run.
QUEUE_TIMEOUT_S = 0.25
# An attempt that had less time than this does not count as a failure of the host.
FAIR_TIME_S = 0.25
# The number of hosts whose state is kept; clients may name more.
MAX_HOST_STATES = 1000
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
# Statuses of an unavailable service. A 429 is retried, and opens no circuit.
FAILED = frozenset({502, 503, 504})
RETRIED = FAILED | {429}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# For clients of this service, which do not know the other services.
UNAVAILABLE = "Another service is unavailable."


@dataclass
class Call:
    """A call to another service; `status` is 0 until there is a response."""

    method: str
    url: URL
    # Whether a client named the URL.
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
    """The reason of a failed call, for the log."""


class BadAnswer(Problem):
    """The answer of another service is an error, too large or not valid: 502 for the client.

    Attributes:
        answer: the answer, if it was read; a caller may make `NotFound` of its status 404.
    """

    status = HTTPStatus.BAD_GATEWAY

    def __init__(self, answer: Answer | None = None) -> None:
        super().__init__("Another service gave no valid answer.")
        self.answer = answer


# An observer is called before each attempt; the function that it returns is called at the end of
# the attempt. It may add headers to the call.
Observer = Callable[[Call], Callable[[], None]]


class GetOptions(TypedDict, total=False):
    params: Mapping[str, str | int]
    headers: Mapping[str, str]
    timeout_s: float
    redirects: int


class HttpClient:
    """The client of a process, which `lifecycle.resources` opens.

    Args:
        only_public: whether all connections lead to public addresses.
    """

    def __init__(self, *, only_public: bool = False) -> None:
        self.observers: list[Observer] = []
        self._only_public = only_public
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def opened(self, settings: HttpClientSettings) -> AsyncIterator[None]:
        """Keep connections to other services for the block; each one is made at its first use."""
        guards: dict[str, Any] = {}
        if self._only_public:
            guards["socket_factory"] = sockets_to_public(settings.http_private_networks)
            guards["resolver"] = Resolver(settings.http_connect_timeout_s)
        session = aiohttp.ClientSession(
            # No limit for all hosts together: `Host` has one for each.
            connector=aiohttp.TCPConnector(limit=0, **guards),
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
        self._host = lru_cache(MAX_HOST_STATES)(lambda _: Host(settings.http_max_in_flight))
        try:
            yield
        finally:
            self._session = None
            await session.close()

    async def get(
        self, url: str, *, into: type[T] | TypeAdapter[T], **options: Unpack[GetOptions]
    ) -> T:
        """Send a GET; the arguments and errors are those of `request`."""
        return await self.request("GET", url, into=into, **options)

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
            timeout_s: limit of the whole call, with its waits and retries; above 0, and
                `HTTP_TOTAL_TIMEOUT_S` if None. The time limit of the request may end it earlier.
                The other service gets the time that is left as `X-Request-Timeout`.
            idempotent: whether the call may run twice; decided by the method if None. A POST with
                an idempotency key may run twice.
            redirects: the largest number that a GET follows. A redirect to another origin drops
                `headers` and `content`.

        Raises:
            DeadlineExceeded: when the request has no time left.
            Unavailable: when the service does not answer in time, answers 429, 502, 503 or 504, has
                too many calls of this process, or an open circuit.
            BadAnswer: when the answer has no status 2xx, is too large or not valid.
            Unprocessable: by `public_http`, when the URL or its address is not a public one.
            ValueError: when `timeout_s` is not above 0, or when the URL of `http` is malformed.
        """
        if self._session is None:
            raise RuntimeError("No HTTP client: use `async with lifecycle.resources(...)`.")
        limit_s = self._settings.http_total_timeout_s if timeout_s is None else timeout_s
        if not 0 < limit_s < inf:
            raise ValueError(f"timeout_s: expected a number of seconds above 0, not {limit_s}.")
        if self._settings.http_offline:
            raise Unavailable(UNAVAILABLE) from CallFailed("HTTP_OFFLINE is set")
        deadline_s = _now_s() + min(limit_s, remaining_s())
        if json is not None:
            content = to_json(json)
            headers = {"Content-Type": "application/json", **(headers or {})}
        may_retry = method in IDEMPOTENT if idempotent is None else idempotent
        target = _parsed(url, is_trusted=not self._only_public)
        if target is None:
            raise self._invalid()
        if params:
            target = target.update_query(params)
        while True:
            identifier = "" if self._only_public else request_id.current()
            identity = {"X-Request-ID": identifier} if identifier else {}
            if not self._only_public:
                identity["X-Request-Timeout"] = f"{deadline_s - _now_s():.3f}"
            call = Call(method, target, self._only_public, {**identity, **(headers or {})})
            answer = await self._answer(call, content, deadline_s, may_retry=may_retry)
            location = answer.headers.get("Location") if answer.status in REDIRECTS else None
            if method != "GET" or redirects < 1 or location is None:
                return _validated(call, answer, into)
            redirects -= 1
            following = _parsed(location, target)
            if following is None:
                raise BadAnswer(answer) from CallFailed(f"{call}: redirects to no URL of HTTP")
            if following.origin() != target.origin():
                headers = content = None
            target = following

    async def _answer(
        self, call: Call, content: bytes | None, deadline_s: float, *, may_retry: bool
    ) -> Answer:
        """Return the answer of the first attempt that has one, within the limits of the host."""
        host = self._host(f"{call.url.host}:{call.url.port}")
        reason = "its circuit is open"
        for attempt in range(1, self._settings.http_retries + 2):
            if not host.admits(_now_s()):
                break
            result = await self._attempt(call, content, host, deadline_s)
            if isinstance(result, Answer) and result.status not in RETRIED:
                return result
            if isinstance(result, Answer):
                reason = f"status {result.status}"
                wait_s = wait_before(attempt, result.headers.get("Retry-After", ""))
            else:
                reason, wait_s = result, wait_before(attempt)
            is_last = not may_retry or attempt > self._settings.http_retries
            if is_last or _now_s() + wait_s >= deadline_s or not host.may_retry():
                break
            await asyncio.sleep(wait_s)
        raise exceeded() or Unavailable(UNAVAILABLE) from CallFailed(f"{call}: {reason}")

    async def _attempt(
        self, call: Call, content: bytes | None, host: Host, deadline_s: float
    ) -> Answer | str:
        """Send the call once; return its answer, or the reason why there is none."""
        assert self._session is not None
        await self._take_slot(call, host, deadline_s)
        call.status = 0
        is_short = deadline_s - _now_s() < FAIR_TIME_S
        # None: a cancelled attempt says nothing about the host.
        failed: bool | None = None
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
                failed = call.status in FAILED
                return Answer(call.status, response.headers, body)
        except BadAnswer:
            failed = False
            raise
        except (aiohttp.InvalidURL, UnicodeError):
            raise self._invalid() from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            cause = getattr(error, "os_error", None)
            if isinstance(cause, AddressRefused):
                failed = False
                raise Unprocessable("The URL leads to an address that is not public.") from None
            # The time-outs of aiohttp, whose settings are long enough, are of a subclass.
            is_own = type(error) is TimeoutError and (is_short or exceeded())
            failed = None if is_own else True
            # Not the text of the error, which may have the URL.
            return f"{type(error).__name__} {getattr(cause, 'strerror', None) or ''}".rstrip()
        finally:
            host.slots.release()
            for end in ends:
                end()
            if failed is not None:
                host.note(failed=failed, now_s=_now_s())

    async def _take_slot(self, call: Call, host: Host, deadline_s: float) -> None:
        ends_s = min(deadline_s, _now_s() + QUEUE_TIMEOUT_S)
        try:
            # A timer takes CPU time, and is seldom needed.
            async with asyncio.timeout_at(ends_s) if host.slots.locked() else nullcontext():
                await host.slots.acquire()
        except TimeoutError:
            reason = CallFailed(f"{call}: HTTP_MAX_IN_FLIGHT are in flight")
            raise exceeded() or Unavailable(UNAVAILABLE) from reason

    async def _body(self, call: Call, response: aiohttp.ClientResponse) -> bytes:
        parts, rest = [], self._settings.http_max_response_bytes
        try:
            async for part in response.content.iter_any():
                parts.append(part)
                rest -= len(part)
                if rest < 0:
                    response.close()
                    raise BadAnswer from CallFailed(f"{call}: more than HTTP_MAX_RESPONSE_BYTES")
        except aiohttp.ClientPayloadError as error:
            if isinstance(error.__cause__, ContentEncodingError):
                raise BadAnswer from CallFailed(f"{call}: not in its Content-Encoding")
            raise
        return b"".join(parts)

    def _invalid(self) -> Exception:
        """Return an error without the URL, which may have a password."""
        message = "Expected a URL such as https://example.org/path."
        return Unprocessable(message) if self._only_public else ValueError(message)


def _parsed(url: str, base: URL | None = None, *, is_trusted: bool = False) -> URL | None:
    """Return an absolute URL of HTTP, or None; only a trusted one may have a password."""
    with suppress(ValueError):
        given = URL(url)
        target = base.join(given) if base else given
        if target.scheme in ("http", "https") and target.host:
            # Raises the errors that a connection would raise.
            target.host.encode("idna")
            if ":" in target.host:
                ip_address(target.host)
            return target if is_trusted or "@" not in given.raw_authority else None
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


# Making an adapter takes far longer than using it.
_adapter: Callable[[Any], TypeAdapter[Any]] = lru_cache(maxsize=256)(TypeAdapter)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
