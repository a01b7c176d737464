"""Rate limits of routes whose responses are cached: only the requests that load one count."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient

from app.core.application import create_app
from app.core.cache import public
from app.core.security.rate_limits import rate_limit
from app.settings import get_settings

QUOTA = ("ratelimit", "ratelimit-policy")


class Pages:
    """An application with one cached route of two loads a day; `gate` holds its loads."""

    def __init__(self) -> None:
        self.loads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.path = f"/{uuid4().hex}"
        router = APIRouter()

        @router.get(f"{self.path}/{{number}}", dependencies=[rate_limit("2/day")])
        @public(ttl_s=60, s_maxage_s=60)
        async def page(number: int) -> int:
            self.loads += 1
            await self.gate.wait()
            return number

        self.app = create_app(get_settings(), router, title="Pages", description="")

    def client(self) -> AsyncClient:
        address = (f"test-{uuid4().hex}", 1)
        transport: Any = ASGITransport(self.app, raise_app_exceptions=False, client=address)
        return AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
async def pages(app: FastAPI, database: None) -> Pages:
    return await asyncio.to_thread(Pages)


async def test_hits_do_not_count_and_show_no_quota(pages: Pages) -> None:
    async with pages.client() as client, pages.client() as stranger:
        # Not stored, stored, and from the store: a path is kept when it is asked for again.
        answers = [await client.get(f"{pages.path}/1") for _ in range(9)]
        others = [await stranger.get(f"{pages.path}/1") for _ in range(9)]

    assert {answer.status_code for answer in answers + others} == {200}
    assert pages.loads <= 2
    for answer in answers + others:
        assert not set(QUOTA) & set(answer.headers), answer.headers


async def test_different_urls_do_not_evade_the_limit(pages: Pages) -> None:
    async with pages.client() as client, pages.client() as stranger:
        answers = [await client.get(f"{pages.path}/{number}") for number in range(5)]
        other = await stranger.get(f"{pages.path}/4")

    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
    assert other.json() == 4
    refusal = answers[-1]
    assert refusal.headers["ratelimit"].startswith('"2/day";r=0')
    assert "no-store" in refusal.headers["cache-control"]
    assert pages.loads == 3


async def test_a_refusal_is_for_its_own_caller(pages: Pages) -> None:
    url = f"{pages.path}/9"
    async with pages.client() as client, pages.client() as stranger:
        for number in range(3):
            last = await client.get(f"{pages.path}/{number}")
        # The same load, which the first of them begins.
        answers = await asyncio.gather(client.get(url), stranger.get(url), stranger.get(url))

    assert last.status_code == 429
    assert [answer.status_code for answer in answers] == [429, 200, 200]
