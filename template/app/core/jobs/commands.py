"""`python -m app jobs`: the jobs that failed for good, and how to run them again."""

import asyncio
import json
import sys
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database.commands import connection_of
from app.core.jobs.table import background_job as job
from app.core.settings.database import DatabaseSettings

USAGE = "use `failed`, `show ID`, `retry ID...` or `retry all`."
# Most jobs in the list; a retry makes it shorter.
SHOWN = 1000


def run(settings: DatabaseSettings, action: str, ids: Sequence[str], *, as_json: bool) -> None:
    """Run one action; a failure exits with a line that names the reason."""
    asyncio.run(execute(settings, action, ids, as_json=as_json))


async def execute(
    settings: DatabaseSettings, action: str, ids: Sequence[str], *, as_json: bool
) -> None:
    """Run one action on a connection of its own; a failure raises SystemExit with the reason."""
    async with connection_of("jobs", settings) as connection:
        match action, ids:
            case "failed", []:
                await _failed(connection, as_json=as_json)
            case "show", [id]:
                await _show(connection, _uuid(id), as_json=as_json)
            case "retry", ["all"]:
                await _retry(connection, None)
            case "retry", [_, *_]:
                await _retry(connection, [_uuid(id) for id in ids])
            case _:
                sys.exit(f"jobs: {USAGE}")


async def _failed(connection: AsyncConnection, *, as_json: bool) -> None:
    failed = select(job).where(job.c.state == "dead").order_by(job.c.due_at.desc(), job.c.id)
    rows = [*(await connection.execute(failed.limit(SHOWN))).mappings()]
    if as_json:
        print(json.dumps([dict(row) for row in rows], default=str, indent=2))
        return
    for row in rows:
        reason = (row["error"] or "").strip().rpartition("\n")[2]
        print(f"{row['id']}  {row['due_at']:%Y-%m-%d %H:%M:%S}  {row['name']}  {reason[:200]}")
    least = "At least " if len(rows) == SHOWN else ""
    print(f"{least}{len(rows)} jobs failed." if rows else "No job failed.", file=sys.stderr)


async def _show(connection: AsyncConnection, id: UUID, *, as_json: bool) -> None:
    found = (await connection.execute(select(job).where(job.c.id == id))).mappings().first()
    if not found:
        sys.exit(f"jobs: there is no job {id}: it succeeded, or never was.")
    row = dict(found)
    if as_json:
        print(json.dumps(row, default=str, indent=2))
        return
    error = row.pop("error")
    row["arguments"] = json.dumps(row["arguments"])
    for name, value in row.items():
        print(f"{name}: {'' if value is None else value}")
    print(error or "")


async def _retry(connection: AsyncConnection, ids: list[UUID] | None) -> None:
    again = (
        update(job)
        .where(job.c.state == "dead", *([] if ids is None else [job.c.id.in_(ids)]))
        # Without a change of `attempts`, by which a late worker knows that the job is not its own.
        .values(state="waiting", deliveries=0, due_at=func.now())
        .returning(job.c.id)
    )
    found = {*await connection.scalars(again)}
    print(f"{len(found)} jobs run again.")
    if missing := {*(ids or [])} - found:
        sys.exit(f"jobs: no failed job has the id {', '.join(sorted(map(str, missing)))}.")


def _uuid(id: str) -> UUID:
    try:
        return UUID(id)
    except ValueError:
        sys.exit(f"jobs: {id!r} is no id of a job; `python -m app jobs failed` lists them.")
