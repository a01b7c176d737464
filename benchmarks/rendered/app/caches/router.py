"""One user as JSON, by every way of caching it, and what the probes of the cache ask.

The way is a part of the path. All of them load the same bytes with the same prepared statement, and
keep them longer than they are compared, so that a hit is a hit.
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

from app.core.database import ReadSession, ReadSessionDep
from app.core.cache import no_store, public
from app.core.http.problems import NotFound
from app.core.http.serialization import JSON, json_bytes
from fastapi import APIRouter, Response
from sqlalchemy import func, select

from app.caches import ways
from app.caches.ways import TTL_S, lifespan
from app.lanes.schemas import UserRead

# Ends before anybody else can ask.
NO_TIME_S = 1e-6
BODY_BYTES = 300
# How long a response lives that many clients then miss at once, and how long its query takes.
STAMPEDE_TTL_S = 2.0
STAMPEDE_QUERY_S = 0.1

Read = Callable[[ReadSession, UUID], Awaitable[bytes | None]]

router = APIRouter(prefix="/caches", tags=["caches"], lifespan=lifespan)


def way(name: str, policy: Callable[[Read], Read], read: Read) -> None:
    @policy
    async def read_user(user_id: UUID, session: ReadSessionDep) -> Response:
        user = await read(session, user_id)
        if user is None:
            raise NotFound("There is no such user.")
        return Response(user, media_type=JSON)

    path = f"/{name}/users/{{user_id}}"
    router.add_api_route(path, read_user, response_model=UserRead, name=name)


kept = public(ttl_s=TTL_S, tags=("user:{user_id}",))
way("uncached", no_store, ways.load)
way("local", kept, ways.load)
way("shared", kept, ways.load)
way("miss", public(ttl_s=NO_TIME_S, tags=("user:{user_id}",)), ways.load)
way("function", no_store, ways.by_function)
way("cashews", no_store, ways.by_cashews)
way("redis-in-route", no_store, ways.by_redis)


@router.get("/nothing")
async def nothing() -> Response:
    """What costs least, so that what stands before it shows."""
    return Response(b"{}", media_type=JSON)


@router.get("/bodies/{number}")
@public(ttl_s=TTL_S, tags=("body:{number}",))
async def read_body(number: int) -> Response:
    """A body of BODY_BYTES that is no other's, made as the services make theirs."""
    frame = len(json_bytes({"text": ""}))
    return Response(json_bytes({"text": f"{number:0{BODY_BYTES - frame}}"}), media_type=JSON)


@router.get("/stampede/{number}")
@public(ttl_s=STAMPEDE_TTL_S)
async def wait_and_count(number: int, session: ReadSessionDep) -> Response:
    """A slow query; the database counts how often it ran, in a sequence of the harness's."""
    await session.rows(select(func.nextval("stampede"), func.pg_sleep(STAMPEDE_QUERY_S)))
    return Response(b"%d" % number, media_type=JSON)
