"""A span for each call to another service, which gets it as `traceparent`."""

from collections.abc import Callable

from opentelemetry import propagate, trace

from app.core.http_client.client import Call
from app.core.telemetry.tracing import request_span, tracer


def trace_call(call: Call) -> Callable[[], None]:
    """Begin a span below that of the request; end it with the status."""
    span = tracer.start_span(
        call.method,
        trace.set_span_in_context(request_span()),
        kind=trace.SpanKind.CLIENT,
        attributes={"http.request.method": call.method, "server.address": call.url.host or ""},
    )
    propagate.inject(call.headers, trace.set_span_in_context(span))

    def end() -> None:
        if call.status:
            span.set_attribute("http.response.status_code", call.status)
        if not 0 < call.status < 400:
            span.set_status(trace.StatusCode.ERROR)
        span.end()

    return end
