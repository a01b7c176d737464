"""The ASGI middleware of requests with a key, whose attempts it makes."""

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

from fastapi import Request
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.http.idempotency.attempt import HEADER, SCOPE, Attempt

_NAME = HEADER.lower().encode()
_METHODS = frozenset({"POST", "PATCH", "PUT", "DELETE"})


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
        scope[SCOPE] = attempt
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
