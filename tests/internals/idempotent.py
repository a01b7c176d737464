"""An application whose writes may be repeated, in this process and for gunicorn."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy import bindparam, insert, select
from starlette.datastructures import FormData, UploadFile

from app.core.application import create_app
from app.core.database import PreparedRead, PreparedWrite, ReadSession, WriteSession
from app.core.http.body_limit import Upload
from app.core.http.idempotency import IdempotentSessionDep, KeyedSessionDep
from app.core.http.idempotency.attempt import MAX_BODY_BYTES
from app.settings import get_settings
from tests.internals.declared import ANYBODY
from tests.internals.tables import Book

ADD = PreparedWrite(
    insert(Book)
    .values(title=bindparam("title"), shelf_id=bindparam("shelf_id"))
    .returning(Book.title)
)
TITLES = PreparedRead(select(Book.title))
router = APIRouter(dependencies=ANYBODY)
TEXT = Upload(("text/plain",), max_bytes=100)
# The titles of the books after whose commit a callback has run.
committed: list[str] = []
# `waiting` sets the first, and waits for the second.
is_waiting, going_on = asyncio.Event(), asyncio.Event()


class BookCreate(BaseModel):
    title: str


class BookRead(BaseModel):
    title: str


async def authenticate(request: Request) -> str:
    """Stand for an authentication, which changes the caller from an address to a subject."""
    request.scope["client"] = (request.headers["X-User"], 1)
    return request.headers["X-User"]


async def read_form(request: Request) -> None:
    """Stand for FastAPI, which reads a form before all dependencies (with python-multipart)."""
    file = BytesIO(b"".join([part async for part in request.stream()]))
    request._form = FormData([("name", "x"), ("file", UploadFile(file))])


async def add(session: WriteSession, title: str, **values: Any) -> None:
    async def note() -> None:
        committed.append(title)

    session.after_commit(note)
    await session.write(ADD, title=title, **{"shelf_id": None, **values})


@router.post("/entities", status_code=201)
async def entity(data: BookCreate, session: IdempotentSessionDep, response: Response) -> BookRead:
    response.headers["Location"] = f"/books/{data.title}"
    response.set_cookie("secret", "value")
    session.add(Book(title=data.title))
    return BookRead(title=data.title)


@router.post("/rows/{number}", response_model=BookRead)
async def row(number: int, data: BookCreate, session: IdempotentSessionDep) -> Response:
    await add(session, data.title)
    return JSONResponse({"title": data.title}, 202, {"X-Number": str(number)})


@router.post("/owned")
async def owned(
    data: BookCreate, session: IdempotentSessionDep, user: Annotated[str, Depends(authenticate)]
) -> BookRead:
    await add(session, data.title)
    return BookRead(title=user)


@router.post("/late")
async def late(data: BookCreate, session: IdempotentSessionDep, request: Request) -> BookRead:
    await add(session, data.title)
    return BookRead(title=await authenticate(request))


@router.post("/form", dependencies=[Depends(read_form)])
async def form(request: Request, session: IdempotentSessionDep) -> BookRead:
    file = (await request.form())["file"]
    assert isinstance(file, UploadFile)
    await add(session, (await file.read()).decode())
    return BookRead(title="form")


@router.post("/single")
async def single(data: BookCreate, session: IdempotentSessionDep) -> BookRead:
    await session.autocommit(ADD, title=data.title, shelf_id=None)
    return BookRead(title=data.title)


@router.post("/reading/{way}")
async def reading(way: str, data: BookCreate, session: IdempotentSessionDep) -> int:
    """Read as a service could that takes no session."""
    if way == "after":
        await session.autocommit(ADD, title=data.title, shelf_id=None)
    if way == "nested":
        async with WriteSession() as other:
            await other.write(ADD, title=data.title, shelf_id=None)
    reader = session if way == "session" else ReadSession()
    found = len(await reader.fetch(TITLES))
    await add(session, data.title)
    return found


@router.post("/texts", openapi_extra=TEXT, status_code=204)
async def text(session: KeyedSessionDep) -> None:
    await add(session, "text")


@router.post("/failing/{kind}")
async def failing(kind: str, data: BookCreate, session: IdempotentSessionDep) -> BookRead:
    await add(session, data.title, **({"shelf_id": uuid4()} if kind == "commit" else {}))
    if kind == "raised":
        raise HTTPException(418)
    if kind == "unexpected":
        raise ZeroDivisionError
    result: Any = Response(status_code=400) if kind == "returned" else {"no": "title"}
    return BookRead(title="x") if kind == "commit" else result


@router.post("/large")
async def large(data: BookCreate, session: IdempotentSessionDep) -> str:
    await add(session, data.title)
    return "x" * MAX_BODY_BYTES


@router.post("/streamed")
async def streamed(data: BookCreate, session: IdempotentSessionDep) -> Response:
    await add(session, data.title)

    async def parts() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    return StreamingResponse(parts())


@router.post("/waiting")
async def waiting(data: BookCreate, session: IdempotentSessionDep) -> BookRead:
    await add(session, data.title)
    is_waiting.set()
    await going_on.wait()
    return BookRead(title=data.title)


@router.post("/dying/{when}")
async def dying(when: str, path: Path, data: BookCreate, session: IdempotentSessionDep) -> BookRead:
    """Kill this process once: `before` or `after` the commit."""

    async def die() -> None:
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    await add(session, data.title)
    if when == "before":
        await die()
    session.after_commit(die)
    return BookRead(title=data.title)


def make_app(routes: APIRouter = router, **settings: object) -> FastAPI:
    changed = get_settings().model_copy(update=settings)
    return create_app(changed, routes, title="books", description="for tests")


app = make_app()
