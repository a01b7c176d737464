"""Tags in headers, by which CDNs invalidate the responses that they store."""

from collections.abc import AsyncIterator

import pytest
from fastapi import APIRouter, FastAPI, Response
from httpx2 import ASGITransport, AsyncClient

from app.core.cache import cached, invalidate_after_commit, public
from app.core.cache.check import check_policies
from app.core.cache.responses.middleware import ResponseCache
from app.core.cache.store import Cache
from app.core.database import ReadSession, WriteSession
from app.core.http.problems import NotFound, install
from tests.core import leftovers, tags

TAG_HEADERS = {"cache-tag", "surrogate-key"}


@pytest.fixture
async def site() -> AsyncIterator[AsyncClient]:
    router = APIRouter()

    @router.get("/public")
    @public(s_maxage_s=60, tags=("all", "page:{number}"))
    async def public_page(number: int = 1) -> dict[str, int]:
        return {"number": number}

    @router.get("/kept")
    @public(ttl_s=60, s_maxage_s=60, tags=("all", "page:{number}"))
    async def kept(number: int = 1) -> dict[str, int]:
        return {"number": number}

    @router.get("/only-here")
    @public(ttl_s=60, tags=("all",))
    async def only_here() -> None: ...

    @router.get("/cookie")
    @public(s_maxage_s=60, tags=("page",))
    async def cookie() -> Response:
        return Response("page", headers={"Set-Cookie": "session=secret"})

    @router.get("/missing")
    @public(s_maxage_s=60, negative_ttl_s=5, tags=("missing",))
    async def missing() -> None:
        raise NotFound("There is none.")

    app = FastAPI()
    app.include_router(router)
    # A cache that is not open stores nothing.
    app.add_middleware(ResponseCache, store=Cache())
    install(app)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("path", ["/public", "/kept"])
async def test_a_cdn_gets_the_tags_with_their_values(site: AsyncClient, path: str) -> None:
    headers = (await site.get(f"{path}?number=7")).headers
    assert headers["surrogate-key"] == "all page:7"
    assert headers["cache-tag"] == "all,page:7"
    assert (await site.get(path)).headers["cache-tag"] == "all,page:1"


async def test_the_tags_of_a_304_and_of_a_404_are_sent(site: AsyncClient) -> None:
    etag = (await site.get("/public")).headers["etag"]
    unchanged = await site.get("/public", headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.headers["cache-tag"]) == (304, "all,page:1")
    missing = await site.get("/missing")
    assert (missing.status_code, missing.headers["cache-tag"]) == (404, "missing")


@pytest.mark.parametrize("path", ["/only-here", "/cookie"])
async def test_a_response_that_no_cdn_stores_has_none(site: AsyncClient, path: str) -> None:
    assert not TAG_HEADERS & set((await site.get(path)).headers)


@pytest.mark.parametrize("headers", [{"Authorization": "a"}, {"Cookie": "a=b"}])
@pytest.mark.parametrize("path", ["/public", "/kept"])
async def test_a_response_with_credentials_has_none(
    site: AsyncClient, path: str, headers: dict[str, str]
) -> None:
    response = await site.get(path, headers=headers)
    assert response.headers["cache-control"] == "private, no-cache"
    assert not TAG_HEADERS & set(response.headers)


async def test_a_parameter_that_is_refused_names_no_tag(site: AsyncClient) -> None:
    response = await site.get("/public?number=x")
    assert response.status_code == 422
    assert not TAG_HEADERS & set(response.headers)


async def test_a_response_that_is_not_stored_here_has_its_tags_for_the_cdn() -> None:
    app = FastAPI()

    @app.get("/large")
    @public(ttl_s=60, s_maxage_s=60, tags=("all",))
    async def large() -> str:
        return "x" * 100

    app.add_middleware(ResponseCache, max_response_bytes=10, store=Cache())
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/large")).headers["cache-tag"] == "all"


def test_a_default_that_no_tag_can_contain_stops_the_start() -> None:
    app = FastAPI()

    @app.get("/page")
    @public(ttl_s=60, tags=("page:{number}",))
    async def page(number: int = 1.5) -> None: ...  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"/page: 'page:\{number\}': a tag contains UUID"):
        check_policies(app)


@pytest.mark.parametrize(
    ("path", "tag", "fails"),
    [
        ("shop/service.py", "page:{id}", False),
        ("shop/service.py", "page:7", False),
        ("shop/service.py", "box:{id}", False),
        ("shop/service.py", "all", False),
        ("shop/service.py", "*", False),
        ("shop/service.py", "al", True),
        ("shop/service.py", "pages:{id}", True),
        ("shop/service.py", "page:{id}:all", True),
        ("core/cache/commands.py", "al", False),
    ],
)
async def test_a_tag_that_nothing_has_fails_its_test(
    app: FastAPI, path: str, tag: str, fails: bool
) -> None:
    @cached("box:{number}")
    async def box(session: ReadSession, number: int) -> bytes:
        return b""

    router = APIRouter()

    @router.get("/pages/{number}")
    @public(ttl_s=60, tags=("all", "page:{number}"))
    async def page(number: int) -> None: ...

    site = FastAPI()
    site.include_router(router, prefix="/v1")
    code = compile("invalidate(session, tag, id=7)", leftovers.APP + path, "exec")
    async with WriteSession() as session:
        names = {"invalidate": invalidate_after_commit, "session": session, "tag": tag}
        with tags.checked(site):
            if fails:
                with pytest.raises(pytest.fail.Exception, match=f"app/{path} .* the tag '{tag}'"):
                    exec(code, names)  # noqa: S102
            else:
                exec(code, names)  # noqa: S102
