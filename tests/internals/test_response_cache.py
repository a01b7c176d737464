"""The rules of a shared cache, one by one, against small applications behind it."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import monotonic, time
from typing import Annotated, Any
from uuid import uuid4

import pytest
from blockbuster import BlockBuster
from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import StreamingResponse
from httpx2 import ASGITransport, AsyncClient
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.background import BackgroundTask

from app.core.cache import cache, private, public
from app.core.cache.responses import admission
from app.core.cache.responses.middleware import MAX_VARIANTS, ResponseCache
from app.core.cache.store import Cache
from app.core.cache.store.entry import Entry
from app.core.http.problems import NotFound, Unavailable, install
from app.core.telemetry import request_id
from app.core.telemetry.activity import log_fields
from app.core.telemetry.requests import MeasuredRequest, Telemetry
from app.settings import get_settings

MISS = "app; fwd=miss; stored"
BYPASS = "app; fwd=bypass; detail="
# What a HIT may have that is not in its MISS.
OF_A_REQUEST = {"age", "cache-status", "date", "x-request-id", "server-timing"}


class Site:
    """An application whose endpoints count their calls; its clients, and its cache."""

    def __init__(self, store: Cache) -> None:
        self.app = FastAPI()
        self.store = store
        self.calls = 0
        self.options: dict[str, Any] = {}

    def page(
        self, endpoint: Callable[..., Any], path: str = "/page", **policy: Any
    ) -> Callable[..., Any]:
        """Serve what `endpoint` makes under a policy of one minute, if nothing else is said."""
        self.app.get(path)(public(**({"ttl_s": 60} | policy))(endpoint))
        return endpoint

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def client(self) -> AsyncClient:
        if not self.app.user_middleware:
            install(self.app)
            self.app.add_middleware(ResponseCache, store=self.store, **self.options)
        transport = ASGITransport(self.app, raise_app_exceptions=False)
        return AsyncClient(transport=transport, base_url="http://test")


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Cache]:
    store = type(cache)()
    await store.open(get_settings().model_copy(update=settings))
    async with asyncio.timeout(30):
        while monotonic() >= store.local.trusted_until:
            await asyncio.sleep(0.01)
    # A server has kept what earlier tests have left.
    await store.invalidate("*")
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with opened() as store:
        yield Site(store)


def status(response: Any) -> str:
    return str(response.headers["cache-status"]).partition("; ttl")[0]


async def statuses(client: AsyncClient, *urls: str, **options: Any) -> list[str]:
    return [status(await client.get(url, **options)) for url in urls]


async def test_a_hit_is_its_miss(site: Site) -> None:
    async def page(number: int, response: Response) -> dict[str, Any]:
        response.headers["X-Request-ID"] = str(uuid4())
        response.headers["X-Own"] = "kept"
        response.headers.append("Link", "<a>")
        response.headers.append("Link", "<b>")
        response.status_code = 200 if number % 2 else 404
        return {"number": number, "random": str(uuid4())}

    site.page(page, negative_ttl_s=60)
    chosen = random.Random(7)  # noqa: S311 - no secret
    async with site.client() as client:
        for _ in range(50):
            url = f"/page?number={chosen.randrange(10**6)}"
            miss = await client.get(url)
            method = chosen.choice(["GET", "HEAD"])
            hit = await client.request(method, url)

            assert (status(miss), status(hit)) == (MISS, "app; hit")
            assert hit.content == (miss.content if method == "GET" else b"")
            assert hit.status_code == miss.status_code
            pairs = [
                [pair for pair in response.headers.multi_items() if pair[0] not in OF_A_REQUEST]
                for response in (miss, hit)
            ]
            assert pairs[0] == pairs[1]
            assert "x-request-id" in miss.headers
            assert "x-request-id" not in hit.headers
            assert hit.headers["age"] == "0"


async def test_a_shared_response_has_no_id_of_a_request_but_its_log_lines_do(site: Site) -> None:
    seen: list[Any] = []
    observed: list[MeasuredRequest] = []

    async def page(number: int) -> None:
        seen.append((request_id.current(), log_fields()["request_id"]))
        raise NotFound("There is none.")

    site.page(page, negative_ttl_s=60)
    async with site.client() as client:
        # Outside of the cache, as in `create_app`.
        site.app.add_middleware(Telemetry, settings=get_settings(), observe=observed.append)
        responses = [
            await client.get("/page?number=1", headers={"X-Request-ID": name}) for name in "ab"
        ]

    assert seen == [("", "a")]
    assert [response.headers["x-request-id"] for response in responses] == ["a", "b"]
    assert responses[0].json() == responses[1].json()
    assert "request_id" not in responses[0].json()
    assert [(each.route, each.cache) for each in observed] == [("/page", "miss"), ("/page", "hit")]


async def test_a_hit_says_for_how_long(site: Site) -> None:
    site.page(lambda: site.count())
    async with site.client() as client:
        await client.get("/page")
        response = await client.get("/page")

    left_s = int(response.headers["cache-status"].removeprefix("app; hit; ttl="))
    assert 50 <= left_s <= 60


async def test_routes_without_a_ttl_are_not_kept(site: Site) -> None:
    site.app.get("/private")(private(5)(lambda: site.count()))
    site.app.get("/undeclared")(lambda: site.count())
    site.page(lambda: site.count(), "/browser", ttl_s=0, max_age_s=5)
    async with site.client() as client:
        for path in ("/private", "/undeclared", "/browser"):
            assert (await client.get(path)).content != (await client.get(path)).content


async def test_only_get_and_head_are_answered(site: Site) -> None:
    site.page(lambda: site.count())
    site.app.post("/page")(lambda: site.count())
    async with site.client() as client:
        head = await client.head("/page")
        get = await client.get("/page")
        post = await client.post("/page")

    # A HEAD is filled as a GET.
    assert (status(head), head.content, status(get)) == (MISS, b"", "app; hit")
    assert head.headers["content-length"] == get.headers["content-length"] == "1"
    assert (post.content, post.headers["cache-control"]) == (b"2", "private, no-store")


USERS = [{}, {"Authorization": "Bearer ada"}, {"Authorization": "Bearer grace"}]


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-API-Key", "Proxy-Authorization"])
async def test_credentials_bypass(site: Site, name: str) -> None:
    async def page(request: Request) -> str:
        site.count()
        return request.headers.get(name, "anonymous")

    site.page(page)
    async with site.client() as client:
        for sent in ("ada", "", "grace", "ada", ""):
            headers = {name: f"a={sent}"} if sent else {}
            response = await client.get("/page", headers=headers)
            assert response.json() == (f"a={sent}" if sent else "anonymous")
            assert "public" not in response.headers["cache-control"] or not sent

    assert site.calls == 4
    assert site.store.counts["response", "bypass-credentials"] == 3


async def test_credentials_that_are_ignored_do_not_shape_the_response(site: Site) -> None:
    async def page(request: Request) -> str:
        return request.headers.get("Authorization", "anonymous")

    site.page(page, ignore_credentials=True)
    async with site.client() as client:
        for headers in (*USERS[::-1], *USERS):
            assert (await client.get("/page", headers=headers)).json() == "anonymous"
        assert status(await client.get("/page", headers=USERS[1])) == "app; hit"


@pytest.mark.parametrize(
    "headers",
    [
        {"Set-Cookie": "session=ada"},
        {"Cache-Control": "no-store"},
        {"Cache-Control": "max-age=60, Private"},
        {"Cache-Control": 'private="x-user"'},
        {"Cache-Control": "no-cache"},
        {"Vary": "*"},
        {"Vary": "User-Agent"},
        {"Vary": "Accept-Language, User-Agent"},
    ],
)
async def test_responses_that_are_not_for_everybody_are_not_kept(
    site: Site, headers: dict[str, str]
) -> None:
    site.page(lambda: Response(str(site.count()), headers=headers), vary=("accept-language",))
    async with site.client() as client:
        responses = await asyncio.gather(*(client.get("/page") for _ in range(5)))

    assert sorted(response.text for response in responses) == list("12345")
    assert {status(response) for response in responses} == {"app; fwd=miss"}
    (name,) = headers
    assert all(headers[name] in response.headers[name] for response in responses)


@pytest.mark.parametrize("code", [201, 204, 206, 301, 302, 400, 403, 404, 410, 500, 503])
async def test_other_statuses_are_not_kept(site: Site, code: int) -> None:
    site.page(lambda: Response(status_code=code, headers={"X-Call": str(site.count())}))
    async with site.client() as client:
        first, second = [await client.get("/page") for _ in range(2)]

    assert (first.status_code, first.headers["x-call"]) == (code, "1")
    assert second.headers["x-call"] == "2"
    assert status(second) == "app; fwd=miss"


async def test_what_is_missing_is_kept_for_its_own_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page() -> None:
        site.count()
        raise NotFound("There is none.")

    site.page(page, negative_ttl_s=30, stale_while_revalidate_s=60)
    async with site.client() as client:
        assert await statuses(client, "/page", "/page") == [MISS, "app; hit"]
        monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 31)
        assert await statuses(client, "/page") == [MISS]


async def test_the_endpoint_may_shorten_the_time(site: Site) -> None:
    site.page(lambda: Response(str(site.count()), headers={"Cache-Control": "s-maxage=0"}), "/a")
    site.page(lambda: Response("b", headers={"Cache-Control": "max-age=30"}), "/b")
    async with site.client() as client:
        assert await statuses(client, "/a", "/a") == ["app; fwd=miss"] * 2
        await client.get("/b")
        left = (await client.get("/b")).headers["cache-status"].removeprefix("app; hit; ttl=")
    assert 20 <= int(left) <= 30


async def test_vary_is_part_of_the_key(site: Site) -> None:
    async def page(accept_language: Annotated[str, Header()] = "?") -> str:
        site.count()
        return accept_language

    site.page(page, vary=("Accept-Language",))
    async with site.client() as client:
        for _ in range(2):
            for language in ("en", "de"):
                response = await client.get("/page", headers={"Accept-Language": language})
                assert response.json() == language
                assert response.headers["vary"] == "accept-language"
    assert site.calls == 2


async def test_variants_are_bounded(site: Site) -> None:
    site.page(lambda: str(site.count()), vary=("accept-language",))
    async with site.client() as client:
        found = [
            status(await client.get("/page", headers={"Accept-Language": f"x-{number}"}))
            for number in range(2 * MAX_VARIANTS)
        ]
        assert found == [MISS] * MAX_VARIANTS + [f"{BYPASS}variants"] * MAX_VARIANTS
        assert site.store.counts["response", "bypass-variants"] == MAX_VARIANTS
        assert status(await client.get("/page", headers={"Accept-Language": "x-0"})) == "app; hit"


@pytest.fixture
def only_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admit only keys that repeat, from the first request."""
    monkeypatch.setattr(admission, "MIN_SHARE", 2)
    monkeypatch.setattr(admission, "SAMPLE", 2**33)


