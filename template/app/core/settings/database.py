"""Settings of the database: its address, the pool and time limits."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from app.core.settings.numbers import Seconds
from app.core.settings.urls import ESCAPES, is_well_escaped

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# As SQLAlchemy reads it, which costs a second to import.
_URL = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://(?:[^:/@]*(?::[^@]*)?@)?"
    r"(?:\[[0-9a-fA-F:.]+\]|(?P<host>[\w.-]+))?(?::(?P<port>\d+))?/[^?#/]+(?:\?(?P<query>.*))?"
)


def check_postgres_url(value: SecretStr) -> SecretStr:
    """Return the URL, or raise ValueError, without the password, for one that is of no use."""
    text = value.get_secret_value()
    match = _URL.fullmatch(text) if is_well_escaped(text) else None
    try:
        ((match and match["host"]) or "").encode("idna")  # As the resolver does.
    except ValueError:
        match = None
    if match is None or not 0 < int(match["port"] or 5432) < 2**16:
        raise ValueError(f"expected postgresql://user:password@host:5432/database; {ESCAPES}")
    if match["query"] not in (None, *(f"sslmode={mode}" for mode in SSL_MODES)):
        raise ValueError(f"the only option after ? is sslmode, one of {', '.join(SSL_MODES)}")
    return value


PostgresUrl = Annotated[SecretStr, AfterValidator(check_postgres_url)]


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
