"""Liveness, readiness, and a database that cannot be reached."""

from httpx2 import AsyncClient

from dev.serving import free_port
from tests.core.serving import serving


async def test_live(client: AsyncClient) -> None:
    response = await client.get("/livez")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready(client: AsyncClient) -> None:
    response = await client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert set(response.json()["checks"].values()) == {"ok"}


def test_without_a_database_the_process_lives_and_is_not_ready() -> None:
    nowhere = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"
    with serving(DATABASE_URL=nowhere) as client:
        assert client.get("/livez").status_code == 200

        response = client.get("/readyz")

        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["checks"]["database"] == "The database cannot be reached."
        assert "secret" not in response.text
        assert client.get("/livez").status_code == 200
