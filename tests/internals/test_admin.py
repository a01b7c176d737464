"""The admin port has the pages of operators, and the public port has none of them."""

from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from starlette.responses import PlainTextResponse

from app.core.operations.admin import Admin
from app.core.settings import ConfigurationError, CoreSettings, load
from dev.processes import free_port
from tests.core.serving import serving

PORT = 9464


async def page() -> PlainTextResponse:
    return PlainTextResponse("for operators")


def client_of(app: FastAPI, port: int | None) -> AsyncClient:
    """A client whose connections arrive on `port`, whatever its requests say."""
    admin = Admin(app.build_middleware_stack(), port=PORT, pages={"/page": page})

    async def served(scope: Any, receive: Any, send: Any) -> None:
        await admin(scope | {"server": ("127.0.0.1", port), "app": app}, receive, send)

    return AsyncClient(transport=ASGITransport(served), base_url="http://test")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/page", 200),
        ("HEAD", "/page", 200),
        ("POST", "/page", 404),
        ("POST", "/openapi.json", 404),
        ("GET", "/docs", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/users", 404),
        ("GET", "/page/", 404),
        ("OPTIONS", "*", 404),
    ],
)
async def test_the_admin_port_serves_its_pages_only(
    app: FastAPI, method: str, path: str, status: int
) -> None:
    async with client_of(app, PORT) as client:
        response = await client.request(method, path)

    assert response.status_code == status
    if status == 404:
        assert response.headers["content-type"] == "application/problem+json"


async def test_the_docs_send_no_requests_to_the_admin_port(app: FastAPI) -> None:
    async with client_of(app, PORT) as client:
        assert '"supportedSubmitMethods": []' in (await client.get("/docs")).text


@pytest.mark.parametrize("port", [8000, None])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": f"127.0.0.1:{PORT}"},
        {"X-Forwarded-Port": str(PORT), "X-Forwarded-Host": f"localhost:{PORT}"},
        {"Forwarded": f"host=localhost:{PORT}"},
    ],
)
async def test_no_header_opens_the_pages_on_another_address(
    app: FastAPI, port: int | None, headers: Mapping[str, str]
) -> None:
    async with client_of(app, port) as client:
        assert (await client.get("/page", headers=headers)).status_code == 404


async def test_a_websocket_on_the_admin_port_is_closed(app: FastAPI) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    admin = Admin(app, port=PORT, pages={})
    await admin({"type": "websocket", "server": ("::1", PORT)}, receive, send)
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_readiness_says_why_on_the_admin_port_only(host: str) -> None:
    port = free_port()
    nowhere = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"
    address = f"[{host}]" if ":" in host else host
    with serving(
        DATABASE_URL=nowhere, ADMIN_HOST=host, ADMIN_PORT=str(port), WEB_CONCURRENCY="1"
    ) as client:
        public = client.get("/readyz")
        details = httpx2.get(f"http://{address}:{port}/readyz")
        assert client.get("/metrics").status_code == 404

    assert public.status_code == details.status_code == 503
    assert "checks" not in public.json()
    assert "cannot be reached" not in public.text
    assert details.json()["checks"]["database"] == "The database cannot be reached."
    assert "secret" not in details.text


def test_one_port_for_both_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "7001")
    monkeypatch.setenv("ADMIN_PORT", "7001")
    with pytest.raises(ConfigurationError, match="ADMIN_PORT: is the same as PORT"):
        load(CoreSettings)

    monkeypatch.setenv("HOST", "unix:/run/app.sock")
    assert load(CoreSettings).admin_port == 7001
