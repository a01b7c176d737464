"""The dashboard over HTTP."""

from fastapi import APIRouter

from app.core.database import ReadSessionDep
from app.dashboard import service
from app.dashboard.schemas import Dashboard

router = APIRouter(prefix="/dashboard", tags=["dashboard"])


@router.get("")
async def read_dashboard(session: ReadSessionDep) -> Dashboard:
    """Counts and the latest posts; parts that fail are missing, the rest still answers."""
    return await service.overview(session)
