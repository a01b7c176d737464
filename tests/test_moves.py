"""The update over the move of nearly every module, from the last commit before it: edits, answers, and a team's code.

CHANGELOG.md has the tables of what moved. They are held against both versions here, and translate the team's code.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path

import pytest
import yaml

from tests.conftest import Once
from tests.edits import ORDERS, add_dependencies, add_import, add_session, files, mark, ruff, team_owned, template_owned
from tests.environments import run_uv
from tests.history import append, read, substitute, write
from tests.rendering import ROOT, commit, git, render, snapshot
from tests.updates import ANSWERS_FILE, Tally, conflicts, listed, restored, update
from tests.variants import DEFAULTS, VARIANTS, Answers

BEFORE = "c3dc916af25653fdb06fb6587fd0d06a62e986bd"
NEW_ANSWERS: Answers = {
    "auth": "jwt",
    "deployment": "compose",
    "rate_limits": True,
    "idempotency": True,
    "static_files": True,
    "tracing": True,
}
ANSWERS = {name: answer for name, answer in (DEFAULTS | VARIANTS["everything"]).items() if name not in NEW_ANSWERS}
ENTRIES = yaml.safe_load(read(ROOT / "copier.yml"))["_migrations"]
VERSION: str = ENTRIES[0]["version"]
PATHS: list[str] = ENTRIES[0]["command"][3:]
MOVES: Mapping[str, str] = dict(zip(PATHS[::2], PATHS[1::2], strict=True))
# Of so many lines alike in both versions, an edit in the middle merges.
ALIKE = 8
OWN = "# Our own line in {}, kept.\n"
HANDED_OVER = "app/core/changes.py"
ROW = re.compile(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", re.MULTILINE)
IMPORT = re.compile(r"^from (app\.core[\w.]*) import (\([^)]+\)|[^\n]+)\n", re.MULTILINE)


def tables() -> dict[str, str]:
    """All rows of the tables in CHANGELOG.md, in the oldest of its parts `Breaking`."""
    return dict(ROW.findall(read(ROOT / "CHANGELOG.md").rpartition("\n### Breaking\n")[2]))


def translate(text: str) -> str:
    """A module of the team with the names of now; the imports in an order that ruff mends."""
    rows = tables()
    names: dict[str, str] = {}

    def moved(match: re.Match[str]) -> str:
        module = match[1]
        lines = []
        for name in re.findall(r"\w+", match[2]):
            known = rows.get(f"{module}.{name}", f"{rows.get(module, module)}.{name}")
            target, _, names[name] = known.rpartition(".")
            lines.append(f"from {target} import {names[name]}\n")
        return "".join(lines)

    text = IMPORT.sub(moved, text)
    for old, new in names.items():
        text = re.sub(rf"\b{old}\b", new, text)
    for old, new in rows.items():
        if not old.startswith("app."):
            text = re.sub(rf"\b{old}\b" if "." in old else rf"\b{old}(?==)", new, text)
    return text


PARCELS = '''"""Parcels, in the names of the older version."""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import func, select

from app.core.cache import cached
from app.core.changes import Changes
from app.core.database import PreparedRead, ReadSession, ReadSessionDep
from app.core.http_caching import never_stored, private, public
from app.core.problems import NotFound
from app.core.serialization import JSON, to_json
from app.users.models import User

COUNT = PreparedRead(select(func.count().label("count")).select_from(User))

router = APIRouter(prefix="/parcels")


class ParcelUpdate(Changes):
    weight_g: int = 0


@cached("parcels", ttl_s=60, tags=("parcels",))
async def count_json(session: ReadSession) -> bytes:
    row = await session.fetch_one(COUNT)
    return to_json({"count": row["count"] if row else 0})


@router.get("", response_model=dict[str, int])
@public(ttl_s=60, browser_s=10, cdn_s=20, stale_s=5, error_s=30, missing_s=5, tags=("parcels",))
async def count(session: ReadSessionDep) -> Response:
    return Response(await count_json(session), media_type=JSON)


@router.get("/parts")
@private(browser_s=10)
async def parts() -> dict[str, bool]:
    return {"slow": False, "quick": True}


@router.get("/none")
@never_stored
async def none() -> None:
    raise NotFound("There is no parcel.")


@router.patch("")
async def change(data: ParcelUpdate) -> dict[str, Any]:
    return data.sent()
'''
PARCELS_TEST = '''"""Parcels, over HTTP."""

from httpx2 import AsyncClient


async def test_parcels_answer_as_before(client: AsyncClient) -> None:
    response = await client.get("/parcels")
    assert response.json() == {"count": 0}
    assert response.headers["cache-control"] == (
        "public, max-age=10, s-maxage=20, stale-while-revalidate=5, stale-if-error=30"
    )
    response = await client.get("/parcels/parts")
    assert response.json() == {"slow": False, "quick": True}
    assert response.headers["cache-control"].startswith("private, max-age=10")
    response = await client.get("/parcels/none")
    assert response.status_code == 404
    assert response.headers["cache-control"] == "private, no-store"
    assert (await client.patch("/parcels", json={"weight_g": 5})).json() == {"weight_g": 5}
    assert (await client.patch("/parcels", json={})).json() == {}
'''


def make_versions(destination: Path) -> None:
    """A repository with the commit before the moves, without a tag as it was, and the working tree as its version."""
    # Of a clone's own git: what it does not have is fetched by who runs this.
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{BEFORE}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    if known.returncode:
        pytest.fail(f"the history of this clone ends before {BEFORE[:7]}: fetch it with `git fetch --unshallow`")
    archive = destination.with_suffix(".tar")
    git(ROOT, "archive", f"--output={archive}", BEFORE)
    shutil.unpack_archive(archive, destination)
    archive.unlink()
    commit(destination, "Before the moves")
    git(destination, "rm", "--quiet", "-r", ".")
    snapshot(destination, VERSION)


@pytest.fixture(scope="session")
def versions(once: Once) -> Path:
    return once("moves", make_versions)


@pytest.fixture(scope="session")
def older(versions: Path, once: Once) -> Path:
    """A service of the commit before the moves, committed; a test copies it."""

    def start(path: Path) -> None:
        render(versions, path, ANSWERS, "HEAD~1")
        commit(path, "Start from the template")

    return once("moves-older", start)


def check_answers(service: Path) -> None:
    recorded = yaml.safe_load(read(service / ANSWERS_FILE))
    assert recorded["_commit"] == VERSION
    assert {name: recorded[name] for name in ANSWERS | NEW_ANSWERS} == ANSWERS | NEW_ANSWERS


def test_an_edit_in_each_file_is_merged_or_in_a_conflict_or_listed_as_deleted(
    older: Path, tmp_path: Path, tally: Tally
) -> None:
    service = Path(shutil.copytree(older, tmp_path / "service"))
    marks = mark(service)
    gone = "app/core/logs.py"
    (service / gone).unlink()
    marks = {token: path for token, path in marks.items() if path != gone}
    commit(service)
    team = team_owned(service)

    update(service, NEW_ANSWERS, VERSION, trust=True)

    assert not tally.count(service, marks)
    check_answers(service)
    assert team_owned(service).items() >= team.items()
    deleted, text = listed(service, "D"), files(service)
    for token, path in marks.items():
        # Where it belongs, and nowhere else.
        place = MOVES.get(path, path)
        assert token in (text[place] if place in text else restored(service, path)), token
    assert not deleted & {path for path in MOVES if MOVES[path] not in text}
    assert HANDED_OVER in text
    assert conflicts(service) <= set(template_owned(service))


def edit_where_nothing_changed(service: Path, fresh: Path) -> None:
    """Put a comment into each file that moves, among lines that the present version has as well, if it has enough."""
    for old, new in MOVES.items():
        lines, present = (read(path).splitlines(keepends=True) for path in (service / old, fresh / new))
        match = SequenceMatcher(None, lines, present, autojunk=False).find_longest_match()
        if match.size >= ALIKE:
            lines.insert(match.a + match.size // 2, OWN.format(new))
            write(service / old, "".join(lines))


@pytest.fixture(scope="session")
def updated(older: Path, versions: Path, once: Once) -> Path:
    """A service with work of a team's own, updated; read only."""

    def work(path: Path) -> None:
        fresh = render(versions, path.with_name("fresh"), ANSWERS | NEW_ANSWERS, VERSION)
        shutil.copytree(older, path)
        write(path / "app/parcels/__init__.py", "")
        write(path / "app/parcels/router.py", PARCELS)
        write(path / "tests/parcels/__init__.py", "")
        write(path / "tests/parcels/test_parcels.py", PARCELS_TEST)
        add_import(path / "app/api.py", "from app.parcels.router import router as parcels")
        append(path / "app/api.py", "router.include_router(parcels)\n")
        add_dependencies(path, ORDERS)
        add_session(path, ORDERS)
        substitute(path / "app/settings.py", r"    pass\n", "    parcels_shown: int = 20\n")
        edit_where_nothing_changed(path, fresh)
        (path / "tests/posts/test_posts.py").unlink()
        commit(path)
        update(path, NEW_ANSWERS, VERSION, trust=True)

    return once("moves-updated", work)


