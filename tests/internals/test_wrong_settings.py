"""Each variable refuses each wrong value by name, at once, and shows no secret."""

import re
import subprocess
import sys
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from app.core.settings import ConfigurationError, CoreSettings, load
from tests.internals.commands import run

ROOT = Path(__file__).parents[2]
CANARY = "hunter2"

_NUMBERS = ["many", "nan", "inf", "-inf", "-1", "1e400", "1" * 30, "1" * 5000, "1,5", "0x10"]
_PORTS = [":0", ":65536", ":99999", ":x", ":-1", " "]
_PASSWORDS = ["%zz", "%", "%4", "%ff", "%00", "\t", " "]
_POSTGRES = [
    *(f"postgresql://app:{CANARY}@db{port}/app" for port in _PORTS),
    *(f"postgresql://app:{CANARY}{text}@db/app" for text in _PASSWORDS),
    f"postgresql://app:{CANARY}@db/",
    f"postgresql://app:{CANARY}@db",
    f"postgresql://app:{CANARY}@one,two/app",
    f"postgresql://app:{CANARY}@db..local/app",
    f"postgresql://app:{CANARY}@[::1/app",
    f"postgresql://app:{CANARY}@other@db/app",
    f"postgresql://app:{CANARY}@db/a%zz",
    f"postgresql:/app:{CANARY}@db/app",
    f"mysql://app:{CANARY}@db/app",
    f"postgresql://app:{CANARY}@db/app?sslmode=perhaps",
    f"postgresql://app:{CANARY}@db/app?sslmode=",
    f"postgresql://app:{CANARY}@db/app?sslmode=require&sslmode=disable",
    f"postgresql://app:{CANARY}@db/app?ssl=true",
    f"postgresql://app:{CANARY}@db/app#fragment",
    CANARY,
    f"\ufeffpostgresql://app:{CANARY}@db/app",
]
_REDIS = [
    *(f"redis://:{CANARY}@host{port}/0" for port in _PORTS),
    *(f"redis://:{CANARY}{text}@host/0" for text in _PASSWORDS),
    f"redis://:{CANARY}@host/0\n1",
    f"redis://:{CANARY}@host/one",
    f"redis://:{CANARY}@host/0#fragment",
    f"redis://:{CANARY}@host/0?ssl_cert_reqs=none",
    f"redis://:{CANARY}@host/0?socket_timeout=5",
    f"rediss://:{CANARY}@host/0?ssl_cert_reqs=perhaps",
    f"rediss://:{CANARY}@host/0?ssl_ca_certs=/nowhere",
    f"rediss://:{CANARY}@host/0?ssl_keyfile=/nowhere",
    f"unix:///run/redis.sock?password={CANARY}",
    f"https://:{CANARY}@host/0",
    CANARY,
]
_RATES = ["10", "ten/minute", "0/minute", "10/week", "10/minute "]
_NAMES = ["a b", "a\nb", "\x1b[0m", "\xe4", " "]

# By the name of the field, where its type does not say it.
WRONG: dict[str, list[str]] = {
    "auth_audience": ["a b", " "],
    "auth_issuer": [
        *(
            "login.example.org",
            "http://login.example.org",
            "https://a.example/?realm=1",
            "https://",
        ),
        f"https://user:{CANARY}@a.example",
    ],
    "broker_url": _REDIS,
    "cache_prefix": _NAMES,
    "cache_url": _REDIS,
    "cache_version": [*_NAMES, "a" * 101],
    "cursor_secret": [CANARY, "a" * 31],
    "database_replica_url": _POSTGRES,
    "database_url": _POSTGRES,
    "job_queue": _NAMES,
    "rate_limit": _RATES,
    "rate_limit_failures": _RATES,
    "admin_host": ["unix:/run/admin.sock"],
    # In test_edge.py.
    "allowed_hosts": ["*", "[", "a b"],
    "cors_origins": ["app.example.org", "[", f"https://user:{CANARY}@a.example"],
    "root_path": ["shop", "/", " /shop"],
    "http_private_networks": ["*", "10.0.0.1/8", "host", "https://a.example"],
}
# Read where the address is bound, or the directory is opened: tests of these.
ELSEWHERE = {"host", "static_directory", "trusted_proxies"}


