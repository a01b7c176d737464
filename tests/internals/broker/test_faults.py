"""A broker that is full, absent or behind TLS, and a relay that is killed."""

import asyncio
import signal
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest
import trustme
from redis.exceptions import OutOfMemoryError

from tests.internals.broker.jobs import work
from tests.internals.broker.service import Service, eventually, service
from tests.internals.fault_proxy import FaultProxy

HAS_OUTBOX = find_spec("app.core.jobs.outbox") is not None
pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as running:
        yield running


def test_a_full_broker_loses_no_job_and_fails_no_request(running: Service) -> None:
    client = running.broker.client
    client.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        client.lpush(running.queue, "x")
    assert running.enqueue("work", "full") == 202
    assert running.enqueue("work", "optional", optional=True) == 202
    eventually(lambda: "Jobs wait in the table" in running.logs(), running.logs)
    assert (running.steps("full"), client.llen(running.queue)) == (["accepted"], 0)

    client.config_set("maxmemory", 0)
    # Without an outbox, it was logged that the optional job is not enqueued.
    for label in ("full", "optional") if HAS_OUTBOX else ("full",):
        running.reaches(label, "accepted", "begun", "used")


def test_another_relay_sends_the_jobs_of_one_that_was_killed_before_it_published(
    running: Service,
) -> None:
    running.worker.kill()
    running.web.kill()
    add = """
        INSERT INTO background_job (id, name, version, arguments, request_id)
        VALUES ($1, $2, 1, '{"label": "relayed"}', '')
    """
    running.rows(add, uuid4(), work.name)
    killed = running.start("tests.internals.broker.relaying", JOB_LEASE_S="2")
    assert killed.stopped() == -signal.SIGKILL
    # It was claimed, and no message is in the broker.
    taken = "SELECT deliveries FROM background_job WHERE due_at > created_at"
    assert running.rows(f"{taken} AND arguments->>'label' = 'relayed'") == [0]
    assert running.broker.client.llen(running.queue) == 0

    running.start_worker()
    running.reaches("relayed", "begun", "used")
    running.start_web()


def test_a_web_process_starts_without_the_broker_and_says_so(running: Service) -> None:
    running.web.kill()
    running.broker.kill()
    running.start_web("work.web")
    eventually(lambda: running.ready()["broker"] == "unreachable", running.logs)
    # Work that does not need it.
    kinds = ("write", "parts", "computation", "thread", "stream")
    statuses = {kind: running.client.get(f"/{kind}").status_code for kind in kinds}
    assert statuses == dict.fromkeys(kinds, 200)
    running.broker.start()
    eventually(lambda: running.ready()["broker"] == "ok", running.logs)
    assert running.enqueue("work", "returned") == 202
    running.reaches("returned", "accepted", "begun", "used")


@pytest.mark.skipif(HAS_OUTBOX, reason="the database has them")
def test_the_disk_of_the_broker_has_the_waiting_jobs(running: Service) -> None:
    running.worker.kill()
    running.broker.kill()
    running.broker.start(appendonly="yes")
    eventually(lambda: running.ready()["broker"] == "ok", running.logs)
    assert running.enqueue("work", "disk") == 202
    eventually(lambda: running.broker.client.llen(running.queue) == 1, running.logs)
    running.broker.kill()
    running.broker.start(appendonly="yes")
    running.start_worker()
    running.reaches("disk", "accepted", "begun", "used")


@contextmanager
def tls(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """Accept TLS on another port, because the Valkey of the tests has none; yields this port."""
    started: Future[tuple[int, Callable[[], object]]] = Future()

    async def serve() -> None:
        stopping, proxy = asyncio.Event(), FaultProxy(port)
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=context)
        stop = partial(asyncio.get_running_loop().call_soon_threadsafe, stopping.set)
        started.set_result((server.sockets[0].getsockname()[1], stop))
        await stopping.wait()
        server.close()
        proxy.cut()

    thread = Thread(target=asyncio.run, args=[serve()])
    thread.start()
    own, stop = started.result()
    try:
        yield own
    finally:
        stop()
        thread.join()


def test_web_and_worker_speak_tls_with_the_broker(running: Service, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    running.worker.kill()
    running.web.kill()
    with tls(running.broker.port, context) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        trusted = {"BROKER_URL": f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}"}
        running.start_web(**trusted)
        running.start_worker(**trusted)
        assert running.enqueue("work", "tls") == 202
        running.reaches("tls", "accepted", "begun", "used")
        assert running.ready()["broker"] == "ok"

        # A certificate of an unknown authority.
        running.web.kill()
        running.start_web(BROKER_URL=url)
        eventually(lambda: running.ready()["broker"] == "unreachable", running.logs)
        running.worker.kill()
        running.web.kill()
