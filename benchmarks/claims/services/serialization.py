"""A list of 100 rows as JSON: with `ORJSONResponse`, without, with a return type, and as bytes that the route makes."""

import json
from typing import Any

import orjson
from fastapi import FastAPI, Response
from fastapi.responses import ORJSONResponse
from pydantic import BaseModel

# So often the routes below `/dumps` serialize, so that FastAPI's own part is small.
TIMES = 20


class User(BaseModel):
    id: int
    email: str
    name: str
    created_at: str
    scores: list[float]


ROWS: list[dict[str, Any]] = [
    {
        "id": number,
        "email": f"user{number}@example.com",
        "name": f"User {number}",
        "created_at": "2026-01-01T00:00:00Z",
        "scores": [number / 7, number / 3],
    }
    for number in range(100)
]

app = FastAPI()


@app.get("/livez")
async def live():
    return {"status": "ok"}


@app.get("/untyped")
async def untyped():
    return ROWS


@app.get("/untyped/orjson", response_class=ORJSONResponse)
async def untyped_orjson():
    return ROWS


# FastAPI makes the models of the rows.
@app.get("/typed")
async def typed() -> list[User]:
    return ROWS  # type: ignore[return-value]


@app.get("/typed/orjson", response_class=ORJSONResponse)
async def typed_orjson() -> list[User]:
    return ROWS  # type: ignore[return-value]


@app.get("/bytes")
async def as_bytes() -> Response:
    return Response(orjson.dumps(ROWS), media_type="application/json")


@app.get("/dumps/json")
async def dumps_json() -> int:
    # The separators of Starlette's JSONResponse.
    return sum(len(json.dumps(ROWS, ensure_ascii=False, separators=(",", ":")).encode()) for _ in range(TIMES))


@app.get("/dumps/orjson")
async def dumps_orjson() -> int:
    return sum(len(orjson.dumps(ROWS)) for _ in range(TIMES))
