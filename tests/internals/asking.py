"""An application that asks the database, for gunicorn."""

from importlib.util import find_spec
from typing import Any

from fastapi import APIRouter
from sqlalchemy import literal_column, select

from app.core.application import create_app
from app.core.cache import public
from app.core.database import PreparedRead, ReadSessionDep
from app.settings import get_settings
from tests.internals.declared import ANYBODY

HAS_CACHE = find_spec("app.core.cache.store") is not None
ONE = PreparedRead(select(literal_column("1").label("one")))
STALE: dict[str, Any] = {"ttl_s": 0.01, "stale_if_error_s": 3600} if HAS_CACHE else {}

router = APIRouter(dependencies=ANYBODY)


@router.get("/read")
async def read(session: ReadSessionDep) -> int:
    (row,) = await session.fetch(ONE)
    return int(row["one"])


@router.get("/stale")
@public(**STALE)
async def stale(session: ReadSessionDep) -> int:
    return await read(session)


app = create_app(get_settings(), router, title="asking", description="for tests")
