"""What the response cache keeps, and under which keys: its decisions, by tables."""

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.security import APIKeyQuery
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Mount

from app.core.cache import headers as h
from app.core.cache.keys import MAX_REMEMBERED, RouteTable
from app.core.http.routing import flatten
from app.core.cache import public
from app.core.cache.policy import policy_of


class Kind(Enum):
    NEW = "new"
    OLD = "old"


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    limit: int = Field(20, ge=1, le=100)
    author: UUID | None = None
    labels: list[str] = Field([], alias="label")


@pytest.fixture
def routes() -> RouteTable:
    router = APIRouter()

    @router.get("/users/me")
    @public(max_age_s=5)
    async def me() -> None: ...

    @router.get("/users/{user_id}")
    @public(5, tags=("user:{user_id}", "kind:{kind}"))
    async def user(user_id: UUID, kind: Kind = Kind.NEW, other: str = "") -> None: ...

    @router.get("/pages/{number}")
    @public(5, tags=("page:{number}",))
    async def page(number: int) -> None: ...

    @router.get("/sides/{side}")
    @public(5, tags=("side:{side}",))
    async def side(side: Literal["a", "b"]) -> None: ...

    @router.get("/books")
    @public(5, tags=("books", "author:{author}"))
    async def books(params: Annotated[Params, Query()]) -> None: ...

    @router.get("/by-query")
    @public(5)
    async def by_query(
        key: Annotated[str | None, Depends(APIKeyQuery(name="key", auto_error=False))],
    ) -> None: ...

    @router.get("/{anything}/late")
    @public(5)
    async def late(anything: str) -> None: ...

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router)
    flatten(app)
    app.router.routes.append(Mount("/static", app=app))
    app.router.routes.append(Mount("/pages/9/late", app=app))
    return RouteTable(app)


UPPER = "0F8FAD5B-D9CB-469F-A165-70867728950E"


@pytest.mark.parametrize(
    ("path", "query", "same_path", "same_query"),
    [
        (f"/users/{UPPER}", "", f"/users/{UPPER.lower()}", ""),
        (f"/users/{UPPER.replace('-', '')}", "kind=old", f"/users/{UPPER.lower()}", "kind=old"),
        (f"/users/{UPPER}", "other=a&kind=old", f"/users/{UPPER}", "kind=old&other=a"),
        (f"/users/{UPPER}", "utm=a&kind=old", f"/users/{UPPER}", "kind=old"),
        (f"/users/{UPPER}", "kind=new&kind=old", f"/users/{UPPER}", "kind=old"),
        (f"/users/{UPPER}", "other=%61", f"/users/{UPPER}", "other=a"),
        (f"/users/{UPPER}", "&&other=a&", f"/users/{UPPER}", "other=a"),
        ("/pages/007", "", "/pages/7", ""),
        ("/pages/007", "x=y", "/pages/7", ""),
        ("/books", f"author={UPPER}", "/books", f"author={UPPER.lower()}"),
        ("/books", "label=a&limit=07&label=b", "/books", "limit=7&label=a&label=b"),
    ],
)
def test_what_means_the_same_has_the_same_key(
    routes: RouteTable, path: str, query: str, same_path: str, same_query: str
) -> None:
    one = routes.target(path, query.encode())
    other = routes.target(same_path, same_query.encode())

    assert one is not None
    assert other is not None
    assert one == other


@pytest.mark.parametrize(
    ("path", "query", "other_path", "other_query"),
    [
        (f"/users/{UPPER}", "other=a", f"/users/{UPPER}", ""),
        (f"/users/{UPPER}", "other=a", f"/users/{UPPER}", "other=A"),
        (f"/users/{UPPER}", "other=a%26kind%3Dold", f"/users/{UPPER}", "other=a&kind=old"),
        ("/books", "label=a&label=b", "/books", "label=b&label=a"),
        ("/books", "limit=20", "/books", ""),
    ],
)
def test_what_means_something_else_has_another_key(
    routes: RouteTable, path: str, query: str, other_path: str, other_query: str
) -> None:
    one = routes.target(path, query.encode())
    other = routes.target(other_path, other_query.encode())

    assert one is not None
    assert other is not None
    assert one.key != other.key


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/users/not-a-uuid", ""),
        (f"/users/{UPPER}", "kind=unknown"),
        ("/pages/seven", ""),
        ("/sides/c", ""),
        ("/books", "unknown=1"),
        ("/books", "limit=0"),
        ("/users/me", ""),
        ("/by-query", "key=1"),
        ("/static/a", ""),
    ],
)
def test_what_the_application_has_to_answer_has_none(
    routes: RouteTable, path: str, query: str
) -> None:
    assert routes.target(path, query.encode()) is None


def test_remembered_targets_are_bounded(routes: RouteTable) -> None:
    for number in range(10_000):
        routes.target("/pages/7", b"x=%d" % number)

    assert len(routes._targets) <= MAX_REMEMBERED


def test_a_tree_of_routers_is_matched_as_well() -> None:
    app = FastAPI()
    router = APIRouter(prefix="/shelves")

    @router.get("/{number}")
    @public(5, tags=("shelf:{number}",))
    async def shelf(number: int) -> None: ...

    app.include_router(router, prefix="/v1")
    target = RouteTable(app).target("/v1/shelves/07", b"")

    assert target is not None
    assert (target.path, target.tags) == ("/v1/shelves/7", ("shelf:7",))
    assert [target.route.path, getattr(target.route.route, "path", None)] == [
        "/v1/shelves/{number}"
    ] * 2


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("gzip, deflate, br", "br, gzip"),
        ("br;q=1.0, gzip;q=0.5", "br, gzip"),
        ("gzip;q=0, BR", "br"),
        ("gzip; q=0.0, zstd", "zstd"),
        ("*", ""),
        ("identity", ""),
    ],
)
def test_accept_encoding_is_normalised(sent: str, expected: str) -> None:
    assert h.normalised(b"accept-encoding", sent.encode()).decode() == expected


def test_hop_by_hop_and_per_request_headers_are_not_stored() -> None:
    headers = [
        (b"content-type", b"text/plain"),
        (b"connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"keep-alive", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"x-request-id", b"1"),
        (b"server-timing", b"db"),
        (b"date", b"today"),
        (b"age", b"1"),
        (b"x-own", b"kept"),
    ]

    assert h.storable(headers) == [(b"content-type", b"text/plain"), (b"x-own", b"kept")]


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: public(-1), "ttl_s is -1"),
        (lambda: public(float("inf")), "ttl_s"),
        (lambda: public(max_age_s=5, negative_ttl_s=5), "negative_ttl_s .* needs ttl_s or s_maxage_s"),
        (lambda: public(stale_if_error_s=5), "stale_if_error_s begins when ttl_s or s_maxage_s or max_age_s ends"),
    ],
)
def test_times_of_a_policy_that_contradict_themselves(
    declare: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        declare()


def test_public_without_its_parentheses_says_so() -> None:
    def endpoint() -> None: ...

    decorator: Any = public
    with pytest.raises(TypeError, match="needs parentheses"):
        decorator(endpoint)


def test_what_only_this_service_keeps_is_asked_for_by_clients() -> None:
    """They cannot be told of an invalidation, so they may not show it without asking."""

    def endpoint() -> None: ...

    policy = policy_of(public(ttl_s=60, stale_while_revalidate_s=9, stale_if_error_s=9)(endpoint))

    assert policy is not None
    assert policy.cache_control == b"public, max-age=0, must-revalidate"
