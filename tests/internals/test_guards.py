"""The guards of tests/core find the faults that they look for, and nothing else."""

import asyncio
import os
import time
from typing import Annotated, Any

import pytest
from blockbuster import BlockBuster, BlockingError
from fastapi import APIRouter, FastAPI, Query, Response
from fastapi.routing import iter_route_contexts
from httpx2 import AsyncClient
from pydantic import BaseModel, Field

from app.core.cache import no_store
from app.core.concurrency import run_in_process, run_in_thread
from app.core.http.body_limit import Upload
from app.core.http.routing import flatten
from app.core.jobs import enqueue, job
from app.core.pagination import Page, PageParams
from tests.core import leftovers
from tests.core.jobs import Jobs
from tests.core.openapi import Operation, operations
from tests.core.test_routes import without_bound, without_policy
from tests.core.test_smoke import differences, routes_that_make_their_bytes
from tests.internals import computing


class Shelf(BaseModel):
    name: str
    books: list[str] = []
    size: int | None = None


def app_of(router: APIRouter, *, flat: bool = True) -> FastAPI:
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    if flat:
        flatten(app)
    return app


@pytest.mark.parametrize("flat", [True, False])
def test_a_route_that_declares_no_policy_is_seen(flat: bool) -> None:
    router = APIRouter(prefix="/shelves")

    @router.get("/open")
    async def nothing_declared() -> None: ...

    @router.get("/closed")
    @no_store
    async def declared() -> None: ...

    @router.get("/hidden", include_in_schema=False)
    async def hidden() -> None: ...

    @router.post("/made")
    async def made() -> None: ...

    assert without_policy(app_of(router, flat=flat)) == ["/v1/shelves/open"]


def test_a_list_without_a_bound_is_seen() -> None:
    router = APIRouter()
    bounded = Annotated[int, Query(le=100)]

    @router.get("/all")
    async def everything() -> list[Shelf]: ...  # type: ignore[empty-body]

    @router.get("/no-maximum")
    async def no_maximum(limit: int = 20) -> Page[Shelf]: ...  # type: ignore[empty-body]

    @router.get("/other")
    async def other(offset: bounded = 0) -> Page[Shelf]: ...  # type: ignore[empty-body]

    @router.get("/page")
    async def page(params: Annotated[PageParams, Query()]) -> Page[Shelf]: ...  # type: ignore[empty-body]

    @router.get("/limit")
    async def limit(limit: bounded = 20) -> list[Shelf]: ...  # type: ignore[empty-body]

    @router.get("/optional")
    async def optional(limit: bounded | None = None) -> list[Shelf]: ...  # type: ignore[empty-body]

    @router.get("/few")
    async def few() -> Annotated[list[Shelf], Field(max_length=7)]: ...  # type: ignore[empty-body]

    class Shelves(BaseModel):
        total: int
        data: list[Shelf] | None

    @router.get("/wrapped")
    async def wrapped() -> Shelves: ...  # type: ignore[empty-body]

    @router.get("/wrapped/limit")
    async def limited(limit: bounded = 20) -> Shelves: ...  # type: ignore[empty-body]

    @router.get("/rooms/{room}")
    async def room(room: int) -> Shelves: ...  # type: ignore[empty-body]

    @router.get("/one")
    async def one() -> Shelf: ...  # type: ignore[empty-body]

    @router.get("/text")
    async def text() -> Response: ...  # type: ignore[empty-body]

    @router.post("/found")
    async def found() -> list[Shelf]: ...  # type: ignore[empty-body]

    document = app_of(router).openapi()

    assert without_bound(document) == ["/v1/all", "/v1/no-maximum", "/v1/other", "/v1/wrapped"]


@pytest.mark.parametrize("flat", [True, False])
def test_only_routes_that_make_their_bytes_are_compared(flat: bool) -> None:
    router = APIRouter()

    @router.get("/bytes", response_model=Shelf)
    async def made_here() -> Response: ...  # type: ignore[empty-body]

    @router.get("/model")
    async def made_by_fastapi() -> Shelf: ...  # type: ignore[empty-body]

    @router.get("/undeclared")
    async def undeclared() -> Response: ...  # type: ignore[empty-body]

    assert set(routes_that_make_their_bytes(app_of(router, flat=flat))) == {("GET", "/v1/bytes")}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b'{"name": "top", "books": ["a"]}', ""),
        (b'{"name": "top", "books": [], "size": null}', ""),
        (b'{"books": []}', "name"),
        (b'{"name": "top", "secret": 1}', "secret"),
        (b'{"name": "top", "size": "1"}', "'size': 1}"),
        (b"{", "Invalid JSON"),
    ],
)
def test_bytes_that_the_model_does_not_make_are_seen(body: bytes, wrong: str) -> None:
    app = FastAPI()
    app.get("/", response_model=Shelf)(lambda: Response())
    *_, route = iter_route_contexts(app.router.routes)

    found = differences(route, body)

    assert [wrong in reason for reason in found] == ([True] if wrong else [])