def wrong_values(name: str, field: FieldInfo) -> list[str]:
    """What no variable of this type may be."""
    kind = field.annotation
    if isinstance(kind, UnionType):
        kind = get_args(kind)[0]
    if kind in (int, float):
        return _NUMBERS
    if kind is bool:
        return ["perhaps", "2", "yes please", "tru", "None", " true"]
    if get_origin(kind) is Literal:
        return ["perhaps", " ", str(get_args(kind)[0]).swapcase()]
    return WRONG[name]


def refusal() -> str | None:
    try:
        load(CoreSettings)
    except ConfigurationError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", sorted(CoreSettings.model_fields.keys() - ELSEWHERE))
def test_wrong_values_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = name.upper()
    accepted = []
    for value in wrong_values(name, CoreSettings.model_fields[name]):
        monkeypatch.setenv(variable, value)
        message = refusal()
        if message is None:
            accepted.append(value[:40])
        else:
            _, line, _ = message.splitlines()
            assert re.match(f"  {variable}: .{{10}}", line)
            assert CANARY not in line

    assert accepted == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xff\xfe8\x000\x00", "not UTF-8"),
        (None, "Is a directory"),
    ],
)
def test_a_file_of_no_use_is_named(
    content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    for name in CoreSettings.model_fields:
        with monkeypatch.context() as patch:
            patch.setenv(f"{name.upper()}_FILE", str(path))
            with pytest.raises(ConfigurationError, match=rf"{name.upper()}_FILE: .*{reason}"):
                load(CoreSettings)


def test_the_mark_of_an_editor_is_no_part_of_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "port").write_bytes(b"\xef\xbb\xbf7001\r\n")
    monkeypatch.delenv("PORT", raising=False)
    monkeypatch.setenv("PORT_FILE", str(tmp_path / "port"))

    assert load(CoreSettings).port == 7001


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:p%40ss%2Fword%23@db.example.org:5432/app",
        "postgres://app@[2001:db8::1]:5432/app?sslmode=verify-full",
        "postgresql+asyncpg://app:p#a?s/s@db/app",
        "postgresql:///app",
        "postgresql://b\xfccher.example/app",
    ],
)
def test_urls_that_work_are_accepted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    assert load(CoreSettings).database_url.get_secret_value() == url


def test_wrong_settings_are_named_before_libraries_are_imported() -> None:
    libraries = {"sqlalchemy", "asyncpg", "redis", "celery", "fastapi", "starlette"}
    libraries |= {"opentelemetry", "prometheus_client", "uvicorn", "gunicorn"}
    program = "import sys, app.settings; print(*{name.partition('.')[0] for name in sys.modules})"
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert not libraries & set(process.stdout.split())


REDIS_URLS = ["BROKER_URL", "CACHE_URL"]
POSTGRES_URLS = ["DATABASE_URL", "DATABASE_REPLICA_URL"]


def with_canaries(port: int = 1) -> dict[str, str]:
    """Addresses with a password, where nothing listens; DEBUG shows most."""
    return {
        **dict.fromkeys(REDIS_URLS, f"redis://:{CANARY}@127.0.0.1:{port}/0"),
        **dict.fromkeys(POSTGRES_URLS, f"postgresql://app:{CANARY}@127.0.0.1:{port}/app"),
        "CURSOR_SECRET": CANARY * 8,
        "LOG_LEVEL": "DEBUG",
    }


@pytest.mark.parametrize("command", ["serve", "check", "capacity", "migrate", "worker"])
def test_a_command_that_refuses_settings_shows_no_secret(command: str) -> None:
    process = run(command, **with_canaries(port=99999))

    assert process.returncode == 1
    for name in (*POSTGRES_URLS, *REDIS_URLS):
        assert f" {name}: expected " in process.stderr
    assert CANARY not in process.stdout + process.stderr


def test_migrations_without_a_database_say_so_and_show_no_secret() -> None:
    process = run("migrate", **with_canaries())

    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("DATABASE_URL: cannot connect: ")
    assert CANARY not in process.stdout + process.stderr


def test_the_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in with_canaries().items():
        monkeypatch.setenv(name, value)

    settings = load(CoreSettings)

    assert settings.database_url.get_secret_value() == with_canaries()["DATABASE_URL"]
    shown = [repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()]
    assert CANARY not in " ".join(shown)
