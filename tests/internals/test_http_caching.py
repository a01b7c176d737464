"""What responses say to caches, which route a path leads to, and what clients hold already."""

from collections.abc import AsyncIterator, Callable
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.security import APIKeyHeader
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Mount

from app.core.http.problems import NotFound, install
from app.core.http.routing import flatten
from app.core.http_caching import HttpCaching, Routes, never_stored, private, public, tag
from app.core.http_caching import headers as h
from app.core.http_caching.policy import policy_of
from app.core.http_caching.routes import NotCacheable

FRESH = {"Cache-Control": "max-age=5"}


class Kind(Enum):
    NEW = "new"
    OLD = "old"


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    limit: int = Field(20, ge=1, le=100)
    author: UUID | None = None
    labels: list[str] = Field([], alias="label")


def cached_app(router: APIRouter) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    flatten(app)
    app.add_middleware(HttpCaching, routes=Routes(app))
    install(app)
    return app


def client_of(app: FastAPI) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url="http://test")


async def test_a_response_that_sets_a_cookie_is_ones_own() -> None:
    router = APIRouter()

    @router.get("/page")
    @public(cdn_s=60, tags=("page",))
    async def page() -> Response:
        return Response("page", headers={"Set-Cookie": "session=secret"})

    async with client_of(cached_app(router)) as client:
        headers = (await client.get("/page")).headers

    assert headers["cache-control"] == "private, no-cache"
    assert not {"cache-tag", "surrogate-key"} & set(headers)


def test_a_decorator_without_its_parentheses_says_so() -> None:
    def endpoint() -> None: ...

    decorator: Any = private
    with pytest.raises(TypeError, match="needs parentheses"):
        decorator(endpoint)


