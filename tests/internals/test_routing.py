"""The flat list of routes answers, and is documented, as the tree of routers is."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Response, WebSocket
from fastapi.routing import APIRoute
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel

from app.core.http.routing import flatten
from app.main import app as service


class Thing(BaseModel):
    name: str
    size: int | None = None


class Stamped(APIRoute):
    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def stamped(request: Any) -> Response:
            response = await handler(request)
            response.headers["X-Stamp"] = "here"
            return response

        return stamped


def _added(value: str) -> Any:
    async def add(response: Response) -> None:
        response.headers.append("X-Added", value)

    return Depends(add)


async def _name() -> str:
    return "real"


def tree() -> FastAPI:
    """Routers in routers, with all that routers can add."""
    inner = APIRouter(prefix="/things", tags=["things"], dependencies=[_added("inner")])

    @inner.get("/{name}", response_model_exclude_none=True, summary="One")
    async def read(name: str, real: Annotated[str, Depends(_name)]) -> Thing:
        return Thing(name=f"{name} {real}")

    @inner.post("", status_code=201, responses={409: {"description": "twice"}})
    async def create(thing: Thing) -> Thing:
        return thing

    @inner.delete("/{name}", include_in_schema=False)
    async def remove(name: str) -> None: ...

    stamped = APIRouter(route_class=Stamped, deprecated=True)
    stamped.get("/stamped")(_name)
    outer = APIRouter(prefix="/v1", dependencies=[_added("outer")], responses={404: {}})
    outer.include_router(inner, tags=["more"], dependencies=[_added("between")])
    outer.include_router(stamped)
    app = FastAPI(dependencies=[_added("app")], responses={"5XX": {"description": "ours"}})
    app.get("/plain")(_name)
    app.include_router(outer, prefix="/api")
    return app


REQUESTS = [
    ("GET", "/plain", None),
    ("GET", "/api/v1/things/x", None),
    ("POST", "/api/v1/things", {"name": "y"}),
    ("POST", "/api/v1/things", {"name": 1}),
    ("DELETE", "/api/v1/things/x", None),
    ("PUT", "/api/v1/things/x", None),
    ("GET", "/api/v1/things/", None),
    ("GET", "/api/v1/stamped", None),
    ("GET", "/nowhere", None),
    ("GET", "/openapi.json", None),
]


async def answers(app: FastAPI) -> list[tuple[int, list[tuple[str, str]], str]]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        responses = [await client.request(m, url, json=body) for m, url, body in REQUESTS]
    return [(r.status_code, sorted(r.headers.multi_items()), r.text) for r in responses]


async def test_a_flat_list_answers_like_the_tree() -> None:
    flat = tree()
    flatten(flat)

    assert not any(hasattr(route, "include_context") for route in flat.router.routes)
    assert await answers(flat) == await answers(tree())


async def test_dependencies_can_still_be_overridden() -> None:
    flat = tree()
    flatten(flat)
    flat.dependency_overrides[_name] = lambda: "other"

    assert (await answers(flat))[1][2] == '{"name":"x other"}'


async def test_websockets_are_flat_as_well() -> None:
    router = APIRouter(prefix="/inner", dependencies=[_added("inner")])

    @router.websocket("/socket/{number}", name="one", dependencies=[_added("own")])
    async def socket(_: WebSocket, number: int) -> None: ...

    app = tree()
    app.include_router(router, prefix="/outer", dependencies=[_added("outer")])
    flatten(app)

    route: Any = app.router.routes[-1]
    assert not any(hasattr(route, "include_context") for route in app.router.routes)
    assert (route.path, route.name, route.endpoint) == (
        "/outer/inner/socket/{number}",
        "one",
        socket,
    )
    assert len(route.dependant.dependencies) == 4


def mount() -> APIRouter:
    router = APIRouter()
    router.mount("/mounted", Response("mounted"))
    return router


@pytest.mark.parametrize(
    "router", [mount(), APIRouter(form_limits={"max_files": 1})], ids=["mount", "forms"]
)
async def test_what_cannot_be_flattened_stays_a_tree(router: APIRouter) -> None:
    app = tree()
    app.include_router(router)
    before = list(app.router.routes)

    flatten(app)

    assert app.router.routes == before


async def test_the_routes_of_the_service_are_flat() -> None:
    assert not any(hasattr(route, "include_context") for route in service.router.routes)
