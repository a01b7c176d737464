"""The HTTP endpoint of the dashboard."""

from fastapi import APIRouter

from app.core.cache import no_store
from app.core.database import ReadSessionDep
from app.dashboard import service

router = APIRouter(prefix="/dashboard", tags=["dashboard"])


@router.get("")
@no_store
async def read_dashboard(session: ReadSessionDep) -> service.Dashboard:
    """Return counts and the latest posts; a part that fails is null, and without any it is 503."""
    return await service.overview(session)