@pytest.mark.parametrize(
    ("decorator", "expected"),
    [
        (public(), "public, max-age=0, must-revalidate"),
        (public(browser_s=5), "public, max-age=5"),
        (public(cdn_s=60, stale_s=9), "public, max-age=0, s-maxage=60, stale-while-revalidate=9"),
        (public(browser_s=5, error_s=60), "public, max-age=5, stale-if-error=60"),
        (public(browser_s=5, immutable=True), "public, max-age=5, immutable"),
        (private(), "private, max-age=0"),
        (private(30), "private, max-age=30"),
        (never_stored, "private, no-store"),
    ],
)
def test_what_is_declared_is_said(decorator: Callable[[Any], Any], expected: str) -> None:
    def endpoint() -> None: ...

    policy = policy_of(partial(decorator(endpoint)))

    assert policy is not None
    assert policy.cache_control.decode() == expected


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: public(browser_s=-1), "browser_s"),
        (lambda: public(cdn_s=1, stale_s=float("inf")), "stale_s is inf"),
        (lambda: private(-1), "browser_s"),
        (lambda: public(stale_s=5), "stale_s begins when"),
        (lambda: public(error_s=5), "error_s begins when"),
        (lambda: public(browser_s=5, missing_s=5), "missing_s is for shared caches"),
        (lambda: public(cdn_s=5, immutable=True), "immutable"),
        (lambda: public(browser_s=5, vary=("*",)), "vary"),
        (lambda: public(browser_s=5, vary=("Cookie",)), "vary"),
        (lambda: public(browser_s=5, vary=("a b",)), "vary"),
        (lambda: public(browser_s=5, tags=("a b",)), "tags"),
        (lambda: public(browser_s=5, tags=("a,b",)), "tags"),
        (lambda: public(browser_s=5, tags=("a:{0}",)), "tags"),
        (lambda: public(browser_s=5, tags=("a:{b!r}",)), "tags"),
        (lambda: never_stored(private()(lambda: None)), "has a caching policy"),
    ],
)
def test_declarations_that_contradict_themselves(
    declare: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        declare()


def test_tags_have_one_form_by_type() -> None:
    user_id = uuid4()

    assert tag("user:{user_id}", user_id=user_id) == f"user:{user_id}"
    assert tag("{a}:{b}:{c}", a=7, b=Kind.OLD, c="a b,c:d") == "7:old:a%20b%2Cc%3Ad"
    assert tag("users", session=object()) == "users"
    with pytest.raises(TypeError, match="float is no part"):
        tag("{a}", a=1.5)


@pytest.mark.parametrize("annotation", [float, list[str], bool])
def test_a_tag_of_another_type_stops_the_start(annotation: Any) -> None:
    router = APIRouter()

    @router.get("/shelves")
    @public(browser_s=5, tags=("shelf:{key}",))
    async def shelves(key: annotation = Query()) -> None: ...  # noqa: B008

    with pytest.raises(TypeError, match=r"/shelves: the tag 'shelf:\{key\}' names key"):
        Routes(cached_app(router)).compile()


def test_a_tag_of_no_parameter_stops_the_start() -> None:
    router = APIRouter()

    @router.get("/shelves")
    @public(browser_s=5, tags=("shelf:{key}",))
    async def shelves() -> None: ...

    with pytest.raises(TypeError, match="no parameter"):
        Routes(cached_app(router)).compile()


def test_a_policy_of_another_method_stops_the_start() -> None:
    router = APIRouter()

    @router.post("/shelves")
    @public(browser_s=5)
    async def add() -> None: ...

    with pytest.raises(TypeError, match="/shelves: only responses to GET are public"):
        Routes(cached_app(router)).compile()


def test_a_header_that_is_read_and_not_named_in_vary_stops_the_start() -> None:
    router = APIRouter()

    def language(accept_language: Annotated[str, Header()] = "en") -> str:
        return accept_language

    @router.get("/shelves")
    @public(browser_s=5)
    async def shelves(language: Annotated[str, Depends(language)]) -> None: ...

    with pytest.raises(TypeError, match="reads the header accept-language: name it in vary"):
        Routes(cached_app(router)).compile()


@pytest.fixture
def routes() -> Routes:
    router = APIRouter()

    @router.get("/users/me")
    @private(5)
    async def me() -> None: ...

    @router.post("/users/{user_id}")
    async def change() -> None: ...

    @router.get("/users/{user_id}")
    @public(browser_s=5, tags=("user:{user_id}", "kind:{kind}"))
    async def user(user_id: UUID, kind: Kind = Kind.NEW, other: str = "") -> None: ...

    @router.get("/pages/{number}")
    @public(browser_s=5, tags=("page:{number}",))
    async def page(number: int) -> None: ...

    @router.get("/sides/{side}")
    @public(browser_s=5, tags=("side:{side}",))
    async def side(side: Literal["a", "b"]) -> None: ...

    @router.get("/books")
    @public(browser_s=5, tags=("books", "author:{author}"))
    async def books(params: Annotated[Params, Query()]) -> None: ...

    @router.get("/{anything}/late")
    @public(browser_s=5)
    async def late(anything: str) -> None: ...

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router)
    flatten(app)
    app.router.routes.append(Mount("/static", app=app))
    app.router.routes.append(Mount("/pages/9/late", app=app))
    routes = Routes(app)
    routes.compile()
    return routes


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/users/me", "/users/me"),
        ("GET", "/users/you", "/users/{user_id}"),
        ("POST", "/users/you", "/users/{user_id}"),
        ("GET", "/users/me\n", "/users/me"),
        ("GET", "/users/a/b", None),
        ("GET", "/users", None),
        ("GET", "/static/late", "/{anything}/late"),
        ("GET", "/static/early", "/static"),
        ("HEAD", "/static/early", "/static"),
        ("HEAD", "/users/me", None),
        ("GET", "/", None),
        ("GET", "", None),
    ],
)
def test_the_route_is_the_one_that_the_router_takes(
    routes: Routes, method: str, path: str, expected: str | None
) -> None:
    found = routes.find(method, path)

    assert (found and found.path) == expected


UPPER = "0F8FAD5B-D9CB-469F-A165-70867728950E"