def test_the_work_of_a_team_is_merged_without_a_conflict(updated: Path, tally: Tally) -> None:
    before = git(updated, "grep", "--name-only", "-e", OWN.format(".*").strip(), "HEAD").split()
    edited = [path.removeprefix("HEAD:") for path in before]
    # The others have too few lines in common with the present version.
    assert len(edited) > len(MOVES) / 4
    marks = {OWN.format(MOVES[path]): path for path in edited}
    assert not tally.count(updated, marks)
    assert not conflicts(updated)
    for token, path in marks.items():
        assert token in read(updated / MOVES[path])
        assert not (updated / path).exists()
    check_answers(updated)
    assert read(updated / "app/parcels/router.py") == PARCELS
    assert not (updated / "tests/posts/test_posts.py").exists()
    assert "markupsafe>=3" in read(updated / "pyproject.toml")
    assert "def orders(" in read(updated / "noxfile.py")


def test_the_tables_name_what_there_was_and_what_there_is(older: Path, updated: Path) -> None:
    rows = tables()
    for old, new in rows.items():
        for service, name in ((older, old), (updated, new)):
            assert knows(service, name), f"{name} is not in {service.name}"
        assert not knows(updated, old) or old in {"app.core.concurrency", "app.core.server", "app.core.telemetry"}, (
            f"{old} is still there"
        )