def test_requests_are_valid_and_refer_to_what_there_is() -> None:
    router = APIRouter()

    class Book(BaseModel):
        title: str = Field(min_length=6)
        pages: int = Field(gt=3)
        shelf_id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
        note: str | None = None
        size: tuple[int, int]

    class Part(BaseModel):
        part_of: "Part | None"

    @router.get("/books")
    async def read(required: bool, optional: int = 1) -> None: ...

    @router.post("/books")
    async def add(book: Book) -> None: ...

    @router.put("/parts")
    async def put(part: Part) -> None: ...

    first, endless, second = operations(app_of(router).openapi())

    assert (first.method, second.method) == ("post", "get")
    body = first.request("7")["json"]
    assert len(body.pop("size")) == 2
    assert body == {"title": "textxx", "pages": 4, "shelf_id": "7"}
    assert "json" not in endless.request(None)
    assert second.request(None) == {"params": {"required": True}}


def test_a_body_has_the_first_media_type_of_its_operation() -> None:
    router = APIRouter()
    for path, kind in (("/pictures", "image/png"), ("/texts", "text/csv")):
        upload = Upload((kind, "image/webp"), max_bytes=10)
        router.post(path, openapi_extra=upload)(lambda: None)

    picture, text = (each.request(None) for each in operations(app_of(router).openapi()))

    assert picture["content"].startswith(b"\x89PNG")
    assert text["content"] == b"text"
    assert text["headers"] == {"Content-Type": "text/csv"}
    assert text["params"] == {}


def test_a_path_takes_any_kind_of_identifier() -> None:
    operation = Operation("get", "/notes/{note_id}", {}, {})

    assert operation.parent == "/notes"
    assert operation.url(7) == "/notes/7"
    assert operation.url("\\1") == "/notes/\\1"
    assert operation.url(None) != operation.url(None)


async def test_a_call_that_blocks_the_event_loop_fails() -> None:
    with pytest.raises(BlockingError, match=r"sleep") as blocked:
        time.sleep(0.01)  # noqa: ASYNC251

    notes = "".join(blocked.value.__notes__)
    assert "`run_in_thread`" in notes
    assert "an autouse fixture in tests/conftest.py" in notes


@pytest.mark.usefixtures("app")
async def test_the_pools_may_block() -> None:
    await run_in_thread(time.sleep, 0.01)
    await run_in_process(computing.sleep, 0.01)


async def test_a_blocking_call_can_be_allowed(blockbuster: BlockBuster) -> None:
    with pytest.raises(BlockingError):
        os.stat(__file__)
    blockbuster.functions["os.stat"].can_block_in(
        "internals/test_guards.py", "test_a_blocking_call_can_be_allowed"
    )

    os.stat(__file__)


async def test_the_traceback_of_an_unexpected_error_is_in_the_log(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("the reason")

    app.add_api_route("/broken", broken)
    try:
        response = await client.get("/broken")
    finally:
        app.router.routes.pop()

    assert response.status_code == 500
    assert "GET /broken" in caplog.text
    assert "in broken\n" in caplog.text
    assert "ZeroDivisionError: the reason" in caplog.text


# As of a file of the team.
LEAVING = """
import asyncio

async def wait():
    await asyncio.Event().wait()

async def leave(create_task):
    return create_task(wait(), name="refresh")

async def end():
    asyncio.create_task(wait()).cancel()
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
"""


def code_of(path: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(LEAVING, leftovers.APP + path, "exec"), names)  # noqa: S102
    return names


@pytest.mark.parametrize("by_a_library", [False, True])
async def test_a_task_that_is_left_behind_fails_its_test(app: FastAPI, by_a_library: bool) -> None:
    create_task: Any = asyncio.create_task
    if by_a_library:
        create_task = lambda work, name: asyncio.create_task(work, name=name)  # noqa: E731
    before = [*leftovers.made]
    task = await code_of("orders/service.py")["leave"](create_task)

    with pytest.raises(pytest.fail.Exception) as failed:
        await leftovers.assert_none_left(before)

    assert "coroutine object wait" in str(failed.value)
    assert " of refresh, made at app/orders/service.py:8, in leave" in str(failed.value)
    assert task.cancelled()
    await leftovers.assert_none_left(before)


@pytest.mark.parametrize("path", ["core/cache/store/cache.py", "resources.py"])
async def test_tasks_of_core_and_of_resources_may_run_on(app: FastAPI, path: str) -> None:
    task = await code_of(path)["leave"](asyncio.create_task)

    await leftovers.assert_none_left([])
    task.cancel()


async def test_tasks_that_have_ended_are_none(app: FastAPI) -> None:
    await code_of("orders/service.py")["end"]()

    await leftovers.assert_none_left([])


async def test_a_job_that_fails_fails_its_test(database: None, running_jobs: Jobs) -> None:
    @job
    async def breaks() -> None:
        raise ValueError

    await enqueue(None, breaks)

    with pytest.raises(pytest.fail.Exception, match="breaks: "):
        await running_jobs.done()