@pytest.mark.usefixtures("only_repeated")
async def test_rare_requests_are_not_stored(site: Site) -> None:
    async def page() -> int:
        await asyncio.sleep(0)
        return site.count()

    site.page(page, s_maxage_s=60, tags=("page",))
    async with site.client() as client:
        first = await client.get("/page")
        assert status(first) == "app; fwd=miss"
        second, third = await client.get("/page"), await client.get("/page")
        assert [status(each) for each in (second, third)] == [MISS, "app; hit"]
        for name in ("cache-control", "surrogate-key", "content-type"):
            assert first.headers[name] == second.headers[name]
        headers = {"If-None-Match": first.headers["etag"]}
        await site.store.invalidate("page")
        site.calls = 0
        assert (await client.get("/page", headers=headers)).status_code == 304


@pytest.mark.usefixtures("only_repeated")
async def test_concurrent_rare_requests_share_a_load_but_the_first(site: Site) -> None:
    async def page() -> int:
        await asyncio.sleep(0.01)
        return site.count()

    site.page(page)
    async with site.client() as client:
        await asyncio.gather(*(client.get("/page") for _ in range(20)))
    assert site.calls == 2


@pytest.mark.usefixtures("only_repeated")
async def test_a_rare_request_sees_nothing_of_its_client(site: Site) -> None:
    async def page(request: Request) -> list[Any]:
        client = request.client and request.client.host
        return [client, dict(request.headers), str(request.url.query), request_id.current()]

    site.page(page, ignore_credentials=True)
    async with site.client() as client:
        headers = {"Authorization": "Bearer alice", "X-User": "alice"}
        found = [await client.get("/page?utm=1", headers=headers) for _ in range(2)]
    assert found[0].json() == found[1].json() == [None, {"host": "test"}, "", ""]


