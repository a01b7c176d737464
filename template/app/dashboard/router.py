"""The dashboard over HTTP."""

from fastapi import APIRouter, Response

from app.core.cache import no_store
from app.core.database import ReadSessionDep
from app.core.http.serialization import JSON
from app.dashboard import service
from app.dashboard.schemas import Dashboard

router = APIRouter(prefix="/dashboard", tags=["dashboard"])


@router.get("", response_model=Dashboard)
@no_store
async def read_dashboard(session: ReadSessionDep) -> Response:
    """Counts and the latest posts; parts that fail are missing, the rest still answers."""
    return Response(await service.overview_json(session), media_type=JSON)