def test_tags_come_from_converted_parameters(routes: Routes) -> None:
    def tags(path: str, query: str = "") -> tuple[str, ...]:
        route = routes.find("GET", path)
        assert route is not None
        return route.tags(path, query.encode())

    assert tags(f"/users/{UPPER}") == (f"user:{UPPER.lower()}", "kind:new")
    assert tags(f"/users/{UPPER}", "kind=old") == (f"user:{UPPER.lower()}", "kind:old")
    assert tags("/books") == ("books",)
    assert tags("/books", f"author={UPPER}") == ("books", f"author:{UPPER.lower()}")
    with pytest.raises(NotCacheable):
        tags("/users/not-a-uuid")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ('"a"', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ('"b" , W/"a"', True),
        (" * ", True),
        ('"b"', False),
        ("a", False),
        ('"x,a"', False),
        ("", False),
    ],
)
def test_if_none_match(sent: str, expected: bool) -> None:
    assert h.matches(sent.encode(), b'"a"') is expected
    assert h.matches(sent.encode(), b'W/"a"') is expected


@pytest.fixture
async def site() -> AsyncIterator[AsyncClient]:
    router = APIRouter()

    @router.get("/public")
    @public(browser_s=5, cdn_s=60, vary=("Accept-Language",), tags=("all", "page:{number}"))
    async def public_page(number: int = 1) -> dict[str, int]:
        return {"number": number}

    @router.get("/free")
    @public(browser_s=5, ignore_credentials=True)
    async def free() -> str:
        return "free"

    @router.get("/private")
    @private(5)
    async def private_page() -> str:
        return "mine"

    @router.get("/undeclared")
    async def undeclared() -> str:
        return "?"

    @router.get("/own")
    @public(browser_s=5)
    async def own() -> Response:
        return Response("own", headers=FRESH | {"ETag": 'W/"own"', "Content-Language": "en"})

    @router.get("/own-undeclared")
    async def own_undeclared() -> Response:
        return Response("own", headers=FRESH)

    @router.get("/stream")
    @public(browser_s=5)
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return StreamingResponse(pieces())

    @router.get("/missing")
    @public(browser_s=5)
    async def missing() -> None:
        raise NotFound("There is none.")

    @router.get("/missing-for-all")
    @public(cdn_s=60, missing_s=5, tags=("missing",))
    async def missing_for_all() -> None:
        raise NotFound("There is none.")

    @router.head("/probe")
    async def head_only(response: Response) -> None:
        response.headers["X-Probe"] = "1"

    @router.get("/probe")
    @public(browser_s=5)
    async def probe() -> str:
        return "get"

    async with client_of(cached_app(router)) as client:
        yield client


async def test_declared_headers(site: AsyncClient) -> None:
    headers = (await site.get("/public?number=7")).headers

    assert headers["cache-control"] == "public, max-age=5, s-maxage=60"
    assert headers["surrogate-key"] == "all page:7"
    assert headers["cache-tag"] == "all,page:7"
    assert headers["vary"].startswith("accept-language, authorization, cookie")
    assert (await site.get("/private")).headers["cache-control"] == "private, max-age=5"
    assert (await site.get("/free")).headers.get("vary") is None


@pytest.mark.parametrize("path", ["/undeclared", "/nowhere", "/docs"])
async def test_whoever_declares_nothing_is_never_stored(site: AsyncClient, path: str) -> None:
    response = await site.get(path)

    assert response.headers["cache-control"] == "private, no-store"
    assert "etag" not in response.headers


async def test_what_the_endpoint_says_stays(site: AsyncClient) -> None:
    assert (await site.get("/own-undeclared")).headers["cache-control"] == "max-age=5"
    response = await site.get("/own")
    assert response.headers["cache-control"] == "max-age=5"
    assert response.headers["etag"] == 'W/"own"'


@pytest.mark.parametrize("path", ["/missing", "/public?number=x"])
async def test_errors_of_public_routes_are_not_stored(site: AsyncClient, path: str) -> None:
    response = await site.get(path)

    assert response.status_code in (404, 422)
    assert response.headers["cache-control"] == "no-store"
    assert "surrogate-key" not in response.headers or response.status_code == 404


