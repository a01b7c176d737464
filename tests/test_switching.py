"""A changed answer deletes the files of the old one: git still has the edits, and the type check names broken imports.

By real updates, and with the commands that an update prints, as a user would run them.
"""

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.environments import run_uv
from tests.history import append, read, write
from tests.quick_copier import COPIER
from tests.rendering import commit, git, render
from tests.selection import thorough
from tests.variants import DEFAULTS, Answers

EDIT = "\n# Our own edit.\n"
# mypy's message for an import that does not resolve, with its name.
MISSING, NAME = re.compile(r'.* (?:module named|has no attribute) "(.*?)".*'), r"\1"
COMMAND = re.compile(r"^  ((?:git|uv) .+?) +#", re.MULTILINE)


class Switch(NamedTuple):
    """A change of an answer, a file that it deletes, and a module of the team that used the file."""

    before: Answers
    after: Answers
    edited: str
    # Each import with the name that mypy does not find; empty when it finds all. Of a missing module it names those
    # imports that spell its whole name, and not `from package import module`.
    uses: dict[str, str]
    # Where the service lies in its repository.
    directory: str = "."


SWITCHES = {
    "cache": Switch(
        {"cache_backend": "valkey"},
        {"cache_backend": "none"},
        "app/core/cache/store/valkey.py",
        {
            "from redis.asyncio import Redis": "redis.asyncio",
            "from app.core import cache, http": "",
            "from app.core.cache import cached": "cached",
            "from app.core.cache.store.valkey import SharedCache": "app.core.cache.store.valkey",
            "from app.core.cache import public": "",
            "from ..core.cache.tags import fill": "app.core.cache.tags",
        },
        "services/orders",
    ),
    "pagination": Switch(
        {"pagination": "cursor"},
        {"pagination": "offset"},
        "app/core/pagination/cursor.py",
        {
            "from app.core.pagination import Page, PageParams, PreparedList, paginate": "",
            "from app.core.pagination.cursor import PageParams as P": "app.core.pagination.cursor",
            "from app.core.pagination import keyset": "keyset",
        },
    ),
    "jobs": Switch(
        {"background_jobs": "celery", "cache_backend": "memory"},
        {"background_jobs": "background_tasks"},
        "app/core/jobs/celery.py",
        {
            "import celery.signals": "celery.signals",
            "from kombu import Queue": "kombu",
            "from app.core.jobs import drain, enqueue, job": "",
            "from app.core.jobs import worker": "worker",
            "from app.core.jobs.celery import celery as c": "app.core.jobs.celery",
        },
    ),
    "replica": Switch(
        {"read_replica": True},
        {"read_replica": False},
        "app/core/database/replica/router.py",
        {
            "from app.core.database import ReadSession": "",
            "from app.core.database.replica import fresh": "app.core.database.replica",
            "from app.core.database import replica": "",
        },
    ),
}

# A domain that uses only imports that are the same for all engines.
SEAMS = '''\
"""Orders, by what stays the same whatever runs behind it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy import select

from app.core.cache import cached, invalidate_after_commit
from app.core.database import ReadSession, ReadSessionDep, WriteSessionDep
from app.core.jobs import enqueue, job
from app.core.pagination import Page, PageParams, PreparedList, page_response, paginate
from app.users.models import User

router = APIRouter(prefix="/orders")
LIST = PreparedList(select(User.id, User.created_at), order_by=(User.created_at.desc(), User.id.desc()))


@job
async def send(order_id: UUID) -> None: ...


@cached("orders:{order_id}", tags=("order:{order_id}",), ttl_s=60)
async def order_json(session: ReadSession, order_id: UUID) -> bytes:
    return b"{}"


@router.get("")
async def orders(session: ReadSessionDep, params: Annotated[PageParams, Query()]) -> Page[int]:
    return Page(items=[])


@router.post("/{order_id}")
async def order(session: WriteSessionDep, order_id: UUID) -> None:
    invalidate_after_commit(session, "order:{order_id}", order_id=order_id)
    await enqueue(session, send, order_id)
    await enqueue(None, send.options(key=str(order_id), delay_s=60, optional=True), order_id)
'''
# Each engine of jobs comes after the one before it, the first one after the last.
ENGINES: dict[str, Answers] = {
    "postgres": {"background_jobs": "postgres", "cache_backend": "memory", "pagination": "offset"},
    "celery": {"background_jobs": "celery", "cache_backend": "valkey", "pagination": "cursor"},
    "rq": {"background_jobs": "rq", "outbox": False, "cache_backend": "memory", "pagination": "offset"},
    "background_tasks": {"background_jobs": "background_tasks", "cache_backend": "valkey", "pagination": "cursor"},
}


