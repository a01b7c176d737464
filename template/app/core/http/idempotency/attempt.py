"""One request with a key: its transaction, and the answer that it stores or repeats."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import Request
from starlette.types import Message, Scope, Send

from app.core.database import PreparedWrite, Row, WriteSession
from app.core.http.idempotency.table import CLAIM, STORE
from app.core.http.problems import BadRequest, Conflict, Unprocessable
from app.core.security.caller import caller_of

HEADER = "Idempotency-Key"
# A larger body, and a streamed one, is not stored.
MAX_BODY_BYTES = 64 * 1024
# A string of RFC 9651, whose quotes many clients leave out.
SYNTAX = r'"?[!#-\[\]-~]{1,255}"?'
# The item of a scope with the `Attempt`.
SCOPE = "app.idempotency"

# The length is that of the body. Cookies are secrets.
_NOT_STORED = (b"content-length", b"set-cookie")


class InUse(Conflict):
    """Another request with the same key has not ended."""

    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class OnlySession(WriteSession):
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


class IdempotentSession(OnlySession):
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
