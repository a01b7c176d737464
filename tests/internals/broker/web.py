"""An application that enqueues jobs, for gunicorn."""

import os
import signal
from typing import Any

from fastapi import APIRouter

from app.core.application import create_app
from app.core.database import WriteSessionDep
from app.core.jobs import enqueue
from app.settings import get_settings
from tests.internals.broker.jobs import JOBS, effect, thing
from tests.internals.declared import ANYBODY

router = APIRouter(dependencies=ANYBODY)


@router.post("/{name}/{label}", status_code=202)
async def accept(
    session: WriteSessionDep,
    name: str,
    label: str,
    duration_s: float | None = None,
    path: str | None = None,
    key: str | None = None,
    optional: bool = False,
    dies: bool = False,
) -> None:
    """Enqueue a job in the transaction of a write; `dies` kills this process after the commit."""

    async def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if dies:
        session.after_commit(end)
    await session.execute(effect.insert().values(label=label, step="accepted"))
    job: Any = JOBS[name].options(key=key, optional=optional)
    given = {"duration_s": duration_s, "path": path}
    arguments = {name: value for name, value in given.items() if value is not None}
    await enqueue(session, job, label, **arguments)


app = create_app(get_settings(), router, title="jobs", description="for tests", resources=[thing])
