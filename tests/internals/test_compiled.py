"""Compiled path operations answer as FastAPI's own handlers do: random signatures and requests."""

import asyncio
import inspect
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from contextvars import ContextVar
from enum import Enum
from operator import getitem
from typing import Annotated, Any, Literal
from unittest.mock import Mock
from uuid import UUID

import pytest
from anyio import CancelScope
from fastapi import (
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
)
from fastapi import __version__ as version
from fastapi.dependencies.models import Dependant, _get_cache_key
from fastapi.exceptions import FastAPIError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import APIKeyHeader, SecurityScopes
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json
from starlette.types import Message
from typer.testing import CliRunner

from app.__main__ import cli
from app.core.http.compiled import compile_path_operations, fastapi_internals

CASES = int(os.environ.get("COMPILED_CASES", "200"))
FIRST_SEED = int(os.environ.get("COMPILED_SEED", "0"))
REQUESTS = 6
# Of one test, which has a time limit.
CHUNK = 50
# Of one request, which takes milliseconds.
ANSWER_TIMEOUT_S = 20


class Colour(Enum):
    red = "red"
    blue = "blue"


class Item(BaseModel):
    name: str = Field(max_length=5)
    price: float | None = None
    tags: set[str] = set()
    day: UUID | str | None = Field(None, alias="dayAlias")


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    limit: int = Field(10, ge=1, le=99)
    names: list[str] = []
    cursor: str | None = Field(None, alias="after")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    q: str = "x"


def _no_zero(value: int) -> int:
    if value == 0:
        raise ValueError("zero")
    return value


# Names of values in requests, so that parameters of different functions meet the same ones.
NAMES = ["a", "b", "x-y", "limit", "names", "after", "q"]
VALUES = ["", "1", "0", "-7", "abc", "é", "%F0%9F%98%80", "true", "red", "1.5", "[1, 2]", "null"]
VALUES += ["c56a4180-65aa-42ec-a945-5fa21dec0538", "a+b%20c", "%00", "9" * 40]
SCALARS: list[Any] = [
    int,
    str,
    float,
    bool,
    UUID,
    Colour,
    int | None,
    Literal["abc", "1"],
    Json,
]
SCALARS += [Annotated[int, AfterValidator(_no_zero)], Annotated[str, Field(min_length=2)]]
LISTS: list[Any] = [list[int], list[str], set[str], list[Colour], tuple[int, int], list[str] | None]
BODIES: list[Any] = [Item, list[Item], dict[str, int], Item | None, int, Any, Item | Closed, bytes]
DOCUMENTS = [
    b"", b"{}", b'{"name": "x"}', b'{"name": "toolong", "price": "x"}', b'[{"name": "y"}]', b"5",
    b'{"name": "x", "dayAlias": "c56a4180-65aa-42ec-a945-5fa21dec0538", "tags": ["a", "a"]}',
    b'{"a": {"name": "x"}, "b": 2}', b"null", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"{", b'"\xff"',
    '{"name": "é"}'.encode("utf-16"), b'{"name": "\\ud800"}', b"[" * 500, b'{"limit": 5}',
    b'"text"',
]  # fmt: skip
TYPES = [b"application/json", b"application/vnd.api+json; charset=utf-8", b"text/plain", b"", None]

FAULTS = ["http", "value", "swallow", "swallow", "stop", "no yield", "two yields"]
FAULTS += ["late", "except", "finally", "other"]

Log = list[str]
# What dependencies set is seen by functions that are called after them.
variable: ContextVar[str] = ContextVar("variable", default="")


