"""The work of a team on a service: a domain, code at every extension point, and a mark in every file.

All of this code runs and passes the checks of the service, so `nox -s fleet` can run the suites of updated services.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pathspec

from tests.history import append, read, substitute, write
from tests.ownership import OWNERS

_TEMPLATE_OWNED = pathspec.PathSpec.from_lines("gitignore", [*OWNERS["ours"], *OWNERS["seam"]])
# The anchor of a list: `# Add your own below this line.`
_ANCHOR = re.compile(r"( *)# Add your own (?P<where>above|below) this line\.\n")


# --- The files of a service, by owner ---


def files(service: Path) -> dict[str, str]:
    """Return every file of the service, without git's own."""
    paths = {path.relative_to(service).as_posix(): path for path in service.rglob("*") if path.is_file()}
    return {name: read(path) for name, path in sorted(paths.items()) if not name.startswith(".git/")}


def template_owned(service: Path) -> dict[str, str]:
    """Return the files of the classes `ours` and `seam`."""
    return {path: text for path, text in files(service).items() if _TEMPLATE_OWNED.match_file(path)}


def team_owned(service: Path) -> dict[str, str]:
    """Return the files of the classes `shared` and `yours`, and those that the template does not render."""
    return {path: text for path, text in files(service).items() if not _TEMPLATE_OWNED.match_file(path)}


