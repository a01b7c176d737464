"""`Idempotency-Key`: a client may repeat a write whose answer it did not get.

    @router.post("/orders", status_code=201)
    async def order(data: OrderCreate, session: IdempotentSessionDep) -> OrderRead: ...

The first request with a key runs in one transaction, which also stores its answer; a repetition
gets that answer. A dependency of FastAPI cannot see the answer, so it begins the transaction and
leaves it open. The middleware ends the transaction when the handler sends the answer: it stores the
status, headers and body, commits, and only then passes the answer on. This is the same for compiled
handlers and FastAPI's own, for models and for response objects.

A failed request stores nothing: an exception or a status of 400 and above rolls back. A lock of
the transaction marks a key in use, so a concurrent request is refused and does not wait with a
connection.

https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07
"""

import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from copy import copy
from datetime import timedelta
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Any, ClassVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.database import PreparedWrite, Row, WriteSession
from app.core.database.sessions import _read_session, _write_session
from app.core.http.idempotency.table import CLAIM, STORE
from app.core.http.problems import RESPONSES, BadRequest, Conflict, Unprocessable
from app.core.http.routing import flat
from app.core.security.caller import caller_of

HEADER = "Idempotency-Key"
# A larger body, and a streamed one, is not stored.
MAX_BODY_BYTES = 64 * 1024
# A string of RFC 9651, whose quotes many clients leave out.
SYNTAX = r'"?[!#-\[\]-~]{1,255}"?'

_NAME = HEADER.lower().encode()
_SCOPE = "app.idempotency"
_METHODS = frozenset({"POST", "PATCH", "PUT", "DELETE"})
# The length is that of the body. Cookies are secrets.
_NOT_STORED = (b"content-length", b"set-cookie")


class InUse(Conflict):
    """Another request with the same key has not ended."""

    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class _OnlySession(WriteSession):
    """The only session of its request, so that a handler works with a key if it works without."""

    async def __aenter__(self) -> WriteSession:
        self._slot.reserve()
        return await super().__aenter__()

    async def autocommit(self, statement: PreparedWrite, /, **values: Any) -> list[Row]:
        # Its connection is not that of the slot, which a transaction that has begun still holds.
        self._slot.is_reserved = False
        try:
            return await super().autocommit(statement, **values)
        finally:
            self._slot.reserve()


class IdempotentSession(_OnlySession):
    """A `WriteSession` that commits with the answer: `autocommit` is `write`."""

    async def autocommit(self, statement: PreparedWrite, /, **values: Any) -> list[Row]:
        return await self.write(statement, **values)


class Repeated(Exception):
    """The request has the stored answer `row`."""

    def __init__(self, row: Row) -> None:
        self.row = row


class _Failed(Exception):
    """Rolls back a transaction."""


