"""One user in the prepared lane, in place of the example's router, which uses the ORM.

The service is measured as a team tunes a hot path: as the example itself does for its posts.
"""

from functools import cache
from importlib.util import find_spec
from uuid import UUID

from app.core.database import PreparedWrite, ReadSessionDep, WriteSession, WriteSessionDep
from app.core.http.problems import NotFound
from app.core.http.serialization import json_response
from app.core.cache import public
from app.users.models import User
from app.users.schemas import UserUpdate
from fastapi import APIRouter, Response
from sqlalchemy import bindparam, update

from app.lanes.prepared import COLUMNS, USER
from app.lanes.schemas import UserRead

if find_spec("app.core.cache.store"):
    from app.core.cache import invalidate_after_commit

    kept = public(ttl_s=60, tags=("user:{user_id}",))

    def invalidate(session: WriteSession, user_id: UUID) -> None:
        invalidate_after_commit(session, "users", "user:{user_id}", user_id=user_id)
else:
    kept = public()

    def invalidate(session: WriteSession, user_id: UUID) -> None:
        """Without a cache there is nothing to invalidate."""


router = APIRouter(prefix="/users", tags=["users"])


@cache
def change_of(fields: frozenset[str]) -> PreparedWrite:
    return PreparedWrite(
        update(User)
        .where(User.id == bindparam("user_id"))
        .values({field: bindparam(f"new_{field}") for field in fields})
        .returning(*COLUMNS)
    )


@router.get("/{user_id}", response_model=UserRead)
@kept
async def read_user(user_id: UUID, session: ReadSessionDep) -> Response:
    user = await session.fetch_one(USER, user_id=user_id)
    if user is None:
        raise NotFound(f"There is no user {user_id}.")
    return json_response(user)


@router.patch("/{user_id}", response_model=UserRead)
async def change_user(user_id: UUID, data: UserUpdate, session: WriteSessionDep) -> Response:
    invalidate(session, user_id)
    new = {f"new_{field}": value for field, value in data.items()}
    users = await session.autocommit(change_of(frozenset(data)), user_id=user_id, **new)
    if not users:
        raise NotFound(f"There is no user {user_id}.")
    return json_response(users[0])
