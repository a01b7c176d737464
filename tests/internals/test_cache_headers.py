"""Cache headers by the declared policy, `ETag`, 304 and HEAD, for clients and CDNs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response, Security
from fastapi.responses import StreamingResponse
from fastapi.security import APIKeyHeader
from httpx2 import ASGITransport, AsyncClient

from app.core.cache import headers as h
from app.core.cache import no_store, private, public
from app.core.cache.check import check_policies
from app.core.cache.conditional import CacheHeaders
from app.core.cache.policy import policy_of
from app.core.http.problems import NotFound, install
from app.core.http.routing import flatten
from app.main import app as service

FRESH = {"Cache-Control": "max-age=5"}


def cached_app(router: APIRouter) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    flatten(app)
    middleware = next(
        one for one in service.user_middleware if one.cls.__module__.startswith("app.core.cache.")
    )
    app.add_middleware(middleware.cls, *middleware.args, **middleware.kwargs)
    install(app)
    return app


def client_of(app: FastAPI) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url="http://test")


async def test_a_response_that_sets_a_cookie_is_ones_own() -> None:
    router = APIRouter()

    @router.get("/page")
    @public(s_maxage_s=60)
    async def page() -> Response:
        return Response("page", headers={"Set-Cookie": "session=secret"})

    async with client_of(cached_app(router)) as client:
        headers = (await client.get("/page")).headers

    assert headers["cache-control"] == "private, no-cache"


def test_a_decorator_without_its_parentheses_says_so() -> None:
    def endpoint() -> None: ...

    decorator: Any = private
    with pytest.raises(TypeError, match="needs parentheses"):
        decorator(endpoint)


@pytest.mark.parametrize(
    ("decorator", "expected"),
    [
        (public(), "public, max-age=0, must-revalidate"),
        (public(max_age_s=5), "public, max-age=5"),
        (
            public(s_maxage_s=60, stale_while_revalidate_s=9),
            "public, max-age=0, s-maxage=60, stale-while-revalidate=9",
        ),
        (public(max_age_s=5, stale_if_error_s=60), "public, max-age=5, stale-if-error=60"),
        (private(), "private, max-age=0"),
        (private(30), "private, max-age=30"),
        (no_store, "private, no-store"),
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
        (lambda: public(max_age_s=-1), "max_age_s"),
        (
            lambda: public(s_maxage_s=1, stale_while_revalidate_s=float("inf")),
            "stale_while_revalidate_s is inf",
        ),
        (lambda: private(-1), "max_age_s"),
        (
            lambda: public(stale_while_revalidate_s=5),
            "stale_while_revalidate_s extends a freshness lifetime",
        ),
        (lambda: public(stale_if_error_s=5), "stale_if_error_s extends a freshness lifetime"),
        (lambda: public(max_age_s=5, negative_ttl_s=5), "negative_ttl_s is for shared caches"),
        (lambda: public(max_age_s=5, vary=("*",)), "vary"),
        (lambda: public(max_age_s=5, vary=("Cookie",)), "vary"),
        (lambda: public(max_age_s=5, vary=("a b",)), "vary"),
        (lambda: no_store(private()(lambda: None)), "has a caching policy"),
    ],
)
def test_declarations_that_contradict_themselves(
    declare: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        declare()


def test_a_policy_of_another_method_stops_the_start() -> None:
    router = APIRouter()

    @router.post("/shelves")
    @public(max_age_s=5)
    async def add() -> None: ...

    with pytest.raises(TypeError, match="/shelves: only responses to GET are public"):
        check_policies(cached_app(router))


def test_a_header_that_is_read_and_not_named_in_vary_stops_the_start() -> None:
    router = APIRouter()

    def language(accept_language: Annotated[str, Header()] = "en") -> str:
        return accept_language

    @router.get("/shelves")
    @public(max_age_s=5)
    async def shelves(language: Annotated[str, Depends(language)]) -> None: ...

    with pytest.raises(TypeError, match="reads the header accept-language: name it in vary"):
        check_policies(cached_app(router))


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
    @public(max_age_s=5, s_maxage_s=60, vary=("Accept-Language",))
    async def public_page(number: int = 1) -> dict[str, int]:
        return {"number": number}

    @router.get("/free")
    @public(max_age_s=5, ignore_credentials=True)
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
    @public(max_age_s=5)
    async def own() -> Response:
        return Response("own", headers=FRESH | {"ETag": 'W/"own"', "Content-Language": "en"})

    @router.get("/own-undeclared")
    async def own_undeclared() -> Response:
        return Response("own", headers=FRESH)

    @router.get("/stream")
    @public(max_age_s=5)
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return StreamingResponse(pieces())

    @router.get("/missing")
    @public(max_age_s=5)
    async def missing() -> None:
        raise NotFound("There is none.")

    @router.get("/missing-for-all")
    @public(s_maxage_s=60, negative_ttl_s=5)
    async def missing_for_all() -> None:
        raise NotFound("There is none.")

    @router.head("/probe")
    async def head_only(response: Response) -> None:
        response.headers["X-Probe"] = "1"

    @router.get("/probe")
    @public(max_age_s=5)
    async def probe() -> str:
        return "get"

    async with client_of(cached_app(router)) as client:
        yield client


async def test_declared_headers(site: AsyncClient) -> None:
    headers = (await site.get("/public?number=7")).headers

    assert headers["cache-control"] == "public, max-age=5, s-maxage=60"
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


async def test_a_cdn_may_keep_what_is_missing(site: AsyncClient) -> None:
    headers = (await site.get("/missing-for-all")).headers

    assert headers["cache-control"] == "public, max-age=0, s-maxage=5"


async def test_other_methods_are_never_stored(site: AsyncClient) -> None:
    assert (await site.post("/public")).headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize("headers", [{"Authorization": "a"}, {"Cookie": "a=b"}, {"X-API-Key": "a"}])
async def test_with_credentials_a_public_page_is_a_private_one(
    site: AsyncClient, headers: dict[str, str]
) -> None:
    response = await site.get("/public", headers=headers)

    assert response.headers["cache-control"] == "private, no-cache"
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


@pytest.mark.parametrize("path", ["/public", "/private", "/own", "/undeclared", "/free", "/docs"])
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
    assert (await site.head("/nowhere")).status_code == 404


POLICIES: list[Any] = [None, no_store, private(5), public(max_age_s=5)]
if "ttl_s" in signature(public).parameters:
    stored: Any = public
    POLICIES.append(stored(ttl_s=5))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("is_silent", [True, False])
async def test_head_ends_an_endless_stream(policy: Any, is_silent: bool) -> None:
    router = APIRouter()

    async def endless() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                # The event loop gets no pause from this.
                yield b"x"
                if is_silent:
                    await asyncio.Event().wait()

        return StreamingResponse(pieces())

    router.get("/endless")(policy(endless) if policy else endless)
    async with client_of(cached_app(router)) as client, asyncio.timeout(10):
        head = await client.head("/endless")

    # `head` returns when the application has ended, too.
    assert (head.status_code, head.content) == (200, b"")


async def test_streams_pass_unbuffered() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"a", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            seen.append(len(sent))
        await send({"type": "http.response.body"})

    @public(max_age_s=5)
    async def declared() -> None: ...

    seen: list[int] = []
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = FastAPI()
    app.get("/")(declared)
    scope = {"type": "http", "method": "GET", "headers": [], "app": app, "endpoint": declared}
    await CacheHeaders(stream)(scope, None, send)  # type: ignore[arg-type]

    assert seen == [2, 3]
    assert [message.get("body") for message in sent] == [None, b"a", b"b", None]
    assert b"etag" not in dict(sent[0]["headers"])


async def test_other_scopes_pass() -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    caching: Any = CacheHeaders(inner)
    for kind in ("lifespan", "websocket"):
        await caching({"type": kind}, None, None)

    assert seen == ["lifespan", "websocket"]


async def test_keys_of_the_applications_own_schemes_are_credentials() -> None:
    router = APIRouter()

    @router.get("/by-header")
    @public(max_age_s=5)
    async def by_header(
        key: Annotated[str | None, Depends(APIKeyHeader(name="X-Team-Key", auto_error=False))],
    ) -> str:
        return key or "anonymous"

    async with client_of(cached_app(router)) as client:
        response = await client.get("/by-header", headers={"X-Team-Key": "1"})
    assert response.headers["cache-control"] == "private, no-cache"


async def test_keys_of_another_route_are_credentials_too() -> None:
    key = APIKeyHeader(name="X-Tenant-Key", auto_error=False)
    router = APIRouter()

    @router.get("/me")
    @public(s_maxage_s=60)
    async def me(request: Request) -> str:
        return request.headers.get("X-Tenant-Key", "anonymous")

    both = APIRouter()
    both.include_router(router, prefix="/open")
    both.include_router(router, prefix="/keyed", dependencies=[Security(key)])
    async with client_of(cached_app(both)) as client:
        for path in ("/open/me", "/keyed/me"):
            assert (await client.get(path)).headers["cache-control"].startswith("public")
            response = await client.get(path, headers={"X-Tenant-Key": "alice"})
            assert response.headers["cache-control"] == "private, no-cache"
            assert "x-tenant-key" in response.headers["vary"]


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_write_is_never_a_304(method: str) -> None:
    router = APIRouter()

    @router.api_route("/page", methods=[method])
    async def write() -> Response:
        return Response("written", headers=FRESH | {"ETag": '"1"'})

    async with client_of(cached_app(router)) as client:
        response = await client.request(method, "/page", headers={"If-None-Match": "*"})

    assert (response.status_code, response.text) == (200, "written")


async def test_head_below_a_mount_is_answered_there() -> None:
    @public(max_age_s=5)
    async def outer() -> str:
        raise AssertionError("the route of the outer application has run")

    @public(max_age_s=5)
    async def inner() -> str:
        return "inner"

    mounted = FastAPI()
    mounted.get("/x")(inner)
    router = APIRouter()
    router.get("/x")(outer)
    app = cached_app(router)
    app.mount("/sub", mounted)
    async with client_of(app) as client:
        assert (await client.head("/sub/x")).headers["content-length"] == str(len('"inner"'))
        # Nothing has checked the policies of a mounted application.
        assert (await client.get("/sub/x")).headers["cache-control"] == "private, no-store"


async def test_the_start_of_an_undeclared_stream_is_sent_at_once() -> None:
    sent: list[str] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert sent == ["http.response.start"]
        await send({"type": "http.response.body", "body": b"event"})

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "headers": [], "app": FastAPI()}
    await CacheHeaders(stream)(scope, None, send)  # type: ignore[arg-type]

    assert sent == ["http.response.start", "http.response.body"]


async def test_a_mounted_application_need_not_be_hashable() -> None:
    @dataclass
    class Plain:
        body: bytes

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": self.body})

    app = cached_app(APIRouter())
    app.mount("/plain", Plain(b"plain"))
    async with client_of(app) as client:
        assert (await client.get("/plain/")).text == "plain"
