"""Functions that compiled handlers call: parsing, errors and responses, as FastAPI has them."""

import json
from asyncio import current_task
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from contextvars import copy_context
from email.message import Message as EmailMessage
from functools import lru_cache, partial
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl

from anyio import CancelScope
from anyio._backends._asyncio import _task_states
from anyio.lowlevel import checkpoint_if_cancelled
from fastapi import BackgroundTasks, Request, Response
from fastapi._body_limit import get_body_limit_error
from fastapi._compat import ModelField, Undefined
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_body_to_args, request_params_to_args
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import (
    EndpointContext,
    FastAPIError,
    RequestValidationError,
    ResponseValidationError,
)
from fastapi.routing import _extract_endpoint_context
from fastapi.security import SecurityScopes
from fastapi.telemetry._api import _get_request_telemetry
from fastapi.utils import is_body_allowed_for_status_code
from pydantic_core import ValidationError, from_json
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http.compiled.dispatch import LAYERS


def guarded(direct: ASGIApp, stock: ASGIApp, provider: Any) -> ASGIApp:
    """Return a handler that calls `direct`, or FastAPI's `stock` for overrides and telemetry."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        is_overridden = provider is not None and provider.dependency_overrides
        is_direct = not is_overridden and _get_request_telemetry() is None
        await (direct if is_direct else stock)(scope, receive, send)

    # `Dispatch` checks the same conditions, and calls this. Functions have no declared attributes.
    handler.direct = direct  # type: ignore[attr-defined]
    return handler


NO_SCOPE = nullcontext()


def parse_query(raw: bytes) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the pairs of a query string, and the last value of each name."""
    if not raw:
        return [], {}
    pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
    return pairs, dict(pairs)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def add_others(values: dict[str, Any], pairs: list[tuple[str, str]], known: frozenset[str]) -> None:
    """Add the pairs of unknown names, for the model to forbid or to keep."""
    others: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in known:
            others.setdefault(name, []).append(value)
    values.update((name, sent if len(sent) > 1 else sent[0]) for name, sent in others.items())


