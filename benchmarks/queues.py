"""PgQueuer and Procrastinate, to compare with: `python -m benchmarks.queues LIBRARY install|work|enqueue URL`."""

import json
import sys
from time import process_time
from typing import Any

import asyncpg
import procrastinate
import psycopg
import uvloop
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver

CONCURRENCY = 8
REPETITIONS = 12
WRITES = 50
# A statement for each library that adds $1 jobs, and one that counts those that have not ended.
FILL = {
    "PgQueuer": "INSERT INTO pgqueuer (priority, entrypoint, payload, status, execute_after) "
    "SELECT 0, 'nothing', '7', 'queued', now() FROM generate_series(1, $1)",
    "Procrastinate": "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
    "SELECT 'default', 'nothing', '{\"number\": 7}' FROM generate_series(1, $1)",
}
REMAINING = {
    "PgQueuer": "SELECT count(*) FROM pgqueuer",
    "Procrastinate": "SELECT count(*) FROM procrastinate_jobs",
}


def application(url: str) -> procrastinate.App:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
    app.task(name="nothing")(nothing)
    return app


async def nothing(number: int) -> None: ...


async def install(library: str, url: str) -> None:
    if library == "PgQueuer":
        await Queries(AsyncpgDriver(await asyncpg.connect(url))).install()
    else:
        app = application(url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()


async def work(library: str, url: str) -> None:
    """Run jobs until SIGTERM; successful ones are deleted, as ours."""
    if library == "PgQueuer":
        worker = PgQueuer(AsyncpgPoolDriver(await asyncpg.create_pool(url, min_size=2, max_size=4)))
        worker.entrypoint("nothing")(read)
        # It refuses a limit of jobs below twice the batch.
        await worker.run(batch_size=CONCURRENCY, max_concurrent_tasks=2 * CONCURRENCY)
    else:
        app = application(url)
        async with app.open_async():
            await app.run_worker_async(concurrency=CONCURRENCY, delete_jobs="successful")


async def read(job: Any) -> None:
    json.loads(job.payload)


async def enqueue(library: str, url: str) -> None:
    """Print the CPU time that a job adds to a transaction on the library's driver, in us."""
    if library == "PgQueuer":
        connection = await asyncpg.connect(url)
        queries = Queries(AsyncpgDriver(connection))

        async def write(enqueues: bool) -> None:
            async with connection.transaction():
                await connection.fetchval("SELECT 1")
                if enqueues:
                    await queries.enqueue("nothing", b"7")
    else:
        other = await psycopg.AsyncConnection.connect(url, prepare_threshold=1)
        app = application(url)
        await app.open_async()
        job = app.tasks["nothing"]

        async def write(enqueues: bool) -> None:
            async with other.transaction():
                await other.execute("SELECT 1")
                if enqueues:
                    await job.configure(connection=other).defer_async(number=7)

    async def cpu_us(enqueues: bool) -> float:
        began = process_time()
        for _ in range(WRITES):
            await write(enqueues)
        return (process_time() - began) / WRITES * 1e6

    found = []
    for number in range(-1, REPETITIONS):
        order = (False, True) if number % 2 else (True, False)
        series = {enqueues: await cpu_us(enqueues) for enqueues in order}
        if number >= 0:
            found.append(series[True] - series[False])
    json.dump({"enqueue_us": found}, sys.stdout)


if __name__ == "__main__":
    commands = {"install": install, "work": work, "enqueue": enqueue}
    uvloop.run(commands[sys.argv[2]](sys.argv[1], sys.argv[3]))
