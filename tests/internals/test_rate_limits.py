"""Rate limits: which requests pass, whose quota they use, and what the answers say."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from app.core.http.compiled import compile_path_operations
from app.core.security import rate_limits
from app.core.security.caller import caller_of
from app.core.security.rate_limits import Counts, Limit, rate_limit, take
from app.core.settings import ConfigurationError, CoreSettings, load
from app.settings import get_settings
from dev.processes import free_port
from tests.core.serving import program
from tests.internals import limited
from tests.internals.limited import Site, statuses

IS_SHARED = "cache_url" in CoreSettings.model_fields
HAS_SUBJECTS = "subject" in caller_of({"principal": type("Principal", (), {"subject": "ada"})()})
MINUTE_US = 60 * 10**6


@pytest.fixture
async def site(app: FastAPI, database: None) -> Site:
    return Site(await asyncio.to_thread(limited.make))


def test_a_quota_is_used_at_once_and_refilled_one_by_one() -> None:
    # Two in a minute: one each 30 s.
    full_at_us, passed = 0, []
    for second in (0, 0, 0, 29, 30, 31, 59, 60, 200, 200, 200):
        now_us = second * 10**6
        used_us = take(full_at_us, now_us, MINUTE_US // 2, MINUTE_US)
        full_at_us = now_us + abs(used_us)
        passed.append((second, used_us > 0))

    assert passed == [
        (0, True),
        (0, True),
        (0, False),
        (29, False),
        (30, True),
        (31, False),
        (59, False),
        (60, True),
        (200, True),
        (200, True),
        (200, False),
    ]


@pytest.mark.parametrize("rate", ["1/second", "3/minute", "7/hour", "600/minute", "999999/day"])
def test_a_quota_has_exactly_its_number_of_requests(rate: str) -> None:
    limit, counts = Limit(rate), Counts()
    number = int(rate.partition("/")[0])
    times = limit._interval_us, limit._capacity_us
    # All but the last five, or fewer, are used.
    left = min(number, 5)
    counts.full_at_us["key"] = (number - left) * limit._interval_us

    passed = [counts.take("key", 0, *times) > 0 for _ in range(left + 3)]

    assert passed == [True] * left + [False] * 3


def test_random_callers_cannot_grow_the_memory() -> None:
    counts = Counts()

    refused = [counts.take("blocked", 0, MINUTE_US, MINUTE_US) for _ in range(2)][1]
    for number in range(100_000):
        counts.take(f"10/minute address:192.0.2.{number}", 0, MINUTE_US, MINUTE_US)
        if number % 10_000 == 0:
            # A caller who goes on is not forgotten.
            assert counts.take("blocked", 0, MINUTE_US, MINUTE_US) < 0

    assert refused < 0
    assert len(counts.full_at_us) == rate_limits.MAX_COUNTED


def test_a_wrong_rate_is_named() -> None:
    for rate in ("", "ten/minute", "10", "0/minute", "10/week", "10/minutes", "1.5/second"):
        with pytest.raises(ValueError, match=f"'{re.escape(rate)}' is no rate: expected"):
            rate_limit(rate)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMIT", "many")

    with pytest.raises(ConfigurationError, match="RATE_LIMIT: 'many' is no rate"):
        load(type(get_settings()))


def test_a_caller_is_an_address_and_of_ipv6_a_network() -> None:
    callers = [
        caller_of({"client": client})
        for client in (
            ("192.0.2.1", 1),
            ("::ffff:192.0.2.1", 2),
            ("2001:db8::1", 3),
            ("2001:db8::ffff:2", 4),
            ("2001:db8:0:1::1", 5),
            ("fe80::1%eth0", 6),
            ("no:address", 7),
            None,
        )
    ]

    assert callers == [
        "address:192.0.2.1",
        "address:192.0.2.1",
        "address:2001:db8::/64",
        "address:2001:db8::/64",
        "address:2001:db8:0:1::/64",
        "address:fe80::/64",
        "address:no:address",
        "address:unknown",
    ]


async def test_of_concurrent_requests_exactly_the_quota_passes(site: Site) -> None:
    async with site.client() as client, site.client() as stranger:
        found = await statuses(client, "/five", 30)
        of_another_route = await statuses(client, "/other", 6)
        of_another_caller = await statuses(stranger, "/five", 6)

    assert found == [200] * 5 + [429] * 25
    assert of_another_route == of_another_caller == [200] * 5 + [429]


async def test_answers_say_what_remains(site: Site) -> None:
    async with site.client() as client:
        answers = [await client.get("/five") for _ in range(6)]
        by_hand = await client.get("/other")
        error = await client.get("/missing")
        invalid = await client.get("/both", params={"number": "none"})

    assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"5/day";q=5;w=86400'] * 6
    states = [answer.headers["ratelimit"] for answer in answers]
    found = [re.fullmatch(r'"5/day";r=(\d);t=(\d+)', state) for state in states]
    assert [match and int(match[1]) for match in found] == [4, 3, 2, 1, 0, 0]
    # The next request is refilled in a fifth of a day, less the time of this test.
    assert all(match and 17_000 < int(match[2]) <= 17_280 for match in found)
    refusal = answers[-1]
    assert refusal.status_code == 429
    assert refusal.headers["content-type"] == "application/problem+json"
    assert refusal.headers["retry-after"] == (found[-1] or [""] * 3)[2]
    assert "no-store" in refusal.headers["cache-control"]
    assert refusal.json()["detail"].startswith("More than 5/day requests: retry after 17")
    assert by_hand.headers["ratelimit"].startswith('"5/day";r=4')
    assert error.status_code == 404
    assert error.headers["ratelimit"].startswith('"5/day";r=4')
    assert invalid.headers["ratelimit-policy"] == '"2/day";q=2;w=86400, "5/hour";q=5;w=3600'


async def test_a_script_may_read_a_refusal(app: FastAPI, database: None) -> None:
    site = "https://app.example.org"
    made = Site(await asyncio.to_thread(limited.make, cors_origins=(site,)))
    async with made.client(Origin=site) as client:
        refused = [await client.get("/five") for _ in range(6)][-1]

    assert refused.status_code == 429
    assert refused.headers["access-control-allow-origin"] == site
    assert "Retry-After" in refused.headers["access-control-expose-headers"]
    assert refused.headers["x-request-id"]


async def test_all_limits_of_a_route_apply(site: Site) -> None:
    async with site.client() as client:
        assert await statuses(client, "/both", 4) == [200, 200, 429, 429]


async def test_a_limit_of_a_router_is_one_for_each_of_its_routes(site: Site) -> None:
    async with site.client() as client:
        for path, expected in {"/group/one": 429, "/group/two": 429, "/group/free": 200}.items():
            assert await statuses(client, path, 2) == [200, expected]


async def test_the_default_is_one_quota_of_all_routes_without_a_limit(
    app: FastAPI, database: None
) -> None:
    site = Site(await asyncio.to_thread(limited.make, rate_limit="3/day"))
    async with site.client() as client:
        plain = await statuses(client, "/plain", 2)
        plain_too = await statuses(client, "/plain-too", 3)
        for path, times in {"/five": 5, "/free": 9, "/group/free": 9, "/livez": 9}.items():
            assert await statuses(client, path, times) == [200] * times, path

    assert plain == [200, 200]
    assert plain_too == [200, 429, 429]


async def test_without_a_default_other_routes_have_no_limit(site: Site) -> None:
    async with site.client() as client:
        answer = await client.get("/plain")

    assert "ratelimit" not in answer.headers


async def test_the_quota_is_counted_after_authentication(site: Site) -> None:
    limited.called.clear()
    async with site.client() as client:
        found = [
            await statuses(client, "/secret", 3, headers={"Authorization": f"Bearer {name}"})
            for name in (f"ada-{uuid4().hex}", f"grace-{uuid4().hex}")
        ]

    # Without subjects, both have the quota of their address.
    expected = [200, 200, 429] if HAS_SUBJECTS else [429, 429, 429]
    assert found == [[200, 200, 429], expected]
    passed = sum(each.count(200) for each in found)
    assert limited.called.count("authentication") == 6
    assert limited.called.count("session") == passed


async def test_wrong_credentials_of_an_address_are_limited(app: FastAPI, database: None) -> None:
    site = Site(await asyncio.to_thread(limited.make, rate_limit_failures="3/day"))
    async with site.client() as client, site.client() as stranger:
        wrong = [
            await client.get("/secret", headers={"Authorization": "Bearer wrong"}) for _ in range(5)
        ]
        name = uuid4().hex
        right = await client.get("/secret", headers={"Authorization": f"Bearer {name}"})
        others = await stranger.get("/secret", headers={"Authorization": "Bearer wrong"})

    assert [answer.status_code for answer in wrong] == [401, 401, 401, 429, 429]
    assert wrong[0].headers["www-authenticate"] == "Bearer"
    assert right.status_code == 200
    assert others.status_code == 401


async def test_headers_of_a_client_choose_no_caller(site: Site) -> None:
    names = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "CF-Connecting-IP")
    async with site.client() as client:
        found = [
            (await client.get("/five", headers=dict.fromkeys(names, f"192.0.2.{number}")))
            for number in range(7)
        ]

    assert [answer.status_code for answer in found] == [200] * 5 + [429] * 2


async def test_behind_a_trusted_proxy_each_client_has_a_quota(app: FastAPI, database: None) -> None:
    site = Site(await asyncio.to_thread(limited.make, trusted_proxies=("192.0.2.1",)))
    network = f"2001:db8:{uuid4().hex[:4]}"
    async with site.client("192.0.2.1") as proxy:
        found = []
        for address in (f"{network}:1::1", f"{network}:1::2", f"{network}:2::1"):
            # The proxy appends the address; the client has chosen what is before it.
            forwarded = {"X-Forwarded-For": f"{uuid4().hex[:4]}::1, {address}"}
            found.append(await statuses(proxy, "/five", 4, headers=forwarded))

    assert found == [[200] * 4, [200, 429, 429, 429], [200] * 4]


async def test_a_limited_route_is_documented_and_compiled(app: FastAPI, database: None) -> None:
    limits = await asyncio.to_thread(limited.make, rate_limit="3/day")
    document = limits.openapi()["paths"]
    compiled = await asyncio.to_thread(compile_path_operations, limits)
    reasons = {route.path: reason for route, reason in compiled}

    for path in ("/five", "/plain", "/group/one", "/secret"):
        assert "Retry-After" in document[path]["get"]["responses"]["429"]["headers"], path
        assert reasons[path] is None
    assert "429" not in document["/free"]["get"]["responses"]


async def test_a_web_socket_is_refused(site: Site) -> None:
    scope = {"type": "websocket", "path": "/socket", "query_string": b"", "scheme": "ws"}
    scope |= {"headers": [(b"host", b"test")], "client": (f"test-{uuid4().hex}", 1)}

    async def opened() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message.get("status", message["type"]))

        await site.app({**scope}, receive, send)
        return sent

    assert await opened() == ["websocket.accept", "websocket.close"]
    assert await opened() == [429, "websocket.http.response.body"]


@pytest.mark.usefixtures("database")
async def test_two_workers_share_a_quota_if_there_is_a_server() -> None:
    await asyncio.to_thread(_ask_two_workers)


def _ask_two_workers() -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker()) for _ in range(2)]
        answers = [worker.get("/five") for _ in range(8) for worker in workers]
        passed = [answer.json() for answer in answers if answer.is_success]

    assert len(passed) == (5 if IS_SHARED else 10)
    assert len(set(passed)) == 2
    assert {answer.status_code for answer in answers} == {200, 429}


@contextmanager
def _worker() -> Iterator[httpx2.Client]:
    """Serve with one worker; the client has another source address than other tests."""
    port = free_port()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:

        def is_ready(_log: str) -> bool:
            try:
                return client.get("/livez").is_success
            except httpx2.TransportError:
                return False

        arguments = "--config", "deploy/gunicorn.conf.py", "tests.internals.limited:app"
        variables = {"PORT": str(port), "ADMIN_PORT": "0", "WEB_CONCURRENCY": "1"}
        with program("gunicorn", *arguments, is_ready=is_ready, **variables):
            yield client


@pytest.mark.skipif(IS_SHARED, reason="the server of the cache keeps the numbers")
@pytest.mark.parametrize("test", [1, 2])
async def test_each_test_has_whole_quotas(database: None, test: int) -> None:
    scope = {"type": "http", "headers": [], "client": ("192.0.2.1", 1)}
    await Limit("1/hour", "each test")(HTTPConnection(scope))