class Attempt:
    """One request with a key, and its transaction until the answer is sent."""

    def __init__(self, key: str, lifetime: timedelta, send: Send) -> None:
        self.key = key
        self.error: Exception | None = None
        self._lifetime = lifetime
        self._send = send
        self._start: Message = {}
        self._session = IdempotentSession()
        # Ends the transaction.
        self._open: AsyncExitStack | None = None
        self._row: dict[str, Any] = {}
        self._scope: Scope = {}
        self._caller = ""

    @asynccontextmanager
    async def session(self, request: Request) -> AsyncIterator[WriteSession]:
        """Yield a session whose transaction stays open, unless the handler fails."""
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(self._session)
            await self._claim(request, session)
            yield session
            self._open = stack.pop_all()

    async def _claim(self, request: Request, session: WriteSession) -> None:
        """Mark the key as in use; raise a `Problem`, or `Repeated` if there is an answer."""
        if not re.fullmatch(SYNTAX, self.key):
            raise BadRequest(f"{HEADER}: expected 1 to 255 visible characters of ASCII.")
        scope = self._scope = request.scope
        self._caller = caller_of(scope)
        operation = self._caller, scope["method"], scope["route"].path, self.key.strip('"')
        identifier = sha256(repr(operation).encode()).digest()
        fingerprint = sha256(repr((scope["path"], scope["query_string"])).encode())
        async for part in _contents(request):
            fingerprint.update(part)
        self._row = {"id": identifier, "fingerprint": fingerprint.digest()}
        lock = int.from_bytes(identifier[:8], signed=True)
        (found,) = await session.fetch(CLAIM, id=identifier, lock=lock)
        if found["fingerprint"] is None:
            if not found["is_locked"]:
                raise InUse(f"A request with this {HEADER} has not ended.")
        elif found["fingerprint"] != self._row["fingerprint"]:
            raise Unprocessable(f"This {HEADER} belongs to a request with other contents.")
        elif found["body"] is None:
            raise Conflict(f"The request with this {HEADER} succeeded; its answer was not stored.")
        else:
            raise Repeated(found)

    async def send(self, message: Message) -> None:
        """Send the answer of the handler, after the end of the transaction."""
        if self._open is None:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._start = message
        else:
            try:
                await self._end(message)
            except Exception as error:
                self.error = error
                raise
            await self._send(self._start)
            await self._send(message)

    async def _end(self, message: Message) -> None:
        """Store the answer and commit, or roll back a failed request."""
        status, body = self._start["status"], message.get("body", b"")
        is_kept = not message.get("more_body") and len(body) <= MAX_BODY_BYTES
        headers = [
            each for each in self._start.get("headers", ()) if each[0].lower() not in _NOT_STORED
        ]
        stack, self._open = self._open, None
        assert stack is not None
        with suppress(_Failed):
            async with stack:
                if status >= HTTPStatus.BAD_REQUEST:
                    raise _Failed
                if caller_of(self._scope) != self._caller:
                    # All clients behind one address would share the answer.
                    raise RuntimeError(
                        "The session was taken before the caller was known: declare the "
                        "authentication as a dependency of the route or of its router."
                    )
                stored = await self._session.write(
                    STORE,
                    **self._row,
                    status=status,
                    headers=[part.decode("latin-1") for each in headers for part in each],
                    body=body if is_kept else None,
                    lifetime=self._lifetime,
                )
                if not stored:
                    raise InUse(f"A request with this {HEADER} ended at the same time.")

    async def roll_back(self) -> None:
        """End a transaction without an answer, as after a cancellation."""
        stack, self._open = self._open, None
        with suppress(_Failed):
            if stack is not None:
                async with stack:
                    raise _Failed


class Idempotency:
    """ASGI middleware: ends the transaction of a request with a key when its answer is sent.

    Answers are stored for `lifetime_s`.
    """

    def __init__(self, app: ASGIApp, *, lifetime_s: float) -> None:
        self.app = app
        self._lifetime = timedelta(seconds=lifetime_s)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # A WebSocket has no method.
        sent = scope["headers"] if scope.get("method") in _METHODS else ()
        if keys := [value for name, value in sent if name == _NAME]:
            # Several are no key: a proxy may know the request by another one of them.
            key = b", ".join(keys).decode("latin-1")
            return self._attempt(Attempt(key, self._lifetime, send), scope, receive, send)
        return self.app(scope, receive, send)

    async def _attempt(self, attempt: Attempt, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_SCOPE] = attempt
        try:
            await self.app(scope, receive, attempt.send)
        except Exception:
            error = attempt.error
            if error is None:
                raise

            # The handler has sent its answer, and cannot send the one of the error.
            async def fail(*_: Any) -> None:
                raise error

            await wrap_app_handling_exceptions(fail, Request(scope))(scope, receive, send)
        finally:
            await attempt.roll_back()


