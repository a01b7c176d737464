"""An application with limited routes, for tests in this process and for gunicorn."""

import asyncio
import os
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Response, Security, WebSocket
from fastapi.security import HTTPBearer
from httpx2 import ASGITransport, AsyncClient
from starlette.requests import HTTPConnection

from app.core import security
from app.core.application import create_app
from app.core.cache import no_store, public
from app.core.http.problems import NotFound
from app.core.security.rate_limits import rate_limit, unlimited
from app.settings import get_settings

# A service with authentication requires a declaration.
public_to_all = getattr(security, "public", None)
declared = [public_to_all()] if public_to_all is not None else []
router = APIRouter(dependencies=declared)
called: list[str] = []


class Site:
    """An application with limits, and clients of it with addresses that no other test has."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def client(self, address: str = "", **headers: str) -> AsyncClient:
        client = (address or f"test-{uuid4().hex}", 1)
        transport = ASGITransport(self.app, raise_app_exceptions=False, client=client)
        return AsyncClient(transport=transport, base_url="http://test", headers=headers)


async def statuses(client: AsyncClient, path: str, times: int, **options: Any) -> list[int]:
    """Return the statuses of requests that are all on their way at once, in order."""
    answers = await asyncio.gather(*(client.get(path, **options) for _ in range(times)))
    return sorted(answer.status_code for answer in answers)


class Bearer(HTTPBearer):
    """Authenticates everybody who sends a token, under the name in it."""

    async def __call__(self, request: HTTPConnection) -> None:
        called.append("authentication")
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token in ("", "wrong"):
            raise HTTPException(401, "No.", {"WWW-Authenticate": "Bearer"})
        request.scope["principal"] = type("Principal", (), {"subject": token})()


bearer = Bearer()


def session() -> None:
    called.append("session")


@router.get("/five", dependencies=[rate_limit("5/day")])
@no_store
async def five(number: int = 0) -> int:
    return os.getpid() + 0 * number


@router.get("/other", dependencies=[rate_limit("5/day")])
@no_store
async def other() -> Response:
    return Response("made by hand")


@router.get("/both", dependencies=[rate_limit("2/day"), rate_limit("5/hour")])
@no_store
async def both() -> None: ...


@router.get("/missing", dependencies=[rate_limit("5/day")])
@no_store
async def missing() -> None:
    raise NotFound("There is none.")


@router.get("/public", dependencies=[rate_limit("2/day")])
@public(s_maxage_s=60)
async def shared(number: int) -> int:
    return number


@router.get("/plain")
@no_store
async def plain() -> None: ...


@router.get("/plain-too")
@no_store
async def plain_too() -> None: ...


@router.get("/free", dependencies=[unlimited])
@no_store
async def free() -> None: ...


@router.get("/secret", dependencies=[rate_limit("2/day"), Security(bearer)])
@no_store
async def secret(opened: Annotated[None, Depends(session)]) -> None: ...


@router.websocket("/socket", dependencies=[rate_limit("1/day")])
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


group = APIRouter(prefix="/group", dependencies=[rate_limit("1/day")])


@group.get("/one")
@no_store
async def one() -> None: ...


@group.get("/two")
@no_store
async def two() -> None: ...


@group.get("/free", dependencies=[unlimited])
@no_store
async def free_too() -> None: ...


router.include_router(group)


def make(**settings: Any) -> Any:
    return create_app(
        get_settings().model_copy(update=settings), router, title="Limited", description=""
    )


app = make()
