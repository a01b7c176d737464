"""What the response cache keeps, and under which keys: its decisions, by tables."""

from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.security import APIKeyQuery
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Mount

from app.core.cache import public, tag
from app.core.cache.check import check_policies
from app.core.cache.keys import MAX_REMEMBERED, ResponseKey, RouteTable
from app.core.cache.parameters import NotCacheable
from app.core.cache.policy import policy_of
from app.core.cache.responses import rules
from app.core.http.routing import flatten


class Kind(Enum):
    NEW = "new"
    OLD = "old"


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    limit: int = Field(20, ge=1, le=100)
    author: UUID | None = None
    # Of a type that is validated, so that the alias meets Pydantic.
    editor: UUID | None = Field(None, alias="editorId")
    labels: list[str] = Field([], alias="label")


@pytest.fixture
def routes() -> RouteTable:
    router = APIRouter()

    @router.get("/users/me")
    @public(max_age_s=5)
    async def me() -> None: ...

    @router.post("/users/{user_id}")
    async def change() -> None: ...

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


def key_of(routes: RouteTable, path: str, query: bytes = b"") -> ResponseKey | None:
    """The key of a GET, as the response cache finds it."""
    route = routes.find("GET", path)
    if route is None or route.keyed is None:
        return None
    try:
        return routes.key(route.keyed, path, query)
    except NotCacheable:
        return None


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
        ("/books", f"editorId={UPPER}", "/books", f"editorId={UPPER.lower()}"),
        ("/books", "label=a&limit=07&label=b", "/books", "limit=7&label=a&label=b"),
    ],
)
def test_what_means_the_same_has_the_same_key(
    routes: RouteTable, path: str, query: str, same_path: str, same_query: str
) -> None:
    one = key_of(routes, path, query.encode())
    other = key_of(routes, same_path, same_query.encode())

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
    one = key_of(routes, path, query.encode())
    other = key_of(routes, other_path, other_query.encode())

    assert one is not None
    assert other is not None
    assert one.text != other.text


def test_random_queries_have_the_same_key_only_if_they_mean_the_same(routes: RouteTable) -> None:
    chosen = Random(20)  # noqa: S311 - the same in every run
    texts = ["", "a", "A", "a b", "&", "=", "label=a", "%", "%61", "+", "ä", "/", "?", '"', "\\"]
    keys: dict[str, tuple[Any, ...]] = {}
    for _ in range(2000):
        labels = chosen.choices(texts, k=chosen.randrange(4))
        limit = chosen.choice([None, 1, 20])
        parameters = [("label", label) for label in labels]
        at = chosen.randrange(len(parameters) + 1)
        parameters[at:at] = [] if limit is None else [("limit", str(limit))]
        key = key_of(routes, "/books", urlencode(parameters).encode())
        assert key is not None
        meaning = (limit, *labels)
        assert keys.setdefault(key.text, meaning) == meaning
    assert len(set(keys.values())) == len(keys)


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
    assert key_of(routes, path, query.encode()) is None


def test_remembered_keys_are_bounded(routes: RouteTable) -> None:
    def asked(query: bytes) -> ResponseKey | None:
        return routes.look_up({"method": "GET", "path": "/pages/7", "query_string": query})[1]

    popular = asked(b"x=0")
    for number in range(3 * MAX_REMEMBERED):
        asked(b"x=%d" % number)
        # A key that is asked for stays, however many others come.
        assert asked(b"x=0") is popular
    assert len(routes._keys) + len(routes._old_keys) <= 2 * MAX_REMEMBERED


