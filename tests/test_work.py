"""Each cell of the table "Where work goes" in the README of a service is proved by tests of internals."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.internals_table import SOURCE, answers_of, assigned
from tests.variants import VARIANTS, Answers

ENGINES: dict[str, Answers] = {
    "postgres": {"background_jobs": "postgres"},
    "background_tasks": {"background_jobs": "background_tasks"},
    "celery": {"background_jobs": "celery", "outbox": True},
    "rq": {"background_jobs": "rq", "outbox": True},
    "celery without outbox": {"background_jobs": "celery", "outbox": False},
    "rq without outbox": {"background_jobs": "rq", "outbox": False},
}
# A cell of work that does not use the server: the tests of servers that are away try this work as well.
UNUSED = "–"
COLUMNS = {"process": "if its process dies", "broker": "if the broker dies", "database": "if the database dies"}
KILLED = "test_requests_of_a_killed_process_get_no_answer_and_write_nothing"
AWAY = "test_without_the_database_only_work_that_needs_it_fails"
JOB = "work after the response, or at intervals"
# The tests of each cell, by work and column.
PROOFS: dict[str, dict[str, tuple[str, ...]]] = {
    "reads and writes": {"process": (KILLED,), "database": (AWAY,)},
    "several reads together": {"process": (KILLED,), "database": (AWAY,)},
    "a call to another service": {"process": (KILLED,)},
    "a computation": {"process": (KILLED, "test_a_killed_process_of_the_pool_fails_its_own_call")},
    "a library that blocks": {"process": (KILLED,)},
    "a stream": {
        "process": (KILLED, "test_a_stream_ends_with_an_item_at_a_stop_and_its_client_connects_again"),
        "database": (AWAY,),
    },
}
DATABASE = (
    AWAY,
    "test_a_job_that_runs_while_the_database_restarts_has_one_effect",
    "test_a_job_that_ends_while_the_database_is_away_has_one_effect",
)
PERIODIC = "test_a_periodic_job_runs_once_after_an_outage_and_once_for_all_workers"
WORKER = (
    "test_a_job_of_a_killed_worker_runs_again",
    "test_a_job_whose_process_dies_three_times_has_failed",
    "test_a_job_of_a_process_that_is_killed_after_the_commit",
    PERIODIC,
)
OUTBOX = {
    "process": (*WORKER, "test_another_relay_sends_the_jobs_of_one_that_was_killed_before_it_published"),
    "broker": (
        "test_jobs_whose_messages_the_broker_loses_run",
        "test_a_job_that_runs_while_the_broker_restarts_runs_once",
        "test_a_full_broker_loses_no_job_and_fails_no_request",
    ),
    "database": (*DATABASE, "test_a_worker_that_starts_without_the_database_waits_for_it"),
}
DIRECT = OUTBOX | {
    "process": WORKER,
    "broker": (
        "test_without_the_broker_a_request_fails_unless_its_job_is_optional",
        "test_the_disk_of_the_broker_has_the_waiting_jobs",
        "test_a_full_broker_loses_no_job_and_fails_no_request",
    ),
}
# The same of the row of jobs, which depends on the engine.
JOBS: dict[str, dict[str, tuple[str, ...]]] = {
    "postgres": {"process": WORKER, "database": OUTBOX["database"]},
    "background_tasks": {
        "process": (
            "test_a_stop_leaves_a_job_to_another_process",
            "test_the_log_says_how_many_jobs_a_kill_lost",
            PERIODIC,
        ),
        "database": DATABASE,
    },
    "celery": OUTBOX,
    "rq": OUTBOX,
    "celery without outbox": DIRECT,
    "rq without outbox": DIRECT,
}


def table(readme: str) -> dict[str, dict[str, str]]:
    """Return the cells of the table, by work and heading."""
    section = readme.partition("\n## Where work goes\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    headings, _, *rows = lines
    return {row[0]: dict(zip(headings[1:], row[1:], strict=True)) for row in rows}


def names(answers: Answers) -> set[str]:
    """Return the names of the tests of internals that run in services with these answers."""
    variants = [variant for variant in VARIANTS if answers_of(variant).items() >= answers.items()]
    files = {name for variant in variants for name in assigned(variant)}
    texts = [(SOURCE / name).read_text(encoding="utf-8") for name in files]
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
    proving = {test for columns in proofs.values() for tests in columns.values() for test in tests}
    assert proving - names(ENGINES[engine]) == set()
