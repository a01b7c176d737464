"""API keys, the credentials of machines: only their hashes are kept.

The hash is plain SHA-256: nobody can guess the 256 random bits of a key. A slow hash protects
passwords, and would only slow down requests here.
"""

import re
import secrets
from hashlib import sha256

from sqlalchemy import (
    ARRAY,
    Column,
    DateTime,
    Identity,
    Integer,
    LargeBinary,
    Table,
    Text,
    bindparam,
    func,
    select,
)

from app.core.database import PreparedRead, ReadSession
from app.core.database.models import core_metadata
from app.core.security.principal import Principal
from app.core.security.tokens import InvalidToken

# Scanners of repositories find keys by `sk_[0-9a-f]{64}`.
PREFIX = "sk_"
_FORM = re.compile(PREFIX + "[0-9a-f]{64}")
# A worker accepts a known key for this time before it reads the table again.
KNOWN_S = 5.0

api_key = Table(
    "api_key",
    core_metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("subject", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # A revoked key has expired.
    Column("expires_at", DateTime(timezone=True), nullable=False),
)


_FIND = PreparedRead(
    select(api_key.c.subject, api_key.c.scopes, api_key.c.expires_at).where(
        api_key.c.hash == bindparam("hash")
    )
)


def new_key() -> str:
    return PREFIX + secrets.token_hex(32)


def hash_of(key: str) -> bytes:
    return sha256(key.encode()).digest()


async def find(key: str, now: float) -> tuple[Principal, float]:
    """Return the machine that has this key, and the time until which it may be remembered.

    Record no use of the key: that would be a write for each request.

    Raises:
        InvalidToken: when there is no such key, or it has expired.
        Unavailable: when the database does not answer.
    """
    if not _FORM.fullmatch(key):
        raise InvalidToken("it has not the form of an API key")
    row = await ReadSession().fetch_one(_FIND, hash=hash_of(key))
    if row is None:
        raise InvalidToken("there is no such API key")
    expires_at: float = row["expires_at"].timestamp()
    if expires_at <= now:
        raise InvalidToken("the API key has expired, or is revoked")
    return Principal(row["subject"], frozenset(row["scopes"])), min(now + KNOWN_S, expires_at)
