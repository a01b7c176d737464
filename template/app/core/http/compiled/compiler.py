"""Writes the handler of one path operation as the text of a function."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from fastapi import params
from fastapi._body_limit import wrap_app_with_body_limit
from fastapi._compat import ModelField, field_annotation_is_sequence, get_cached_model_fields
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import (
    Dependant,
    _get_cache_key,
    _get_oauth_scopes,
    _is_async_gen_callable,
    _is_coroutine_callable,
    _is_gen_callable,
)
from fastapi.dependencies.utils import (
    _get_param_aliases,
    _get_param_model,
    _is_json_field,
    _should_embed_body_fields,
)
from fastapi.routing import APIRoute
from fastapi.utils import is_body_allowed_for_status_code
from starlette.responses import Response
from starlette.types import ASGIApp

from app.core.http.compiled import runtime
from app.core.http.compiled.source import Source
from app.core.http.routing import flat

# Defaults that need no copy for each request.
_IMMUTABLE = (str, int, float, bool, bytes, type(None))

_PATH = "scope['path_params']"
_QUERY = "QueryParams(scope['query_string'])"
_HEADERS = "Headers(scope=scope)"
_COOKIES = "request.cookies"


class NotCompiled(Exception):
    """The path operation keeps FastAPI's handler; the message is the reason."""


def compile_route(route: APIRoute) -> ASGIApp:
    """Return an application that answers as `route.app` does, which it calls for overrides.

    Raises:
        NotCompiled: when a part of the path operation is not understood.
    """
    if type(route) is not APIRoute:
        raise NotCompiled(f"its class is {type(route).__name__}")
    return Compiler(route).compile()


