"""Responses with 1 to 1,000 tags: a hit, a miss, and the invalidation of all of them."""

from app.core.cache import cache, public
from app.core.http.serialization import JSON, json_bytes
from fastapi import APIRouter, Response

COUNTS = (1, 10, 100, 1000)
TTL_S = 600
# Ends before anybody else can ask.
NO_TIME_S = 1e-6

router = APIRouter(prefix="/growth", tags=["growth"])


def add(count: int) -> None:
    tags = tuple(f"growth.{count}.{number}" for number in range(count))

    async def read(number: int) -> Response:
        return Response(json_bytes({"number": number}), media_type=JSON)

    async def read_again(number: int) -> Response:
        return await read(number)

    async def invalidate() -> Response:
        await cache.invalidate(*tags)
        return Response(status_code=204)

    kept, ended = public(ttl_s=TTL_S, tags=tags)(read), public(ttl_s=NO_TIME_S, tags=tags)(read_again)
    router.add_api_route(f"/{count}/hits/{{number}}", kept, name=f"hit {count}")
    router.add_api_route(f"/{count}/misses/{{number}}", ended, name=f"miss {count}")
    router.add_api_route(f"/{count}/invalidations", invalidate, methods=["POST"], status_code=204)


for each in COUNTS:
    add(each)
