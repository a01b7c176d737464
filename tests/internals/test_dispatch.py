"""Requests that skip FastAPI's layers are answered, and seen by endpoints, as by FastAPI's own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse
from starlette.responses import PlainTextResponse, Response

from app.core.http.compiled import compile_path_operations
from app.core.http.compiled.dispatch import LAYERS

SEEN = ("endpoint", "path_params", "path", "root_path", "method", "type")

# What the application did, in order.
log: list[object] = []


class Known(Exception):
    """Its handler answers."""


class Broken(Exception):
    """Its handler raises Known, which only a second layer can answer."""


async def resource() -> AsyncIterator[str]:
    log.append("opened")
    try:
        yield "resource"
    except Known:
        log.append("known")
        raise
    finally:
        log.append("closed")


async def nothing() -> None: ...


class Layer:
    """A middleware of the team."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        log.append("layer")
        await self.app(scope, receive, send)


def service() -> FastAPI:
    app = FastAPI(redirect_slashes=False)

    @app.get("/seen/{number:int}/{rest:path}")
    async def seen(request: Request, number: int, rest: str) -> dict[str, str]:
        return {name: repr(request.scope[name]).partition(" at ")[0] for name in SEEN} | {
            "route": request.scope["route"].path,
            "is_router": str(request.scope["router"] is app.router),
            "url": str(request.url_for("seen", number=1, rest="a/b")),
        }

    @app.get("/raise/{kind}")
    async def fail(kind: str, name: Annotated[str, Depends(resource)]) -> str:
        if kind == "http":
            raise HTTPException(418, name, {"X-Kind": "tea"})
        raise {"known": Known, "broken": Broken}.get(kind, ZeroDivisionError)(kind)

    @app.get("/late")
    async def late() -> Response:
        async def send_late(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise Known("late")

        response = Response()
        response.__class__ = type("Late", (Response,), {"__call__": lambda _, *a: send_late(*a)})
        return response

    @app.get("/after")
    async def after(background: BackgroundTasks) -> int:
        background.add_task(log.append, "background")
        return 1

    @app.post("/seen/{number:int}/{rest:path}")
    async def other(number: int, rest: str) -> int:
        return number

    @app.get("/waits")
    async def waits(name: Annotated[str, Depends(resource)]) -> None:
        await asyncio.Event().wait()

    @app.websocket("/after")
    async def socket(websocket: WebSocket) -> None:
        await websocket.close(4000)

    @app.exception_handler(Known)
    async def known(request: Request, error: Exception) -> Response:
        return JSONResponse({"known": str(error), "body": len(await request.body())}, 409)

    @app.exception_handler(Broken)
    def broken(request: Request, error: Exception) -> Response:
        raise Known("from a handler") from error

    @app.exception_handler(418)
    async def tea(request: Request, error: HTTPException) -> Response:
        return PlainTextResponse(f"tea {error.detail}", 418, error.headers)

    app.add_middleware(Layer)
    return app


async def ask(app: FastAPI, method: str, path: str, **others: Any) -> tuple[object, ...]:
    """Return what the application sent, did and raised, and whether it skipped the layers."""
    messages: list[Any] = []
    log.clear()
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"a.test")],
        "server": ("a.test", 80),
        "scheme": "http",
        **others,
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)
        log.append(message["type"])

    raised = ""
    try:
        await app(scope, receive, send)
    except Exception as error:
        raised = f"{error!r} from {error.__cause__!r}"
    return messages, [*log], raised, LAYERS in scope


@pytest.fixture
def pair() -> tuple[FastAPI, FastAPI]:
    """Return the application with FastAPI's own layers, and the one with compiled handlers."""
    fast = service()
    reasons = [reason for _, reason in compile_path_operations(fast)]
    assert reasons == [None] * len(reasons)
    return service(), fast


