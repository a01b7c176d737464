"""The service's own command says what it did, or in one line why not."""

import json
import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.core.operations.explain import shown
from tests.internals.commands import ROOT, run, run_in

SHOWN = {"DATABASE_URL", "PORT", "WEB_CONCURRENCY", "MAX_BODY_BYTES"}


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """What serves, to be broken."""
    for name in ("app", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def append(path: Path, text: str) -> int:
    """Add the text to a file; returns the number of its first line."""
    lines = path.read_text() if path.exists() else ""
    path.parent.mkdir(exist_ok=True)
    path.write_text(lines + text)
    return lines.count("\n") + 1


def test_check_prints_findings_and_their_number() -> None:
    process = run("check", HOST="127.0.0.1")

    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("note: HOST is 127.0.0.1")
    assert process.stdout.splitlines()[-1].endswith(", errors among them: 0.")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "99999"}, "PORT: "),
        ({"WEB_CONCURRENCY": "4", "DATABASE_POOL_SIZE": "30"}, "4 workers x 30 connections"),
    ],
)
def test_check_fails_where_the_service_would_not_start(
    variables: dict[str, str], message: str
) -> None:
    process = run("check", **variables)

    assert process.returncode == 1
    assert message in process.stderr


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (
            "app/api.py",
            "from app.core.gone import x",
            "ModuleNotFoundError: No module named 'app.c",
        ),
        ("app/api.py", "import gone", "ModuleNotFoundError: No module named 'gone'"),
        (
            "app/settings.py",
            "from app.core.jobs import gone",
            "ImportError: cannot import name 'gone'",
        ),
        ("app/api.py", "<<<<<<< before updating", "SyntaxError: invalid syntax"),
        ("app/settings.py", r"raise RuntimeError('two\nlines')", "RuntimeError: two lines"),
    ],
)
def test_check_names_the_line_that_fails(service: Path, path: str, text: str, message: str) -> None:
    line = append(service / path, f"{text}\n")

    process = run_in(service, "check")

    assert process.returncode == 1
    assert process.stdout == "Findings: 1, errors among them: 1.\n"
    assert process.stderr.startswith(f"error: {path}:{line}: {message}")
    assert len(process.stderr.splitlines()) == 1


def test_a_caching_policy_that_cannot_hold_is_one_line(service: Path) -> None:
    append(
        service / "app" / "main.py",
        "from app.core.cache import public\n"
        "\n"
        '@app.post("/shelves")\n'
        "@public(s_maxage_s=60)\n"
        "async def shelves() -> None: ...\n",
    )
    line = "caching policy of /shelves: only responses to GET are public"

    checked = run_in(service, "check")
    # Its port is in nobody's way: it never listens.
    served = run_in(service, "serve", PORT="1")

    assert (checked.returncode, checked.stderr) == (1, f"error: {line} [start.refused]\n")
    assert served.returncode == 1
    assert served.stderr.splitlines()[-1] == line
    assert "Listening" not in served.stderr


def test_explain_shows_origins_and_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("7001")
    url = "postgresql://app:hunter2@db.internal:5433/orders"
    variables = {"DATABASE_URL": url, "PORT_FILE": str(tmp_path / "port"), "WEB_CONCURRENCY": ""}

    process = run("explain", "--json", CPU_CORES="2", WORKERS_PER_CORE="1", **variables)

    rows = {row["name"]: row for row in json.loads(process.stdout)}
    assert list(rows)[:2] == ["HOST", "PORT"]
    assert {name: (rows[name]["value"], rows[name]["origin"]) for name in rows.keys() & SHOWN} == {
        "DATABASE_URL": ("postgresql://***@db.internal:5433/orders", "environment"),
        "PORT": ("7001", f"file {tmp_path / 'port'}"),
        "WEB_CONCURRENCY": ("2", "derived"),
        "MAX_BODY_BYTES": ("1048576", "default"),
    }
    assert "hunter2" not in process.stdout
    assert all(row["description"] for row in rows.values())


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("CURSOR_SECRET", SecretStr("hunter2"), "***"),
        ("API_KEY", "hunter2", "***"),
        (
            "HOOK",
            SecretStr("https://hooks.example.org/hunter2?t=hunter2"),
            "https://hooks.example.org",
        ),
        ("BROKER", "redis://:hunter2/@host:1/0", "redis://***@host:1/0"),
        ("SITE", "https://example.org/a", "https://example.org/a"),
        ("NAMES", ("a", "b"), "('a', 'b')"),
        ("OPTIONAL", None, "None"),
    ],
)
def test_values_are_shown_without_secrets(variable: str, value: object, text: str) -> None:
    assert shown(variable, value) == text


def test_explain_of_one_setting_and_of_a_misspelt_one() -> None:
    one = run("explain", "port", PORT="7001")
    wrong = run("explain", "DATABASE_POOLSIZE")

    assert one.stdout.splitlines() == ["PORT = 7001  (environment)", "    Port to listen on."]
    assert wrong.returncode == 1
    assert wrong.stderr == ("There is no setting DATABASE_POOLSIZE. Is it DATABASE_POOL_SIZE?\n")


def test_explain_works_when_the_plan_does_not_fit() -> None:
    process = run("explain", "DATABASE_POOL_SIZE", WEB_CONCURRENCY="4", DATABASE_POOL_SIZE="30")

    assert process.returncode == 0
    assert process.stdout.startswith("DATABASE_POOL_SIZE = 30  (environment)")
    assert "4 workers x 30 connections" in process.stderr


@pytest.mark.parametrize("variable", ["HOST", "ADMIN_HOST"])
def test_check_refuses_an_address_that_serve_refuses(variable: str) -> None:
    process = run("check", **{"ADMIN_PORT": "9464", variable: "192.0.2.1"})

    assert process.returncode == 1
    assert process.stderr.startswith(f"error: {variable}: cannot listen on '192.0.2.1'")


def test_help_lists_the_commands() -> None:
    process = run("--help")

    assert process.returncode == 0
    assert {"serve", "migrate", "capacity", "check", "explain"} <= set(process.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command."),
        (["srve"], "No such command 'srve'. Did you mean 'serve'?"),
        (["capacity", "--workers"], "No such option: --workers"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], message: str) -> None:
    process = run(*arguments)

    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.splitlines()[-1] == f"Error: {message}"


LINES = """

from collections.abc import AsyncIterator


@router.get("/lines")
async def lines() -> AsyncIterator[str]:
    yield "a line"
"""


def test_routes_lists_the_handlers_and_the_reasons_for_slow_ones(service: Path) -> None:
    append(service / "app" / "api.py", LINES)

    process = run_in(service, "routes", "--json")

    assert process.returncode == 0, process.stderr
    handlers = {each["path"]: each["handler"] for each in json.loads(process.stdout)}
    assert handlers["/livez"] == "compiled"
    assert handlers["/lines"] == "it is a stream"


def test_routes_says_that_no_handler_is_compiled(service: Path) -> None:
    process = run_in(service, "routes", COMPILED_HANDLERS="false")

    assert process.returncode == 0, process.stderr
    assert "off: COMPILED_HANDLERS is false" in process.stdout
