"""Under load for long, a worker keeps its memory, file descriptors, connections and tasks.

SOAK_MINUTES is the time; `nox -s soak` takes an hour.
"""

import asyncio
import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest
from sqlalchemy import make_url

from dev.processes import free_port
from tests.core.plugin import migrated_database
from tests.core.serving import program
from tests.internals.commands import until

SECONDS = 60 * float(os.environ.get("SOAK_MINUTES", "0.1"))
CLIENTS = 16
# Requests over one connection.
KEPT = 50
# A pool has as many connections as were needed at once.
WARM_UP_S = 5
MOST_GROWTH = 8 * 1024**2


@pytest.fixture
def service() -> Iterator[httpx2.Client]:
    port = free_port()
    command = ("gunicorn", "--config=deploy/gunicorn.conf.py", "tests.internals.soaked:app")

    def serves(_log: str) -> bool:
        try:
            return client.get("/livez").is_success
        except httpx2.TransportError:
            return False

    address = f"http://127.0.0.1:{port}"
    with migrated_database() as database, httpx2.Client(base_url=address, timeout=60) as client:
        variables = {"PORT": str(port), "WEB_CONCURRENCY": "1", "DATABASE_URL": database}
        with program(*command, is_ready=serves, **variables):
            yield client


async def load(url: str, seconds: float) -> int:
    """Send requests of all kinds, some of which are abandoned; return the number of answers."""
    ends = time.monotonic() + seconds
    answered = 0

    async def send(number: int) -> None:
        nonlocal answered
        chosen = random.Random(number)  # noqa: S311 - the same in every run
        while time.monotonic() < ends:
            # Certificates take longer to read than many requests.
            insecure = httpx2.AsyncHTTPTransport(verify=False)
            async with httpx2.AsyncClient(base_url=url, timeout=60, transport=insecure) as client:
                for _ in range(KEPT):
                    response = await client.request(**request(chosen))
                    assert response.status_code < 500, response.text
                    answered += 1
                    if time.monotonic() > ends:
                        break
            await leave(url)

    await asyncio.gather(*(send(number) for number in range(CLIENTS)))
    return answered


def request(chosen: random.Random) -> dict[str, Any]:
    unique = chosen.randbytes(8).hex()
    user = {"email": f"{unique}@example.com", "name": "Ada Lovelace"}
    return chosen.choice(
        [
            {"method": "GET", "url": "/users"},
            {"method": "GET", "url": f"/users?limit={chosen.randrange(1, 100)}"},
            {"method": "GET", "url": f"/users/{unique}{unique}"},
            {"method": "GET", "url": f"/{unique}"},
            {"method": "GET", "url": "/dashboard"},
            {"method": "POST", "url": "/users", "json": user},
            {"method": "POST", "url": "/users", "json": user | {unique: 1, "name": 1}},
            {"method": "POST", "url": "/users", "content": b"{" * 1000},
        ]
    )


async def leave(url: str) -> None:
    """Send a request and close the connection before its answer."""
    address = httpx2.URL(url)
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET /dashboard HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await writer.drain()
    with closing(writer):
        await asyncio.sleep(0)


@pytest.mark.timeout(SECONDS + 300)
def test_a_worker_keeps_no_more_than_before(
    service: httpx2.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(make_url(os.environ["DATABASE_URL"]).port)
    url = str(service.base_url)

    def held() -> dict[str, Any]:
        answer: dict[str, Any] = service.get("/held").raise_for_status().json()
        return answer

    def more_than(before: dict[str, Any]) -> dict[str, tuple[int, int]]:
        """Return what has grown; the pool may open further connections to the database."""
        now = held()
        names = ("tasks", "descriptors")
        grown = {name: (before[name], now[name]) for name in names if now[name] > before[name]}
        for name, count in now["connections"].items():
            most = 10 if name == port else before["connections"].get(name, 0)
            if count > most:
                grown[name] = (most, count)
        return grown

    asyncio.run(load(url, WARM_UP_S))
    before = held()
    sizes: list[int] = []
    answered = 0
    for _ in range(12):
        answered += asyncio.run(load(url, SECONDS / 12))
        sizes.append(held()["bytes"])
    # Requests whose clients left have ended by then.
    until(lambda: not more_than(before))
    early, late = statistics.median(sizes[3:6]), statistics.median(sizes[-3:])
    with capsys.disabled():
        shown = ", ".join(f"{size / 1024**2:.1f}" for size in sizes)
        print(f"\n{answered} requests in {SECONDS:.0f} s; own memory in MiB: {shown}; {before}")
    assert late - early < MOST_GROWTH
