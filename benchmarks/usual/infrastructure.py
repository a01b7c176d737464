"""What the routes stand on: database sessions, the cache, the HTTP client, the response class and the middleware."""

import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import orjson
from fastapi import Depends, FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import Histogram
from pydantic import TypeAdapter
from redis.asyncio import Redis
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CACHE_TTL_S = 60
DURATION = Histogram("request_duration_seconds", "Duration by route and status", ["method", "path", "status"])

# 20 + 10 with pre-ping: "Building High-Performance Web APIs with FastAPI" (ForgeAPI blog), "Connection Pooling".
engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg"),
    pool_size=20,
    max_overflow=10,
    pool_pre_ping=True,
)
# expire_on_commit=False: SQLAlchemy docs, "Preventing Implicit IO when Using AsyncSession".
open_session = async_sessionmaker(engine, expire_on_commit=False)
# One client with its connection pool for all requests: HTTPX docs, "Clients"; Kludex/fastapi-tips, tip 6.
http = httpx.AsyncClient(base_url=os.environ["UPSTREAM_URL"])
redis = Redis.from_url(os.environ["CACHE_URL"]) if os.environ.get("CACHED") == "1" else None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await http.aclose()
    if redis:
        await redis.aclose()
    await engine.dispose()


async def get_session() -> AsyncIterator[AsyncSession]:
    # Commit after the route: albertalexandrov/clean-architecture-sqlalchemy-details dependencies.py, and many more.
    async with open_session() as session:
        yield session
        await session.commit()


# Ended before the response is sent, so that the next request sees the write: FastAPI docs, "Dependencies with yield".
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


class ORJSONResponse(JSONResponse):
    """What `default_response_class=ORJSONResponse` gave ("FastAPI Performance Optimization", earezki.com, section 2).

    FastAPI's own class of this name is deprecated and warns for each response; to write it oneself is what remains:
    FastAPI docs, "Custom Response", "Custom response class".
    """

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


# Cache-aside with a TTL: "Caching Strategies in FastAPI" (fastapi-patterns.com). JSON is kept and sent as it is; most
# articles parse it first, to have FastAPI write it again.


async def from_cache(key: str) -> Response | None:
    body = await redis.get(key) if redis else None
    return None if body is None else Response(body, media_type="application/json")


async def into_cache(key: str, schema: TypeAdapter[Any], value: Any) -> Any:
    """What the route returns: the response that is kept now or, without a cache, the value as it is."""
    if redis is None:
        return value
    body = schema.dump_json(schema.validate_python(value))
    await redis.set(key, body, ex=CACHE_TTL_S)
    return Response(body, media_type="application/json")


async def evict(key: str) -> None:
    if redis:
        await redis.delete(key)


class Observability:
    """Timing header, request id and metrics, in one: each worker counts for itself.

    Pure ASGI and not BaseHTTPMiddleware: Kludex/fastapi-tips, tip 8.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = Headers(scope=scope).get("x-request-id") or uuid.uuid4().hex
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Process-Time"] = f"{time.perf_counter() - started:.6f}"
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            DURATION.labels(scope["method"], path, status).observe(time.perf_counter() - started)