@pytest.mark.usefixtures("only_repeated")
async def test_a_stale_response_is_at_hand_after_its_key_is_forgotten(site: Site) -> None:
    async def page() -> int:
        if site.count() > 2:
            raise Unavailable("down")
        return site.calls

    site.page(page, ttl_s=0.02, stale_if_error_s=60)
    async with site.client() as client:
        assert await statuses(client, "/page", "/page") == ["app; fwd=miss", MISS]
        middleware = site.app.middleware_stack
        while not isinstance(middleware, ResponseCache):
            middleware = middleware.app  # type: ignore[union-attr]
        middleware._admission = admission.Admission()
        await asyncio.sleep(0.03)
        assert status(await client.get("/page")) == "app; fwd=stale"


@pytest.mark.skipif(not hasattr(cache, "shared"), reason="no shared cache")
async def test_an_entry_of_another_worker_counts_as_repeated(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(
        admission.Admission, "note_shared_hit", lambda _, route: found.append(route.template)
    )
    async with opened() as store:
        other = Site(store)
        site.page(lambda: site.count())
        other.page(lambda: site.count())
        async with site.client() as client, other.client() as second:
            assert await statuses(client, "/page", "/page") == [MISS, "app; hit"]
            assert not found
            assert await statuses(second, "/page", "/page") == ["app; hit", "app; hit"]
    assert found == ["/page"]


async def test_a_bypass_sees_no_credentials_that_are_ignored(site: Site) -> None:
    async def page(request: Request) -> dict[str, str]:
        return dict(request.headers)

    site.page(page, vary=("accept-language",), ignore_credentials=True)
    async with site.client() as client:
        for number in range(MAX_VARIANTS + 1):
            headers = {"Accept-Language": f"x-{number}", "Authorization": "x", "Cookie": "a=b"}
            response = await client.get("/page", headers=headers)
    assert status(response) == f"{BYPASS}variants"
    assert response.json().keys().isdisjoint(("authorization", "cookie"))


async def test_accept_encoding_has_few_forms(site: Site) -> None:
    async def page(accept_encoding: Annotated[str, Header()] = "") -> str:
        return accept_encoding

    site.page(page, vary=("accept-encoding",))
    async with site.client() as client:
        for sent in ("gzip, br", "br;q=0.9,gzip", "BR, gzip, deflate"):
            assert (await client.get("/page", headers={"Accept-Encoding": sent})).json() == (
                "br, gzip"
            )
    assert site.store.counts["load", "miss"] == 1


async def test_what_is_not_in_the_key_does_not_reach_the_endpoint(site: Site) -> None:
    async def page(request: Request) -> dict[str, Any]:
        return {
            "url": str(request.url),
            "headers": sorted(request.headers),
            "client": request.client,
            "body": (await request.body()).decode(),
        }

    site.page(page)
    junk = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-For": "1.2.3.4",
        "Forwarded": "host=evil.example",
        "X-Original-URL": "/admin",
        "Accept-Language": "xx",
        "User-Agent": "evil",
        "Range": "bytes=0-0",
        "If-None-Match": '"x"',
        "Origin": "https://evil.example",
        "X-HTTP-Method-Override": "DELETE",
        "traceparent": "00-1-2-01",
        "X-Request-ID": "1",
    }
    async with site.client() as client:
        response = await client.get("/page?utm=1", headers=junk)

    assert response.json() == {
        "url": "http://test/page",
        "headers": ["host"],
        "client": None,
        "body": "",
    }


