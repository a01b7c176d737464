"""The service's own command says what it did, or in one line why not."""

import shutil
from pathlib import Path

import pytest

from tests.internals.commands import ROOT, run, run_in


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


def test_check_prints_the_plan_and_notes() -> None:
    process = run("check", HOST="127.0.0.1", WEB_CONCURRENCY="2")

    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("2 workers, ")
    assert "note: HOST is 127.0.0.1" in process.stdout


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
        ("app/api.py", "from app.core.gone import x", "No module named 'app.core.gone'"),
        ("app/api.py", "import gone", "No module named 'gone'"),
        ("app/settings.py", "from app.core.jobs import gone", "cannot import name 'gone' from "),
        ("app/api.py", "<<<<<<< before updating", "invalid syntax"),
        ("app/settings.py", r"raise RuntimeError('two\nlines')", "RuntimeError: two lines"),
    ],
)
def test_check_names_the_line_that_fails(service: Path, path: str, text: str, message: str) -> None:
    line = append(service / path, f"{text}\n")

    # Without any variable: imports come first.
    process = run_in(service, "check", DATABASE_URL="")

    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.startswith(f"{path}:{line}: {message}")
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

    assert (checked.returncode, checked.stderr) == (1, f"{line}\n")
    assert served.returncode == 1
    assert served.stderr.splitlines()[-1] == line
    assert "Listening" not in served.stderr


def test_help_lists_the_commands() -> None:
    process = run("--help")

    assert process.returncode == 0
    assert {"serve", "migrate", "capacity", "check"} <= set(process.stdout.split())


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