def ruff(service: Path, *arguments: str) -> None:
    """Run ruff over the service with its own configuration."""
    program = shutil.which("ruff", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert program, "ruff is missing: it is in the dependency group `tests`"
    process = subprocess.run(
        [program, *arguments, "--quiet", "--no-cache", "."],
        cwd=service,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


# --- Marks: one recognisable line for every end of every file ---

# How a comment is written, by suffix or, where a file has none, by name.
COMMENTS = {
    ".dockerignore": "# {}",
    ".editorconfig": "# {}",
    ".example": "# {}",
    ".gitattributes": "# {}",
    ".gitignore": "# {}",
    ".mako": "## {}",
    ".md": "<!-- {} -->",
    ".py": "# {}",
    ".sh": "# {}",
    ".template": "# {}",
    ".toml": "# {}",
    ".yaml": "# {}",
    ".yml": "# {}",
    "Dockerfile": "# {}",
}
UNMARKED = {".copier-answers.yml": "Copier writes it anew each time, and says so in its first line."}


def mark(
    service: Path, paths: Iterable[str] | None = None, ends: tuple[str, ...] = ("top", "bottom")
) -> dict[str, str]:
    """Put a comment at the ends of these files, or of all; returns the path of each mark.

    Raises:
        KeyError: for a kind of file that neither COMMENTS nor UNMARKED knows.
    """
    marks = {}
    for path in files(service) if paths is None else paths:
        # JSON has no comments; such a file is compared as a whole.
        if path in UNMARKED or path.endswith(".json"):
            continue
        comment = COMMENTS[Path(path).suffix or Path(path).name]
        text = read(service / path)
        for end in ends:
            token = f"Our own line at the {end} of {path}, kept."
            marks[token] = path
            line = comment.format(token) + "\n"
            text = line + text if end == "top" else text + line
        write(service / path, text)
    return marks


def lost(service: Path, marks: Iterable[str]) -> set[str]:
    """Return the marks that are nowhere in the working tree."""
    everything = "\n".join(files(service).values())
    return {token for token in marks if token not in everything}


# --- Extension points: each is a place that docs/ownership.md names ---


@dataclass(frozen=True)
class Domain:
    """The package of one team; `noun` is the name of one item in it, and each block is one more module.

    In sorted imports, the name must come after `core`.
    """

    name: str
    noun: str
    blocks: tuple[str, ...] = ()

    def fill(self, text: str) -> str:
        return Template(text).substitute(name=self.name, noun=self.noun, Noun=self.noun.title())


def add_import(path: Path, line: str) -> None:
    """Add one `from app...` to those that are there, in the order that ruff wants."""
    text = read(path)
    imports = re.findall(r"^from app\.[^\n]+\n", text, re.MULTILINE)
    if imports:
        first = text.index(imports[0])
        for known in imports:
            text = text.replace(known, "", 1)
        ordered = "".join(sorted([*imports, line + "\n"]))
        write(path, text[:first] + ordered + text[first:])
    else:
        last = re.findall(r"^(?:from|import) [^\n]+\n", text, re.MULTILINE)[-1]
        write(path, text.replace(last, f"{last}\n{line}\n", 1))


def add_setting(service: Path, domain: Domain) -> None:
    path = service / "app/settings.py"
    substitute(path, r"(?<=\nfrom functools import lru_cache\n\n)", "from pydantic import Field\n\n")
    field = f'{domain.name}_shown: int = Field(20, ge=1, description="How many are shown at most.")'
    substitute(path, r"(?<=\nclass Settings\(CoreSettings\):\n)    pass\n", f"    {field}\n")


def add_resource(service: Path, domain: Domain) -> None:
    write(service / f"app/{domain.name}/opened.py", domain.fill(_RESOURCE))
    add_import(service / "app/resources.py", f"from app.{domain.name}.opened import {domain.name}_opened")
    substitute(service / "app/resources.py", r"(?<=\[)(?=(\w+)?\]\n\Z)", f"{domain.name}_opened, ")
    substitute(service / "app/resources.py", r", \]\n\Z", "]\n")


def add_router(service: Path, domain: Domain) -> None:
    """Include the routers; if routes must declare their callers, as public ones."""
    declared = ""
    if (service / "app/core/security/declarations.py").exists():
        declared = ", dependencies=[security.public()]"
        add_import(service / "app/api.py", "from app.core import security")
    for module, name in (("router", domain.name), *((block, f"{domain.name}_{block}") for block in domain.blocks)):
        add_import(service / "app/api.py", f"from app.{domain.name}.{module} import router as {name}")
        append(service / "app/api.py", f"router.include_router({name}{declared})\n")


def add_middleware(service: Path, domain: Domain) -> None:
    write(service / f"app/{domain.name}/middleware.py", domain.fill(_MIDDLEWARE))
    add_import(service / "app/main.py", f"from app.{domain.name}.middleware import Served")
    append(service / "app/main.py", "app.add_middleware(Served)\n")


def add_dependencies(service: Path, domain: Domain) -> None:
    """Add one to each list at its anchor; the service has both packages already, so nothing is downloaded."""
    own = iter(('"markupsafe>=3"', '"iniconfig>=2"'))

    def add(anchor: re.Match[str]) -> str:
        lines = [f"{anchor[1]}{next(own)},\n", anchor[0]]
        return "".join(lines if anchor["where"] == "above" else reversed(lines))

    text, count = _ANCHOR.subn(add, read(service / "pyproject.toml"))
    assert count == 2, "pyproject.toml has an anchor in each of its two lists"
    write(service / "pyproject.toml", text)


def add_session(service: Path, domain: Domain) -> None:
    append(service / "noxfile.py", domain.fill(_SESSION))


def add_fixture(service: Path, domain: Domain) -> None:
    if "import pytest\n" not in read(service / "tests/conftest.py"):
        substitute(service / "tests/conftest.py", r"(?<=\n)(?=pytest_plugins)", "import pytest\n\n")
    append(service / "tests/conftest.py", domain.fill(_FIXTURE))


def add_job(service: Path, domain: Domain) -> None:
    """Add a job: at the anchor of GitHub's workflow, in a file of the team for GitLab, nowhere without CI."""
    github, gitlab = service / ".github/workflows/ci.yml", service / ".gitlab-ci.yml"
    if github.exists():
        assert read(github).rstrip().endswith("# Add your own jobs below this line.")
        append(github, domain.fill(_GITHUB_JOB))
    elif gitlab.exists():
        write(service / ".gitlab/ci.yml", domain.fill(_GITLAB_JOB))


def add_server(service: Path, domain: Domain) -> None:
    write(service / "compose.dev.yaml", domain.fill(_COMPOSE))


def add_dashboard(service: Path, domain: Domain) -> None:
    write(service / f"grafana/dashboards/{domain.name}.json", domain.fill(_DASHBOARD))


# Every place that was made for a team's own.
EXTENSION_POINTS: dict[str, Callable[[Path, Domain], None]] = {
    "a variable": add_setting,
    "a resource": add_resource,
    "a domain": add_router,
    "middleware": add_middleware,
    "a dependency": add_dependencies,
    "a check": add_session,
    "a fixture": add_fixture,
    "a job": add_job,
    "a server for development": add_server,
    "a dashboard": add_dashboard,
}


def grow(service: Path, domain: Domain | None = None) -> None:
    """Write a working domain with its migration and tests, and use every extension point."""
    domain = domain or ORDERS
    package, tests = f"app/{domain.name}", f"tests/{domain.name}"
    texts = {f"{package}/{name}.py": text for name, text in _PACKAGE.items()}
    texts |= {f"{package}/{block}.py": BLOCKS[block][0] for block in domain.blocks}
    texts |= {f"{tests}/__init__.py": "", f"{tests}/test_{domain.name}.py": _TEST}
    texts |= {f"{tests}/test_{domain.name}_{block}.py": BLOCKS[block][1] for block in domain.blocks}
    first = not (service / "migrations/versions/0001_users_and_posts.py").exists()
    texts[f"migrations/versions/0002_{domain.name}.py"] = _MIGRATION.replace("HEAD", "None" if first else '"0001"')
    for path, text in texts.items():
        write(service / path, domain.fill(text))
    write(service / "README.md", f"# {domain.name.title()}\n\nOurs, from the first word to the last.\n")
    for add in EXTENSION_POINTS.values():
        add(service, domain)


_MIDDLEWARE = '''"""Says on each answer who made it."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Served:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Served-By"] = "$name"
            await send(message)

        await self.app(scope, receive, stamped if scope["type"] == "http" else send)
'''
_RESOURCE = '''"""What each process opens for the $name."""

from collections.abc import AsyncIterator

from app.core.operations.resource import Resource
from app.settings import Settings


@Resource
async def ${name}_opened(settings: Settings) -> AsyncIterator[int]:
    """How many are shown."""
    yield settings.${name}_shown
'''
_SESSION = '''

@nox.session
def $name(session: nox.Session) -> None:
    """The domain's models stand on their own."""
    session.run("python", "-c", "import app.$name.models")
'''
_GITHUB_JOB = """\
  $name:
    runs-on: ubuntu-latest
    timeout-minutes: 5
    steps:
      - run: echo $name
"""
_GITLAB_JOB = """\
$name:
  script:
    - echo $name
"""
_COMPOSE = """\
services:
  $name:
    image: axllent/mailpit
"""
_DASHBOARD = """\
{"title": "$name", "panels": []}
"""
_FIXTURE = '''

@pytest.fixture
def $noun() -> dict[str, str]:
    """What a client sends."""
    return {"title": "The first $noun"}
'''
_MODELS = '''"""The table of the $name."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, Index, String, func
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base


class $Noun(Base):
    __tablename__ = "$name"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    title: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    seen_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


Index("ix_${name}_created_at_id", $Noun.created_at, $Noun.id)
'''
_MIGRATION = '''"""$name"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = HEAD
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "$name",
        sa.Column("id", sa.Uuid(), server_default=sa.func.gen_random_uuid(), nullable=False),
        sa.Column("title", sa.String(100), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.clock_timestamp(),
            nullable=False,
        ),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_$name")),
    )
    op.create_index("ix_${name}_created_at_id", "$name", ["created_at", "id"])


def downgrade() -> None:
    op.drop_table("$name")
'''
_SCHEMAS = '''"""What clients send and receive."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class ${Noun}Create(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Title


class ${Noun}Read(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    title: str
    created_at: datetime
'''
_SERVICE = '''"""What can be done with $name, without HTTP."""

from uuid import UUID

from sqlalchemy import select

from app.core.database import ReadSession, WriteSession
from app.core.http.problems import NotFound
from app.core.pagination import Page, PageParams, paginate
from app.$name.models import $Noun
from app.$name.schemas import ${Noun}Create, ${Noun}Read


async def create(session: WriteSession, data: ${Noun}Create) -> ${Noun}Read:
    """Keep one."""
    made = $Noun(**data.model_dump())
    session.add(made)
    await session.flush()
    return await read(session, made.id)


async def read(session: ReadSession, identifier: UUID) -> ${Noun}Read:
    """One of them.

    Raises:
        NotFound: when there is none.
    """
    found = await session.scalar(select($Noun).where($Noun.id == identifier))
    if found is None:
        raise NotFound(f"There is no $noun {identifier}.")
    return ${Noun}Read.model_validate(found)


async def newest(session: ReadSession, params: PageParams) -> Page[${Noun}Read]:
    """The newest first."""
    return await paginate(
        session,
        select($Noun),
        params,
        order_by=($Noun.created_at.desc(), $Noun.id.desc()),
        convert=${Noun}Read.model_validate,
    )
'''
_ROUTER = '''"""$Noun by $noun, over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.core.cache import no_store
from app.core.database import ReadSessionDep, WriteSessionDep
from app.core.pagination import Page, PageParams, page_response
from app.$name import service
from app.$name.schemas import ${Noun}Create, ${Noun}Read

router = APIRouter(prefix="/$name", tags=["$name"])


@router.post("", status_code=201)
async def create(data: ${Noun}Create, session: WriteSessionDep) -> ${Noun}Read:
    """Keep one."""
    return await service.create(session, data)


@router.get("", response_model=Page[${Noun}Read])
@no_store
async def newest(params: Annotated[PageParams, Query()], session: ReadSessionDep) -> Response:
    """The newest first."""
    return page_response(params, await service.newest(session, params))


@router.get("/{identifier}")
@no_store
async def read(identifier: UUID, session: ReadSessionDep) -> ${Noun}Read:
    """One of them."""
    return await service.read(session, identifier)
'''
_TEST = '''"""$Noun by $noun."""

from httpx2 import AsyncClient

from app import settings
from app.$name.opened import ${name}_opened


async def test_it_is_read_and_listed(client: AsyncClient, $noun: dict[str, str]) -> None:
    response = await client.post("/$name", json=$noun)

    assert response.status_code == 201
    assert response.headers["served-by"] == "$name"
    kept = response.json()
    assert (await client.get(f"/$name/{kept['id']}")).json() == kept
    assert (await client.get("/$name")).json()["items"] == [kept]
    assert ${name}_opened.get() == 20


def test_the_setting_has_its_default() -> None:
    assert settings.get_settings().${name}_shown == 20
'''
_COUNT = '''"""How many there are, in the prepared lane."""

from fastapi import APIRouter
from sqlalchemy import func, select

from app.core.cache import no_store
from app.core.database import PreparedRead, ReadSessionDep
from app.$name.models import $Noun

COUNT = PreparedRead(select(func.count().label("count")).select_from($Noun))

router = APIRouter(prefix="/$name-count", tags=["$name"])


@router.get("")
@no_store
async def count(session: ReadSessionDep) -> dict[str, int]:
    """How many there are."""
    row = await session.fetch_one(COUNT)
    return {"count": row["count"] if row else 0}
'''
_COUNT_TEST = '''"""The count."""

from httpx2 import AsyncClient


async def test_each_counts(client: AsyncClient, $noun: dict[str, str]) -> None:
    for _ in range(3):
        await client.post("/$name", json=$noun)

    assert (await client.get("/$name-count")).json() == {"count": 3}
'''
_SEEN = '''"""A job after the request: it says that somebody has seen one."""

from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import func, update

from app.core.database import WriteSession, WriteSessionDep
from app.core.jobs import enqueue, job
from app.$name import service
from app.$name.models import $Noun
from app.$name.schemas import ${Noun}Read

router = APIRouter(prefix="/$name-seen", tags=["$name"])


@job
async def mark_seen(identifier: UUID) -> None:
    """Mark it once, however often the job runs."""
    async with WriteSession() as session:
        await session.execute(
            update($Noun)
            .where($Noun.id == identifier, $Noun.seen_at.is_(None))
            .values(seen_at=func.now())
        )


@router.post("/{identifier}")
async def see(identifier: UUID, session: WriteSessionDep) -> ${Noun}Read:
    """Mark it in the background."""
    found = await service.read(session, identifier)
    await enqueue(session, mark_seen, identifier)
    return found
'''
_SEEN_TEST = '''"""The job."""

from uuid import UUID

from httpx2 import AsyncClient
from sqlalchemy import select

from app.core.database import ReadSession
from app.$name.models import $Noun
from app.$name.seen import mark_seen


async def test_it_is_marked(client: AsyncClient, $noun: dict[str, str]) -> None:
    kept = (await client.post("/$name", json=$noun)).json()
    assert (await client.post(f"/$name-seen/{kept['id']}")).json() == kept

    await mark_seen(UUID(kept["id"]))

    assert await ReadSession().scalar(select($Noun.seen_at)) is not None
'''
_SHELF = '''"""The first titles, which everybody may see and caches keep for a while."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import select

from app.core.cache import public
from app.core.database import ReadSessionDep
from app.$name.models import $Noun

router = APIRouter(prefix="/$name-shelf", tags=["$name"])


@router.get("")
@public(s_maxage_s=30, ignore_credentials=True)
async def shelf(session: ReadSessionDep) -> Annotated[list[str], Field(max_length=5)]:
    """The titles of the first few."""
    first = select($Noun.title).order_by($Noun.created_at, $Noun.id).limit(5)
    rows = await session.rows(first)
    return [title for (title,) in rows]
'''
_SHELF_TEST = '''"""The shelf."""

from httpx2 import AsyncClient


async def test_everybody_sees_it(client: AsyncClient, $noun: dict[str, str]) -> None:
    await client.post("/$name", json=$noun)

    response = await client.get("/$name-shelf")

    assert response.json() == [$noun["title"]]
    assert response.headers["cache-control"].startswith("public")
'''

_PACKAGE = {
    "__init__": "",
    "models": _MODELS,
    "schemas": _SCHEMAS,
    "service": _SERVICE,
    "router": _ROUTER,
}
# More modules of a domain, each with its test.
BLOCKS = {"count": (_COUNT, _COUNT_TEST), "seen": (_SEEN, _SEEN_TEST), "shelf": (_SHELF, _SHELF_TEST)}
ORDERS = Domain("orders", "order", tuple(BLOCKS))