TENANT: ContextVar[str] = ContextVar("tenant", default="none")
# Keys of the scope that middleware sets, and those that a server sets for one client.
OF_THE_CALLER = ("user", "auth", "session", "path_params", "endpoint", "route", "tenant")
FIXED: dict[str, Any] = {
    "client": None,
    "server": None,
    "http_version": "1.1",
    "extensions": {},
    "state": {},
}


@pytest.mark.parametrize("stale", [False, True])
async def test_nothing_that_outer_middleware_knows_of_the_caller_is_shared(
    site: Site, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    async def page(request: Request) -> dict[str, Any]:
        site.count()
        scope = request.scope
        # The router sets its own, whose text has addresses in hexadecimal digits: no "tenant".
        seen = [str(scope[name]) for name in OF_THE_CALLER if "tenant-1" in str(scope.get(name))]
        fixed = {name: scope[name] for name in ("client", "server", "http_version", "extensions")}
        return {"seen": [*seen, TENANT.get()], **fixed, "state": request.state._state}

    site.page(page, stale_while_revalidate_s=60)
    site.client()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        tenant = dict(scope["headers"]).get(b"x-tenant", b"").decode()
        TENANT.set(tenant)
        values = dict.fromkeys(OF_THE_CALLER, tenant)
        of_the_server = {"client": (tenant, 1), "server": (tenant, 2), "http_version": "1.0"}
        scope |= {**values, **of_the_server, "path_params": {"a": tenant}, "state": {"t": tenant}}
        await site.app(scope, receive, send)

    async with AsyncClient(transport=ASGITransport(outer), base_url="http://test") as client:
        first = await client.get("/page", headers={"X-Tenant": "tenant-1"})
        assert first.json() == {"seen": ["none"], **FIXED}
        if stale:
            monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 61)
            assert (
                "; ttl=-"
                in (await client.get("/page", headers={"X-Tenant": "tenant-1"})).headers[
                    "cache-status"
                ]
            )
            while site.calls < 2 or site.store._loading:
                await asyncio.sleep(0.01)
        other = await client.get("/page")
    assert other.headers["cache-status"].startswith("app; hit")
    assert other.json() == first.json()


