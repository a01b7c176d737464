"""Each cell of the table "Where work goes" in the README of a service is proved by tests of internals."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.internals_table import SOURCE
from tests.variants import Answers

ENGINES: dict[str, Answers] = {
    "postgres": {"background_jobs": "postgres"},
    "background_tasks": {"background_jobs": "background_tasks"},
    "celery": {"background_jobs": "celery"},
    "rq": {"background_jobs": "rq"},
    "celery without outbox": {"background_jobs": "celery", "outbox": False},
    "rq without outbox": {"background_jobs": "rq", "outbox": False},
}
# A cell of work that does not use the server.
UNUSED = "–"
COLUMNS = {"process": "if its process dies", "broker": "if the broker dies", "database": "if the database dies"}
ROLLBACK = ("test_a_write_of_a_killed_process_is_rolled_back",)
JOB = "work after the response, or at intervals"
# The tests of each cell, by work and column.
PROOFS: dict[str, dict[str, tuple[str, ...]]] = {
    "reads and writes": {"process": ROLLBACK, "database": ("test_a_write_on_a_closed_connection_is_unavailable",)},
    "several reads at once": {"process": ROLLBACK, "database": ("test_an_answer_needs_one_part_at_least",)},
    "a call to another service": {"process": ROLLBACK},
    "a computation": {
        "process": (
            "test_a_killed_process_fails_its_own_call_alone",
            "test_no_end_of_a_worker_leaves_a_process_or_a_taken_port",
        )
    },
    "a library that blocks": {"process": ROLLBACK},
    "a stream": {
        "process": ("test_a_stream_ends_between_two_items_and_closes_its_source",),
        "database": ("test_a_stream_that_breaks_is_an_error_of_its_request",),
    },
}
BY_BROKER = {
    "process": (
        "test_a_worker_that_starts_without_the_broker_runs_the_job_of_one_that_was_killed",
        "test_jobs_of_a_web_process_that_is_killed_after_the_commit_run",
        "test_a_job_that_kills_its_process_three_times_is_a_dead_letter",
        "test_a_periodic_job_is_enqueued_once_by_all_workers_and_restarts",
    ),
    "broker": (
        "test_jobs_whose_messages_the_broker_loses_run",
        "test_a_job_that_runs_while_the_broker_restarts_runs_once",
    ),
    "database": (
        "test_a_write_on_a_closed_connection_is_unavailable",
        "test_an_outcome_is_stored_when_the_database_is_back",
    ),
}
WITHOUT_OUTBOX = BY_BROKER | {
    "process": (
        "test_a_job_and_its_retries_come_through_the_broker",
        "test_a_job_that_ends_its_process_is_a_dead_letter",
        "test_a_periodic_job_is_enqueued_once_by_all_workers_and_restarts",
    ),
    "broker": ("test_without_the_broker_a_request_fails_unless_its_job_is_optional",),
}
# The same of the row of jobs, which depends on the engine.
JOBS: dict[str, dict[str, tuple[str, ...]]] = {
    "postgres": {
        "process": (
            "test_a_killed_worker_loses_no_job",
            "test_a_job_that_kills_its_process_is_a_dead_letter",
            "test_a_periodic_job_is_enqueued_once_by_all_workers_and_restarts",
        ),
        "database": (
            "test_a_write_on_a_closed_connection_is_unavailable",
            "test_a_database_that_restarts_stops_no_worker",
            "test_a_database_that_restarts_at_the_end_of_a_job_gets_its_outcome",
        ),
    },
    "background_tasks": {
        "process": (
            "test_jobs_that_are_left_at_a_stop_run_in_another_process",
            "test_the_next_start_says_how_many_jobs_a_kill_lost",
        ),
        "database": ("test_a_write_on_a_closed_connection_is_unavailable", "test_a_job_runs_if_its_session_commits"),
    },
    "celery": BY_BROKER,
    "rq": BY_BROKER,
    "celery without outbox": WITHOUT_OUTBOX,
    "rq without outbox": WITHOUT_OUTBOX,
}


def table(readme: str) -> dict[str, dict[str, str]]:
    """Return the cells of the table, by work and heading."""
    section = readme.partition("\n## Where work goes\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    headings, _, *rows = lines
    return {row[0]: dict(zip(headings[1:], row[1:], strict=True)) for row in rows}


def names() -> set[str]:
    """Return the names of all tests of internals."""
    texts = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("test_*.py")]
    return {name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}


@pytest.mark.parametrize("engine", ENGINES)
def test_each_cell_is_proved_by_tests(engine: str, rendered: Callable[[Answers], Path]) -> None:
    rows = table((rendered(ENGINES[engine]) / "README.md").read_text(encoding="utf-8"))
    proofs = PROOFS | {JOB: JOBS[engine]}
    used = {
        (work, column)
        for work, cells in rows.items()
        for column, heading in COLUMNS.items()
        if cells.get(heading, UNUSED) != UNUSED
    }
    assert used == {(work, column) for work, columns in proofs.items() for column in columns}
    assert {test for columns in proofs.values() for tests in columns.values() for test in tests} - names() == set()
