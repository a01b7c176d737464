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

from app.core.http.idempotency.sessions import IdempotentSessionDep, KeyedSessionDep

__all__ = ["IdempotentSessionDep", "KeyedSessionDep"]