class Signature:
    """Random functions with the same random parameters for both applications."""

    def __init__(self, seed: int, log: Log) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.log = log
        self.shared: list[Any] = []
        self.number = 0

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def parameters(self, depth: int, path: list[str]) -> dict[str, Any]:
        """Return annotations, with the default in a pair where there is one."""
        choice = self.random.choice
        found: dict[str, Any] = {}
        for name in path:
            if self.chance(0.7):
                found[name] = Annotated[choice(SCALARS[:8]), Path()]
        for _ in range(self.random.randrange(3)):
            name = choice(["a", "b", "x_y", "limit"])
            kind = choice(SCALARS + LISTS)
            marker = Query
            if kind not in LISTS and self.chance(0.3):
                marker = choice([Header, Cookie])
            options: dict[str, Any] = {"alias": choice(NAMES)} if self.chance(0.3) else {}
            default: Any = choice([..., ..., None, "abc", 5])
            if self.chance(0.1):
                options["validate_default"] = True
            annotation = getitem(Annotated, (kind, marker(**options)))
            found.setdefault(name, annotation if default is ... else (annotation, default))
        if self.chance(0.15):
            found["model"] = Annotated[choice([Closed, Open]), choice([Query, Header])()]
        if depth < 3:
            for _ in range(self.random.randrange(3)):
                found[f"dependency{len(found)}"] = self.dependency(depth + 1, path)
        for name, kind, share in (
            ("request", Request, 0.15),
            ("response", Response, 0.15),
            ("tasks", BackgroundTasks, 0.15),
            ("scopes", SecurityScopes, 0.1),
        ):
            if self.chance(share):
                found[name] = kind
        return found

    def dependency(self, depth: int, path: list[str]) -> Any:
        if self.shared and self.chance(0.3):
            return self.random.choice(self.shared)
        kind = self.random.choice(["async", "async", "sync", "agen", "agen", "gen"])
        call = self.function(kind, self.parameters(depth, path))
        options: dict[str, Any] = {}
        if kind in ("agen", "gen") and self.chance(0.5):
            options["scope"] = "function"
        if self.chance(0.15):
            options["use_cache"] = False
        if self.chance(0.1):
            options["max_concurrency"] = 2
        if self.chance(0.1):
            call, options = APIKeyHeader(name="a", auto_error=self.chance(0.5)), {}
        marker: Any = Depends(call, **options)
        if self.chance(0.15):
            marker = Security(call, scopes=[self.random.choice("uv")])
        self.shared.append(Annotated[Any, marker])
        return self.shared[-1]

    def function(self, kind: str, parameters: dict[str, Any], results: Any = None) -> Any:
        """Return a function that logs its values, and may fail, add a header or a task."""
        self.number += 1
        name, log = f"{kind}{self.number}", self.log
        fault = self.random.choice([*[None] * 15, *FAULTS])
        status = self.random.choice([None] * 5 + [203])

        def enter(values: dict[str, Any]) -> Any:
            shown = sorted((key, _shown(value)) for key, value in values.items())
            log.append(f"{name} {shown} {variable.get()}")
            if response := values.get("response"):
                response.headers["X-From"] = name
                response.set_cookie("c", name)
                if status:
                    response.status_code = status
            if tasks := values.get("tasks"):
                tasks.add_task(log.append, f"task of {name}")
            if fault == "http":
                raise HTTPException(418, name, headers={"X-Fault": name})
            if fault == "value":
                raise ValueError(name)
            if fault == "stop":
                raise StopAsyncIteration(name)
            variable.set(f"{variable.get()} {name}")
            return results[0]() if results else name

        def leave(when: str) -> None:
            log.append(f"{name} ends {variable.get()}")
            if fault == when:
                raise HTTPException(409, name) if status else KeyError(name)

        async def plain(**values: Any) -> Any:
            return enter(values)

        def sync(**values: Any) -> Any:
            return enter(values)

        async def agen(**values: Any) -> AsyncIterator[Any]:
            found = enter(values)
            if fault == "no yield":
                return
            try:
                yield found
                leave("late")
            except Exception as error:
                log.append(f"{name} sees {type(error).__name__}")
                leave("except")
                if fault == "other":
                    raise RuntimeError(name) from error
                if fault != "swallow":
                    raise
            finally:
                await asyncio.sleep(0)
                leave("finally")
            if fault == "two yields":
                yield

        def gen(**values: Any) -> Iterator[Any]:
            found = enter(values)
            if fault == "no yield":
                return
            try:
                yield found
            except Exception as error:
                log.append(f"{name} sees {type(error).__name__}")
                if fault != "swallow":
                    raise
            finally:
                leave("finally")

        function: Any = {"async": plain, "sync": sync, "agen": agen, "gen": gen}[kind]
        return _with_signature(function, name, parameters)

    def route(self) -> tuple[Callable[..., Any], str, dict[str, Any]]:
        """Return an endpoint, its path and its options."""
        choice = self.random.choice
        path = [name for name in ("p", "r") if self.chance(0.4)]
        parameters = self.parameters(0, path)
        if self.chance(0.4):
            parameters["body"] = Annotated[choice(BODIES), Body(embed=self.chance(0.2))]
        if self.chance(0.1):
            parameters["more"] = Annotated[choice(BODIES), Body()]
        results = [
            lambda: {"name": "x", "price": 2.5},
            lambda: Item(name="x"),
            lambda: [Item(name="x", price=1)],
            lambda: None,
            lambda: "text",
            lambda: {"wrong": float("inf")},
            lambda: JSONResponse({"a": 1}, 202),
            lambda: Response(b"raw", headers={"x-a": "1"}),
        ]
        options: dict[str, Any] = {"methods": ["POST"]}
        if self.chance(0.6):
            options["response_model"] = choice([Item, list[Item], dict[str, Any], Any, str, None])
        if self.chance(0.3):
            options |= choice(
                [
                    {"response_model_exclude_unset": True},
                    {"response_model_exclude_none": True},
                    {"response_model_by_alias": False},
                    {"response_model_exclude": {"price"}},
                    {"response_model_include": {"name"}},
                    {"response_class": HTMLResponse, "response_model": str},
                ]
            )
        if self.chance(0.2):
            options["status_code"] = choice([201, 204, 304])
            if options["status_code"] != 201:
                options["response_model"] = None
        if self.chance(0.2):
            options["dependencies"] = [Depends(self.function("async", self.parameters(2, path)))]
        kind = choice(["async", "async", "async", "sync"])
        endpoint = self.function(kind, parameters, results=[choice(results)])
        return endpoint, "/" + "/".join(f"{{{name}}}" for name in path), options

    def request(self, path: str) -> tuple[dict[str, Any], bytes]:
        """Return a scope and a body."""
        choice = self.random.choice
        for name in ("p", "r"):
            path = path.replace(f"{{{name}}}", choice([value for value in VALUES if value]))
        names = [*NAMES, "a", "b"]
        pairs = [f"{choice(names)}={choice(VALUES)}" for _ in range(self.random.randrange(6))]
        headers = [
            (choice([b"a", b"b", b"x-y", b"limit", b"x_y"]), choice(VALUES).encode())
            for _ in range(self.random.randrange(4))
        ]
        if self.chance(0.4):
            cookie = f"{choice(NAMES)}={choice(VALUES)}; {choice(NAMES)}=5".encode()
            headers.append((b"cookie", cookie))
        content_type = choice([*TYPES[:1] * 4, *TYPES])
        if content_type is not None:
            headers.append((b"content-type", content_type))
        scope = {
            "type": "http",
            "method": "POST",
            "path": path.encode().decode("latin-1"),
            "raw_path": path.encode(),
            "query_string": "&".join(pairs).encode(),
            "headers": headers,
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "asgi": {"version": "3.0"},
        }
        return scope, choice(DOCUMENTS)


