"""The least FastAPI application, and one endpoint that computes."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/compute")
async def compute() -> dict[str, int]:
    # Some milliseconds, beside which FastAPI and the client cost little.
    return {"total": sum(number * number for number in range(40_000))}