class Compiler:
    """Compiles a route, or anything that has the attributes of one."""

    def __init__(self, route: Any) -> None:
        self._route = route
        self._dependant: Dependant = route.dependant
        self._all = list(flat(self._dependant))
        self._is_default_class = isinstance(route.response_class, DefaultPlaceholder)
        self._source = Source(depth=2)
        # The variable of each dependency, and that of its errors if it may have some.
        self._solved: dict[Any, tuple[str, str | None]] = {}
        self._check()

    def compile(self) -> ASGIApp:
        """Return the handler, with the route's own limit of the body."""
        route = self._route
        self._emit()
        names = self._source.names
        names.update(runtime.NAMES, endpoint=self._dependant.call)
        names["context"] = runtime.endpoint_context(self._dependant)
        head = "\n".join(
            [
                "async def handler(scope, receive, send):",
                "    request, started = None, []",
                "    try:",
            ]
        )
        self._source.depth = 1
        with self._source.block("except Exception as error:"):
            self._source.add("await answer_error(error, request, scope, receive, send, started)")
        methods = ",".join(sorted(route.methods))
        direct = self._source.function(head, f"<compiled {methods} {route.path}>")
        handler = runtime.guarded(direct, route.app, route.dependency_overrides_provider)
        return wrap_app_with_body_limit(handler, route.max_body_size)

    def _check(self) -> None:
        """Raise NotCompiled for parts that FastAPI's handler has to do."""
        route, call = self._route, self._dependant.call
        if "get_route_handler" in vars(route):
            raise NotCompiled("it has a handler of its own")
        if _is_generator(self._dependant):
            raise NotCompiled("it is a stream")
        if route.body_field and isinstance(route.body_field.field_info, params.Form):
            raise NotCompiled("its body is a form")
        if call is None:
            raise NotCompiled("it has no function")
        for dependant in self._all:
            name = getattr(dependant.call, "__name__", type(dependant.call).__name__)
            if dependant.concurrency is not None:
                raise NotCompiled(f"{name} has a limit of concurrency")
            if dependant.websocket_param_name:
                raise NotCompiled(f"{name} takes a WebSocket")

    # The handler

    def _emit(self) -> None:
        source = self._source
        generators = [each for each in self._all[1:] if _is_generator(each)]
        scopes: set[str] = {each.scope or "request" for each in generators}
        if self._route.body_field or any(_needs_request(each) for each in self._all):
            source.add("request = Request(scope, receive, send)")
        if scopes:
            source.add("is_answered = False")
            source.enter("with cleanup_scope() as cleanup:")
        with self._exits("request", scopes):
            with self._exits("function", scopes):
                self._result()
            with source.block("if answer is None:"):
                source.add("started.append(True)", "await send(head)", "await send(content)")
                with source.block("if background is not None:"):
                    source.add("await background()")
            with source.block("else:"):
                source.add("await send_response(answer, scope, receive, send, started)")
            if scopes:
                source.add("is_answered = True")
        if scopes:
            source.depth -= 1
            with source.block("if not is_answered:"):
                source.add("raise unanswered()")

    @contextmanager
    def _exits(self, scope: str, scopes: set[str]) -> Iterator[None]:
        """Exit the dependencies of a scope, if it is one of `scopes`, after the lines within."""
        source = self._source
        if scope not in scopes:
            yield
            return
        source.add(f"{scope}_entered = []")
        with source.block("try:"):
            yield
        with source.block("except BaseException as error:"):
            source.add(f"if not await fail({scope}_entered, error):", "    raise")
        with source.block("else:"):
            source.add(f"await leave({scope}_entered)")

    def _result(self) -> None:
        """Make what is to be sent of the endpoint's result."""
        source, route = self._source, self._route
        if route.body_field:
            strict = _value(route.strict_content_type)
            source.add(f"body = await read_body(request, {strict}, context)")
        if any(each.query_params for each in self._all):
            source.add("pairs, query = parse_query(scope['query_string'])")
        has_tasks = any(each.background_tasks_param_name for each in self._all)
        source.add(f"background = {'BackgroundTasks()' if has_tasks else None}")
        if any(each.response_param_name for each in self._all):
            source.add("response = empty_response()")
        may_fail = _may_fail(self._dependant)
        if may_fail:
            source.add("errors = []")
        arguments = self._arguments(self._dependant)
        if may_fail:
            body = "body" if route.body_field else "Undefined"
            with source.block("if errors:"):
                source.add(f"raise invalid_request(errors, {body}, scope, context)")
        self._run(arguments)
        self._answer()

    def _run(self, arguments: str) -> None:
        """Call the endpoint, and validate the result if it is not a response."""
        source, field = self._source, self._route.response_field
        if _is_coroutine_callable(self._dependant.call):
            source.add(f"result = await endpoint({arguments})")
        elif field is None:
            source.add(f"result = await run_in_threadpool(partial(endpoint, {arguments}))")
        else:
            validate = source.bind("validate_result", _validator(field))
            source.add(
                f"call = partial(call_and_validate, endpoint, {validate}, dict({arguments}))",
                "result, value = await run_in_threadpool(call)",
            )

    def _answer(self) -> None:
        """Make `head` and `content` of the result, or `answer` when a response object is needed."""
        source, route = self._source, self._route
        field: ModelField | None = route.response_field
        with source.block("if isinstance(result, Response):"):
            source.add("answer = result")
            with source.block("if answer.background is None:"):
                source.add("answer.background = background")
        source.enter("else:")
        to_json = field is not None and self._is_default_class
        if field is None:
            source.add("value = jsonable_encoder(result)")
        else:
            if _is_coroutine_callable(self._dependant.call):
                validate = source.bind("validate_result", _validator(field))
                source.add("try:", f"    value = {validate}(result, from_attributes=True)")
                source.add("except ValidationError:", "    value = Undefined")
            bound = source.bind("field", field)
            with source.block("if value is Undefined:"):
                source.add(f"raise invalid_result({bound}, result, scope, context)")
            options = {
                "include": route.response_model_include,
                "exclude": route.response_model_exclude,
                "by_alias": route.response_model_by_alias,
                "exclude_unset": route.response_model_exclude_unset,
                "exclude_defaults": route.response_model_exclude_defaults,
                "exclude_none": route.response_model_exclude_none,
            }
            bound = ", ".join(
                f"{name}={value if isinstance(value, bool) else source.bind(name, value)}"
                for name, value in options.items()
                if value is not None
            )
            method = field._type_adapter.serializer.to_json if to_json else field.serialize
            source.add(f"value = {source.bind('serialize', method)}(value, {bound})")
        has_response = any(each.response_param_name for each in self._all)
        status = route.status_code
        is_bytes = to_json and is_body_allowed_for_status_code(status)
        if is_bytes:
            head = f"json_head({status or 200}, len(value))"
            if has_response:
                head = f"solved_json_head({status or 200}, len(value), response)"
            source.add(
                "answer = None",
                f"head = {head}",
                "content = {'type': 'http.response.body', 'body': value}",
            )
        if not is_bytes or has_response:
            made = Response if to_json else _value(route.response_class)
            arguments = [
                "value",
                source.bind("response_class", made),
                repr("application/json" if to_json else None),
                repr(status),
                "background",
                "response" if has_response else "None",
            ]
            with source.block("if head is None:") if is_bytes else nullcontext():
                source.add(f"answer = make_response({', '.join(arguments)})")
        source.depth -= 1

    # Arguments

    def _arguments(self, dependant: Dependant) -> str:
        """Solve what a function takes, in FastAPI's order, and return its keyword arguments."""
        solved = {}
        for each in dependant.dependencies:
            if getattr(each.call, "only_declares", False):
                continue
            variable = self._dependency(each)
            if each.name is not None:
                solved[each.name] = variable
        for field in dependant.path_params:
            solved[field.name] = self._path(field)
        for field in dependant.query_params:
            solved[field.name] = self._query(field)
        for field in dependant.header_params:
            solved[field.name] = self._header(field)
        for field in dependant.cookie_params:
            solved[field.name] = self._stock(field, self._source.variable(field.name), _COOKIES)
        if dependant.body_params:
            solved |= self._body(dependant.body_params)
        for name, variable in (
            (dependant.http_connection_param_name, "request"),
            (dependant.request_param_name, "request"),
            (dependant.background_tasks_param_name, "background"),
            (dependant.response_param_name, "response"),
        ):
            if name:
                solved[name] = variable
        if dependant.security_scopes_param_name:
            scopes = self._source.bind("scopes", _get_oauth_scopes(dependant=dependant))
            solved[dependant.security_scopes_param_name] = f"SecurityScopes(scopes=[*{scopes}])"
        return ", ".join(f"{name}={variable}" for name, variable in solved.items())

    def _dependency(self, dependant: Dependant) -> str:
        """Call a dependency, unless this handler has called it or a parameter is not valid."""
        source = self._source
        key = _get_cache_key(dependant=dependant)
        is_solved = dependant.use_cache and key in self._solved
        if is_solved and all(each.use_cache for each in flat(dependant)):
            variable, failures = self._solved[key]
            if failures is not None:
                # FastAPI validates the parameters of a shared dependency each time.
                source.add(f"errors += {failures}")
            return variable
        variable = source.variable(dependant.name or "dependency")
        failures = None
        if _may_fail(dependant):
            before, failures = source.variable("before"), source.variable("failures")
            source.add(f"{before} = len(errors)")
        arguments = self._arguments(dependant)
        if is_solved:
            # Solved again because it has dependencies with `use_cache=False`.
            return self._solved[key][0]
        if failures is not None:
            source.add(f"{failures} = errors[{before}:]")
            source.enter(f"if not {failures}:")
        source.add(f"{variable} = await {self._awaitable(dependant, arguments)}")
        if failures is not None:
            source.depth -= 1
        self._solved.setdefault(key, (variable, failures))
        return variable

    def _awaitable(self, dependant: Dependant, arguments: str) -> str:
        """Return the expression of a dependency's value, without `await`."""
        call: Any = dependant.call
        bind = self._source.bind
        if not _is_generator(dependant):
            return self._call(bind("call", call), dependant, arguments)
        entered = f"{dependant.scope or 'request'}_entered"
        if _is_async_gen_callable(call):
            return f"enter({bind('call', call)}({arguments}), {entered}, cleanup)"
        manager = f"{bind('call', contextmanager(call))}({arguments})"
        return f"enter_manager(contextmanager_in_threadpool({manager}), {entered})"

    @staticmethod
    def _call(name: str, dependant: Dependant, arguments: str) -> str:
        if _is_coroutine_callable(dependant.call):
            return f"{name}({arguments})"
        return f"run_in_threadpool({', '.join(filter(None, (name, arguments)))})"

    def _path(self, field: ModelField) -> str:
        variable = self._source.variable(field.name)
        alias = _plain_alias(field)
        if alias not in self._route.param_convertors:
            return self._stock(field, variable, _PATH)
        return self._validate(field, variable, f"{_PATH}[{alias!r}]", _PATH)

    def _query(self, field: ModelField) -> str:
        source = self._source
        variable = source.variable(field.name)
        model = _get_param_model(field)
        if model is not None:
            return self._query_model(field, model, variable)
        alias = _plain_alias(field)
        if alias is None:
            return self._stock(field, variable, _QUERY)
        source.add(f"sent = {_sent(field, alias)}")
        return self._validate_sent(field, variable, _QUERY)

    def _query_model(self, field: ModelField, model: Any, variable: str) -> str:
        source = self._source
        aliases = {each: _plain_alias(each) for each in get_cached_model_fields(model)}
        if field.field_info.annotation is not model or None in aliases.values():
            return self._stock(field, variable, _QUERY)
        source.add("values = {}")
        for each, alias in aliases.items():
            source.add(f"sent = {_sent(each, alias)}")
            with source.block("if sent is not None:"):
                source.add(f"values[{alias!r}] = sent")
        known = source.bind("known", frozenset(aliases.values()))
        with source.block(f"if not query.keys() <= {known}:"):
            source.add(f"add_others(values, pairs, {known})")
        return self._validate(field, variable, "values", _QUERY)

    def _header(self, field: ModelField) -> str:
        source = self._source
        variable = source.variable(field.name)
        alias = _plain_alias(field)
        is_sequence = field_annotation_is_sequence(field.field_info.annotation)
        if alias is None or is_sequence or _get_param_model(field) is not None:
            return self._stock(field, variable, _HEADERS)
        source.add(f"sent = header(scope, {alias.lower().encode('latin-1')!r})")
        return self._validate_sent(field, variable, _HEADERS)

    def _body(self, fields: list[ModelField]) -> dict[str, str]:
        source = self._source
        variables = {field.name: source.variable(field.name) for field in fields}
        embed: bool = self._route._embed_body_fields
        bound = source.bind("fields", fields)
        solve = [
            f"values, failed = await request_body_to_args({bound}, body, {embed})",
            "errors += failed",
            *(f"{variable} = values.get({name!r})" for name, variable in variables.items()),
        ]
        if len(fields) > 1 or embed or _should_embed_body_fields(fields):
            source.add(*solve)
            return variables
        validate = source.bind("validate", _validator(fields[0]))
        with source.block("try:"):
            source.add(
                f"{variables[fields[0].name]} = {validate}(given(body), from_attributes=True)"
            )
        with source.block("except (NotGiven, ValidationError):"):
            source.add(*solve)
        return variables

    def _validate_sent(self, field: ModelField, variable: str, received: str) -> str:
        """Validate `sent`, or take the default if it is None."""
        source, info = self._source, field.field_info
        with source.block("if sent is not None:"):
            self._validate(field, variable, "sent", received)
        with source.block("else:"):
            has_factory = info.default_factory is not None
            if info.is_required() or info.validate_default or has_factory:
                self._stock(field, variable, received)
            elif type(info.default) in _IMMUTABLE:
                source.add(f"{variable} = {source.bind('default', info.default)}")
            else:
                self._stock(field, variable, received)
        return variable

    def _validate(self, field: ModelField, variable: str, value: str, received: str) -> str:
        source = self._source
        validate = source.bind("validate", _validator(field))
        with source.block("try:"):
            source.add(f"{variable} = {validate}({value}, from_attributes=True)")
        with source.block("except ValidationError:"):
            self._stock(field, variable, received)
        return variable

    def _stock(self, field: ModelField, variable: str, received: str) -> str:
        """Let FastAPI extract and validate the parameter."""
        bound = self._source.bind("field", field)
        self._source.add(
            f"{variable}, failed = solve_parameter({bound}, {received})", "errors += failed"
        )
        return variable


