"""Migrations take turns, give up in time, and are found out when a foreign key has no index."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

import asyncpg
import pytest

from app.core.operations.facts import UNINDEXED_FOREIGN_KEYS
from tests.core.plugin import migrated_database

ROOT = Path(__file__).parents[2]
# What migrations/env.py says that it locks.
LOCK = int.from_bytes(b"alembic", "big")
TIMEOUT_S = 60

SQL = Callable[[str], list[asyncpg.Record]]

MIGRATION = '''\
"""Planted by a test."""

from alembic import op

revision = "{revision}"
down_revision = {follows!r}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    pass
'''

FAIL_WITHOUT_THE_LOCK = """
SELECT 1 / count(*) FROM pg_locks JOIN pg_database ON database = pg_database.oid
WHERE locktype = 'advisory' AND datname = current_database()
"""

PLANTED_KEYS = (
    "CREATE TABLE test_parents (a int UNIQUE, b int, PRIMARY KEY (a, b))",
    """
    CREATE TABLE test_children (
        x int,
        y int,
        z int,
        primary_key int PRIMARY KEY REFERENCES test_parents (a),
        first int REFERENCES test_parents (a),
        second int CONSTRAINT second REFERENCES test_parents (a),
        bare int CONSTRAINT bare REFERENCES test_parents (a),
        partial int CONSTRAINT partial REFERENCES test_parents (a),
        included int CONSTRAINT included REFERENCES test_parents (a),
        FOREIGN KEY (x, y) REFERENCES test_parents,
        CONSTRAINT half FOREIGN KEY (y, z) REFERENCES test_parents
    )
    """,
    "CREATE INDEX ON test_children (first, second)",
    "CREATE INDEX ON test_children (partial) WHERE x > 0",
    "CREATE INDEX ON test_children (z) INCLUDE (included, y)",
    "CREATE INDEX ON test_children (y, x, z)",
)


def test_foreign_keys_without_an_index_are_found() -> None:
    with migrated_database() as url, session(url) as sql:
        before = sql(UNINDEXED_FOREIGN_KEYS)
        for statement in PLANTED_KEYS:
            sql(statement)
        planted = [row["name"] for row in sql(UNINDEXED_FOREIGN_KEYS) if row not in before]

    names = ("bare", "half", "included", "partial", "second")
    assert planted == [f"test_children: {name}" for name in names]


def test_runs_at_once_take_turns(project: Path) -> None:
    # The first is committed before its revision is, and the index waits for whoever runs a query.
    plant(project, "one", "op.execute('CREATE TABLE test_once (id int)')")
    concurrently = "op.execute('CREATE INDEX CONCURRENTLY test_index ON test_once (id)')"
    plant(project, "two", f"with op.get_context().autocommit_block(): {concurrently}", "one")
    plant(project, "three", f'op.execute("""{FAIL_WITHOUT_THE_LOCK}""")', "two")

    with new_to_migrations() as url, session(url) as sql:
        sql(f"SELECT pg_advisory_lock({LOCK})")
        runs = [migrate(project, url), migrate(project, url)]
        for run in runs:
            assert run.stderr
            assert select([run.stderr], [], [], TIMEOUT_S)[0]
            assert "Another migration runs" in run.stderr.readline()
        before = sql("SELECT to_regclass('alembic_version'), to_regclass('test_once')")
        sql(f"SELECT pg_advisory_unlock({LOCK})")
        ends = [ended(run) for run in runs]
        revisions = sql("SELECT version_num FROM alembic_version")
        indexes = sql("SELECT FROM pg_index WHERE indrelid = 'test_once'::regclass AND indisvalid")

    assert list(before[0]) == [None, None]
    assert [code for code, _ in ends] == [0, 0], ends
    assert [row["version_num"] for row in revisions] == ["three"]
    assert len(indexes) == 1


def test_a_run_waits_for_another_one_no_longer_than_it_may(project: Path) -> None:
    plant(project, "one", "op.execute('CREATE TABLE test_once (id int)')")

    with new_to_migrations() as url, session(url) as sql:
        sql(f"SELECT pg_advisory_lock({LOCK})")
        code, output = ended(migrate(project, url, MIGRATION_WAIT_TIMEOUT_S="0.1"))
        locks = sql("SELECT objid FROM pg_locks WHERE pid = pg_backend_pid() AND objsubid = 1")
        made = sql("SELECT to_regclass('test_once') AS it")[0]["it"]

    assert code == 1
    assert "raise MIGRATION_WAIT_TIMEOUT_S" in output
    assert "Traceback" not in output
    assert [f"objid {row['objid']}" in output for row in locks] == [True]
    assert made is None


@pytest.mark.parametrize("before", ["pass", "with op.get_context().autocommit_block(): pass"])
def test_a_migration_gives_up_when_a_transaction_is_in_its_way(project: Path, before: str) -> None:
    plant(project, "one", before)
    plant(project, "two", "op.execute('CREATE TABLE test_once (id int)')", "one")
    plant(project, "three", "op.execute('ALTER TABLE test_busy ADD x int')", "two")

    with new_to_migrations() as url, session(url) as sql:
        sql("CREATE TABLE test_busy (id int)")
        sql("BEGIN")
        sql("SELECT FROM test_busy")
        code, output = ended(migrate(project, url, MIGRATION_LOCK_TIMEOUT_S="0.1"))
        made = sql("SELECT to_regclass('test_once') AS it")[0]["it"]
        sql("ROLLBACK")
        code_afterwards, _ = ended(migrate(project, url))

    assert code == 1
    assert "raise MIGRATION_LOCK_TIMEOUT_S" in output
    assert "ALTER TABLE test_busy ADD x int" in output
    assert "Traceback" not in output
    # The migration before is committed, and the next run continues after it.
    assert made == "test_once"
    assert code_afterwards == 0


def test_a_migration_may_use_a_value_that_the_one_before_adds_to_an_enum(project: Path) -> None:
    plant(project, "one", """op.execute("ALTER TYPE test_state ADD VALUE 'old'")""")
    plant(project, "two", """op.execute("UPDATE test_grown SET state = 'old'")""", "one")

    with new_to_migrations() as url, session(url) as sql:
        sql("CREATE TYPE test_state AS ENUM ('new')")
        sql("CREATE TABLE test_grown AS SELECT 'new'::test_state AS state")
        code, output = ended(migrate(project, url))
        states = sql("SELECT state::text FROM test_grown")

    assert code == 0, output
    assert [row["state"] for row in states] == ["old"]


def test_the_command_says_what_it_applied_and_accepts_a_newer_database(project: Path) -> None:
    plant(project, "one", "pass")
    plant(project, "two", "pass", "one")

    with new_to_migrations() as url:
        ends = [ended(migrate(project, url)), ended(migrate(project, url))]
        (project / "migrations" / "versions" / "two.py").unlink()
        ends.append(ended(migrate(project, url)))

    assert ends == [
        (0, "Applied: one, two.\n"),
        (0, "The database is up to date.\n"),
        (0, "The database has newer migrations: nothing to do.\n"),
    ]


def test_a_database_of_an_older_release_gets_the_tables_of_core(project: Path) -> None:
    plant(project, "one", "op.execute('CREATE TABLE test_once (id int)')")

    with new_to_migrations() as url, session(url) as sql:
        first = ended(migrate(project, url))
        sql("DROP TABLE alembic_version_core, background_job, background_job_count")
        second = ended(migrate(project, url))
        alembic(project, url, "revision", "--autogenerate", "--rev-id", "two", "-m", "planted")
        (generated,) = (project / "migrations" / "versions").glob("*two*")
        alembic(project, url, "downgrade", "base")
        applied = "SELECT version_num FROM alembic_version"
        left = sql(f"{applied} UNION ALL {applied}_core")

    assert first == (0, "Applied: one.\n")
    assert second == (0, "Applied: core_0001.\n")
    # Neither a comparison nor a downgrade of the team's line sees the tables of core.
    assert "test_once" in generated.read_text()
    assert "background_job" not in generated.read_text()
    assert [row["version_num"] for row in left] == ["core_0001"]


def test_core_ignores_the_revision_of_an_answer_that_is_off_now(project: Path) -> None:
    core = project / "migrations" / "core"
    core.unlink()
    core.mkdir()
    (core / "first.py").symlink_to(ROOT / "migrations" / "core" / "0001_background_jobs.py")
    new = MIGRATION.format(revision="core_new", follows=None, upgrade="pass")

    with new_to_migrations() as url, session(url) as sql:
        ended(migrate(project, url))
        sql("INSERT INTO alembic_version_core VALUES ('core_removed')")
        ends = [ended(migrate(project, url))]
        (core / "new.py").write_text(new)
        ends.append(ended(migrate(project, url)))
        # As after a roll back from a release whose revision follows `core_0001`.
        sql("DELETE FROM alembic_version_core WHERE version_num <> 'core_removed'")
        sql("INSERT INTO alembic_version_core VALUES ('core_0099')")
        ends.append(ended(migrate(project, url)))
        ends.append(ended(migrate(project, url)))
        found = sql("SELECT version_num FROM alembic_version_core ORDER BY 1")

    assert ends == [
        (0, "The database is up to date.\n"),
        (0, "Applied: core_new.\n"),
        (0, "Applied: core_new.\n"),
        (0, "The database is up to date.\n"),
    ]
    assert [row["version_num"] for row in found] == ["core_0099", "core_new", "core_removed"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """This project without its migrations."""
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    names = ("env.py", "core", "script.py.mako")
    for name in ("app", "pyproject.toml", *(f"migrations/{name}" for name in names)):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def plant(project: Path, revision: str, upgrade: str, follows: str | None = None) -> None:
    file = project / "migrations" / "versions" / f"{revision}.py"
    file.write_text(MIGRATION.format(revision=revision, follows=follows, upgrade=upgrade))


def migrate(project: Path, url: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "migrate"],
        cwd=project,
        env=os.environ | {"DATABASE_URL": url} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alembic(project: Path, url: str, *arguments: str) -> str:
    """Run a command of Alembic, and return its output."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=project,
        env=os.environ | {"DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    ).stdout


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and the output that nobody read yet."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    return process.returncode, stderr + stdout


@contextmanager
def new_to_migrations() -> Iterator[str]:
    """The URL of a database that no migration knows."""
    with migrated_database() as url:
        with session(url) as sql:
            sql("DROP TABLE IF EXISTS alembic_version")
        yield url


@contextmanager
def session(url: str) -> Iterator[SQL]:
    """Runs SQL in one session, outside of the service and of its event loop."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        try:
            yield lambda sql: runner.run(connection.fetch(sql))
        finally:
            runner.run(connection.close())
