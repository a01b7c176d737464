"""Traces of requests and their statements, sent by OTLP over HTTP.

The standard variables configure them, `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_TRACES_SAMPLER` for
example. FastAPI makes the span of each request.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread
from time import monotonic, time_ns
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.pool import Pool

from app.core.operations.admin import is_admin
from app.core.telemetry.activity import current

# A collector that hangs delays the end of the process by this.
LAST_EXPORT_S = 2.0
PROBES = ("/livez", "/readyz")

tracer = trace.get_tracer("app")


def telemetry(admin_port: int) -> TelemetryConfig:
    """Return the configuration of FastAPI's telemetry: spans of requests, and nothing else."""
    return {
        "metrics": False,
        "logs": False,
        # They double the cost.
        "operation_spans": False,
        "exclude": lambda scope: is_admin(scope, admin_port) or scope["path"] in PROBES,
    }


@asynccontextmanager
async def exporting(service: str) -> AsyncIterator[None]:
    """Send spans until the block ends; without the variable of an endpoint, make none.

    Args:
        service: the name of the service, unless `OTEL_SERVICE_NAME` is set.
    """
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not any(map(os.environ.get, variables)):
        yield
        return
    os.environ.setdefault("OTEL_SERVICE_NAME", service)
    # Its thread would not survive a fork: each worker has its own provider.
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _listen()
    logging.setLogRecordFactory(_with_trace_id(logging.getLogRecordFactory()))
    try:
        yield
    finally:
        # A daemon, which a hanging collector cannot keep alive.
        last = Thread(target=provider.shutdown, daemon=True)
        last.start()
        await asyncio.to_thread(last.join, LAST_EXPORT_S)


def _listen() -> None:
    """Report statements: asyncpg those of the driver, SQLAlchemy those that it prepares."""

    @event.listens_for(Pool, "connect")
    def connect(dbapi: Any, _: object) -> None:
        dbapi.driver_connection.add_query_logger(
            lambda query: _add_statement(query.query, query.elapsed, query.exception)
        )

    @event.listens_for(Engine, "before_cursor_execute")
    def before(*arguments: Any) -> None:
        context = arguments[4]
        context.started_s = monotonic()

    @event.listens_for(Engine, "after_cursor_execute")
    def after(*arguments: Any) -> None:
        _, _, sql, _, context, is_many = arguments
        if not is_many:
            _add_statement(sql, monotonic() - context.started_s, None)

    @event.listens_for(Engine, "handle_error")
    def fail(error: ExceptionContext) -> None:
        context: Any = error.execution_context
        if context is not None and not context.executemany:
            duration_s = monotonic() - context.started_s
            _add_statement(error.statement or "", duration_s, error.original_exception)


def _add_statement(sql: str, duration_s: float, error: BaseException | None) -> None:
    """Add a span of a statement, without its values: they may be personal data."""
    parent = request_span()
    if not parent.get_span_context().trace_flags.sampled:
        return
    ended_ns = time_ns()
    span = tracer.start_span(
        sql.lstrip().partition(" ")[0].upper(),
        trace.set_span_in_context(parent, Context()),
        kind=trace.SpanKind.CLIENT,
        attributes={"db.system.name": "postgresql", "db.query.text": sql},
        start_time=ended_ns - int(duration_s * 1e9),
    )
    if error is not None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(trace.StatusCode.ERROR)
    span.end(ended_ns)


def request_span() -> trace.Span:
    """Return the span of the current request, also in a load of the cache, which must not see it.

    A load runs for all clients, so nothing of one request may be in its context.
    """
    span = trace.get_current_span()
    activity = current.get()
    while not span.get_span_context().is_valid and activity is not None:
        span = getattr((activity.scope or {}).get("fastapi.telemetry"), "span", None) or span
        activity = activity.outer
    return span


def _with_trace_id(factory: Any) -> Any:
    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = factory(*args, **kwargs)
        context = request_span().get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
        return record

    return make_record
