"""Each route says who may call, or the service does not start."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from httpx2 import ASGITransport, AsyncClient
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from app.core import security
from app.core.application import create_app
from app.core.cache import public as public_policy
from app.core.http.compiled import compile_path_operations
from app.core.security import authentication
from app.core.security.declarations import check_declarations
from app.core.security.tokens import InvalidToken
from app.settings import get_settings


class Known:
    """Knows a caller whose credential is the scopes."""

    def __init__(self) -> None:
        self.calls = 0

    async def caller(self, credential: str) -> security.Principal:
        self.calls += 1
        if credential == "wrong":
            raise InvalidToken("wrong")
        return security.Principal("ann", frozenset(credential.split(",")))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    known = Known()
    monkeypatch.setattr(authentication, "_open", [known])
    return known


def app_of(router: APIRouter) -> FastAPI:
    return create_app(get_settings(), router, title="things", description="for tests")


async def endpoint() -> str:
    return "done"


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


async def plain(_: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


def undeclared(router: APIRouter) -> None:
    router.add_api_route("/a", endpoint)


def undeclared_socket(router: APIRouter) -> None:
    router.add_api_websocket_route("/a", socket)


def plain_route(router: APIRouter) -> None:
    router.routes.append(Route("/a", plain))


def mounted(router: APIRouter) -> None:
    router.routes.append(Mount("/a", PlainTextResponse("mounted")))


def hidden(router: APIRouter) -> None:
    router.add_api_route("/a", endpoint, include_in_schema=False)


def nested(router: APIRouter) -> None:
    inner = APIRouter(prefix="/a")
    inner.add_api_route("", endpoint)
    router.include_router(inner)


def both(router: APIRouter) -> None:
    router.add_api_route("/a", endpoint, dependencies=[security.public(), security.requires("a")])


def both_by_a_router(router: APIRouter) -> None:
    inner = APIRouter(dependencies=[security.public()])
    inner.add_api_route("/a", endpoint, dependencies=[security.requires("a")])
    router.include_router(inner)


@pytest.mark.parametrize(
    "add",
    [
        undeclared,
        undeclared_socket,
        plain_route,
        mounted,
        hidden,
        nested,
        both,
        both_by_a_router,
    ],
)
def test_a_route_that_does_not_declare_is_named(add: Callable[[APIRouter], None]) -> None:
    router = APIRouter()
    router.add_api_route("/fine", endpoint, dependencies=[security.public()])
    add(router)

    with pytest.raises(TypeError, match=r"/a: declare either") as refused:
        check_declarations(app_of(router))
    assert "/fine" not in str(refused.value)
    assert "/livez" not in str(refused.value)


def test_all_are_named_at_once() -> None:
    router = APIRouter()
    router.add_api_route("/a", endpoint, methods=["GET"])
    router.add_api_route("/b", endpoint, methods=["POST"])

    with pytest.raises(TypeError, match=r"^GET /a, POST /b: declare"):
        check_declarations(app_of(router))


@pytest.fixture
def app_without_declaration() -> FastAPI:
    router = APIRouter()
    undeclared(router)
    return app_of(router)


async def test_the_service_does_not_start(app_without_declaration: FastAPI) -> None:
    app = app_without_declaration
    with pytest.raises(TypeError, match="GET /a: declare"):
        async with app.router.lifespan_context(app):
            pass


def test_a_protected_route_is_not_public_for_caches() -> None:
    router = APIRouter()
    router.add_api_route(
        "/a", public_policy()(endpoint_of()), dependencies=[security.requires("a")]
    )

    with pytest.raises(TypeError, match="/a: requires a credential, so it cannot be @public"):
        check_declarations(app_of(router))


def endpoint_of() -> Any:
    async def shared() -> str:
        return "shared"

    return shared


def declared() -> APIRouter:
    async def takes_caller(caller: security.Caller) -> str:
        return caller.subject

    async def reads(caller: security.Caller) -> str:
        return caller.subject

    router = APIRouter()
    router.add_api_route("/public", endpoint, dependencies=[security.public()])
    router.add_api_route("/caller", takes_caller)
    router.add_api_route("/a", endpoint, dependencies=[security.requires("a")])
    router.add_api_route("/any", endpoint, dependencies=[security.requires()])
    router.add_api_route("/both", endpoint, dependencies=[security.requires("a", "b")])
    within = APIRouter(dependencies=[security.requires("a")])
    within.add_api_route("/within", takes_caller, dependencies=[security.requires("b")])
    router.include_router(within)
    indirect = Depends(reads)
    router.add_api_route("/indirect", endpoint, dependencies=[indirect])
    router.add_api_websocket_route("/socket", socket, dependencies=[security.requires("a")])
    return router


NEEDS: dict[str, set[str]] = {
    "/public": set(),
    "/opened/": set(),
    "/caller": {""},
    "/any": {""},
    "/indirect": {""},
    "/a": {"a"},
    "/guarded/": {"a"},
    "/both": {"a", "b"},
    "/within": {"a", "b"},
}


@pytest.fixture(params=[True, False], ids=["compiled", "FastAPI's own"])
def app_of_routes(request: pytest.FixtureRequest, known: Known) -> FastAPI:
    settings = get_settings().model_copy(update={"compiled_handlers": request.param})
    app = create_app(settings, declared(), title="things", description="for tests")
    for path, declaration in (("/guarded", security.requires("a")), ("/opened", security.public())):
        app.mount(path, security.Guarded(PlainTextResponse("mounted"), declaration))
    check_declarations(app)
    return app


@pytest.mark.parametrize("path", NEEDS)
async def test_a_route_admits_whom_it_declares(
    app_of_routes: FastAPI, known: Known, path: str
) -> None:
    needed = NEEDS[path]
    transport = ASGITransport(app_of_routes)
    async with AsyncClient(transport=transport, base_url="http://test") as client:

        async def status(credential: str | None) -> int:
            headers = {"Authorization": f"Bearer {credential}"} if credential else {}
            known.calls = 0
            response = await client.get(path, headers=headers)
            # Once, whatever number of dependencies asks.
            assert known.calls == bool(credential and needed)
            return response.status_code

        assert await status(None) == (401 if needed else 200)
        assert await status("wrong") == (401 if needed else 200)
        assert await status("z") == (200 if needed <= {""} else 403)
        assert await status("b") == (200 if needed <= {"", "b"} else 403)
        assert await status("a,b,c") == 200


@pytest.mark.parametrize("wrong", [Depends(endpoint), security.public, "a", ["a"], None])
def test_a_guard_accepts_declarations_only(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"expected `security.requires"):
        security.Guarded(PlainTextResponse("mounted"), wrong)


def test_declared_routes_are_compiled(known: Known) -> None:
    app = app_of(declared())
    reasons = {route.path: reason for route, reason in compile_path_operations(app)}

    for path in ("/public", "/caller", "/a", "/any", "/both", "/within"):
        assert reasons[path] is None


async def test_a_socket_is_refused_before_it_opens(app_of_routes: FastAPI) -> None:
    async def dial(*headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": "/socket",
            "raw_path": b"/socket",
            "query_string": b"",
            "headers": [(b"host", b"test"), *headers],
            "scheme": "ws",
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
            "extensions": {"websocket.http.response": {}},
            "subprotocols": [],
        }
        await app_of_routes(scope, receive, send)
        return sent

    for status, *headers in ((401,), (403, (b"authorization", b"Bearer b"))):
        refused = (await dial(*headers))[0]
        assert (refused["type"], refused["status"]) == ("websocket.http.response.start", status)
        assert [value for name, value in refused["headers"] if name == b"www-authenticate"]
    accepted = await dial((b"authorization", b"Bearer a"))
    assert [message["type"] for message in accepted] == ["websocket.accept", "websocket.close"]