async def test_a_root_path_that_middleware_sets_is_part_of_the_key(site: Site) -> None:
    async def page(request: Request) -> str:
        return str(request.url_for("page"))

    site.page(page)
    site.client()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        root = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode()
        await site.app({**scope, "root_path": root, "path": root + scope["path"]}, receive, send)

    async with AsyncClient(transport=ASGITransport(outer), base_url="http://test") as client:
        for prefix in ("/ada", "/grace", ""):
            headers = {"X-Forwarded-Prefix": prefix}
            assert (
                await client.get("/page", headers=headers)
            ).json() == f"http://test{prefix}/page"


async def test_a_response_for_one_client_is_made_without_its_context_too(site: Site) -> None:
    def page() -> Response:
        site.count()
        return Response(TENANT.get(), headers={"Cache-Control": "private"})

    site.page(page)
    TENANT.set("ada")
    async with site.client() as client:
        responses = await asyncio.gather(*(client.get("/page") for _ in range(5)))
    assert [response.text for response in responses] == ["none"] * 5


async def test_the_state_of_the_lifespan_reaches_the_endpoint(site: Site) -> None:
    async def page(request: Request) -> str:
        return str(request.state.pool)

    site.page(page)
    async with site.client() as client:
        messages = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> dict[str, str]:
            return {"type": next(messages)}

        async def send(message: Any) -> None:
            assert message["type"].endswith("complete")

        await site.app({"type": "lifespan", "state": {"pool": "opened"}}, receive, send)
        assert (await client.get("/page")).json() == "opened"


async def test_the_host_is_part_of_the_key(site: Site) -> None:
    async def page(request: Request) -> str:
        return str(request.url.hostname)

    site.page(page)
    async with site.client() as client:
        for host in ("a.example", "b.example", "A.EXAMPLE"):
            assert (await client.get("/page", headers={"Host": host})).json() == host.lower()
        assert await statuses(client, "/page", headers={"Host": "a.Example"}) == ["app; hit"]


async def test_parameters_that_nobody_declared_are_no_part_of_the_key(site: Site) -> None:
    async def page(request: Request, a: int = 0, b: list[str] | None = None) -> str:
        site.count()
        return str(request.url.query)

    site.page(page)
    async with site.client() as client:
        first = await client.get("/page?utm_source=x&a=01")
        for query in ("a=1", "a=1&fbclid=y", "fbclid=z&a=0&a=1"):
            assert (await client.get(f"/page?{query}")).json() == first.json() == "a=1"
        assert (await client.get("/page?a=x")).status_code == 422
    assert site.calls == 1


@pytest.mark.parametrize(
    ("headers", "content"), [({}, b"x"), ({"Transfer-Encoding": "chunked"}, None)]
)
async def test_a_get_with_a_body_bypasses(
    site: Site, headers: dict[str, str], content: bytes | None
) -> None:
    async def page(request: Request) -> str:
        return (await request.body()).decode()

    site.page(page)
    async with site.client() as client:
        request = client.build_request("GET", "/page", headers=headers, content=content)
        assert status(await client.send(request)) == f"{BYPASS}body"
        response = await client.get("/page")
    assert (status(response), response.json()) == (MISS, "")


async def test_clients_cannot_pass_by_the_cache(site: Site) -> None:
    site.page(lambda: site.count())
    async with site.client() as client:
        await client.get("/page")
        for value in ("no-cache", "max-age=0", "no-store"):
            headers = {"Cache-Control": value, "Pragma": "no-cache"}
            assert await statuses(client, "/page", headers=headers) == ["app; hit"]