def _may_fail(dependant: Dependant) -> bool:
    """Return whether a parameter of the dependant, or of its dependencies, may be invalid."""
    return any(
        each.path_params
        or each.query_params
        or each.header_params
        or each.cookie_params
        or each.body_params
        for each in flat(dependant)
    )


def _needs_request(dependant: Dependant) -> bool:
    return bool(
        dependant.request_param_name
        or dependant.http_connection_param_name
        or dependant.cookie_params
    )


def _is_generator(dependant: Dependant) -> bool:
    return _is_async_gen_callable(dependant.call) or _is_gen_callable(dependant.call)


def _plain_alias(field: ModelField) -> str | None:
    """Return the only name of the parameter; None if it has several, or holds JSON."""
    aliases = _get_param_aliases(field)
    if len(aliases) > 1 or aliases[0][0] != aliases[0][1] or _is_json_field(field):
        return None
    return aliases[0][1]


def _sent(field: ModelField, alias: str | None) -> str:
    """Return the expression of a value in the query, which is None if there is none."""
    if field_annotation_is_sequence(field.field_info.annotation):
        return f"[value for name, value in pairs if name == {alias!r}] or None"
    return f"query.get({alias!r})"


def _validator(field: ModelField) -> Any:
    return field._type_adapter.validator.validate_python


def _value(option: Any) -> Any:
    return option.value if isinstance(option, DefaultPlaceholder) else option
