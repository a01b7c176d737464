"""The edge of the application: hosts, the prefix of a proxy, CORS, security headers, docs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, Response, WebSocket
from httpx2 import ASGITransport, AsyncClient

from app.core.application import create_app
from app.core.cache import no_store, public
from app.core.http.hosts import Hosts
from app.core.http.problems import Unavailable
from app.core.settings import ConfigurationError, CoreSettings, load
from app.core.settings.edge import host_name
from app.settings import get_settings

SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "frame-ancestors 'none'",
}
SITE = "https://app.example.org"
OTHER_SITE = "https://other.example"
HOST = "api.example.org"

router = APIRouter()


@router.get("/cached")
@public(ttl_s=60)
async def cached_url(request: Request) -> dict[str, str]:
    return {"url": str(request.url), "link": str(request.url_for("one", number=1))}


@router.get("/things/{number}", name="one")
@no_store
async def one(number: int) -> int:
    return number


@router.get("/page")
@no_store
async def page() -> Response:
    return Response("<p>", media_type="text/html", headers={"Content-Security-Policy": "sandbox"})


@router.get("/busy")
@no_store
async def busy() -> None:
    raise Unavailable("Later.")


@router.get("/broken")
@no_store
async def broken() -> None:
    raise RuntimeError


@router.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


Edge = Callable[..., AbstractAsyncContextManager[AsyncClient]]


@pytest.fixture
def edge(app: FastAPI, database: None) -> Edge:
    """Makes a client of an application with other settings, in a process with open resources."""

    @asynccontextmanager
    async def opened(url: str = f"http://{HOST}", **settings: Any) -> AsyncIterator[AsyncClient]:
        app = await asyncio.to_thread(
            create_app,
            get_settings().model_copy(update={"docs": False} | settings),
            router,
            title="edge",
            description="for tests",
        )
        transport = ASGITransport(app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url=url) as client:
            yield client

    return opened


HOSTS = {
    "test": "test",
    "A-b_c.Example:8000": "a-b_c.example",
    "example.org.": "example.org",
    "127.0.0.1:80": "127.0.0.1",
    "[::1]:65535": "[::1]",
    "[2001:DB8::1]": "[2001:db8::1]",
    # RFC 9110, section 5.5, and RFC 3986, section 3.2.3.
    " test\t": "test",
    "test:": "test",
}
NO_HOSTS = [
    "",
    "a b",
    "<a>",
    "a/b",
    "a@b",
    "a:b",
    "a:65536",
    "a:0",
    "a:00001",
    "a::",
    "a,b",
    "\xe4",
]
NO_HOSTS += [
    "[::1",
    "[::x]",
    "[127.0.0.1]",
    "http://a",
    "a:80:80",
    "a\tb",
    "a" * 300,
    "a..b",
    ".a",
    ".",
]


@pytest.mark.parametrize(("value", "name"), HOSTS.items())
def test_the_name_in_a_host_is_found(value: str, name: str) -> None:
    assert host_name(value.encode()) == name


@pytest.mark.parametrize("value", NO_HOSTS)
async def test_a_malformed_host_is_refused(edge: Edge, value: str) -> None:
    assert host_name(value.encode("latin-1")) is None
    async with edge() as client:
        for path in ("/cached", "/livez", "/nowhere"):
            response = await client.get(path, headers={b"Host": value.encode("latin-1")})
            assert response.status_code == 400
            assert response.headers["content-type"] == "application/problem+json"
            assert "Host" in response.json()["detail"]


async def called(headers: list[tuple[bytes, bytes]], version: str = "1.1", **hosts: Any) -> int:
    """The status of a request to `Hosts` alone."""
    sent: list[int] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        sent.append(200)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    scope = {"type": "http", "path": "/", "headers": headers, "http_version": version}
    await Hosts(inner, **{"allowed": ()} | hosts)(scope, None, send)  # type: ignore[arg-type]
    return sent[0]


async def test_a_request_has_one_host() -> None:
    host = (b"host", b"a.example")

    assert await called([host]) == 200
    assert await called([host, host]) == 400
    assert await called([host, (b"host", b"b.example")], allowed=("a.example",)) == 400
    assert await called([], "1.1") == 400
    assert await called([], "1.0") == 200
    assert await called([], "1.0", allowed=("a.example",)) == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example.org", 200),
        ("API.Example.ORG:8443", 200),
        ("api.example.org.", 200),
        ("a.example.net", 200),
        ("a.b.example.net:80", 200),
        ("10.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("example.net", 400),
        ("badexample.net", 400),
        ("example.org", 400),
        ("x.api.example.org", 400),
        ("api.example.org.evil.example", 400),
        ("10.0.0.2", 400),
        ("[::2]", 400),
    ],
)
async def test_only_allowed_hosts_are_answered(edge: Edge, host: str, status: int) -> None:
    allowed = ("api.example.org", "*.example.net", "10.0.0.1", "[::1]")
    async with edge(allowed_hosts=allowed) as client:
        response = await client.get("/things/1", headers={"Host": host})
        assert response.status_code == status
        if status == 400:
            assert response.json()["detail"] == "The header Host is unknown."
            # The address of an instance, which probes name.
            for path in ("/livez", "/readyz"):
                assert (await client.get(path, headers={"Host": host})).status_code == 200


async def test_a_host_of_strangers_makes_no_entry_of_the_cache(edge: Edge) -> None:
    from app.core.cache import cache

    async with edge(allowed_hosts=(HOST,)) as client:
        before = len(cache.local._entries)
        for number in range(20):
            headers = {"Host": f"stranger-{number}.example"}
            assert (await client.get("/cached", headers=headers)).status_code == 400
        assert len(cache.local._entries) == before
        assert (await client.get("/cached")).headers["cache-status"] == "app; fwd=miss; stored"
        for host in (HOST, HOST.upper(), f"{HOST}.", f"{HOST}:", f" {HOST} "):
            response = await client.get("/cached", headers={"Host": host})
            assert response.headers["cache-status"].startswith("app; hit")


async def opened_by(*headers: tuple[bytes, bytes]) -> int:
    """Return the status of a WebSocket with these headers; 101 if it reaches the application."""
    statuses: list[int] = []

    async def inner(_scope: Any, _receive: Any, _send: Any) -> None:
        statuses.append(101)

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    app = Hosts(inner, allowed=("a.example",), origins=("https://app.example", "*"))
    scope = {
        "type": "websocket",
        "path": "/socket",
        "headers": headers,
        "extensions": {"websocket.http.response": {}},
    }
    await app(scope, None, send)  # type: ignore[arg-type]
    (status,) = statuses
    return status


async def test_an_unknown_host_gets_no_socket() -> None:
    assert await opened_by((b"host", b"b.example")) == 400


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ([], 101),
        (["https://a.example"], 101),
        # A proxy may not pass the port on.
        (["http://A.example:8080"], 101),
        (["https://app.example"], 101),
        (["https://b.example"], 403),
        (["https://app.example.b.example"], 403),
        (["https://a.example@b.example"], 403),
        (["https://b.example/https://a.example"], 403),
        (["null"], 403),
        ([""], 403),
        (["https://a.example", "https://b.example"], 403),
    ],
)
async def test_a_page_of_another_site_opens_no_socket(origins: list[str], status: int) -> None:
    headers = [(b"origin", origin.encode()) for origin in origins]

    assert await opened_by((b"host", b"a.example:443"), *headers) == status


@pytest.mark.parametrize("docs", [False, True])
async def test_docs_are_served_on_demand(edge: Edge, docs: bool) -> None:
    async with edge(docs=docs) as client:
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
            response = await client.get(path)
            assert response.status_code == (200 if docs else 404)
            assert response.headers.items() >= SECURITY.items()


def test_docs_are_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCS")

    assert load(CoreSettings).docs is False


async def test_a_prefix_of_the_proxy_is_part_of_every_address(edge: Edge) -> None:
    async with edge(root_path="/shop", docs=True) as client:
        body = (await client.get("/cached")).json()
        assert body == {
            "url": f"http://{HOST}/shop/cached",
            "link": f"http://{HOST}/shop/things/1",
        }
        assert (await client.get("/cached")).headers["cache-status"].startswith("app; hit")
        assert (await client.get("/openapi.json")).json()["servers"] == [{"url": "/shop"}]
        assert "'/shop/openapi.json'" in (await client.get("/docs")).text
        assert (await client.get("/livez")).status_code == 200
        # The proxy removes the prefix.
        assert (await client.get("/shop/things/1")).status_code == 404
    async with edge() as client:
        # Another prefix, another entry.
        assert (await client.get("/cached")).json()["url"] == f"http://{HOST}/cached"


@pytest.mark.parametrize("path", ["/things/1", "/things/x", "/nowhere", "/busy", "/broken"])
async def test_every_response_has_the_security_headers(edge: Edge, path: str) -> None:
    async with edge() as client:
        response = await client.get(path)

    assert response.headers.items() >= SECURITY.items()
    assert "strict-transport-security" not in response.headers
    assert "server" not in response.headers


async def test_cached_responses_have_each_security_header_once(edge: Edge) -> None:
    async with edge() as client:
        first, hit = [await client.get("/cached") for _ in range(2)]
        unchanged = await client.get("/cached", headers={"If-None-Match": hit.headers["etag"]})

    assert hit.headers["cache-status"].startswith("app; hit")
    assert unchanged.status_code == 304
    for response in (first, hit, unchanged):
        for name, value in SECURITY.items():
            assert response.headers.get_list(name) == [value]


async def test_the_header_of_an_endpoint_goes_first(edge: Edge) -> None:
    async with edge() as client:
        headers = (await client.get("/page")).headers

    assert headers.get_list("content-security-policy") == ["sandbox"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("scheme", "max_age_s", "expected"),
    [("https", 600, "max-age=600"), ("http", 600, None), ("https", 0, None)],
)
async def test_hsts_is_sent_over_https_on_demand(
    edge: Edge, scheme: str, max_age_s: int, expected: str | None
) -> None:
    async with edge(f"{scheme}://{HOST}", hsts_max_age_s=max_age_s) as client:
        response = await client.get("/things/1")

    assert response.headers.get("strict-transport-security") == expected


async def test_cors_is_closed_by_default(edge: Edge) -> None:
    async with edge() as client:
        asked = await client.options(
            "/things/1", headers={"Origin": SITE, "Access-Control-Request-Method": "GET"}
        )
        read = await client.get("/things/1", headers={"Origin": SITE})

    for response in (asked, read):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/things/1", 200), ("/things/x", 422), ("/nowhere", 404), ("/busy", 503), ("/broken", 500)],
)
async def test_every_response_says_who_may_read_it(edge: Edge, path: str, status: int) -> None:
    async with edge(cors_origins=(SITE,)) as client:
        read = await client.get(path, headers={"Origin": SITE})
        other = await client.get(path, headers={"Origin": OTHER_SITE})
        bad = await client.get(path, headers={"Origin": SITE, "Host": "a b"})

    assert (read.status_code, bad.status_code) == (status, 400)
    for response in (read, bad):
        assert response.headers["access-control-allow-origin"] == SITE
        assert "Retry-After" in response.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in response.headers
    assert "access-control-allow-origin" not in other.headers
    for response in (read, bad, other):
        assert "Origin" in response.headers["vary"]
        assert response.headers.items() >= SECURITY.items()


async def test_a_preflight_is_answered_before_everything_else(edge: Edge) -> None:
    headers = {
        "Origin": SITE,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization, x-anything",
    }
    async with edge(cors_origins=(SITE,), cors_credentials=True) as client:
        response = await client.options("/things/1", headers=headers)
        refused = await client.options("/things/1", headers=headers | {"Origin": OTHER_SITE})

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == SITE
    assert response.headers["access-control-allow-credentials"] == "true"
    assert "DELETE" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "authorization, x-anything"
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


async def test_a_cached_response_is_for_each_origin_and_for_none(edge: Edge) -> None:
    async with edge(cors_origins=(SITE, OTHER_SITE)) as client:
        found = []
        for origin in (SITE, OTHER_SITE, "https://stranger.example", None):
            headers = {} if origin is None else {"Origin": origin}
            response = await client.get("/cached", headers=headers)
            allowed = response.headers.get_list("access-control-allow-origin")
            found.append((response.headers["cache-status"][:8], allowed))
            assert response.headers["vary"] == "Origin"

    assert found == [
        ("app; fwd", [SITE]),
        ("app; hit", [OTHER_SITE]),
        ("app; hit", []),
        ("app; hit", []),
    ]


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"ALLOWED_HOSTS": "*"}, "ALLOWED_HOSTS: item 1: expected `api.example.org`"),
        ({"ALLOWED_HOSTS": "https://a.example"}, "ALLOWED_HOSTS: item 1"),
        ({"ALLOWED_HOSTS": "a.example,b.example:80"}, "ALLOWED_HOSTS: item 2"),
        ({"ALLOWED_HOSTS": "a.*.example"}, "ALLOWED_HOSTS: item 1"),
        ({"ALLOWED_HOSTS": "*example.org"}, "ALLOWED_HOSTS: item 1"),
        ({"ALLOWED_HOSTS": "b\xfccher.example"}, "ALLOWED_HOSTS: item 1"),
        ({"ALLOWED_HOSTS": "::1"}, "ALLOWED_HOSTS: item 1"),
        ({"ROOT_PATH": "/"}, "ROOT_PATH: expected `/shop`"),
        ({"ROOT_PATH": "shop"}, "ROOT_PATH: expected `/shop`"),
        ({"ROOT_PATH": "/shop/"}, "ROOT_PATH: expected `/shop`"),
        ({"ROOT_PATH": "/a/../b"}, "ROOT_PATH: expected `/shop`"),
        ({"ROOT_PATH": "/a%20b"}, "ROOT_PATH: expected `/shop`"),
        ({"CORS_ORIGINS": "app.example.org"}, "CORS_ORIGINS: item 1: expected `https://app"),
        ({"CORS_ORIGINS": f"{SITE}/"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": f"{SITE}:443"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": "http://a.example:80"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": "http://a.example:"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": "http://a.example:65536"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": "https://App.example.org"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": "https://*.example.org"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": "https://user@a.example"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": "null"}, "CORS_ORIGINS: item 1"),
        ({"CORS_ORIGINS": "*", "CORS_CREDENTIALS": "1"}, "CORS_CREDENTIALS: needs CORS_ORIGINS"),
        ({"HSTS_MAX_AGE_S": "-1"}, "HSTS_MAX_AGE_S: "),
        ({"DOCS": "perhaps"}, "DOCS: "),
    ],
)
def test_a_wrong_setting_is_named(
    variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        load(CoreSettings)

    assert f"  {named}" in str(caught.value)


def test_settings_are_brought_into_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", "API.Example.org., *.Example.NET, [::1]")
    monkeypatch.setenv("CORS_ORIGINS", f"{SITE}, http://localhost:5173, capacitor://localhost")
    monkeypatch.setenv("ROOT_PATH", "/shop/v1.2")

    settings = load(CoreSettings)

    assert settings.allowed_hosts == ("api.example.org", "*.example.net", "[::1]")
    assert settings.cors_origins == (SITE, "http://localhost:5173", "capacitor://localhost")
    assert settings.root_path == "/shop/v1.2"
