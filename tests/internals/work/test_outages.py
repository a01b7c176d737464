"""The table "Where work goes" of the README: each kind of work, and each server that ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx2
import psutil
import pytest

from dev.processes import workspace
from tests.internals.broker.engine import ENGINE
from tests.internals.commands import run
from tests.internals.postgres_server import Server, postgres_server
from tests.internals.running import Service, eventually

pytestmark = pytest.mark.timeout(180)

HAS_BROKER = ENGINE in ("celery", "rq")
HAS_OUTBOX = find_spec("app.core.jobs.outbox") is not None
IN_MEMORY = ENGINE == "background_tasks"
# Whether the job is accepted with the write, and not after it.
IS_TRANSACTIONAL = HAS_OUTBOX or ENGINE == "postgres"
READS = ("write", "parts", "stream")
CALLS = ("call",) if find_spec("app.core.http_client") else ()
KINDS = (*READS, *CALLS, "computation", "thread")
MISSED_S = 3
RECORD_SLOTS = """
CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (label, step) VALUES ('slot', split_part(NEW.key, ': ', 2));
    RETURN NEW;
END $$
"""
ON_SLOT = """
CREATE TRIGGER record AFTER INSERT ON background_job FOR EACH ROW
WHEN (NEW.key LIKE '@every%') EXECUTE FUNCTION record()
"""


class Work(Service):
    """The service on a PostgreSQL of its own, which a test may kill."""

    database: Server
    # Answers no call.
    deaf: socket.socket

    def ask(self, kind: str, *, waits: bool = False) -> int | None:
        """Return the status of work of this kind; None if the answer does not end."""
        query: dict[str, str | bool] = {"waits": waits}
        if kind == "call":
            address = "http://{}:{}".format(*self.deaf.getsockname())
            query = {"url": address if waits else str(self.client.base_url.join("/openapi.json"))}
        try:
            return self.client.get(f"/{kind}", params=query, timeout=60).status_code
        except httpx2.TransportError:
            return None

    def hold(self, label: str, file: Path) -> None:
        """Start a job that ends when the file is there."""
        assert self.enqueue("hold", label, path=str(file)) == 202
        self.begun(label)

    @contextmanager
    def asked(self, *kinds: str) -> Iterator[dict[str, Future[int | None]]]:
        """Wait until work of these kinds runs, and does not end; yields the answers."""
        with ThreadPoolExecutor(len(kinds)) as clients:
            asked = {kind: clients.submit(self.ask, kind, waits=True) for kind in kinds}
            eventually(lambda: {*kinds} <= {*self.client.get("/begun").json()}, self.logs)
            yield asked

    def web_worker(self) -> psutil.Process:
        (worker,) = self.web.process.children()
        return worker

    def kill_web_worker(self) -> None:
        killed = self.web_worker()
        killed.kill()
        self.is_replaced(killed)

    def is_replaced(self, worker: psutil.Process) -> None:
        """Wait until another one serves."""
        eventually(lambda: worker not in self.web.process.children(), self.logs)
        eventually(self.is_served, self.logs)

    def end_leases(self) -> None:
        """Let the time pass until waiting jobs are due."""
        self.rows("UPDATE background_job SET due_at = now() WHERE state = 'waiting'")

    def restart_database(self) -> None:
        self.database.kill()
        self.database.start()


def has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def running() -> Iterator[Work]:
    """Run the service; its periodic job is due each second."""
    with (
        workspace() as home,
        postgres_server() as database,
        socket.create_server(("127.0.0.1", 0)) as deaf,
    ):
        subprocess.run(
            [sys.executable, "-m", "app", "migrate"],
            env=os.environ | {"DATABASE_URL": database.url},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        # The log of the next start says what a kill of this service lost, and of no other.
        own = {"TMPDIR": str(home), "HTTP_OFFLINE": "false", "JOB_QUEUE": home.name, "TICKS": "1"}
        # Some reads wait until a test has ended something else.
        own["REQUEST_TIMEOUT_S"] = "600"
        service = Work(home, database.url, JOB_LEASE_S="30", **own)
        service.database, service.deaf = database, deaf
        service.rows(RECORD_SLOTS)
        service.rows(ON_SLOT)
        with service.client, service.running:
            if not IN_MEMORY:
                service.start_worker()
            service.start_web("work.web")
            yield service


def test_requests_of_a_killed_process_get_no_answer_and_write_nothing(running: Work) -> None:
    with running.asked(*KINDS) as asked:
        running.kill_web_worker()
        answers = {kind: answer.result() for kind, answer in asked.items()}

    assert answers == dict.fromkeys(KINDS)
    assert running.steps("write") == []
    assert {kind: running.ask(kind) for kind in KINDS} == dict.fromkeys(KINDS, 200)


def test_web_and_job_processes_leave_imported_objects_out_of_collections(running: Work) -> None:
    expected = "(10000, 10, 10), without the imported objects"
    assert running.client.get("/collector").json() == expected
    assert running.enqueue("collect", "collected") == 202
    running.reaches("collected", "accepted", expected)


def test_a_killed_process_of_the_pool_fails_its_own_call(running: Work) -> None:
    assert running.ask("death") == 500
    assert running.ask("computation") == 200


def test_a_stream_ends_with_an_item_at_a_stop_and_its_client_connects_again(running: Work) -> None:
    stopped = running.web_worker()
    with running.asked("stream") as asked:
        running.web.process.send_signal(signal.SIGHUP)
        assert asked["stream"].result() == 200
    running.is_replaced(stopped)
    assert running.ask("stream") == 200


def test_without_the_database_only_work_that_needs_it_fails(running: Work) -> None:
    others = [kind for kind in KINDS if kind not in READS]
    with running.asked("stream") as asked:
        running.database.kill()
        # FastAPI may end the response of a stream that fails as if it were complete.
        asked["stream"].result()
    eventually(lambda: "method=GET route=/stream" in running.web.log, running.logs)
    assert {kind: running.ask(kind) for kind in ("write", "parts")} == {"write": 503, "parts": 503}
    assert {kind: running.ask(kind) for kind in others} == dict.fromkeys(others, 200)
    assert running.enqueue("work", "refused") == 503
    assert running.client.get("/readyz").status_code == 503

    running.database.start()
    assert {kind: running.ask(kind) for kind in KINDS} == dict.fromkeys(KINDS, 200)
    assert running.enqueue("work", "accepted") == 202
    running.reaches("accepted", "accepted", "begun", "used")
    assert running.steps("refused") == []


def test_a_job_that_runs_while_the_database_restarts_has_one_effect(
    running: Work, tmp_path: Path
) -> None:
    running.hold("restart", tmp_path / "go")
    running.restart_database()
    (tmp_path / "go").touch()
    running.reaches("restart", "accepted", "begun", "done")


def test_a_job_that_ends_while_the_database_is_away_has_one_effect(
    running: Work, tmp_path: Path
) -> None:
    running.hold("end", tmp_path / "go")
    running.database.kill()
    (tmp_path / "go").touch()
    eventually((tmp_path / "go.seen").exists, running.logs)
    running.database.start()
    # It cannot store its effect, and so it runs again.
    eventually(lambda: running.steps("end")[-1] == "done", running.logs)
    running.reaches("end", *running.steps("end"))
    assert running.steps("end").count("done") == 1


@pytest.mark.skipif(IN_MEMORY, reason="has no worker")
def test_a_worker_that_starts_without_the_database_waits_for_it(running: Work) -> None:
    old = running.worker
    running.database.kill()
    running.start_worker()
    eventually(lambda: " ready." in running.worker.log, running.logs)
    running.database.start()
    # The old one has outlived all restarts of the database.
    assert old.log.count(" ready.") == 1
    old.process.send_signal(signal.SIGTERM)
    assert old.stopped() == 0
    assert running.enqueue("work", "new") == 202
    running.reaches("new", "accepted", "begun", "used")


@pytest.mark.skipif(IN_MEMORY, reason="has no worker")
def test_a_job_of_a_killed_worker_runs_again(running: Work, tmp_path: Path) -> None:
    running.hold("killed", tmp_path / "go")
    running.worker.kill()
    running.start_worker()
    (tmp_path / "go").touch()
    running.end_leases()
    running.reaches("killed", "accepted", "begun", "begun", "done")


@pytest.mark.skipif(IN_MEMORY, reason="has no worker")
def test_a_job_whose_process_dies_three_times_has_failed(running: Work) -> None:
    state = "SELECT state FROM background_job WHERE arguments->>'label' = 'always'"
    runs = "SELECT pid FROM effect WHERE label = 'always' AND step = 'begun'"
    assert running.enqueue("die", "always") == 202
    for number in range(1, 4):
        eventually(lambda: len(running.rows(runs)) == number, running.logs)  # noqa: B023
        dead = running.rows(runs)[-1]
        eventually(lambda: has_ended(dead), running.logs)  # noqa: B023
        if dead == running.worker.process.pid:
            # Its first thread has ended, but others may end later: until then, `poll` returns None.
            running.worker.stopped()
        if running.worker.process.poll() is not None:
            running.start_worker()
        running.end_leases()
    eventually(lambda: running.rows(state) == ["dead"], running.logs)
    assert len(running.rows(runs)) == 3


def test_a_job_of_a_process_that_is_killed_after_the_commit(running: Work) -> None:
    assert running.enqueue("work", "committed", dies=True) == 0
    eventually(running.is_served, running.logs)
    if IS_TRANSACTIONAL:
        running.reaches("committed", "accepted", "begun", "used")
    else:
        # The client got no answer, and the job is lost.
        assert running.enqueue("work", "later") == 202
        running.reaches("later", "accepted", "begun", "used")
        assert running.steps("committed") == ["accepted"]


@pytest.mark.skipif(not IN_MEMORY, reason="the jobs are in other processes")
def test_a_stop_leaves_a_job_to_another_process(running: Work, tmp_path: Path) -> None:
    stopped = running.web_worker()
    running.hold("left", tmp_path / "go")
    running.web.process.send_signal(signal.SIGHUP)
    running.is_replaced(stopped)
    (tmp_path / "go").touch()
    running.reaches("left", "accepted", "begun", "begun", "done")


@pytest.mark.skipif(not IN_MEMORY, reason="the jobs are in other processes")
def test_the_log_says_how_many_jobs_a_kill_lost(running: Work, tmp_path: Path) -> None:
    for label in ("lost-1", "lost-2"):
        running.hold(label, tmp_path / "go")
    running.kill_web_worker()
    eventually(lambda: "Processes that were killed lost 2 jobs." in running.web.log, running.logs)
    (tmp_path / "go").touch()
    assert running.enqueue("work", "next") == 202
    running.reaches("next", "accepted", "begun", "used")
    assert running.steps("lost-1") == ["accepted", "begun"]


def test_a_periodic_job_runs_once_after_an_outage_and_once_for_all_workers(running: Work) -> None:
    def slots(after: int = 0) -> list[int]:
        sql = "SELECT step::int FROM effect WHERE label = 'slot' AND number > $1 ORDER BY number"
        return running.rows(sql, after)

    def pass_slots() -> int:
        """Let several slots pass; return the present one."""
        end_s = time.time() + MISSED_S
        eventually(lambda: time.time() > end_s)
        return int(time.time())

    waiting = "SELECT count(*) FROM background_job WHERE name LIKE '%.tick' AND state = 'waiting'"
    # The database is away.
    eventually(lambda: bool(slots()), running.logs)
    running.database.kill()
    present = pass_slots()
    running.database.start()
    before = slots()
    eventually(lambda: len(slots()) > len(before), running.logs)
    assert min(slots()[len(before) :]) >= present

    # All processes are away.
    for program in [running.web] if IN_MEMORY else [running.web, running.worker]:
        program.kill()
    present = pass_slots()
    (number,), (left,) = running.rows("SELECT max(number) FROM effect"), running.rows(waiting)
    if not IN_MEMORY:
        running.start_worker()
        stopping = [running.worker]
        running.start_worker()
    running.start_web("work.web", WEB_CONCURRENCY="2")
    stopping = [running.web] if IN_MEMORY else [running.web, running.worker, *stopping]
    running.end_leases()
    eventually(lambda: len(slots(number)) > 2, running.logs)
    for program in stopping:
        program.process.send_signal(signal.SIGTERM)
    for program in stopping:
        program.stopped()

    assert min(slots(number)) >= present
    assert len({*slots()}) == len(slots())
    runs = running.rows("SELECT 1 FROM effect WHERE label = 'tick' AND number > $1", number)
    (left_now,) = running.rows(waiting)
    assert len(runs) + left_now == len(slots(number)) + left


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_wrong_setting_of_jobs_ends_a_command_and_is_named(command: str) -> None:
    process = run(command, JOB_LEASE_S="many", JOB_DRAIN_TIMEOUT_S="-1")

    assert process.returncode == (2 if IN_MEMORY and command == "worker" else 1)
    assert IN_MEMORY or re.search(r"JOB_DRAIN_TIMEOUT_S: .*\n.* JOB_LEASE_S: ", process.stderr)