async def test_no_store_of_a_request(site: Site) -> None:
    site.page(lambda: site.count())
    async with site.client() as client:
        headers = {"Cache-Control": "no-store"}
        assert await statuses(client, "/page", headers=headers) == ["app; fwd=miss"]
        assert await statuses(client, "/page", "/page") == [MISS, "app; hit"]


async def test_only_if_cached(site: Site) -> None:
    site.page(lambda: site.count())
    async with site.client() as client:
        headers = {"Cache-Control": "only-if-cached"}
        missed = await client.get("/page", headers=headers)
        assert (missed.status_code, site.calls) == (504, 0)
        assert missed.headers["cache-control"] == "no-store"
        await client.get("/page")
        assert await statuses(client, "/page", headers=headers) == ["app; hit"]


async def test_a_client_that_holds_it_gets_a_304_from_the_cache(site: Site) -> None:
    site.page(lambda: site.count())
    async with site.client() as client:
        full = await client.get("/page")
        headers = {"If-None-Match": f'"other", W/{full.headers["etag"]}'}
        responses = [await client.get("/page", headers=headers)]
        await site.store.invalidate("*")
        site.calls = 0
        responses.append(await client.get("/page", headers=headers))

    for response in responses:
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["cache-control"] == full.headers["cache-control"]
        assert response.headers["etag"] == full.headers["etag"]
        assert "content-length" not in response.headers
    assert site.calls == 1


async def test_one_load_serves_all_who_wait(site: Site) -> None:
    async def page() -> int:
        await asyncio.sleep(0.05)
        return site.count()

    site.page(page)
    async with site.client() as client:
        responses = await asyncio.gather(*(client.get("/page") for _ in range(20)))

    assert {response.text for response in responses} == {"1"}
    assert sorted(map(status, responses)) == [
        *["app; fwd=miss; collapsed"] * 19,
        MISS,
    ]


async def test_errors_are_shared_and_not_kept(site: Site) -> None:
    async def page() -> int:
        await asyncio.sleep(0.05)
        if site.count() == 1:
            raise Unavailable("Not now.")
        return site.calls

    site.page(page)
    async with site.client() as client:
        responses = await asyncio.gather(*(client.get("/page") for _ in range(5)))
        assert {response.status_code for response in responses} == {503}
        assert {response.headers["retry-after"] for response in responses} == {"1"}
        assert {response.headers["cache-control"] for response in responses} == {"no-store"}
        assert (await client.get("/page")).text == "2"


async def test_an_unexpected_error_is_the_servers(site: Site) -> None:
    site.page(lambda: 1 // 0)
    async with site.client() as client:
        response = await client.get("/page")

    assert response.status_code == 500
    assert response.headers["cache-control"] == "private, no-store"
    assert response.headers["content-type"] == "application/problem+json"


async def test_stale_while_revalidate(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.page(lambda: site.count(), ttl_s=60, stale_while_revalidate_s=600)
    async with site.client() as client:
        await client.get("/page")
        with monkeypatch.context() as later:
            later.setattr("app.core.cache.store.entry.time", lambda: time() + 61)
            stale = await client.get("/page")
            async with asyncio.timeout(30):
                while site.calls < 2:
                    await asyncio.sleep(0.01)
        assert stale.text == "1"
        assert int(stale.headers["age"]) >= 61
        assert status(stale) == "app; hit"
        async with asyncio.timeout(30):
            while (await client.get("/page")).text != "2":
                await asyncio.sleep(0.01)
        assert site.calls == 2


async def test_a_hung_endpoint_is_answered_by_the_stale_response_and_stored_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = asyncio.Event()
    may_end.set()

    async def page() -> int:
        await may_end.wait()
        return site.count()

    site.page(page, stale_if_error_s=60)
    monkeypatch.setattr(sys.modules[Cache.__module__], "STALE_AFTER_S", 0.05)
    async with site.client() as client:
        await client.get("/page")
        monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 61)
        may_end.clear()
        response = await client.get("/page")
        assert (response.text, status(response)) == ("1", "app; fwd=stale")
        may_end.set()
        async with asyncio.timeout(30):
            while (response := await client.get("/page")).text != "2":
                await asyncio.sleep(0.01)
    assert status(response) in ("app; hit", "app; fwd=miss; collapsed")
    assert site.calls == 2


async def test_stale_if_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def page() -> int:
        if site.count() > 1:
            raise Unavailable("Not now.")
        return site.calls

    site.page(page, ttl_s=60, stale_if_error_s=60)
    async with site.client() as client:
        await client.get("/page")
        monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 61)
        stale = await client.get("/page")
        assert (stale.status_code, stale.text, status(stale)) == (200, "1", "app; fwd=stale")
        monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 121)
        assert (await client.get("/page")).status_code == 503


