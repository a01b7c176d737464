"""Rendered files look as if written by hand, and every render is equal."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.rendering import ROOT, render
from tests.variants import DEFAULTS, VARIANTS, Answers


@pytest.fixture(scope="module", params=VARIANTS)
def answers(request: pytest.FixtureRequest) -> Answers:
    return DEFAULTS | VARIANTS[request.param]


@pytest.fixture(scope="module")
def service(answers: Answers, rendered: Callable[[Answers], Path]) -> Path:
    return rendered(answers)


def files(service: Path) -> dict[str, str]:
    """The text of every rendered file, by its name."""
    return {path.relative_to(service).as_posix(): path.read_text() for path in service.rglob("*") if path.is_file()}


def test_no_tag_is_left(service: Path, answers: Answers) -> None:
    # Texts of the user are not Jinja templates.
    own = str(answers.get("description", ""))

    # `${{ }}` is GitHub's, and `{{ $value }}` Prometheus's.
    tag = re.compile(r"(?<!\$)\{[{%#](?! \$)")
    assert [name for name, text in files(service).items() if tag.search(text.replace(own, ""))] == []
    assert [name for name in files(service) if "{" in name or name.endswith(".jinja")] == []


def test_there_is_no_debris_of_blank_lines(service: Path) -> None:
    debris = []
    for name, text in files(service).items():
        # Code in a page has the form that ruff gives it.
        most = 2 if name.endswith((".py", ".mako")) or "```python" in text else 1
        if text and (text.startswith("\n") or not text.endswith("\n") or text.endswith("\n\n")):
            debris.append(f"{name}: begins or ends with a blank line, or without a line break")
        if "\n" * (most + 2) in text:
            debris.append(f"{name}: more than {most} blank lines")
        if re.search(r"[ \t]\n", text) or "\t" in text or "\r" in text:
            debris.append(f"{name}: white space at the end of a line, or a tab")

    assert debris == []


def test_every_file_parses(service: Path) -> None:
    for name, text in files(service).items():
        if name.endswith(".py"):
            ast.parse(text, name)
        elif name.endswith(".toml"):
            tomllib.loads(text)
        elif name.endswith((".yml", ".yaml")):
            list(yaml.safe_load_all(text))


def test_no_python_line_is_longer_than_the_formatter_allows(service: Path) -> None:
    assert [
        f"{name}:{number}"
        for name, text in files(service).items()
        if name.endswith(".py")
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > 100
    ] == []


def test_nothing_speaks_of_the_template(service: Path) -> None:
    """But for how to update, which is Copier's and its answers file's to say."""
    about = re.compile(r"slipstream|jinja|cookiecutter|_copier", re.IGNORECASE)

    assert [name for name, text in files(service).items() if about.search(text) and name != ".copier-answers.yml"] == []


def test_a_second_rendering_is_identical(service: Path, answers: Answers, template: Path, tmp_path: Path) -> None:
    assert files(render(template, tmp_path / "elsewhere" / "again", answers)) == files(service)


def test_every_module_says_what_it_is_for(service: Path) -> None:
    assert [
        name
        for name, text in files(service).items()
        if name.endswith(".py") and text and not ast.get_docstring(ast.parse(text))
    ] == []


def test_every_answer_is_in_one_file_list(rendered: Callable[[Answers], Path]) -> None:
    """Which files an answer brings and takes, as the table of copier.yml says."""
    changed: dict[str, Answers] = {
        "defaults": {},
        "memory": {"cache_backend": "memory"},
        "none": {"cache_backend": "none"},
        "web": {"background_jobs": "background_tasks"},
        "celery": {"background_jobs": "celery"},
        "rq": {"background_jobs": "rq"},
        "direct": {"background_jobs": "rq", "outbox": False},
        "no client": {"http_client": False},
        "offset": {"pagination": "offset"},
        "gitlab": {"ci": "gitlab"},
        "no CI": {"ci": "none"},
        "replica": {"read_replica": True},
        "bare": {"example": False},
    }
    listed = {name: set(files(rendered(changed[name]))) for name in changed}
    defaults = listed["defaults"]

    def change(name: str) -> tuple[set[str], set[str]]:
        return listed[name] - defaults, defaults - listed[name]

    assert change("memory") == (
        set(),
        {
            "app/core/cache/commands.py",
            "app/core/cache/store/connection.py",
            "app/core/cache/store/server.py",
            "app/core/cache/store/valkey.py",
            "app/core/settings/redis_url.py",
            "dev/valkey.py",
        },
    )
    assert change("none") == (
        set(),
        {
            *(f"app/core/cache/{name}.py" for name in ("cached", "commands", "keys", "parameters", "tags")),
            *(
                f"app/core/cache/responses/{name}.py"
                for name in ("__init__", "admission", "loading", "middleware", "repeated", "rules")
            ),
            *(
                f"app/core/cache/store/{name}.py"
                for name in ("__init__", "cache", "connection", "entry", "local", "server", "valkey")
            ),
            "app/core/settings/cache.py",
            "app/core/settings/redis_url.py",
            "dev/valkey.py",
            "tests/core/tags.py",
            "tests/users/test_users_cache.py",
        },
    )
    postgres = {f"app/core/jobs/{name}.py" for name in ("postgres", "postgres_worker")}
    broker = {f"app/core/jobs/{name}.py" for name in ("broker", "relay")}
    assert change("web") == (
        {f"app/core/jobs/{name}.py" for name in ("background_tasks", "lost")},
        {*postgres, "app/worker.py"},
    )
    for engine, way in (("celery", "outbox"), ("rq", "outbox"), ("direct", "direct")):
        library = "celery" if engine == "celery" else "rq"
        assert change(engine) == (
            {*broker, *(f"app/core/jobs/{name}.py" for name in (way, library, f"{library}_worker"))},
            {*postgres, "app/core/jobs/worker.py"},
        )
    added, removed = change("no client")
    assert added == set()
    assert {name for name in removed if not name.startswith("app/core/http_client/")} == {
        "app/core/settings/http_client.py"
    }
    assert change("offset") == (
        {"app/core/pagination/offset.py"},
        {
            "app/core/pagination/cursor.py",
            "app/core/pagination/keyset.py",
            "app/core/settings/pagination.py",
        },
    )
    assert change("replica") == (
        {
            "app/core/settings/replica.py",
            *(f"app/core/database/replica/{name}.py" for name in ("__init__", "consistency", "decisions", "monitor")),
            "app/core/database/replica/router.py",
        },
        set(),
    )
    workflows = {".github/workflows/ci.yml", ".github/workflows/template-update.yml"}
    assert change("gitlab") == ({".gitlab-ci.yml"}, workflows)
    assert change("no CI") == (set(), {*workflows, "dev/template_update.sh"})
    added, removed = change("bare")
    assert added == set()
    assert {"/".join(name.split("/")[:2]) for name in removed} == {
        *("app/dashboard", "app/posts", "app/seed.py", "app/users", "migrations/versions"),
        *("tests/dashboard", "tests/posts", "tests/users"),
    }


RENDER = (
    "import sys; from pathlib import Path; from tests.rendering import render; from tests.variants import VARIANTS\n"
)
RENDER += "render(Path(sys.argv[1]), Path(sys.argv[2]), VARIANTS['everything'])"


def test_copier_without_the_skipped_steps_renders_the_same(template: Path, tmp_path: Path) -> None:
    render(template, tmp_path / "quick", VARIANTS["everything"])
    # A process of its own: `quicken` has changed Copier in this one.
    command = [sys.executable, "-c", RENDER, str(template), str(tmp_path / "whole")]
    subprocess.run(command, cwd=ROOT, check=True)

    quick, whole = (
        {name: (tmp_path / copy / name).stat().st_mode for name in files(tmp_path / copy)}
        for copy in ("quick", "whole")
    )
    assert quick == whole
    assert files(tmp_path / "quick") == files(tmp_path / "whole")