async def test_a_cdn_may_keep_what_is_missing(site: AsyncClient) -> None:
    headers = (await site.get("/missing-for-all")).headers

    assert headers["cache-control"] == "public, max-age=0, s-maxage=5"
    assert headers["cache-tag"] == "missing"


async def test_other_methods_are_never_stored(site: AsyncClient) -> None:
    assert (await site.post("/public")).headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize("headers", [{"Authorization": "a"}, {"Cookie": "a=b"}, {"X-API-Key": "a"}])
async def test_with_credentials_a_public_page_is_a_private_one(
    site: AsyncClient, headers: dict[str, str]
) -> None:
    response = await site.get("/public", headers=headers)

    assert response.headers["cache-control"] == "private, no-cache"
    assert "surrogate-key" not in response.headers
    assert (await site.get("/free", headers=headers)).headers["cache-control"].startswith("public")


@pytest.mark.parametrize("path", ["/public", "/private", "/free", "/own"])
async def test_a_client_that_holds_the_response_gets_a_304(site: AsyncClient, path: str) -> None:
    full = await site.get(path)
    response = await site.get(path, headers={"If-None-Match": full.headers["etag"]})

    assert response.status_code == 304
    assert response.content == b""
    dropped = {"content-length", "content-type", "content-language"}
    kept = {name: value for name, value in full.headers.items() if name not in dropped}
    assert dict(response.headers) == kept
    other = await site.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, full.content)


@pytest.mark.parametrize("path", ["/public", "/private", "/own"])
async def test_head_is_answered_from_get(site: AsyncClient, path: str) -> None:
    full = await site.get(path)
    head = await site.head(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == full.headers


async def test_whoever_measures_head_sees_its_route() -> None:
    router = APIRouter(prefix="/shelves")

    @router.get("/{number}")
    @public()
    async def shelf(number: int) -> int:
        return number

    scopes: list[Any] = []
    app = cached_app(router)

    async def measured(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    async with AsyncClient(transport=ASGITransport(measured), base_url="http://test") as client:
        await client.get("/shelves/7")
        await client.head("/shelves/7")

    assert [scope["route"].path for scope in scopes] == ["/shelves/{number}"] * 2


async def test_a_route_of_its_own_answers_head(site: AsyncClient) -> None:
    head = await site.head("/probe")

    assert head.headers["x-probe"] == "1"
    assert head.headers["cache-control"] == "private, no-store"
    assert (await site.head("/undeclared")).status_code == 405


async def test_streams_pass_unbuffered() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"a", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            seen.append(len(sent))
        await send({"type": "http.response.body"})

    app = FastAPI()

    @app.get("/")
    @public(browser_s=5)
    async def declared() -> None: ...

    seen: list[int] = []
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    await HttpCaching(stream, routes=Routes(app))(scope, None, send)  # type: ignore[arg-type]

    assert seen == [2, 3]
    assert [message.get("body") for message in sent] == [None, b"a", b"b", None]
    assert b"etag" not in dict(sent[0]["headers"])


async def test_other_scopes_pass() -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    caching: Any = HttpCaching(inner, routes=Routes(FastAPI()))
    for kind in ("lifespan", "websocket"):
        await caching({"type": kind}, None, None)

    assert seen == ["lifespan", "websocket"]


async def test_keys_of_the_applications_own_schemes_are_credentials() -> None:
    router = APIRouter()

    @router.get("/by-header")
    @public(browser_s=5)
    async def by_header(
        key: Annotated[str | None, Depends(APIKeyHeader(name="X-Team-Key", auto_error=False))],
    ) -> str:
        return key or "anonymous"

    app = cached_app(router)
    routes = Routes(app)
    routes.compile()
    assert routes.key_headers == {b"x-team-key"}
    async with client_of(app) as client:
        response = await client.get("/by-header", headers={"X-Team-Key": "1"})
    assert response.headers["cache-control"] == "private, no-cache"