async def test_invalidation_by_tag(site: Site) -> None:
    async def page(number: int) -> str:
        return f"{number}: {site.count()}"

    site.page(page, "/page/{number}", tags=("page:{number}",))
    async with site.client() as client:
        urls = ("/page/1", "/page/2")
        await statuses(client, *urls)
        await site.store.invalidate("page:1")
        assert await statuses(client, *urls) == [MISS, "app; hit"]


async def test_a_slow_reader_does_not_put_an_old_response_back(site: Site) -> None:
    value = "old"
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def page() -> str:
        read = value
        if not reached.is_set():
            reached.set()
            await go_on.wait()
        return read

    site.page(page, tags=("page",))
    async with site.client() as client:
        slow = asyncio.create_task(client.get("/page"))
        await reached.wait()
        value = "new"
        await site.store.invalidate("page")
        assert (await client.get("/page")).json() == "new"
        go_on.set()
        assert (await slow).json() == "old"
        assert (await client.get("/page")).json() == "new"


async def test_large_responses_pass(site: Site) -> None:
    site.page(lambda: Response(str(site.count()) + "x" * 1000))
    site.options = {"max_response_bytes": 1000}
    async with site.client() as client:
        assert [(await client.get("/page")).text[0] for _ in range(2)] == ["1", "2"]


async def test_streams_pass_unbuffered_and_each_to_its_client(site: Site) -> None:
    async def page() -> StreamingResponse:
        number = site.count()

        async def pieces() -> AsyncIterator[str]:
            for _ in range(3):
                yield str(number)
                seen.append(len(sent))
                await asyncio.sleep(0)

        return StreamingResponse(pieces())

    site.page(page)
    seen: list[int] = []
    sent: list[dict[str, Any]] = []
    async with site.client() as client:
        responses = await asyncio.gather(*(client.get("/page") for _ in range(3)))
        assert sorted(response.text for response in responses) == ["111", "222", "333"]
        seen.clear()
        await request(site.app, sent)

    assert seen == [2, 3, 4]
    assert b"etag" not in dict(sent[0]["headers"])


async def test_a_client_that_leaves_ends_its_stream(site: Site) -> None:
    ended = asyncio.Event()

    async def page() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            try:
                while True:
                    yield "x"
                    await asyncio.sleep(0.001)
            finally:
                ended.set()

        return StreamingResponse(pieces())

    site.page(page)
    sent: list[dict[str, Any]] = []
    leaves = asyncio.Event()
    running = asyncio.create_task(request(site.app, sent, leaves=leaves, client=site.client()))
    while len(sent) < 3:
        await asyncio.sleep(0.001)
    leaves.set()
    await asyncio.wait_for(running, 5)
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_stream_that_breaks_is_an_error_of_its_request(site: Site) -> None:
    async def page() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "x"
            raise ZeroDivisionError

        return StreamingResponse(pieces())

    site.page(page)
    site.client()
    with pytest.raises(ZeroDivisionError):
        await request(site.app, [])


async def test_a_client_that_leaves_does_not_stop_a_load(site: Site) -> None:
    async def page() -> int:
        await asyncio.sleep(0.05)
        return site.count()

    site.page(page)
    async with site.client() as client:
        leaving = asyncio.create_task(client.get("/page"))
        await asyncio.sleep(0.01)
        staying = asyncio.create_task(client.get("/page"))
        await asyncio.sleep(0.01)
        leaving.cancel()
        assert (await staying).text == "1"


async def test_tasks_after_the_response_are_not_awaited(site: Site) -> None:
    done = asyncio.Event()

    async def page() -> Response:
        return Response(str(site.count()), background=BackgroundTask(done.wait))

    site.page(page)
    async with site.client() as client:
        response = await asyncio.wait_for(client.get("/page"), 5)
    assert status(response) == MISS
    done.set()


