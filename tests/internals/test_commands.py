"""The service's own command says what it did, or in one line why not."""

import json
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
    process = run("check", HOST="127.0.0.1", WEB_CONCURRENCY="2", SERVE_STATIC="true")

    assert (process.returncode, process.stderr) == (0, "")
    imports, plan, *_ = process.stdout.splitlines()
    assert imports == "all imports resolve"
    assert plan.startswith("2 workers, ")
    assert "note: HOST is 127.0.0.1" in process.stdout
    assert "note: SERVE_STATIC is on" in process.stdout


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


def test_check_names_every_import_that_does_not_resolve(service: Path) -> None:
    settings = append(service / "app" / "settings.py", "from app.core.gone import Settings\n")
    api = append(service / "app" / "api.py", "from app.core.jobs import enqueue, gone\n")
    append(service / "app" / "orders" / "service.py", "import gone\n\nfrom . import router\n")
    (service / "app" / "core" / "operations" / "health.py").unlink()

    # Not even one variable is needed.
    process = run_in(service, "check", DATABASE_URL="")

    assert process.returncode == 1
    assert process.stdout == ""
    found, advice = process.stderr.split("\nChange these imports", 1)
    application = [line for line in found.splitlines() if "app/core/application.py:" in line]
    assert len(application) == 1
    assert application[0].endswith("app.core.operations has no health")
    assert [line for line in found.splitlines() if line not in application] == [
        f"app/api.py:{api}: app.core.jobs has no gone",
        "app/orders/service.py:1: gone is not installed",
        "app/orders/service.py:3: app.orders has no router",
        f"app/settings.py:{settings}: there is no module app.core.gone",
    ]
    assert "git checkout HEAD -- FILE" in advice


def test_a_caching_policy_that_cannot_hold_is_one_line(service: Path) -> None:
    append(
        service / "app" / "main.py",
        "from app.core.cache import public\n"
        "\n"
        '@app.get("/shelves")\n'
        '@public(s_maxage_s=60, tags=("shelf:{shelf_id}",))\n'
        "async def shelves() -> None: ...\n",
    )
    line = (
        "caching policy of /shelves: the tag 'shelf:{shelf_id}' names shelf_id, which is no "
        "parameter of its path or query"
    )

    checked = run_in(service, "check")
    # Its port is in nobody's way: it never listens.
    served = run_in(service, "serve", PORT="1")

    assert (checked.returncode, checked.stderr) == (1, f"{line}\n")
    assert served.returncode == 1
    assert served.stderr.splitlines()[-1] == line
    assert "Listening" not in served.stderr


def test_static_needs_no_settings(tmp_path: Path) -> None:
    out = tmp_path / "cdn"

    process = run("static", str(out), DATABASE_URL="")

    assert (process.returncode, process.stderr) == (0, "")
    assert f"static files in {out}" in process.stdout
    assert isinstance(json.loads((out / "manifest.json").read_text()), dict)


def test_static_refuses_the_directory_of_others(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html>")

    process = run("static", str(tmp_path))

    assert process.returncode == 1
    assert process.stderr.startswith(f"static: {tmp_path} is not empty")
    assert run("static", str(tmp_path / "index.html")).returncode == 1
    assert run("static").returncode == 2


def test_help_lists_the_commands() -> None:
    process = run("--help")

    assert process.returncode == 0
    assert {"serve", "migrate", "capacity", "check", "static"} <= set(process.stdout.split())