def knows(service: Path, name: str) -> bool:
    """Whether a service has the module, the name in a module, the attribute of a class, or the argument."""
    path = service / name.replace(".", "/")
    if path.with_suffix(".py").exists() or (path / "__init__.py").exists():
        return True
    module, _, last = name.rpartition(".")
    if module.startswith("app.core"):
        path = service / module.replace(".", "/")
        sources = [path.with_suffix(".py"), path / "__init__.py"]
        pattern = rf"^(class|def|async def) {last}\b|^    \"{last}\",$|^from .* import .*\b{last}\b"
    elif module:
        sources = [service / "app/core/database/engine.py"]
        pattern = rf"^    def {last}\b"
    else:
        sources = list((service / "app/core").rglob("policy.py"))
        pattern = rf"^    {last}: "
    return any(re.search(pattern, read(source), re.MULTILINE) for source in sources if source.exists())


@pytest.mark.thorough
def test_a_teams_code_with_the_names_of_the_tables_passes_its_checks(updated: Path, tmp_path: Path) -> None:
    service = Path(shutil.copytree(updated, tmp_path / "service"))
    team = [path for path in team_owned(service) if path.endswith(".py")]
    process = run_uv(service, "run", "--quiet", "nox", "-s", "types", timeout_s=400)
    assert process.returncode, "the older names still resolve"
    named = set(re.findall(r"^(\S+\.py):\d+: error: ", process.stdout, re.MULTILINE))
    for path in team:
        text = read(service / path)
        translated = translate(text)
        assert translated == text or path in named, f"the type check does not name {path}"
        write(service / path, translated)
    ruff(service, "format")
    ruff(service, "check", "--fix")
    process = run_uv(service, "run", "--quiet", "nox", "-s", "types", timeout_s=400)
    assert process.returncode == 0, process.stdout
    tests = ["tests/parcels", "tests/users", "tests/dashboard"]
    process = run_uv(service, "run", "--quiet", "nox", "-s", "tests", "--", *tests, timeout_s=400)
    assert process.returncode == 0, process.stdout