def files(service: Path) -> dict[str, str]:
    """Return the files of the service that git would commit."""
    names = git(service, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    paths = {name: service / name for name in filter(None, names)}
    return {name: read(path) for name, path in paths.items() if path.is_file()}


def switch(service: Path, answers: Answers) -> list[str]:
    """Run `copier update` with other answers; return the commands that it prints."""
    arguments = [f"--data={question}={answer}" for question, answer in answers.items()]
    process = subprocess.run(
        [*COPIER, "update", "--defaults", "--vcs-ref=:current:", *arguments],
        cwd=service,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return COMMAND.findall(process.stderr)


def command_lines(service: Path, command: str) -> list[str]:
    """Return the output of a git command in the service."""
    program, *arguments = shlex.split(command)
    assert program == "git"
    return git(service, *arguments).splitlines()


def check(service: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run the service's own type check by uv, which first gives its environment the dependencies that it has now."""
    program, *arguments = shlex.split(command)
    assert program == "uv"
    return run_uv(service, "--quiet", *arguments, timeout_s=240)


def findings(service: Path, command: str) -> list[str]:
    """The file and line of each error, with the name that mypy does not find or its whole message; one for a line."""
    process = check(service, command)
    assert process.returncode == 1, process.stdout + process.stderr
    errors = re.findall(r"^(\S+\.py:\d+:) error: (.*?)  \[", process.stdout, re.MULTILINE)
    first = dict(reversed(errors))
    return [f"{place} {MISSING.sub(NAME, first[place])}" for place in dict.fromkeys(place for place, _ in errors)]


def own(service: Path, command: str) -> list[str]:
    """The findings in the team's domain."""
    return [line for line in findings(service, command) if line.startswith("app/orders/")]


@pytest.mark.parametrize("name", thorough(SWITCHES, but=["cache"]))
def test_what_an_answer_deletes_comes_back_and_what_used_it_is_named(template: Path, tmp_path: Path, name: str) -> None:
    before, after, edited, uses, directory = SWITCHES[name]
    # Its tests and its example use the feature as well: they are the team's.
    service = render(template, tmp_path / "repository" / directory, {**DEFAULTS, **before})
    append(service / edited, EDIT)
    write(service / "app/orders/__init__.py", "")
    write(service / "app/orders/service.py", "".join(f"{line}\n" for line in uses))
    commit(tmp_path / "repository")
    kept = files(service)

    conflicts, deletions, bring_back, variables, check_types, _ = switch(service, after)

    gone = sorted(kept.keys() - files(service).keys())
    assert edited in gone
    assert command_lines(service, deletions) == gone
    assert command_lines(service, conflicts) == []
    assert command_lines(service, variables) != []
    assert own(service, check_types) == [
        f"app/orders/service.py:{number}: {problem}" for number, problem in enumerate(uses.values(), 1) if problem
    ]

    git(service, "add", "--all")
    assert command_lines(service, deletions) == gone, "staged as well, and next to files that look like them"
    command_lines(service, bring_back.replace("FILE", edited))
    assert read(service / edited) == kept[edited]
    assert command_lines(service, deletions) == [path for path in gone if path != edited]

    # It is the team's from now on: an update leaves it alone.
    commit(tmp_path / "repository")
    switch(service, {"cpu_cores": 4})
    assert read(service / edited) == kept[edited]


@pytest.mark.parametrize("name", thorough(ENGINES, but=["celery"]))
def test_what_knows_only_the_seams_works_with_another_engine(template: Path, tmp_path: Path, name: str) -> None:
    names = [*ENGINES]
    before = ENGINES[names[names.index(name) - 1]]
    service = render(template, tmp_path / "service", before)
    write(service / "app/orders/__init__.py", "")
    write(service / "app/orders/router.py", SEAMS)
    append(
        service / "app/api.py", "\nfrom app.orders.router import router as orders\n\nrouter.include_router(orders)\n"
    )
    commit(service)

    *_, check_types, _ = switch(service, ENGINES[name])
    process = check(service, check_types)

    assert process.returncode == 0, process.stdout


def test_a_conflict_is_named_by_git_and_by_the_type_check(template: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    service = render(template, repository / "services" / "orders", DEFAULTS)
    path = "app/core/settings/__init__.py"
    text = read(service / path)
    (line,) = re.findall(r"^from app\.core\.settings\.pagination .*\n", text, re.MULTILINE)
    write(service / path, text.replace(line, line.replace("\n", "  # ours\n")))
    commit(repository)

    conflicts, *_, check_types, _ = switch(service, {"pagination": "offset"})

    assert command_lines(service, conflicts) == [path]
    number = text[: text.index(line)].count("\n") + 1
    assert findings(service, check_types)[0].startswith(f"{path}:{number}: ")
