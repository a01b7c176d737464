"""Traces arrive at a collector, from every worker, and a collector that fails costs nothing."""

import logging
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx2
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.core.cache.store.cache import isolated
from app.core.telemetry.tracing import LAST_EXPORT_S, _with_trace_id
from tests.core.serving import serving
from tests.internals.local_http import Handler, served

WAIT_S = 20
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Span(NamedTuple):
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]
    pid: int


class Collector:
    """An OTLP collector: a server of HTTP that keeps the spans."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []

    def receive(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            facts = {each.key: each.value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    values = {each.key: each.value.string_value for each in span.attributes}
                    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                    pid = facts["process.pid"].int_value
                    self.spans.append(Span(span.name, *ids, values, pid))


@contextmanager
def collecting() -> Iterator[Collector]:
    class Receiving(Handler):
        def do_POST(self) -> None:
            collector.receive(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(200)

    with served(Receiving) as url:
        collector = Collector(url)
        yield collector


def variables(url: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    }


def test_each_worker_sends_spans_of_requests_and_of_their_statements() -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with collecting() as collector, serving(**variables(collector.url)) as client:
        data = {"email": f"{secrets.token_hex(8)}@example.org", "name": "Ann"}
        user = client.post("/users", json=data, headers=headers).raise_for_status().json()
        address = client.base_url.join(f"/users/{user['id']}")
        deadline = time.monotonic() + WAIT_S
        # Each connection may go to any worker.
        while len({span.pid for span in collector.spans}) < 2:
            assert time.monotonic() < deadline
            httpx2.get(address, headers=headers)
            time.sleep(0.05)

    # The last spans arrive at the end of the service at the latest.
    requests = {span.span_id: span for span in collector.spans if span.parent_id == PARENT}
    assert {span.name for span in requests.values()} == {"POST /users", "GET /users/{user_id}"}
    assert {span.trace_id for span in collector.spans} == {TRACE}
    statements = {
        (requests[span.parent_id].name, span.name): span.attributes["db.query.text"]
        for span in collector.spans
        if span.span_id not in requests
    }
    # Also of a load of the cache, which does not see the span.
    assert {("POST /users", "INSERT"), ("GET /users/{user_id}", "SELECT")} <= set(statements)
    assert data["email"] not in str(statements)


def test_a_load_of_the_cache_sees_no_span_of_its_caller() -> None:
    context = trace.SpanContext(int(TRACE, 16), int(PARENT, 16), is_remote=True)
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert trace.get_current_span().get_span_context().is_valid
        seen = isolated().run(trace.get_current_span)

    assert not seen.get_span_context().is_valid


def test_log_records_carry_the_trace() -> None:
    factory = _with_trace_id(logging.LogRecord)
    arguments = ("app", logging.INFO, __file__, 1, "message", (), None)
    assert not hasattr(factory(*arguments), "trace_id")

    context = trace.SpanContext(int(TRACE, 16), int(PARENT, 16), is_remote=True)
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert factory(*arguments).trace_id == TRACE


def test_a_collector_that_hangs_delays_no_request_and_the_end_by_its_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        url = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        with serving(WEB_CONCURRENCY="1", **variables(url)) as client:
            for _ in range(100):
                assert client.get("/nothing").status_code == 404
            started = time.monotonic()
    # Otherwise 10 s, the limit of one export.
    assert time.monotonic() - started < LAST_EXPORT_S + 5
