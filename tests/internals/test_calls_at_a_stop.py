"""A process that stops closes the HTTP client and the team's resources after its jobs."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec

import httpx2
import pytest

from dev.processes import free_port
from tests.core.serving import program
from tests.internals.local_http import Handler, served

WAIT_S = 20
HOLD_S = 1.0


class Upstream:
    """A server that holds the answer to the first call until `released`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.begun = threading.Event()
        self.released = threading.Event()
        self.url = ""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()

    class Holding(Handler):
        def do_GET(self) -> None:
            upstream.calls.append(self.path)
            upstream.begun.set()
            upstream.released.wait(WAIT_S)
            self.answer(204)

    with served(Holding) as upstream.url:
        yield upstream


def test_a_job_that_calls_another_service_ends_before_the_client_is_closed(
    upstream: Upstream,
) -> None:
    port = free_port()
    command = ("gunicorn", "--config", "deploy/gunicorn.conf.py", "tests.internals.calling:app")
    variables = {
        "UPSTREAM": upstream.url,
        "PORT": str(port),
        "ADMIN_PORT": "0",
        "HTTP_OFFLINE": "false",
    }
    variables |= {"WEB_CONCURRENCY": "1", "DRAIN_DELAY_S": "0"}
    url = f"http://127.0.0.1:{port}"

    def serves(_log: str) -> bool:
        try:
            return httpx2.get(f"{url}/livez").is_success
        except httpx2.TransportError:
            return False

    processes = 1
    with ExitStack() as stack:
        stack.enter_context(program(*command, is_ready=serves, **variables))
        if find_spec("app.core.jobs.postgres_worker"):
            processes = 2
            worker = program(
                "tests.internals.calling", is_ready=lambda log: " is ready" in log, **variables
            )
            stack.enter_context(worker)
        httpx2.post(f"{url}/call").raise_for_status()
        assert upstream.begun.wait(WAIT_S)
        # The process that runs the job is told to stop at the end of the block.
        threading.Timer(HOLD_S, upstream.released.set).start()

    assert upstream.calls == ["/begins", "/ends?desk=open", *["/closes"] * processes]