def solve_parameter(field: ModelField, received: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """Return FastAPI's value of a parameter, and its errors."""
    values, errors = request_params_to_args([field], received)
    return values.get(field.name), errors


async def read_body(request: Request, strict: bool, context: EndpointContext) -> Any:
    """Return the decoded body, its bytes if it is not declared as JSON, or Undefined."""
    try:
        raw = await request.body()
        if not raw:
            return Undefined
        content_type = request.headers.get("content-type")
        if not (_is_json(content_type) if content_type else not strict):
            return raw
        try:
            return from_json(raw)
        except ValueError:
            return await request.json()
    except json.JSONDecodeError as error:
        detail = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        where = _context(request.scope, context)
        raise RequestValidationError([detail], body=error.doc, endpoint_ctx=where) from error
    except HTTPException:
        raise
    except Exception as error:
        if MAX_BODY_SIZE_SCOPE_KEY in request.scope and (limit := get_body_limit_error(error)):
            raise limit from error
        raise HTTPException(400, "There was an error parsing the body") from error


@lru_cache(maxsize=128)
def _is_json(content_type: str) -> bool:
    message = EmailMessage()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    is_json = subtype == "json" or subtype.endswith("+json")
    return message.get_content_maintype() == "application" and is_json


class NotGiven(Exception):
    """The request has no body."""


def given(body: Any) -> Any:
    """Return the body, or raise NotGiven."""
    if body is Undefined:
        raise NotGiven
    return body


class Entered:
    """An async `yield` dependency that has begun; its exit is shielded inside of a cancel scope."""

    __slots__ = ("_cleanup", "_generator")

    def __init__(self, generator: AsyncGenerator[Any], cleanup: CancelScope | None) -> None:
        self._generator = generator
        self._cleanup = cleanup

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        cleanup = self._cleanup
        if cleanup is None:
            return await self._exit(kind, error, traceback)
        was_shielded = cleanup.shield
        cleanup.shield = True
        try:
            suppressed = await self._exit(kind, error, traceback)
        finally:
            cleanup.shield = was_shielded
        if error is None or suppressed:
            await checkpoint_if_cancelled()
        return suppressed

    async def _exit(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        generator = self._generator
        if error is not None:
            manager = asynccontextmanager(lambda: generator)()
            return await manager.__aexit__(kind, error, traceback)
        try:
            await anext(generator)
        except StopAsyncIteration:
            return False
        try:
            raise RuntimeError("generator didn't stop")
        finally:
            await generator.aclose()


async def enter(
    generator: AsyncGenerator[Any], entered: list[Any], cleanup: CancelScope | None
) -> Any:
    """Return the value of a dependency, and add it to those which must exit."""
    try:
        value = await anext(generator)
    except StopAsyncIteration:
        raise RuntimeError("generator didn't yield") from None
    entered.append(Entered(generator, cleanup))
    return value


async def enter_manager(manager: AbstractAsyncContextManager[Any], entered: list[Any]) -> Any:
    """Return the value of a dependency of another kind, and add it as `enter` does."""
    value = await manager.__aenter__()
    entered.append(manager)
    return value


async def leave(entered: list[Any]) -> None:
    """Exit dependencies after a success, the last one first."""
    while entered:
        try:
            await entered.pop().__aexit__(None, None, None)
        except BaseException as error:
            if not await fail(entered, error):
                raise
            return


async def fail(entered: list[Any], error: BaseException) -> bool:
    """Exit dependencies after an exception, and return whether one has suppressed it."""
    stack = AsyncExitStack()
    for each in entered:
        stack.push_async_exit(each)
    return bool(await stack.__aexit__(type(error), error, error.__traceback__))


def cleanup_scope() -> AbstractContextManager[CancelScope | None]:
    """Return the scope that shields exits from the cancel scopes around this task, if any."""
    try:
        task = current_task()
    except RuntimeError:
        # Another event loop than asyncio's.
        return CancelScope()
    state = None if task is None else _task_states.get(task)
    return NO_SCOPE if state is None or state.cancel_scope is None else CancelScope()


def call_and_validate(
    endpoint: Callable[..., Any], validate: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[Any, Any]:
    """Call a `def` endpoint and validate its result, in one thread.

    Return both; the second is Undefined if the result is not valid, and None for a Response.
    """
    # The validation does not see context variables that the endpoint sets.
    context = copy_context()
    result = endpoint(**arguments)
    if isinstance(result, Response):
        return result, None
    try:
        return result, context.run(validate, result, from_attributes=True)
    except ValidationError:
        return result, Undefined


def empty_response() -> Response:
    """Return the response to which dependencies add headers and a status."""
    # What `Response()` makes, without the headers that FastAPI removes again.
    response = Response.__new__(Response)
    response.status_code = None  # type: ignore[assignment]
    response.background = None
    response.body = b""
    response.raw_headers = []
    return response


def json_head(status: int, length: int) -> Message:
    """Return the start of a response, with the headers that `Response` sets."""
    headers = [(b"content-length", b"%d" % length), (b"content-type", b"application/json")]
    return {"type": "http.response.start", "status": status, "headers": headers}


def solved_json_head(status: int, length: int, solved: Response) -> Message | None:
    """Return the same for the status and headers of dependencies; None without a body."""
    status = solved.status_code or status
    if not is_body_allowed_for_status_code(status):
        return None
    head = json_head(status, length)
    head["headers"] += solved.raw_headers
    return head


def make_response(
    value: Any,
    response_class: type[Response],
    media_type: str | None,
    status: int | None,
    background: BackgroundTasks | None,
    solved: Response | None,
) -> Response:
    """Return the response of a value, with the headers and the status of dependencies."""
    options: dict[str, Any] = {"background": background}
    status = (solved.status_code if solved is not None else None) or status
    if status:
        options["status_code"] = status
    if media_type is not None:
        options["media_type"] = media_type
    response = response_class(value, **options)
    if not is_body_allowed_for_status_code(response.status_code):
        response.body = b""
    if solved is not None:
        response.raw_headers.extend(solved.raw_headers)
    return response


async def send_response(
    response: Response, scope: Scope, receive: Receive, send: Send, started: list[bool]
) -> None:
    if type(response).__call__ is Response.__call__:
        started.append(True)
        status, headers = response.status_code, response.raw_headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
        if response.background is not None:
            await response.background()
        return

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.append(True)
        await send(message)

    await response(scope, receive, sender)


async def answer_error(
    error: Exception,
    request: Request | None,
    scope: Scope,
    receive: Receive,
    send: Send,
    started: list[bool],
) -> None:
    """Let the handler of the exception answer, as Starlette does."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            # Only noted: the client has the start of the response.
            await send({"type": "http.response.start"})
        raise error

    async def ignore(message: Message) -> None:
        pass

    app = wrap_app_handling_exceptions(fail, request or Request(scope, receive, send))
    if LAYERS not in scope:
        # In place of the layer that `Dispatch` leaves out.
        app = wrap_app_handling_exceptions(app, Request(scope, receive, send))
    await app(scope, receive, ignore if started else send)


def invalid_request(
    errors: list[Any], body: Any, scope: Scope, context: EndpointContext
) -> RequestValidationError:
    sent = None if body is Undefined else body
    return RequestValidationError(errors, body=sent, endpoint_ctx=_context(scope, context))


def invalid_result(
    field: ModelField, result: Any, scope: Scope, context: EndpointContext
) -> ResponseValidationError:
    _, errors = field.validate(result, {}, loc=("response",))
    return ResponseValidationError(errors, body=result, endpoint_ctx=_context(scope, context))


def unanswered() -> FastAPIError:
    return FastAPIError(
        "Response not awaited. There's a high chance that the application code is raising an "
        "exception and a dependency with yield has a block with a bare except, or a block with "
        "except Exception, and is not raising the exception again. Read more about it in the docs: "
        "https://fastapi.tiangolo.com/tutorial/dependencies/dependencies-with-yield/"
        "#dependencies-with-yield-and-except"
    )


def endpoint_context(dependant: Dependant) -> EndpointContext:
    """Return the part of the context of errors that all requests share; it reads the source."""
    # FastAPI keeps the dict of each function, and adds the path of the last request.
    known = _extract_endpoint_context(dependant.call)
    return EndpointContext(**known | {"path": dependant.path or ""})


def _context(scope: Scope, context: EndpointContext) -> EndpointContext:
    if not context["path"]:
        return context
    mount = scope.get("root_path", "").rstrip("/")
    return EndpointContext(**context | {"path": f"{scope['method']} {mount}{context['path']}"})


# The names of all handlers.
NAMES: dict[str, Any] = {
    value.__name__: value
    for value in (
        BackgroundTasks,
        CancelScope,
        Headers,
        NotGiven,
        QueryParams,
        Request,
        Response,
        SecurityScopes,
        ValidationError,
        add_others,
        answer_error,
        call_and_validate,
        cleanup_scope,
        contextmanager_in_threadpool,
        empty_response,
        enter,
        enter_manager,
        fail,
        given,
        header,
        invalid_request,
        invalid_result,
        json_head,
        jsonable_encoder,
        leave,
        make_response,
        parse_query,
        partial,
        read_body,
        request_body_to_args,
        run_in_threadpool,
        send_response,
        solve_parameter,
        solved_json_head,
        unanswered,
    )
} | {"Undefined": Undefined}
