"""Settings of the database: its address, the pool and time limits."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.core.operations.durations import Seconds

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def _is_postgresql(value: SecretStr) -> SecretStr:
    try:
        url = make_url(value.get_secret_value())
        (url.host or "").encode("idna")  # As the resolver does.
    except (ArgumentError, ValueError):
        # The messages of these errors can contain the password.
        url = None
    if (
        url is None
        or url.get_backend_name() not in {"postgresql", "postgres"}
        or not url.database
        or not re.fullmatch(r"[\w.:-]+", url.host or "localhost")
        or (url.port is not None and not 0 < url.port < 2**16)
    ):
        raise ValueError("expected postgresql://user:password@host:5432/database")
    if set(url.query) - {"sslmode"} or url.query.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"the only option after ? is sslmode, one of {', '.join(SSL_MODES)}")
    return value


PostgresUrl = Annotated[SecretStr, AfterValidator(_is_postgresql)]


class DatabaseSettings(BaseSettings):
    database_url: PostgresUrl = Field(
        description="PostgreSQL: `postgresql://user:password@host:5432/database`."
    )
    database_pool_size: int = Field(
        0, ge=0, description="Connections of one worker; 0 derives them from the share."
    )
    database_pool_timeout_s: Seconds = Field(
        0.5, description="Longest wait for a connection; then the answer is 503."
    )
    database_connect_timeout_s: Seconds = Field(
        2.0, description="Longest time that opening a connection may take; then it is 503."
    )
    database_statement_timeout_s: Seconds = Field(
        5.0, description="Longest time that one statement may take; then it is 503."
    )
    database_connection_lifetime_s: Seconds = Field(
        1800.0, description="Longest life of a connection; each ends up to a fifth earlier."
    )
    migration_lock_timeout_s: Seconds = Field(
        2.0, description="Longest wait of a migration for a lock; then it is rolled back."
    )
    migration_wait_timeout_s: float = Field(
        600.0, ge=0, le=86400, description="Longest wait for another migration; then it fails."
    )

    def sqlalchemy_url(self) -> URL:
        """Return `database_url` for asyncpg."""
        return _for_asyncpg(self.database_url.get_secret_value())


def read_again(variable: str) -> URL | None:
    """Return the address in the file that `<variable>_FILE` names, or None."""
    try:
        text = Path(os.environ[f"{variable}_FILE"]).read_text().strip()
        return _for_asyncpg(_is_postgresql(SecretStr(text)).get_secret_value())
    except (KeyError, OSError, ValueError):
        return None


def _for_asyncpg(text: str) -> URL:
    url = make_url(text).set(drivername="postgresql+asyncpg")
    # asyncpg's name for libpq's `sslmode` is `ssl`.
    return url.set(query={"ssl": url.query["sslmode"]}) if "sslmode" in url.query else url