def test_a_tree_of_routers_is_matched_as_well() -> None:
    app = FastAPI()
    router = APIRouter(prefix="/shelves")

    @router.get("/{number}")
    @public(5, tags=("shelf:{number}",))
    async def shelf(number: int) -> None: ...

    app.include_router(router, prefix="/v1")
    routes = RouteTable(app)
    target = key_of(routes, "/v1/shelves/07")

    assert target is not None
    assert (target.path, target.tags) == ("/v1/shelves/7", ("shelf:7",))
    assert [target.route.template, getattr(target.route.labelled, "path", None)] == [
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
    assert rules.normalised(b"accept-encoding", sent.encode()).decode() == expected


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

    assert rules.storable(headers) == [(b"content-type", b"text/plain"), (b"x-own", b"kept")]


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: public(-1), "ttl_s is -1"),
        (lambda: public(float("inf")), "ttl_s"),
        (
            lambda: public(max_age_s=5, negative_ttl_s=5),
            "negative_ttl_s is for shared caches: set ttl_s or s_maxage_s",
        ),
        (
            lambda: public(stale_if_error_s=5),
            "extends a freshness lifetime: set ttl_s or s_maxage_s or max_age_s",
        ),
        (lambda: public(max_age_s=5, tags=("a b",)), "tags"),
        (lambda: public(max_age_s=5, tags=("a,b",)), "tags"),
        (lambda: public(max_age_s=5, tags=("a:{0}",)), "tags"),
        (lambda: public(max_age_s=5, tags=("a:{b!r}",)), "tags"),
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


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/users/me", "/users/me"),
        ("GET", "/users/you", "/users/{user_id}"),
        ("POST", "/users/you", "/users/{user_id}"),
        ("GET", "/users/me\n", "/users/me"),
        ("GET", "/users/a/b", None),
        ("GET", "/users", None),
        ("GET", "/static/late", "/{anything}/late"),
        ("GET", "/static/early", "/static"),
        ("HEAD", "/static/early", "/static"),
        ("HEAD", "/users/me", None),
        ("GET", "/", None),
        ("GET", "", None),
    ],
)
def test_the_route_is_the_one_that_the_router_takes(
    routes: RouteTable, method: str, path: str, expected: str | None
) -> None:
    found = routes.find(method, path)

    assert (found and found.path) == expected


def test_tags_come_from_converted_parameters(routes: RouteTable) -> None:
    def tags(path: str, query: str = "") -> tuple[str, ...] | None:
        key = key_of(routes, path, query.encode())
        return key.tags if key else None

    assert tags(f"/users/{UPPER}") == (f"user:{UPPER.lower()}", "kind:new")
    assert tags(f"/users/{UPPER}", "kind=old") == (f"user:{UPPER.lower()}", "kind:old")
    assert tags("/books") == ("books",)
    assert tags("/books", f"author={UPPER}") == ("books", f"author:{UPPER.lower()}")
    assert tags("/users/not-a-uuid") is None


def test_tags_have_one_form_by_type() -> None:
    user_id = uuid4()

    assert tag("user:{user_id}", user_id=user_id) == f"user:{user_id}"
    assert tag("{a}:{b}:{c}", a=7, b=Kind.OLD, c="a b,c:d") == "7:old:a%20b%2Cc%3Ad"
    assert tag("users", session=object()) == "users"
    with pytest.raises(TypeError, match="not float"):
        tag("{a}", a=1.5)


def app_of(router: APIRouter) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    return app


@pytest.mark.parametrize("annotation", [float, list[str], bool])
def test_a_tag_of_another_type_stops_the_start(annotation: Any) -> None:
    router = APIRouter()

    @router.get("/shelves")
    @public(max_age_s=5, tags=("shelf:{key}",))
    async def shelves(key: annotation = Query()) -> None: ...  # noqa: B008

    with pytest.raises(TypeError, match=r"/shelves: the tag 'shelf:\{key\}' names key"):
        check_policies(app_of(router))


def test_a_tag_of_no_parameter_stops_the_start() -> None:
    router = APIRouter()

    @router.get("/shelves")
    @public(max_age_s=5, tags=("shelf:{key}",))
    async def shelves() -> None: ...

    with pytest.raises(TypeError, match="no parameter"):
        check_policies(app_of(router))