CASES = [
    ("GET", "/seen/7/a/b", True),
    ("GET", "/seen/7/", True),
    ("GET", "/seen/x/a", False),
    ("POST", "/seen/7/a", True),
    ("PUT", "/seen/7/a", False),
    ("HEAD", "/seen/7/a", False),
    ("GET", "/raise/http", True),
    ("GET", "/raise/known", True),
    ("GET", "/raise/broken", True),
    ("GET", "/raise/unexpected", True),
    ("GET", "/late", True),
    ("GET", "/after", True),
    ("GET", "/after/", False),
    ("GET", "/after\n", False),
    ("GET", "/nowhere", False),
    ("GET", "/openapi.json", False),
]


@pytest.mark.parametrize(("method", "path", "is_direct"), CASES)
async def test_answers_and_their_order_are_fastapis(
    pair: tuple[FastAPI, FastAPI], method: str, path: str, is_direct: bool
) -> None:
    stock, fast = pair

    expected, found = await ask(stock, method, path), await ask(fast, method, path)

    assert found[:-1] == expected[:-1]
    assert found[-1] is not is_direct


@pytest.mark.parametrize(
    "others", [{"root_path": "/api"}, {"path_params": {"outer": "1", "rest": "0"}}, {"router": 1}]
)
async def test_an_application_below_another_sees_what_it_added(
    pair: tuple[FastAPI, FastAPI], others: dict[str, Any]
) -> None:
    stock, fast = pair
    path = others.get("root_path", "") + "/seen/7/a"

    found = await ask(fast, "GET", path, **others)

    assert found[:-1] == (await ask(stock, "GET", path, **others))[:-1]
    assert not found[-1]


async def test_a_request_of_another_fastapi_takes_the_layers(pair: tuple[FastAPI, FastAPI]) -> None:
    _, fast = pair
    outer = FastAPI()
    outer.mount("/below", fast)

    messages, *_ = await ask(outer, "GET", "/below/after")

    assert messages[0]["status"] == 200  # type: ignore[index]


async def test_an_override_that_a_test_sets_later_counts(pair: tuple[FastAPI, FastAPI]) -> None:
    _, fast = pair
    await ask(fast, "GET", "/raise/http")
    fast.dependency_overrides[resource] = lambda: "other"

    messages, _, _, has_layers = await ask(fast, "GET", "/raise/http")

    assert messages[1]["body"] == b"tea other"  # type: ignore[index]
    assert has_layers


async def test_routes_that_come_and_go_are_those_of_the_router(
    pair: tuple[FastAPI, FastAPI],
) -> None:
    _, fast = pair
    routes = fast.router.routes

    async def status(path: str) -> int:
        messages: Any = (await ask(fast, "GET", path))[0]
        code: int = messages[0]["status"]
        return code

    assert (await status("/after"), await status("/new")) == (200, 404)
    added = APIRouter()
    added.get("/new", status_code=201)(nothing)
    fast.include_router(added)
    assert await status("/new") == 201
    # First, so that it wins.
    routes.insert(0, routes.pop())
    fast.get("/{any}", status_code=202)(nothing)
    routes.insert(0, routes.pop())
    assert (await status("/after"), await status("/new")) == (202, 202)
    del routes[0]
    assert (await status("/after"), await status("/new")) == (200, 201)
    (gone,) = [route for route in routes if getattr(route, "path", "") == "/late"]
    routes.remove(gone)
    assert await status("/late") == 404


async def test_a_cancelled_request_closes_its_dependencies(pair: tuple[FastAPI, FastAPI]) -> None:
    for app in pair:
        task = asyncio.create_task(ask(app, "GET", "/waits"))
        while "opened" not in log:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["layer", "opened", "closed"]


async def test_a_websocket_takes_the_layers(pair: tuple[FastAPI, FastAPI]) -> None:
    _, fast = pair
    scope = {"type": "websocket", "path": "/after", "headers": [], "query_string": b""}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await fast(scope, receive, send)

    assert [each["code"] for each in sent] == [4000]