def _with_signature(function: Any, name: str, parameters: dict[str, Any]) -> Any:
    """Give a function that takes any keywords a signature."""
    signature = []
    for each, annotation in parameters.items():
        default = inspect.Parameter.empty
        if isinstance(annotation, tuple):
            annotation, default = annotation
        kind = inspect.Parameter.KEYWORD_ONLY
        signature.append(inspect.Parameter(each, kind, default=default, annotation=annotation))
    function.__signature__ = inspect.Signature(signature)
    function.__name__ = name
    return function


def _shown(value: Any) -> str:
    if isinstance(value, SecurityScopes):
        return f"scopes {value.scopes}"
    if isinstance(value, (Request, Response, BackgroundTasks)):
        return type(value).__name__
    return repr(value)


async def exchange(
    app: FastAPI, scope: dict[str, Any], body: bytes, *, around: bool = False
) -> list[Any]:
    """Return the messages of the application, and the exception that it raised."""
    sent: list[Any] = []
    parts = [body[: len(body) // 2], body[len(body) // 2 :]] if len(body) % 2 else [body]

    async def receive() -> Message:
        part = parts.pop(0) if parts else b""
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {**scope, "app": app, "headers": list(scope["headers"])}
    variable.set("")
    try:
        with CancelScope() if around else nullcontext():
            await app(scope, receive, send)
    except UnboundLocalError as error:
        # FastAPI's own, of a dependency that swallows an exception: it names a variable.
        sent.append(type(error))
    except Exception as error:
        sent.append((type(error), str(error).partition(".")[0], getattr(error, "errors", list)()))
    return sent


async def answer(
    app: FastAPI, scope: dict[str, Any], body: bytes, *, around: bool, case: Any
) -> list[Any]:
    """Return what `exchange` does; fail for a request that is never answered."""
    # In a task of its own: a cancel scope around the request can swallow the cancellation.
    task = asyncio.create_task(exchange(app, scope, body, around=around))
    try:
        return await asyncio.wait_for(task, ANSWER_TIMEOUT_S)
    except TimeoutError:
        pytest.fail(f"never answered: {case}")


def waits_for_itself(dependant: Dependant) -> bool:
    """Return whether one request may need more of a limited dependency than its limit.

    A dependency with `yield` holds its place until it ends. FastAPI never answers such a request.
    """
    taken: Counter[Any] = Counter()
    solved: set[Any] = set()
    for each in _dependencies(dependant):
        key = _get_cache_key(dependant=each)
        is_held = inspect.isasyncgenfunction(each.call) or inspect.isgeneratorfunction(each.call)
        if each.concurrency and is_held and not (each.use_cache and key in solved):
            solved.add(key)
            taken[each.concurrency] += 1
    return any(number > limit.max_concurrency for limit, number in taken.items())


def _dependencies(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield from _dependencies(each)
        yield each


def application(endpoint: Any, path: str, options: dict[str, Any]) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_api_route(path, endpoint, **options)
    return app


async def test_another_fastapi_keeps_its_own_handlers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer() -> str:
        return "ok"

    monkeypatch.setattr(fastapi_internals, "KNOWN", frozenset())
    app = application(answer, "/", {"methods": ["POST"]})
    before = app.routes[0].app  # type: ignore[attr-defined]

    ((_, reason),) = await asyncio.to_thread(compile_path_operations, app)

    assert app.routes[0].app is before  # type: ignore[attr-defined]
    assert reason == f"FastAPI {version} has handlers that this version of core does not know."
    assert f"FastAPI's own handlers answer: {reason}" in caplog.text
    scope, _ = Signature(0, []).request("/")
    assert (await exchange(app, scope, b""))[1]["body"] == b'"ok"'
    listed = await asyncio.to_thread(CliRunner().invoke, cli, ["routes", "--json"])
    assert {each["handler"] for each in json.loads(listed.stdout)} == {reason}


def test_a_fastapi_without_source_text_keeps_its_own_handlers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fastapi_internals, "digest", Mock(side_effect=OSError))

    assert fastapi_internals.unknown() == f"FastAPI {version} is installed without its source text."


@pytest.mark.parametrize("scope", ["request", "function"])
@pytest.mark.parametrize("way", ["task", "scope", "inner scope"])
async def test_a_cancelled_request_leaves_its_dependencies_as_with_fastapi(
    way: str, scope: Literal["request", "function"]
) -> None:
    log: Log = []

    async def first() -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            log.append(f"first sees {type(error).__name__}")
            raise
        finally:
            # Cancelled again, unless it is shielded.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            log.append("first ends")

    async def second() -> AsyncIterator[None]:
        with CancelScope() as inner:
            try:
                if way == "inner scope":
                    inner.cancel()
                yield
            finally:
                log.append("second ends")

    async def wait(
        _: Annotated[None, Depends(first, scope=scope)],
        __: Annotated[None, Depends(second, scope=scope)],
    ) -> None:
        log.append("waits")
        await asyncio.Event().wait()

    async def cancelled(app: FastAPI) -> list[Any]:
        log.clear()
        around = CancelScope()
        sent: list[Any] = []

        async def run() -> None:
            with around if way == "scope" else nullcontext():
                sent.extend(await exchange(app, request, b""))

        task = asyncio.create_task(run())
        while "waits" not in log and not task.done():
            await asyncio.sleep(0)
        (around if way == "scope" else task).cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        return [type(ended), around.cancelled_caught, sent, *log]

    request, _ = Signature(0, []).request("/")
    stock, fast = (application(wait, "/", {"methods": ["POST"]}) for _ in range(2))
    ((_, reason),) = await asyncio.to_thread(compile_path_operations, fast)

    assert reason is None
    assert await cancelled(fast) == await cancelled(stock)
    assert "first ends" in log


@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + CASES, CHUNK))
async def test_random_path_operations_answer_as_those_of_fastapi(first: int) -> None:
    compiled = statuses = 0
    seen: set[Any] = set()
    for seed in range(first, first + CHUNK):
        log: Log = []
        signature = Signature(seed, log)
        try:
            endpoint, path, options = signature.route()
            stock = application(endpoint, path, options)
        except (AssertionError, FastAPIError):
            # FastAPI refuses this signature.
            continue
        if waits_for_itself(stock.routes[0].dependant):  # type: ignore[attr-defined]
            continue
        fast = application(endpoint, path, options)
        # It reads the source of the endpoint.
        ((_, reason),) = await asyncio.to_thread(compile_path_operations, fast)
        compiled += reason is None
        for _ in range(REQUESTS):
            scope, body = signature.request(path)
            # Of anyio, as the middleware of a service may have one around the request.
            around = signature.chance(0.3)
            case = (seed, scope, body)
            expected = await answer(stock, scope, body, around=around, case=case)
            order, log[:] = [*log], []
            found = await answer(fast, scope, body, around=around, case=case)
            assert found == expected, case
            assert log == order, case
            log.clear()
            statuses += 1
            seen.add(expected[0]["status"] if isinstance(expected[0], dict) else expected[0][0])

    assert compiled > CHUNK / 2
    assert statuses > CHUNK
    assert {200, 422} <= seen
