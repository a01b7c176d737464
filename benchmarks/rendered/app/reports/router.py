"""Reports over HTTP."""

from functools import partial
from importlib.util import find_spec
from uuid import UUID

from app.core.cache import public
from app.core.database import ReadSessionDep
from app.core.http.serialization import json_response
from fastapi import APIRouter, Response

from app.lanes.schemas import UserRead
from app.reports import service
from app.reports.announcements import lifespan
from app.reports.schemas import AuthorDashboard, AuthorSummary

# As long as the caches of the other services keep what they answer.
TTL_S = 60
# Without a store there is nothing that could keep them.
kept = partial(public, ttl_s=TTL_S) if find_spec("app.core.cache.store") else lambda **_: public()

router = APIRouter(prefix="/reports", tags=["reports"], lifespan=lifespan)


# Without a tag: like those of the other services, this list shows an old name for a minute.
@router.get("/users", response_model=list[UserRead])
@kept()
async def newest_users(session: ReadSessionDep) -> Response:
    """The 1,000 newest users, the newest first."""
    return json_response(await service.newest_users(session))


@router.get("/authors/{author_id}", response_model=AuthorSummary)
@kept(tags=("author:{author_id}",))
async def summarize_author(author_id: UUID, session: ReadSessionDep) -> Response:
    """How much an author has written, and when."""
    return json_response(await service.summary(session, author_id))


@router.get("/authors/{author_id}/dashboard", response_model=AuthorDashboard)
@kept()
async def read_dashboard(author_id: UUID, session: ReadSessionDep) -> Response:
    """An author's figures and posts beside the latest posts of all."""
    return json_response(await service.dashboard(session, author_id))
