"""Configuration: what is wrong is named, at once, and secrets stay secret."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.database.address import asyncpg_url
from app.core.server.addresses import require_address
from app.core.settings import ConfigurationError, CoreSettings, load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("DATABASE_URL", None, "is missing. PostgreSQL: `postgresql://"),
        ("DATABASE_URL", "mysql://root:hunter2@host/db", "expected postgresql://"),
        ("DATABASE_URL", "hunter2", "expected postgresql://"),
        ("DATABASE_URL", "", "is missing."),
        ("DATABASE_URL", "postgresql://app:hunter2/app", "expected postgresql://"),
        ("DATABASE_URL", "postgresql://app:x@hunter2:y@db/app", "expected postgresql://"),
        ("DATABASE_URL", "postgresql://app@db/app?connect_timeout=5", "the only option"),
        ("DATABASE_URL", "postgresql://app@db/app?sslmode=perhaps", "one of disable, allow"),
        ("DATABASE_URL", "postgresql://app:hunter2@db:99999/app", "expected postgresql://"),
        ("DATABASE_URL", "postgresql://app:hunter2@db:0/app", "expected postgresql://"),
        ("DATABASE_URL", "postgresql://app:hunter2@db,other/app", "expected postgresql://"),
        ("DATABASE_STATEMENT_TIMEOUT_S", "1e15", "less than or equal to 86400"),
        ("DATABASE_URL", "postgresql://app:hunter2@the db/app", "expected postgresql://"),
        ("DATABASE_URL", "postgresql://app:hunter2@db..local/app", "expected postgresql://"),
        ("WORKERS_PER_CORE", "inf", "finite number"),
        ("WORKERS_PER_CORE", "1e308", "less than or equal to 100"),
        ("CPU_CORES", "1000000", "less than or equal to 1024"),
        ("MAX_JSON_VALUES", "0", "greater than or equal to 1"),
        ("PORT", "99999", "less than or equal to 65535"),
        ("WEB_CONCURRENCY", "many", "valid integer"),
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_expected(
    variable: str, value: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError) as caught:
        load(CoreSettings)

    assert f"  {variable}: " in str(caught.value)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


def refused(*command: str, **variables: str) -> str:
    """What a command says that ends with an error, and without a traceback."""
    process = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    return process.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "app", "serve"),
        ("-m", "app", "migrate"),
        ("-m", "gunicorn", "--config=deploy/gunicorn.conf.py", "app.main:app"),
        ("-c", "import app.main"),
    ],
)
def test_a_wrong_variable_stops_the_start(command: tuple[str, ...]) -> None:
    output = refused(*command, DATABASE_URL="mysql://root:hunter2@host/db")

    assert "DATABASE_URL: " in output
    assert "hunter2" not in output


@pytest.mark.parametrize("command", [("-m", "app", "serve"), ("-c", "import app.main")])
def test_connections_that_do_not_fit_stop_the_start(command: tuple[str, ...]) -> None:
    output = refused(*command, WEB_CONCURRENCY="4", DATABASE_POOL_SIZE="30")

    assert "4 workers x 30 connections" in output


# Another machine's; none at all.
@pytest.mark.parametrize("host", ["192.0.2.1", "127.0.0.1:80", "[::1]", "999.1.1.1", "a b"])
def test_an_address_of_no_use_is_named(host: str) -> None:
    with pytest.raises(SystemExit, match=r"^HOST: cannot listen on "):
        require_address(host)


def test_an_address_of_no_use_stops_the_start() -> None:
    assert refused("-m", "app", "serve", HOST="a b").startswith("HOST: cannot listen on 'a b'")


def test_a_variable_goes_before_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "port").write_text("7001\n")
    monkeypatch.setenv("PORT_FILE", str(tmp_path / "port"))
    monkeypatch.setenv("PORT", "")
    assert load(CoreSettings).port == 7001

    monkeypatch.setenv("PORT", "7002")
    assert load(CoreSettings).port == 7002


def test_a_wrong_value_in_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "port").write_text("hunter2")
    monkeypatch.delenv("PORT", raising=False)
    monkeypatch.setenv("PORT_FILE", str(tmp_path / "port"))

    with pytest.raises(ConfigurationError, match=r"  PORT: ") as caught:
        load(CoreSettings)

    assert "hunter2" not in str(caught.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgresql://app:from-file@db/app\n")
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))

    settings = load(CoreSettings)

    assert settings.database_url.get_secret_value() == "postgresql://app:from-file@db/app"
    assert "from-file" not in repr(settings)


def test_a_file_that_is_not_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))

    with pytest.raises(ConfigurationError, match=r"DATABASE_URL_FILE: .* is not UTF-8 text"):
        load(CoreSettings)


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL_FILE", "/nowhere/url")

    with pytest.raises(ConfigurationError, match=r"DATABASE_URL_FILE: cannot read /nowhere/url"):
        load(CoreSettings)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_urls_of_any_spelling_lead_to_asyncpg(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://app@db/app?sslmode=require")

    url = asyncpg_url(load(CoreSettings).database_url)

    assert url.render_as_string() == "postgresql+asyncpg://app@db/app?ssl=require"
