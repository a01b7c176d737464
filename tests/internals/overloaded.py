"""An application for gunicorn that counts the requests that it has at once."""

from fastapi import APIRouter
from sqlalchemy import func, select

from app.core.application import create_app
from app.core.database import ReadSessionDep
from app.core.database.engine import gates
from app.core.server.overload import shed_never
from app.settings import get_settings
from tests.internals.declared import ANYBODY

router = APIRouter(dependencies=ANYBODY)
now = {"requests": 0}
most = {"requests": 0, "connections": 0, "limit": 0}


@router.get("/work")
async def work(session: ReadSessionDep) -> None:
    now["requests"] += 1
    most["requests"] = max(most["requests"], now["requests"])
    try:
        await session.scalar(select(func.pg_sleep(0.02)))
        asked = sum(gate.in_use + gate.waiting for gate in gates)
        most["connections"] = max(most["connections"], asked)
    finally:
        now["requests"] -= 1


@router.get("/state")
@shed_never
async def state() -> dict[str, int]:
    return most | {"limit": app.state.limiter.limit, "now": now["requests"]}


app = create_app(get_settings(), router, title="overloaded", description="")
