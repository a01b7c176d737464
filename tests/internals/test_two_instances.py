"""Two instances with two workers each, of the example's own domain, share one cache."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from threading import Timer

import pytest
from redis import Redis

from tests.core.serving import serving
from tests.internals.commands import master_of, until_ended
from tests.internals.valkey_server import own_server

# Of a message from one worker to another; these machines may be busy.
HEARD_S = 5.0


@pytest.mark.usefixtures("database")
async def test_two_workers_of_two_instances_see_each_others_writes() -> None:
    await asyncio.to_thread(_write_in_one_and_read_in_all)


def _write_in_one_and_read_in_all() -> None:
    ada = {"email": "ada@example.com", "name": "Ada Lovelace"}
    with serving() as one, serving() as other:
        path = f"/users/{one.post('/users', json=ada).json()['id']}"
        # A connection stays with its worker: several, so that both are asked.
        headers = {"Connection": "close"}
        for number in range(4):
            for _ in range(5):
                for instance in (one, other):
                    instance.get(path, headers=headers).raise_for_status()
            name = f"Ada {number}"
            one.patch(path, json={"name": name}).raise_for_status()

            def seen() -> set[str]:
                return {
                    instance.get(path, headers=headers).json()["name"]
                    for _ in range(5)
                    for instance in (one, other)
                }

            deadline = time.monotonic() + HEARD_S
            while (names := seen()) != {name}:
                assert time.monotonic() < deadline, names


@pytest.mark.usefixtures("database")
async def test_a_reload_and_a_stop_deliver_the_invalidations_of_a_hung_server() -> None:
    await asyncio.to_thread(_write_while_the_cache_hangs)


def _write_while_the_cache_hangs() -> None:
    ada = {"email": "ada@example.com", "name": "Ada Lovelace"}
    with own_server() as url, closing(Redis.from_url(url)) as cache:
        valkey = cache.info("server")["process_id"]

        def write(name: str, stop: Callable[[], object]) -> None:
            deadline = time.monotonic() + 30
            while not cache.exists(generation):
                assert time.monotonic() < deadline
                client.get(path).raise_for_status()
            os.kill(valkey, signal.SIGSTOP)
            timer = Timer(0.5, os.kill, (valkey, signal.SIGCONT))
            try:
                client.patch(path, json={"name": name}).raise_for_status()
                stop()
                timer.start()
                timer.join()
            finally:
                os.kill(valkey, signal.SIGCONT)

        with serving(CACHE_URL=url, CACHE_RETRY_AFTER_S="0.2", WEB_CONCURRENCY="1") as client:
            gunicorn = master_of(client.base_url.port)
            (worker,) = gunicorn.children()
            path = f"/users/{client.post('/users', json=ada).json()['id']}"
            generation = f"{os.environ['CACHE_PREFIX']}:tag:user:{path.rpartition('/')[2]}"
            write("Grace", lambda: gunicorn.send_signal(signal.SIGHUP))
            worker.wait(10)
            assert not cache.exists(generation)
            write("Alan", lambda: gunicorn.send_signal(signal.SIGTERM))
            until_ended(gunicorn)
        assert not cache.exists(generation)