async def test_an_entry_that_cannot_be_read_is_a_miss(site: Site) -> None:
    site.page(lambda: site.count())
    async with site.client() as client:
        await client.get("/page")
        for entry in held(site.store):
            entry.parsed, entry.meta = None, b"\x80\x04"
        response = await client.get("/page")

    assert (response.status_code, response.text) == (200, "2")


async def test_memory_is_bounded() -> None:
    async with opened(cache_max_bytes=100_000) as store:
        site = Site(store)

        async def page(q: str = "") -> dict[str, str]:
            return {"q": q}

        site.page(page)
        async with site.client() as client:
            for number in range(3_000):
                sent: list[dict[str, Any]] = []
                await request(site.app, sent, query=b"q=%d&z=%d" % (number, number), client=client)
                assert sent[0]["status"] == 200
        # An entry takes 500 bytes and more.
        assert 50 < len(list(held(store))) <= 200


async def test_labels_of_hits_are_those_of_misses(site: Site) -> None:
    async def page(number: int) -> int:
        return number

    site.page(page, "/page/{number}")
    site.client()
    labels = []
    for _ in range(2):
        scope = await request(site.app, [], path="/page/7")
        labels.append(getattr(scope.get("route"), "path", None))

    assert labels == ["/page/{number}"] * 2


async def test_below_a_root_path(site: Site) -> None:
    async def page(number: int, request: Request) -> str:
        return str(request.url.path)

    site.page(page, "/page/{number}", tags=("page:{number}",))
    site.client()
    bodies = []
    for path in ("/base/page/07", "/base/page/7"):
        sent: list[dict[str, Any]] = []
        await request(site.app, sent, path=path, root_path="/base")
        bodies.append(sent[1]["body"])

    assert bodies == [b'"/base/page/7"'] * 2
    assert site.store.counts["load", "miss"] == 1


async def test_errors_have_the_label_of_their_route(site: Site) -> None:
    site.page(lambda number: 1 // 0, "/page/{number}")
    site.client()
    seen: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        await request(site.app, [], path="/page/7", query=b"number=1", scopes=seen)

    assert seen[0]["route"].path == "/page/{number}"


def held(store: Cache) -> list[Entry]:
    """The entries of this process."""
    return [entry for _, entry in store.local._entries.values()]


async def test_fastapis_telemetry_has_the_route_of_what_never_reaches_the_router(
    site: Site,
    blockbuster: BlockBuster,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The SDK takes locks, for microseconds.
    blockbuster.deactivate()
    reader, spans = InMemoryMetricReader(), InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    meter_provider = MeterProvider([reader])
    site.app = FastAPI(telemetry={"tracer_provider": tracing, "meter_provider": meter_provider})
    site.page(
        lambda number: site.count(), "/page/{number:int}", ttl_s=60, stale_while_revalidate_s=60
    )
    async with site.client() as client:
        assert await statuses(client, "/page/7", "/page/7") == [MISS, "app; hit"]
        await client.head("/page/7")
        await client.head("/page/7", headers={"Authorization": "x"})
        with monkeypatch.context() as later:
            later.setattr("app.core.cache.store.entry.time", lambda: time() + 61)
            # Which is loaded again when it is answered, and its span has ended.
            await client.get("/page/7")
            async with asyncio.timeout(30):
                while site.calls < 3:
                    await asyncio.sleep(0.01)

    data = reader.get_metrics_data()
    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    durations = {metric.name: metric.data for metric in metrics}["http.server.request.duration"]
    assert isinstance(durations, Histogram)
    counts = {
        (str(labels["http.request.method"]), str(labels.get("http.route"))): point.count
        for point in durations.data_points
        if (labels := point.attributes)
    }
    assert counts == {("GET", "/page/{number}"): 3, ("HEAD", "/page/{number}"): 2}
    names = [span.name for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert set(names) == {"GET /page/{number}", "HEAD /page/{number}"}
    assert "ended span" not in caplog.text


async def request(
    app: FastAPI,
    sent: list[dict[str, Any]],
    *,
    path: str = "/page",
    query: bytes = b"",
    root_path: str = "",
    leaves: asyncio.Event | None = None,
    client: object = None,
    scopes: list[Any] | None = None,
) -> dict[str, Any]:
    """A request without a client library; returns its scope, and the messages in `sent`."""
    started = False

    async def receive() -> dict[str, Any]:
        nonlocal started
        if not started:
            started = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": root_path,
        "query_string": query,
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
    if scopes is not None:
        scopes.append(scope)
    await app(scope, receive, send)
    return scope
