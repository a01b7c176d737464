"""Reports over HTTP."""

from uuid import UUID

from app.core.database import ReadSessionDep
from app.core.serialization import JSON
from app.users.schemas import UserRead
from fastapi import APIRouter, Response

from app.reports import service
from app.reports.announcements import lifespan
from app.reports.schemas import AuthorDashboard, AuthorSummary

router = APIRouter(prefix="/reports", tags=["reports"], lifespan=lifespan)


@router.get("/users", response_model=list[UserRead])
async def newest_users(session: ReadSessionDep) -> Response:
    """The 1,000 newest users, the newest first."""
    return Response(await service.newest_users_json(session), media_type=JSON)


@router.get("/authors/{author_id}")
async def summarize_author(author_id: UUID, session: ReadSessionDep) -> AuthorSummary:
    """How much an author has written, and when."""
    return await service.summarize(session, author_id)


@router.get("/authors/{author_id}/dashboard")
async def read_dashboard(author_id: UUID, session: ReadSessionDep) -> AuthorDashboard:
    """An author's figures and posts beside the latest posts of all."""
    return await service.dashboard(session, author_id)
