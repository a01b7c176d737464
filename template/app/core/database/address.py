"""The address of a PostgreSQL server, as SQLAlchemy takes it."""

import os
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import URL, make_url

from app.core.settings.database import check_postgres_url


def asyncpg_url(setting: SecretStr) -> URL:
    """Return the URL of a setting for asyncpg."""
    url = make_url(setting.get_secret_value()).set(drivername="postgresql+asyncpg")
    # asyncpg's name for libpq's `sslmode` is `ssl`.
    return url.set(query={"ssl": url.query["sslmode"]}) if "sslmode" in url.query else url


def read_again(variable: str) -> URL | None:
    """Return the address in the file that `<variable>_FILE` names, or None."""
    try:
        text = Path(os.environ[f"{variable}_FILE"]).read_text("utf-8-sig").strip()
        return asyncpg_url(check_postgres_url(SecretStr(text)))
    except (KeyError, OSError, ValueError):
        return None
