"""The id of a request: accepted or made, in each response and problem, and in no shared one."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextvars import Context

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient

from app.core.application import create_app
from app.core.cache import no_store
from app.core.http.problems import Conflict
from app.core.telemetry import request_id
from app.core.telemetry.activity import log_fields
from app.settings import get_settings

MADE = re.compile("[0-9a-f]{32}").fullmatch

FORKS = """
import os
from app.core.telemetry.request_id import of
def show(count):
    print(*(of([]) for _ in range(count)), flush=True)
show(100)
if not os.fork():
    show(150)
    os._exit(0)
os.wait()
show(150)
"""

router = APIRouter()


@router.get("/id")
@no_store
async def show_id() -> str:
    return await asyncio.to_thread(request_id.current)


@router.get("/conflict")
@no_store
async def conflict() -> None:
    raise Conflict("There is one already.")


@pytest.fixture
def own() -> FastAPI:
    return create_app(get_settings(), router, title="ids", description="for tests")


@pytest.fixture
async def client(app: FastAPI, own: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(own), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("sent", "is_accepted"),
    [
        ((), False),
        (("a",), True),
        (("Az09._-" + "x" * 57,), True),
        (("x" * 65,), False),
        (("",), False),
        (("a b",), False),
        # Blanks around a value are no part of it (RFC 9110, section 5.5).
        (("a\t",), True),
        ((" a ",), True),
        (("a\tb",), False),
        (("é",), False),
        (("a,b",), False),
        (("{}",), False),
        (("a", "a"), False),
    ],
)
async def test_only_a_single_well_formed_id_is_accepted(
    client: AsyncClient, sent: tuple[str, ...], is_accepted: bool
) -> None:
    headers = [(b"x-request-id", value.encode("latin-1")) for value in sent]
    response = await client.get("/id", headers=headers)

    identifier = response.headers["x-request-id"]
    assert response.json() == identifier
    assert identifier == sent[0].strip() if is_accepted else MADE(identifier)


def test_forked_workers_make_other_ids_than_their_master() -> None:
    made = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60)

    identifiers = made.stdout.split()
    assert len(identifiers) == len({*identifiers}) == 400
    assert all(map(MADE, identifiers))


@pytest.mark.parametrize("sent", ["x" * 100_000, "a b", "\udc80", "é", ["a"], {}, None, 1, b"a"])
def test_a_job_of_another_program_has_no_malformed_id(sent: object) -> None:
    context = Context()
    context.run(request_id.begin, sent)

    assert context.run(request_id.current) == ""
    context.run(request_id.begin, "a")
    assert context.run(request_id.current) == "a"


async def test_a_problem_has_the_id(client: AsyncClient) -> None:
    for path in ("/conflict", "/nowhere"):
        response = await client.get(path)
        assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_there_is_no_id_after_the_request(client: AsyncClient) -> None:
    # An error of an earlier test leaves its id, for the log of the server.
    before = request_id.current(), log_fields()

    await client.get("/id")

    assert (request_id.current(), log_fields()) == before
