"""`python -m app keys`: makes, lists and revokes API keys."""

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database.commands import connection_of
from app.core.security.api_keys import KNOWN_S, api_key, hash_of, new_key
from app.core.settings.database import DatabaseSettings

USAGE = "use `create --subject NAME --scope SCOPE`, `list` or `revoke ID`."
# RFC 6749, section 3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


async def execute(
    settings: DatabaseSettings,
    action: str,
    ids: Sequence[str] = (),
    *,
    subject: str = "",
    scopes: Sequence[str] = (),
    expires_days: int = 90,
    as_json: bool = False,
) -> None:
    """Run one action; a failure raises SystemExit with a line that names the reason."""
    async with connection_of("keys", settings) as connection:
        match action, ids:
            case "create", [] if subject:
                await _create(connection, subject, scopes, expires_days)
            case "list", []:
                await _list(connection, as_json=as_json)
            case "revoke", [id] if id.isdecimal() and len(id) < 10:
                await _revoke(connection, int(id))
            case _:
                sys.exit(f"keys: {USAGE}")


async def _create(
    connection: AsyncConnection, subject: str, scopes: Sequence[str], expires_days: int
) -> None:
    if wrong := [scope for scope in scopes if not _SCOPE.fullmatch(scope)]:
        sys.exit(f"keys: {wrong[0]!r} is no scope: use visible ASCII without blanks.")
    key = new_key()
    values = {
        "hash": hash_of(key),
        "subject": subject,
        "scopes": list(scopes),
        "expires_at": datetime.now(UTC) + timedelta(days=expires_days),
    }
    id = await connection.scalar(insert(api_key).values(values).returning(api_key.c.id))
    print(f"Key {id}, shown only once:", file=sys.stderr)
    print(key)


async def _list(connection: AsyncConnection, *, as_json: bool) -> None:
    columns = [column for column in api_key.c if column.name != "hash"]
    rows = [*(await connection.execute(select(*columns).order_by(api_key.c.id))).mappings()]
    if as_json:
        print(json.dumps([dict(row) for row in rows], default=str, indent=2))
        return
    for row in rows:
        until = f"{row['expires_at']:%Y-%m-%d %H:%M}"
        print(f"{row['id']:>6}  until {until}  {row['subject']}  {' '.join(row['scopes'])}")


async def _revoke(connection: AsyncConnection, id: int) -> None:
    revoke = update(api_key).where(api_key.c.id == id, api_key.c.expires_at > func.now())
    revoked = revoke.values(expires_at=func.now()).returning(api_key.c.subject)
    subject = await connection.scalar(revoked)
    if subject is None:
        sys.exit(f"keys: no key {id} is valid; `python -m app keys list` shows all.")
    print(f"Key {id} of {subject} is refused, after {KNOWN_S:g} s at most.")