async def _contents(request: Request) -> AsyncIterator[bytes]:
    """Yield the body, or the fields and files of a form, which FastAPI has read before."""
    if request._form is None:
        yield await request.body()
        return
    # Without the boundary between them, which a repetition may choose again.
    for name, value in request._form.multi_items():
        if isinstance(value, str):
            yield repr((name, value)).encode()
            continue
        yield repr((name, value.filename, value.content_type, value.size)).encode()
        while part := await value.read(MAX_BODY_BYTES):
            yield part
        await value.seek(0)


async def _idempotent_session(request: Request) -> AsyncIterator[WriteSession]:
    attempt: Attempt | None = request.scope.get(_SCOPE)
    async with attempt.session(request) if attempt else _OnlySession() as session:
        yield session


async def _keyed_session(request: Request) -> AsyncIterator[WriteSession]:
    attempt: Attempt | None = request.scope.get(_SCOPE)
    if attempt is None:
        raise BadRequest(f"The header {HEADER} is required.")
    async with attempt.session(request) as session:
        yield session


# A `WriteSession`; a client may send a key, or has to send one (400).
IdempotentSessionDep = Annotated[WriteSession, Depends(_idempotent_session, scope="function")]
KeyedSessionDep = Annotated[WriteSession, Depends(_keyed_session, scope="function")]
_SESSIONS: set[Any] = {_idempotent_session, _keyed_session}
_OTHER_SESSIONS: set[Any] = {_read_session, _write_session}


def install_idempotency(app: FastAPI) -> None:
    """Answer repetitions, and describe the header in OpenAPI; call it after the last route.

    Raises:
        TypeError: when a route takes a second session.
    """
    app.add_exception_handler(Repeated, _repeated)
    for route in app.router.routes:
        if isinstance(route, APIRoute) and (calls := _sessions(route.dependant)):
            _refuse_second_session(route)
            # After all others, because one of them may authenticate the caller.
            route.dependant.dependencies.sort(key=lambda each: bool(_sessions(each)))
            _describe(route, is_required=_keyed_session in calls)


def _sessions(dependant: Dependant) -> set[Any]:
    """Return the dependencies of this module that a dependency has."""
    return {each.call for each in flat(dependant)} & _SESSIONS


def _refuse_second_session(route: APIRoute) -> None:
    """Raise TypeError if a function takes another session beside that of this module."""
    for dependant in flat(route.dependant):
        taken = {each.call for each in dependant.dependencies}
        if taken & _SESSIONS and taken & _OTHER_SESSIONS:
            methods = ",".join(sorted(route.methods or ()))
            raise TypeError(
                f"{methods} {route.path}: with an {HEADER}, the transaction has the only "
                "connection. Take no ReadSessionDep and no WriteSessionDep, and read through the "
                "idempotent session, which is accepted wherever a ReadSession is."
            )


async def _repeated(_: Request, error: Exception) -> Response:
    assert isinstance(error, Repeated)
    names, values = error.row["headers"][::2], error.row["headers"][1::2]
    response = Response(error.row["body"], error.row["status"])
    pairs = zip(names, values, strict=True)
    response.raw_headers += [(n.encode("latin-1"), v.encode("latin-1")) for n, v in pairs]
    response.headers["Idempotent-Replayed"] = "true"
    return response


def _describe(route: APIRoute, *, is_required: bool) -> None:
    # A copy, because routes may share it, of the same class (`Upload`).
    extra: dict[str, Any] = copy(route.openapi_extra or {})
    parameter = {
        "name": HEADER,
        "in": "header",
        "required": is_required,
        "description": "The repetition of a request with the same key gets the first answer.",
        "schema": {"type": "string", "pattern": f"^{SYNTAX}$"},
    }
    extra["parameters"] = [*extra.get("parameters", []), parameter]
    errors = {
        "409": f"A conflict, or a request with this {HEADER} has not ended (`Retry-After`)",
        "422": f"Not valid, or the {HEADER} belongs to a request with other contents",
    }
    extra["responses"] = extra.get("responses", {}) | {
        status: {"description": text, "content": RESPONSES["4XX"]["content"]}
        for status, text in errors.items()
    }
    route.openapi_extra = extra
